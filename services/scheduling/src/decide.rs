//! What a command would do. Pure; every command has few events, or a bounded step of a job.

mod calls;
mod facts;
mod gateways;
mod leases;
mod presence;
mod running;
#[cfg(test)]
mod tests;

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind, ServiceId};
use holmes_proto::scheduling::v1::Event;
use holmes_proto::scheduling::v1::event::Event as Kind;

use crate::command::{Command, Rejection};
use crate::state::{Gateway, Lease, LeaseId, State};
use crate::{MARKET, STAKING};

pub(crate) use leases::message;
pub(crate) use running::ending;

/// What would happen; no event means that it is so already.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let kinds = match command {
        Command::StartGateway { public_key } => gateways::start(state, public_key, ctx),
        Command::Attach(attach) => gateways::attach(state, attach, ctx),
        Command::Detach { node, generation, reason } => {
            gateways::detach(state, *node, *generation, *reason, ctx)
        }
        Command::ReportPresence(report) => presence::report(state, report, ctx),
        Command::Place(place) => leases::place(state, place, ctx),
        Command::RenewLease { lease, allowance, duration_ms } => {
            leases::renew(state, *lease, *allowance, *duration_ms, ctx)
        }
        Command::EndLease { lease, reason } => leases::end(state, *lease, *reason, ctx),
        Command::ReportCalls { lease, lines } => calls::report(state, *lease, lines, ctx),
        Command::Checkpoint(lines) => running::checkpoint(state, lines, ctx),
        Command::NoteNodes(facts) => facts::nodes(state, facts, ctx),
        Command::NoteMarket(facts) => facts::market(state, facts, ctx),
        Command::DropNodes => gateways::drop_nodes(state, ctx),
        Command::EndLeases => leases::end_doomed(state, ctx),
        Command::Expire => leases::expire(state, ctx),
        Command::EndDrains => running::end_drains(state, ctx),
        Command::MeterRunning => running::meter(state, ctx),
        Command::LoseGateway => gateways::lose(state, ctx),
        Command::Seal => presence::seal(state, ctx),
    }?;
    out.extend(kinds.into_iter().map(|kind| Event { event: Some(kind) }));
    Ok(())
}

type Decided = Result<Vec<Kind>, Rejection>;

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
    let needs = match service {
        STAKING => "only staking's log says so",
        MARKET => "only the market's log says so",
        _ => "only that service's log says so",
    };
    refuse_if(ctx.principal != Principal::service(service), || forbidden(ctx, needs))
}

/// The caller, which must be a gateway that has started.
fn live<'a>(state: &'a State, ctx: &Ctx) -> Result<&'a Gateway, Rejection> {
    refuse_if(ctx.principal.kind != PrincipalKind::Gateway, || forbidden(ctx, "only gateways may"))?;
    let gateway = state.gateways.get(&ctx.principal.id).filter(|gateway| gateway.live);
    gateway.ok_or(Rejection::GatewayUnknown(ctx.principal.id))
}

fn found<'a>(state: &'a State, id: LeaseId, ctx: &Ctx) -> Result<&'a Lease, Rejection> {
    state.lease(&id, ctx.now).ok_or(Rejection::LeaseNotFound(id))
}

/// A lease belongs to the gateway that has asked for it and to the one that its node is attached to.
fn held(lease: &Lease, ctx: &Ctx) -> Result<(), Rejection> {
    let holds = lease.asked_by == ctx.principal || lease.gateway == ctx.principal.id;
    refuse_if(!holds, || {
        forbidden(ctx, "the gateway that has asked for the lease may, and the one that holds it")
    })
}

fn bytes(id: Id) -> prost::bytes::Bytes {
    id.to_bytes().to_vec().into()
}

fn owned(principal: Principal) -> prost::bytes::Bytes {
    principal.to_bytes().to_vec().into()
}

fn column(ids: impl IntoIterator<Item = Id>) -> prost::bytes::Bytes {
    ids.into_iter().flat_map(Id::to_bytes).collect::<Vec<u8>>().into()
}
