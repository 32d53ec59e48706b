//! What a command would do. Pure; every command has few events, or one for each of a bounded row.

mod genesis;
mod metering;
mod offers;
mod owed;
mod sessions;
mod settling;
#[cfg(test)]
mod tests;

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind, ServiceId};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::Event;
use holmes_proto::market::v1::event::Event as Kind;

use crate::command::{Command, Rejection};
use crate::state::{Awaited, State};
pub(crate) use offers::known_asset;
pub(crate) use sessions::{conversion, may_list, rates};

use crate::{LEDGER, SCHEDULING};

/// What would happen; no event means that it is so already.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let kinds = match command {
        Command::SetModel { name, model } => offers::set_model(state, name, model, ctx),
        Command::SetAccount { asset, account } => offers::set_account(state, *asset, *account, ctx),
        Command::OpenSession(open) => sessions::open(state, open, ctx),
        Command::CloseSession { session } => sessions::close(state, *session, ctx),
        Command::NoteCalls { metered, drained, leased } => {
            metering::note(state, (metered, drained, leased), ctx)
        }
        Command::Answered { seq, refused } => answered(state, *seq, refused.as_ref(), ctx),
        Command::Begin => genesis::begin(state, ctx),
        Command::OpenAccounts => genesis::open_accounts(state, ctx),
        Command::Seal => genesis::seal(state, ctx),
        Command::Attend => settling::attend(state, ctx),
        Command::PayOwed => owed::pay(state, ctx),
    }?;
    out.extend(kinds.into_iter().map(|kind| Event { event: Some(kind) }));
    Ok(())
}

type Decided = Result<Vec<Kind>, Rejection>;

/// An answer to a send that is not awaited (any more) is dropped.
fn answered(state: &State, seq: u64, refused: Option<&Refused>, ctx: &Ctx) -> Decided {
    only_from(LEDGER, ctx)?;
    Ok(match state.awaited.get(&seq) {
        None => Vec::new(),
        Some(Awaited::Account(name)) => genesis::account_answered(state, name, refused, ctx),
        Some(Awaited::Hold(id)) => sessions::hold_answered(state, *id, refused, ctx),
        Some(Awaited::Settlement(id)) => settling::answered(state, *id, refused, ctx),
        Some(Awaited::Owed(owner, asset)) => owed::answered(state, *owner, *asset, refused, ctx),
    })
}

fn forbidden(ctx: &Ctx, needs: &'static str) -> Rejection {
    Rejection::Forbidden { who: ctx.principal, needs }
}

fn refuse_if(wrong: bool, why: impl FnOnce() -> Rejection) -> Result<(), Rejection> {
    if wrong { Err(why()) } else { Ok(()) }
}

fn only_time(ctx: &Ctx) -> Result<(), Rejection> {
    refuse_if(ctx.principal != Principal::SYSTEM, || forbidden(ctx, "time alone does"))
}

fn only_from(service: ServiceId, ctx: &Ctx) -> Result<(), Rejection> {
    let needs =
        if service == SCHEDULING { "only scheduling's log says so" } else { "only the ledger's log says so" };
    refuse_if(ctx.principal != Principal::service(service), || forbidden(ctx, needs))
}

/// Staff and services: those who may do everything.
pub(crate) fn is_platform(who: &Principal) -> bool {
    matches!(who.kind, PrincipalKind::Service | PrincipalKind::Staff)
}

/// Whether one may see a renter's sessions, open and close them.
pub(crate) fn may_act_for(who: &Principal, renter: &Principal) -> bool {
    who == renter || is_platform(who) || who.kind == PrincipalKind::Gateway
}

fn bytes(id: Id) -> prost::bytes::Bytes {
    id.to_bytes().to_vec().into()
}

fn owned(who: Principal) -> prost::bytes::Bytes {
    who.to_bytes().to_vec().into()
}
