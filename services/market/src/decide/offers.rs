//! What is offered, and which account is whose.

use holmes_kernel::{Ctx, Id, PrincipalKind};
use holmes_proto::market::v1::AccountSet;
use holmes_proto::market::v1::event::Event as Kind;

use super::{Decided, bytes, forbidden, is_platform, owned, refuse_if};
use crate::command::Rejection;
use crate::model::{self, Model};
use crate::state::State;

pub(super) fn set_model(state: &State, name: &str, wanted: &Model, ctx: &Ctx) -> Decided {
    refuse_if(!is_platform(&ctx.principal), || forbidden(ctx, "only services and staff may"))?;
    model::read(&wanted.to_wire(name)).map_err(Rejection::ModelInvalid)?;
    match state.models.get(name) {
        Some(known) if known == wanted => return Ok(Vec::new()),
        Some(_) => {}
        None if wanted.withdrawn => return Err(Rejection::ModelNotFound(name.to_owned())),
        None => {
            let most = state.params.most_models;
            refuse_if(state.models.len() as u64 >= most, || Rejection::TooManyModels(most))?;
        }
    }
    Ok(vec![Kind::ModelPriced(wanted.priced(name))])
}

/// Whether the account is the caller's, and of the asset, the ledger says when it is to be debited or credited.
pub(super) fn set_account(state: &State, asset: u32, account: Id, ctx: &Ctx) -> Decided {
    let is_party = ctx.principal.kind == PrincipalKind::Account;
    refuse_if(!is_party, || forbidden(ctx, "renters and owners of nodes name their own account"))?;
    known_asset(state, asset)?;
    // A party's account has a UUIDv7, the platform's have the hashes of their names: nobody makes us pay into a pool.
    let platforms = account.moment().is_none() || state.is_own(account);
    refuse_if(platforms, || Rejection::AccountReserved(account))?;
    if state.accounts.get(&(ctx.principal, asset)) == Some(&account) {
        return Ok(Vec::new());
    }
    Ok(vec![Kind::AccountSet(AccountSet { principal: owned(ctx.principal), asset, account: bytes(account) })])
}

pub(crate) fn known_asset(state: &State, asset: u32) -> Result<(), Rejection> {
    let (token, usd) = (state.params.token.id, state.params.usd.id);
    refuse_if(state.params.asset(asset).is_none(), || Rejection::AssetNotFound { asset, token, usd })
}
