//! Accounts: opened, closed, frozen, limited; and who may submit in bulk.

use holmes_kernel::window::{WINDOW_AGE_MS, WINDOW_AHEAD_MS};
use holmes_kernel::{Ctx, Id, Principal};
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{AccountClosed, AccountFrozen, AccountOpened, LimitsSet, SubmitterRegistered};

use super::{forbidden, found, only_platform, refuse_if};
use crate::command::{OpenAccount, Rejection, Via};
use crate::params::{MOST_NAME_BYTES, MOST_SUBMITTERS};
use crate::rate::RateLimit;
use crate::state::{Account, State, is_party, system_account};

type Decided = Result<Option<Kind>, Rejection>;

pub(super) fn open(state: &State, open: &OpenAccount, ctx: &Ctx) -> Decided {
    let OpenAccount { account, asset, owner, name, history, via } = open;
    if is_party(&ctx.principal) {
        refuse_if(*owner != ctx.principal || !name.is_empty(), || {
            forbidden(ctx, "only services and staff open accounts for others or with a name")
        })?;
    } else {
        only_platform(ctx)?;
    }
    let at = state.asset(*asset).ok_or(Rejection::AssetNotFound(*asset))?;
    if name.is_empty() {
        refuse_if(account.moment().is_none(), || Rejection::AccountIdInvalid(*account))?;
    } else {
        let fits = state.asset_at(at).is_some_and(|asset| is_name(name, &asset.params.name));
        refuse_if(!fits, || Rejection::AccountNameInvalid(name.clone()))?;
        refuse_if(is_party(owner), || {
            forbidden(ctx, "an account with a name belongs to a service or staff")
        })?;
        refuse_if(system_account(name) != *account, || Rejection::AccountNameInvalid(name.clone()))?;
    }
    if let Some(known) = state.account(account) {
        let same = (known.asset, known.owner, known.history) == (at, *owner, *history);
        return if same { Ok(None) } else { Err(Rejection::AccountExists(*account)) };
    }
    // An id that is not of this hour could be the hash of a name that a service will ask for.
    refuse_if(name.is_empty() && *via != Via::Send && !is_of_this_hour(*account, ctx), || {
        Rejection::AccountIdExpired(*account)
    })?;
    let owned = state.owners.get(owner).map_or(0, Vec::len);
    refuse_if(is_party(owner) && owned >= state.params.most_accounts_per_owner as usize, || {
        Rejection::TooManyAccounts(*owner)
    })?;
    Ok(Some(Kind::AccountOpened(AccountOpened {
        account: bytes(account),
        asset: *asset,
        owner: owner.to_bytes().to_vec().into(),
        name: name.clone(),
        history: *history,
    })))
}

fn is_of_this_hour(id: Id, ctx: &Ctx) -> bool {
    id.moment().is_some_and(|at| {
        at.after_millis(WINDOW_AGE_MS) >= ctx.now && at <= ctx.now.after_millis(WINDOW_AHEAD_MS)
    })
}

/// Whether a system account may be called so: what it is, a slash, its asset.
fn is_name(name: &str, asset: &str) -> bool {
    let plain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.' | b':');
    name.len() <= MOST_NAME_BYTES
        && name
            .rsplit_once('/')
            .is_some_and(|(what, of)| of == asset && !what.is_empty() && what.bytes().all(plain))
}

pub(super) fn close(state: &State, id: Id, ctx: &Ctx) -> Decided {
    let account = found(state, id)?;
    // No tenant learns that another's is there.
    let known = account.owner == ctx.principal || only_platform(ctx).is_ok();
    refuse_if(!known, || Rejection::AccountNotFound(id))?;
    refuse_if(account.reserved, || Rejection::AccountReserved(id))?;
    if account.closed {
        return Ok(None);
    }
    refuse_if(!account.balance.is_empty(), || Rejection::AccountNotEmpty(id))?;
    Ok(Some(Kind::AccountClosed(AccountClosed { account: bytes(&id) })))
}

pub(super) fn set_frozen(state: &State, id: Id, frozen_out: bool, ctx: &Ctx) -> Decided {
    let account = changeable(state, id, ctx)?;
    let event = AccountFrozen { account: bytes(&id), frozen_out };
    Ok((account.frozen_out != frozen_out).then_some(Kind::AccountFrozen(event)))
}

pub(super) fn set_limits(
    state: &State,
    id: Id,
    credit_limit: u64,
    rate: Option<RateLimit>,
    ctx: &Ctx,
) -> Decided {
    let account = changeable(state, id, ctx)?;
    let capped = state.asset_at(account.asset).is_some_and(|asset| asset.params.cap.is_some());
    refuse_if(capped && credit_limit > 0, || Rejection::CreditLimitOnToken)?; // E-1.1
    if (account.credit_limit, account.rate) == (credit_limit, rate) {
        return Ok(None);
    }
    let limited = Account { credit_limit, ..account.clone() };
    refuse_if(!limited.is_within_limits(), || Rejection::CreditLimitInUse(id))?;
    Ok(Some(Kind::LimitsSet(LimitsSet {
        account: bytes(&id),
        credit_limit_units: credit_limit,
        rate_units: rate.map_or(0, RateLimit::units),
        rate_window_ms: rate.map_or(0, RateLimit::window_ms),
    })))
}

/// An account whose limits the platform may change.
fn changeable<'a>(state: &'a State, id: Id, ctx: &Ctx) -> Result<&'a Account, Rejection> {
    only_platform(ctx)?;
    let account = found(state, id)?;
    refuse_if(account.reserved, || Rejection::AccountReserved(id))?;
    refuse_if(account.closed, || Rejection::AccountClosed(id))?;
    Ok(account)
}

pub(super) fn register_submitter(
    state: &State,
    submitter: Principal,
    registered: bool,
    ctx: &Ctx,
) -> Decided {
    only_platform(ctx)?;
    if state.submitters.contains(&submitter) == registered {
        return Ok(None);
    }
    refuse_if(registered && state.submitters.len() >= MOST_SUBMITTERS, || Rejection::TooManySubmitters)?;
    let submitter = submitter.to_bytes().to_vec().into();
    Ok(Some(Kind::SubmitterRegistered(SubmitterRegistered { submitter, registered })))
}

fn bytes(id: &Id) -> prost::bytes::Bytes {
    id.to_bytes().to_vec().into()
}
