//! Where money crosses the ledger's border: deposits, withdrawals, and the end of burnt tokens.

use holmes_kernel::{Amount, Ctx};
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{DepositRecorded, TokensDestroyed, WithdrawalRecorded};

use super::{forbidden, found, is_service, only_platform, refuse_if, rights};
use crate::command::{Movement, Rejection};
use crate::params::MOST_NAME_BYTES;
use crate::state::{Account, Border, State, movement_digest, reference_key, system_account};

type Decided = Result<Option<Kind>, Rejection>;

/// A deposit or a withdrawal. The outside's reference is its identity, for ever: the same one again is already so.
pub(super) fn record(state: &State, movement: &Movement, border: Border, ctx: &Ctx) -> Decided {
    only_platform(ctx)?;
    let Movement { account: id, amount, reference } = movement;
    refuse_if(reference.is_empty() || reference.len() > MOST_NAME_BYTES, || Rejection::ReferenceInvalid)?;
    refuse_if(amount.is_zero(), || Rejection::AmountZero)?;
    let account = found(state, *id)?;
    let asset = state.asset_at(account.asset).ok_or(Rejection::AssetNotFound(account.asset))?;
    let outside = asset.external.and_then(|place| state.accounts.at(place));
    let (_, outside) = outside.ok_or(Rejection::AssetHasNoOutside(asset.params.id))?;
    refuse_if(account.may_be_overdrawn, || Rejection::AccountReserved(*id))?;
    let behind_its_service = !is_service(&ctx.principal) && rights::is_system(account);
    refuse_if(behind_its_service, || Rejection::SystemAccount(*id))?;
    if let Some(used_for) = state.references.get(&reference_key(asset.params.id, reference)) {
        let same = *used_for == movement_digest(*id, amount.units(), border);
        return if same { Ok(None) } else { Err(Rejection::ReferenceUsed(reference.clone())) };
    }
    refuse_if(account.closed, || Rejection::AccountClosed(*id))?;
    if border == Border::Out {
        may_leave(account, movement, ctx)?;
    }
    both_fit(account, outside, movement, border)?;
    let (account, amount_units, reference) =
        (id.to_bytes().to_vec().into(), amount.units(), reference.clone());
    Ok(Some(match border {
        Border::In => Kind::DepositRecorded(DepositRecorded { account, amount_units, reference }),
        Border::Out => Kind::WithdrawalRecorded(WithdrawalRecorded { account, amount_units, reference }),
    }))
}

/// E-2.5.
fn may_leave(account: &Account, movement: &Movement, ctx: &Ctx) -> Result<(), Rejection> {
    let (id, units) = (movement.account, movement.amount.units());
    refuse_if(account.frozen_out, || Rejection::AccountFrozen(id))?;
    refuse_if(account.available(&account.balance) < units, || Rejection::InsufficientFunds(id))?;
    refuse_if(account.room(&account.balance, ctx.now) < units, || Rejection::RateLimited(id))
}

/// E-0.1: overflow is a refusal.
fn both_fit(inside: &Account, outside: &Account, moved: &Movement, border: Border) -> Result<(), Rejection> {
    let (mut inside, mut outside) = (inside.balance, outside.balance);
    let (from, to) = match border {
        Border::In => (&mut outside, &mut inside),
        Border::Out => (&mut inside, &mut outside),
    };
    from.debit(moved.amount.units());
    to.credit(moved.amount.units());
    refuse_if(!from.fits() || !to.fits(), || Rejection::BalanceOverflow(moved.account))
}

/// E-1.1, E-9.6: the only way in which the token's supply changes.
pub(super) fn destroy(state: &State, asset: u32, amount: Amount, ctx: &Ctx) -> Decided {
    refuse_if(!is_service(&ctx.principal), || forbidden(ctx, "only services may"))?;
    refuse_if(amount.is_zero(), || Rejection::AmountZero)?;
    let at = state.asset(asset).ok_or(Rejection::AssetNotFound(asset))?;
    let asset_of = state.asset_at(at).ok_or(Rejection::AssetNotFound(asset))?;
    let inbox = asset_of.burn_inbox.and_then(|place| state.accounts.at(place));
    let (_, inbox) = inbox.ok_or(Rejection::AssetNotCapped(asset))?;
    refuse_if(inbox.available(&inbox.balance) < amount.units(), || {
        Rejection::InsufficientFunds(system_account(&format!("burn_inbox/{}", asset_of.params.name)))
    })?;
    Ok(Some(Kind::TokensDestroyed(TokensDestroyed { asset, amount_units: amount.units() })))
}
