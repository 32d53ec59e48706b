//! What a command would do. Pure; at most one event each, of bounded size.

mod accounts;
mod border;
mod overlay;
mod rights;
#[cfg(test)]
mod tests;
mod transfers;

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind};
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, HoldsExpired};

pub use transfers::{chains, well_formed};

use crate::command::{Command, Rejection};
use crate::params::MOST_EXPIRED_PER_TICK;
use crate::state::{Account, Border, State};

/// What would happen: at most one event is pushed; none means that it is so already.
///
/// # Errors
/// With a stable reason. A transfer's own failure is no error but a code in its row.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let event = match command {
        Command::CreateTransfers { via, transfers } => {
            transfers::create(state, *via, transfers, ctx).map(|e| Some(Kind::TransfersRecorded(e)))
        }
        Command::OpenAccount(open) => accounts::open(state, open, ctx),
        Command::CloseAccount { account } => accounts::close(state, *account, ctx),
        Command::SetFrozen { account, frozen_out } => accounts::set_frozen(state, *account, *frozen_out, ctx),
        Command::SetLimits { account, credit_limit, rate } => {
            accounts::set_limits(state, *account, *credit_limit, *rate, ctx)
        }
        Command::RegisterSubmitter { submitter, registered } => {
            accounts::register_submitter(state, *submitter, *registered, ctx)
        }
        Command::RecordDeposit(movement) => border::record(state, movement, Border::In, ctx),
        Command::RecordWithdrawal(movement) => border::record(state, movement, Border::Out, ctx),
        Command::Destroy { asset, amount } => border::destroy(state, *asset, *amount, ctx),
        Command::ExpireHolds => expire_holds(state, ctx),
        Command::Malformed { what } => Err(Rejection::Malformed(what.clone())),
    }?;
    out.extend(event.map(|event| Event { event: Some(event) }));
    Ok(())
}

/// E-2.2: ends the holds whose time has come, the first ones first.
fn expire_holds(state: &State, ctx: &Ctx) -> Result<Option<Kind>, Rejection> {
    if ctx.principal != Principal::SYSTEM {
        return Err(forbidden(ctx, "holds expire by time alone"));
    }
    let past = state.expiring.iter().take_while(|(at, _)| *at <= ctx.now).take(MOST_EXPIRED_PER_TICK);
    let holds: Vec<u8> = past.flat_map(|(_, id)| id.to_bytes()).collect();
    Ok((!holds.is_empty()).then(|| Kind::HoldsExpired(HoldsExpired { holds: holds.into() })))
}

fn forbidden(ctx: &Ctx, needs: &'static str) -> Rejection {
    Rejection::Forbidden { who: ctx.principal, needs }
}

fn is_service(principal: &Principal) -> bool {
    principal.kind == PrincipalKind::Service
}

/// What only the platform may do.
fn only_platform(ctx: &Ctx) -> Result<(), Rejection> {
    match ctx.principal.kind {
        PrincipalKind::Service | PrincipalKind::Staff => Ok(()),
        _ => Err(forbidden(ctx, "only services and staff may")),
    }
}

fn found(state: &State, id: Id) -> Result<&Account, Rejection> {
    state.account(&id).ok_or(Rejection::AccountNotFound(id))
}

fn refuse_if(wrong: bool, why: impl FnOnce() -> Rejection) -> Result<(), Rejection> {
    if wrong { Err(why()) } else { Ok(()) }
}
