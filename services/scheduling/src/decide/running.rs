//! Calls that run: their checkpoints, and what becomes of these when nothing else is heard (design: settlement pays the
//! last countersigned checkpoint).

use std::collections::BTreeMap;

use holmes_kernel::{Ctx, Id, Time};
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{CallLine, CallsCheckpointed, LeaseEnd, SessionDrained};
use prost::Message;

use super::calls::{Tally, calls_metered};
use super::leases::{ended, id_of};
use super::{Decided, bytes, live, only_time};
use crate::command::Line;
use crate::params::MOST_PER_STEP;
use crate::state::{Lease, LeaseId, Session, State};

/// Only what is new is kept, and only under leases that have not ended: of the others the call's own line comes.
pub(super) fn checkpoint(state: &State, lines: &[(LeaseId, Line)], ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let mut tallies: BTreeMap<u64, Tally<'_>> = BTreeMap::new();
    let mut kept = CallsCheckpointed { gateway: bytes(ctx.principal.id), ..CallsCheckpointed::default() };
    let mut leases = Vec::new();
    let farthest = farthest(lines);
    for (at, (id, line)) in lines.iter().enumerate() {
        if farthest.get(&(id.seq, line.call)) != Some(&at) {
            continue; // the call has come farther in another line
        }
        let Some((lease, session)) = runs(state, *id, ctx) else { continue };
        let tally = tallies.entry(id.seq).or_insert_with(|| Tally::new(lease, session));
        if is_news(lease, line) && tally.take(line).is_ok() {
            leases.extend(id.to_bytes());
            kept.lines.push(line.message());
        }
    }
    kept.leases = leases.into();
    Ok(if kept.lines.is_empty() { Vec::new() } else { vec![Kind::CallsCheckpointed(kept)] })
}

/// Of each call under a lease the line that says most: a call stands in a checkpoint once.
fn farthest(lines: &[(LeaseId, Line)]) -> BTreeMap<(u64, Id), usize> {
    let mut farthest = BTreeMap::new();
    for (at, (id, line)) in lines.iter().enumerate() {
        let best = farthest.entry((id.seq, line.call)).or_insert(at);
        if line.output_tokens > lines[*best].1.output_tokens {
            *best = at;
        }
    }
    farthest
}

/// A lease under which calls of the caller run.
fn runs<'a>(state: &'a State, id: LeaseId, ctx: &Ctx) -> Option<(&'a Lease, &'a Session)> {
    let lease =
        state.lease(&id, ctx.now).filter(|lease| !lease.has_ended() && lease.asked_by == ctx.principal)?;
    let session = state.sessions.get(&lease.session).filter(|session| !session.closed)?;
    Some((lease, session))
}

/// Whether a checkpoint says more than is known: an older one that comes late takes nothing back.
fn is_news(lease: &Lease, line: &Line) -> bool {
    let price = lease.prices.of(line.input_tokens, line.output_tokens);
    let known = lease.running.get(&line.call).map(|running| running.price);
    !lease.calls.contains_key(&line.call) && (known.is_none() || price > known)
}

/// When a lease ends that will not be renewed, and why; `None` of one that may be. For the gateway that holds it.
pub(crate) fn ending(state: &State, id: LeaseId) -> Option<(Time, LeaseEnd)> {
    let Some(lease) = state.lease(&id, state.at) else {
        return Some((Time::default(), LeaseEnd::Unspecified));
    };
    let session = state.sessions.get(&lease.session).filter(|session| !session.closed);
    let session_ends = match session {
        None => Some(Time::default()),
        Some(session) => {
            let expires = Some(session.expires_at).filter(|at| *at <= lease.expires_at);
            session.drains_until.into_iter().chain(expires).min()
        }
    };
    let at = if lease.is_open() { lease.expires_at } else { Time::default() };
    match session_ends {
        Some(until) => Some((at.min(until), LeaseEnd::SessionClosed)),
        None => (!lease.is_open()).then(|| (at, lease.reason())),
    }
}

/// The next of what was checkpointed under leases whose calls cannot be reported any more.
pub(super) fn meter(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let mut step = Step::new(state);
    for (_, seq) in state.unsettled.iter().take_while(|(at, _)| *at <= ctx.now) {
        step.meter(*seq);
    }
    Ok(step.kinds)
}

/// The next of the closing sessions whose time is over: their leases end; when these are over too, what they owe is
/// metered, and then nothing more.
pub(super) fn end_drains(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let mut step = Step::new(state);
    for (_, id) in state.drains.iter().take_while(|(at, _)| *at <= ctx.now) {
        if let Some(session) = state.sessions.get(id) {
            step.drain(*id, session);
        }
    }
    Ok(step.kinds)
}

/// A step of a job: as many lines and events as fit a frame.
struct Step<'a> {
    state: &'a State,
    room: usize,
    kinds: Vec<Kind>,
}

impl<'a> Step<'a> {
    fn new(state: &'a State) -> Step<'a> {
        Step { state, room: MOST_PER_STEP, kinds: Vec::new() }
    }

    fn drain(&mut self, id: Id, session: &Session) {
        let mut whole = session.leases.is_empty();
        for seq in &session.leases {
            if let Some(lease) = self.state.leases.get(seq)
                && self.takes()
            {
                let reason = LeaseEnd::SessionClosed.into();
                self.kinds.push(ended(id_of(self.state, *seq, lease), lease, reason));
            }
        }
        for seq in session.unsettled.iter().filter(|_| session.leases.is_empty()) {
            whole &= self.meter(*seq);
        }
        if whole && self.takes() {
            self.kinds.push(Kind::SessionDrained(SessionDrained { session: bytes(id) }));
        }
    }

    /// Meters what was checkpointed under a lease; whether all of it.
    fn meter(&mut self, seq: u64) -> bool {
        let Some(lease) = self.state.leases.get(&seq) else { return true };
        let lines = lease.running.values().take_while(|_| self.takes());
        let lines: Vec<CallLine> =
            lines.filter_map(|running| CallLine::decode(running.line.as_slice()).ok()).collect();
        let whole = lines.len() == lease.running.len();
        if !lines.is_empty() {
            // The gateway that delivers a call is the one that has asked for its lease.
            let id = id_of(self.state, seq, lease);
            self.kinds.push(calls_metered(id, lease, lines, lease.asked_by.id));
        }
        whole
    }

    /// Takes room for one more.
    fn takes(&mut self) -> bool {
        let takes = self.room > 0;
        self.room = self.room.saturating_sub(1);
        takes
    }
}
