//! Calls that are finished: what of a report is metered, what was before, what cannot be.

use std::collections::BTreeMap;

use holmes_kernel::{Ctx, Id};
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{CallLine, CallsMetered, LinesAnswered};

use super::{Decided, bytes, found, held, live, owned};
use crate::command::{Line, Rejection};
use crate::params::MOST_CALLS_PER_LEASE;
use crate::state::{Lease, LeaseId, Session, State};

/// The price would pass what the lease allows.
const ALLOWANCE_EXCEEDED: &str = "ALLOWANCE_EXCEEDED";
/// The lease has ended, its reservation with it, and the session has too little left.
const SESSION_BUDGET_EXCEEDED: &str = "SESSION_BUDGET_EXCEEDED";
/// The lease has as many calls as one may have.
const LEASE_FULL: &str = "LEASE_FULL";

/// Every line is decided for itself, in the report's order, so that one that is too dear does not cost the others
/// theirs. The refusal of a line stands in the log beside the lines that are metered: it will be refused again.
pub(super) fn report(state: &State, id: LeaseId, lines: &[Line], ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let lease = found(state, id, ctx)?;
    held(lease, ctx)?;
    let session = state.sessions.get(&lease.session).filter(|session| !session.closed);
    // One that has expired, or closes, takes what comes late until it is drained.
    let session = session.ok_or(Rejection::SessionClosed(lease.session))?;
    let mut tally = Tally::new(lease, session);
    let mut answered = LinesAnswered {
        lease: id.to_bytes().to_vec().into(),
        metered_seq: ctx.seq, // the first event, if there is one
        ..LinesAnswered::default()
    };
    let (mut metered, mut taken) = (Vec::new(), BTreeMap::new());
    for (at, line) in lines.iter().enumerate() {
        let before = lease.calls.get(&line.call).or_else(|| taken.get(&line.call));
        let (seq, number, reason) = match before {
            Some((seq, number)) => (*seq, *number, ""), // it counts once, also within a report
            None => match tally.take(line) {
                Err(reason) => (0, 0, reason),
                Ok(()) => {
                    taken.insert(line.call, (ctx.seq, metered.len() as u32));
                    metered.push(line.message());
                    continue;
                }
            },
        };
        answered.positions.push(at as u32);
        answered.receipt_seqs.push(seq);
        answered.receipt_lines.push(number);
        answered.reasons.push(reason.to_owned());
    }
    let metered = (!metered.is_empty()).then(|| calls_metered(id, lease, metered, ctx.principal.id));
    let answered = (!answered.positions.is_empty()).then_some(Kind::LinesAnswered(answered));
    Ok(metered.into_iter().chain(answered).collect())
}

/// What is left while the lines of a report are taken, pico-dollars. What is held for checkpoints of other calls is not.
pub(super) struct Tally<'a> {
    lease: &'a Lease,
    calls: usize,
    of_lease: u64,
    /// Of the session, where the lease has ended: an open lease has reserved its own.
    of_session: Option<u128>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(lease: &'a Lease, session: &Session) -> Tally<'a> {
        let of_session = lease.has_ended().then(|| session.free());
        let of_lease = lease.left().saturating_sub(lease.pending);
        Tally { lease, calls: lease.calls.len() + lease.running.len(), of_lease, of_session }
    }

    /// Takes a line in the place of the call's checkpoint.
    pub(super) fn take(&mut self, line: &Line) -> Result<(), &'static str> {
        let is_new = !self.lease.running.contains_key(&line.call);
        if is_new && self.calls >= MOST_CALLS_PER_LEASE {
            return Err(LEASE_FULL);
        }
        let price = self.lease.prices.of(line.input_tokens, line.output_tokens);
        let held = self.lease.checkpointed(&line.call);
        let of_lease = self.of_lease.saturating_add(held);
        let price = price.filter(|price| *price <= of_lease).ok_or(ALLOWANCE_EXCEEDED)?;
        if let Some(free) = self.of_session {
            let free = free.saturating_add(held.into());
            let left = free.checked_sub(price.into()).ok_or(SESSION_BUDGET_EXCEEDED)?;
            self.of_session = Some(left);
        }
        self.of_lease = of_lease - price;
        self.calls += usize::from(is_new);
        Ok(())
    }
}

pub(super) fn calls_metered(id: LeaseId, lease: &Lease, lines: Vec<CallLine>, gateway: Id) -> Kind {
    Kind::CallsMetered(CallsMetered {
        lease: id.to_bytes().to_vec().into(),
        session: bytes(lease.session),
        renter: owned(lease.renter),
        node: bytes(lease.node),
        owner: owned(lease.owner),
        model: lease.model.clone(),
        input_pico_usd: lease.prices.input_pico,
        output_pico_usd: lease.prices.output_pico,
        input_micro_units: lease.prices.input_micro_units,
        output_micro_units: lease.prices.output_micro_units,
        credit: lease.credit,
        lines,
        gateway: bytes(gateway),
    })
}
