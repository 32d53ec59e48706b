//! E-9.2: calls that were metered. What no hold covers is billed to nobody, and is on the record.

use holmes_kernel::wide::mul_div_floor;
use holmes_kernel::{Ctx, Id, Time};
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{CallsEnded, CallsNoted, CallsUnbilled, SessionLeased};

use super::{Decided, bytes, only_from, owned};
use crate::SCHEDULING;
use crate::command::Metered;
use crate::settlement::bytes as wide;
use crate::state::{Session, Stage, State, credit_of};

/// One event for each lease's calls. Several of one session in one entry see what is left of its cap one after another.
pub(super) fn note(
    state: &State,
    (metered, drained, leased): (&[Metered], &[Id], &[(Id, Time)]),
    ctx: &Ctx,
) -> Decided {
    only_from(SCHEDULING, ctx)?;
    let mut kinds = Vec::with_capacity(metered.len());
    for (at, calls) in metered.iter().enumerate() {
        let before = metered[..at].iter().filter(|other| other.session == calls.session);
        let before: u128 = before.fold(0, |sum, other| sum.saturating_add(other.pico));
        kinds.push(match state.sessions.get(&calls.session) {
            None => unbilled(calls, "SESSION_NOT_FOUND"),
            Some(session) => match session.takes_calls() {
                Ok(()) => noted(session, calls, before),
                Err(reason) => unbilled(calls, reason),
            },
        });
    }
    let ended = drained.iter().filter(|id| state.sessions.get(id).is_some_and(Session::drains));
    kinds.extend(ended.map(|id| Kind::CallsEnded(CallsEnded { session: bytes(*id) })));
    kinds.extend(leased.iter().filter_map(|(id, until)| used(state, *id, *until)));
    Ok(kinds)
}

/// A lease is news only where the session would close as idle before it ends.
fn used(state: &State, id: Id, until: Time) -> Option<Kind> {
    let session = state.sessions.get(&id).filter(|session| session.stage == Stage::Open)?;
    let news = until > session.idle_at(&state.params);
    news.then(|| Kind::SessionLeased(SessionLeased { session: bytes(id), until_us: until.micros() }))
}

/// E-9.1: billing never exceeds the hold. Of calls that pass the cap the part below it is billed, and as much of their
/// work counts.
fn noted(session: &Session, calls: &Metered, before: u128) -> Kind {
    let left = session.cap.saturating_sub(session.metered).saturating_sub(before);
    let billed = calls.pico.min(left);
    let work = if billed == calls.pico {
        calls.micro_units
    } else {
        mul_div_floor(calls.micro_units, billed, calls.pico).unwrap_or(0)
    };
    Kind::CallsNoted(CallsNoted {
        session: bytes(calls.session),
        node: bytes(calls.node),
        owner: owned(calls.owner),
        credit: credit_of(calls.credit).into(),
        calls: calls.calls,
        input_tokens: calls.input_tokens,
        output_tokens: calls.output_tokens,
        billed_pico_usd: wide(billed),
        billed_micro_units: wide(work),
        unbilled_pico_usd: wide(calls.pico - billed),
    })
}

fn unbilled(calls: &Metered, reason: &str) -> Kind {
    Kind::CallsUnbilled(CallsUnbilled {
        session: bytes(calls.session),
        node: bytes(calls.node),
        owner: owned(calls.owner),
        calls: calls.calls,
        unbilled_pico_usd: wide(calls.pico),
        reason: reason.to_owned(),
    })
}
