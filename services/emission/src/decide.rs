//! What a command would do. Pure; every command has few events, or a bounded step of a job.

mod close;
mod facts;
mod grants;
mod money;
#[cfg(test)]
mod tests;

use holmes_kernel::{Ctx, Id, Principal};
use holmes_proto::emission::v1::Event;
use holmes_proto::emission::v1::event::Event as Kind;

use crate::command::{Command, Rejection};
use crate::state::State;

/// What would happen; no event means that it is so already.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let kinds = match command {
        Command::Note { source, at, facts } => facts::note(state, *source, *at, facts, ctx),
        Command::Answered { seq, outcome } => money::answered(state, *seq, outcome, ctx),
        Command::ExitGrant { node, epoch } => grants::exit(state, *node, *epoch, ctx),
        Command::CloseWithout { epoch, source } => facts::close_without(state, *epoch, *source, ctx),
        Command::Close => close::begin(state, ctx),
        Command::Continue => close::go_on(state, ctx),
        Command::Burn => grants::burn(state, ctx),
        Command::OpenAccount => money::open(state, ctx),
        Command::Move => money::send_move(state, ctx),
        Command::Pay => money::pay(state, ctx),
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

fn bytes(id: Id) -> prost::bytes::Bytes {
    id.to_bytes().to_vec().into()
}

fn column(ids: impl IntoIterator<Item = Id>) -> prost::bytes::Bytes {
    ids.into_iter().flat_map(Id::to_bytes).collect::<Vec<u8>>().into()
}

fn wide(number: u128) -> prost::bytes::Bytes {
    number.to_be_bytes().to_vec().into()
}

fn wides(numbers: impl IntoIterator<Item = u128>) -> prost::bytes::Bytes {
    numbers.into_iter().flat_map(u128::to_be_bytes).collect::<Vec<u8>>().into()
}
