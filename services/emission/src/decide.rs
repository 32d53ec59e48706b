//! What would happen. Pure and bounded.

use holmes_kernel::{Ctx, PrincipalKind};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{Begun, Event};

use crate::command::{Command, Rejection};
use crate::state::State;

/// What a command causes.
///
/// # Errors
/// Why it causes nothing.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    match command {
        Command::Begin => begin(state, ctx, out),
    }
}

fn begin(state: &State, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    if ctx.principal.kind != PrincipalKind::Staff {
        return Err(Rejection::Forbidden(ctx.principal));
    }
    if state.beginnings >= state.params.most_beginnings {
        return Err(Rejection::BegunTooOften(state.beginnings));
    }
    out.push(Event { event: Some(Kind::Begun(Begun { at_us: ctx.now.micros() })) });
    Ok(())
}
