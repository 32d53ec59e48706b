//! What a command would do. Pure; every command has few events, or a bounded step of a job.

mod bonds;
mod exits;
mod nodes;
mod standing;
#[cfg(test)]
mod tests;

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{BondCause, Event, NodeState};

use crate::command::{Command, Rejection, state_name};
use crate::params::MOST_CAUSE_BYTES;
use crate::state::{Node, State};
use crate::{EMISSION, LEDGER, SCHEDULING};

/// What would happen; no event means that it is so already.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let kinds = match command {
        Command::RegisterNode(register) => nodes::register(state, register, ctx),
        Command::SetRating { node, rating_milli_cu } => {
            nodes::set_rating(state, *node, *rating_milli_cu, ctx)
        }
        Command::SetPayoutAccount { node, account } => nodes::set_payout(state, *node, *account, ctx),
        Command::Jail { node, cause } => nodes::jail(state, *node, cause, ctx),
        Command::Unjail { node } => nodes::unjail(state, *node, ctx),
        Command::Tombstone { node, cause } => nodes::tombstone(state, *node, cause, ctx),
        Command::NoteHolds { opener, holds } => bonds::note_holds(state, *opener, holds, ctx),
        Command::Bond { node, hold } => bonds::bond(state, *node, *hold, ctx),
        Command::Answered { seq, refused } => bonds::answered(state, *seq, refused.as_deref(), ctx),
        Command::Unbond { node, amount, account } => exits::unbond(state, *node, *amount, *account, ctx),
        Command::Pay => exits::pay(state, ctx),
        Command::OpenVault => bonds::open_vault(state, ctx),
        Command::Recompute => standing::recompute(state, ctx),
        Command::Continue => standing::go_on(state, ctx),
        Command::Lapse => standing::lapse(state, ctx),
        Command::NoteEmission { next_emission, circulating } => {
            standing::note_emission(state, *next_emission, *circulating, ctx)
        }
        Command::NoteLeases(facts) => exits::note_leases(facts, ctx),
        Command::Seal => standing::seal(state, ctx),
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

fn only_ledger(ctx: &Ctx) -> Result<(), Rejection> {
    let ledger = Principal::service(LEDGER);
    refuse_if(ctx.principal != ledger, || forbidden(ctx, "only the ledger's log says so"))
}

fn only_emission(ctx: &Ctx) -> Result<(), Rejection> {
    let emission = Principal::service(EMISSION);
    refuse_if(ctx.principal != emission, || forbidden(ctx, "only emission's log says so"))
}

fn only_scheduling(ctx: &Ctx) -> Result<(), Rejection> {
    let scheduling = Principal::service(SCHEDULING);
    refuse_if(ctx.principal != scheduling, || forbidden(ctx, "only scheduling's log says so"))
}

fn only_platform(ctx: &Ctx) -> Result<(), Rejection> {
    let platform = matches!(ctx.principal.kind, PrincipalKind::Service | PrincipalKind::Staff);
    refuse_if(!platform, || forbidden(ctx, "only services and staff may"))
}

fn found(state: &State, id: Id) -> Result<&Node, Rejection> {
    state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))
}

/// A node of the caller's.
fn own<'a>(state: &'a State, id: Id, ctx: &Ctx) -> Result<&'a Node, Rejection> {
    refuse_if(ctx.principal.kind != PrincipalKind::Account, || forbidden(ctx, "an account owns nodes"))?;
    let node = found(state, id)?;
    refuse_if(node.owner != ctx.principal, || forbidden(ctx, "only the node's owner may"))?;
    Ok(node)
}

/// A party's account has a UUIDv7, the platform's have the hashes of their names: nobody is paid into a pool.
fn of_a_party(account: Id) -> Result<(), Rejection> {
    refuse_if(account.moment().is_none(), || Rejection::AccountReserved(account))
}

fn only_from(id: Id, node: &Node, from: &[NodeState], needs: &'static str) -> Result<(), Rejection> {
    let state = state_name(node.state());
    refuse_if(!from.contains(&node.state()), || Rejection::WrongState { node: id, state, needs })
}

fn checked(cause: &str) -> Result<(), Rejection> {
    refuse_if(cause.is_empty() || cause.len() > MOST_CAUSE_BYTES, || Rejection::CauseInvalid)
}

/// The event by which a node stands as given from now on.
fn changed(state: &State, id: Id, node: Node, cause: BondCause, ctx: &Ctx) -> Kind {
    let node = node.settled(&state.params, ctx.now);
    Kind::BondChanged(node.changed(id, &state.params, ctx.now, cause))
}

fn bytes(id: Id) -> prost::bytes::Bytes {
    id.to_bytes().to_vec().into()
}

fn column(ids: impl IntoIterator<Item = Id>) -> prost::bytes::Bytes {
    ids.into_iter().flat_map(Id::to_bytes).collect::<Vec<u8>>().into()
}
