//! What leases and their calls do to the state.

use std::collections::BTreeMap;

use holmes_kernel::{Id, Meta, Principal, Time};
use holmes_proto::scheduling::v1::{CallsMetered, LeaseEnd, LeaseEnded, LeaseGranted, LeaseRenewed};
use prost::Message;

use super::{Lease, LeaseId, Prices, Stand, State};

/// Leases that one event forgets at most.
const FORGOTTEN_PER_EVENT: usize = 4;

impl State {
    /// Forgets leases that are over for long enough: no fact of its own, but what any later event finds.
    pub(super) fn forget(&mut self, now: Time) {
        for _ in 0..FORGOTTEN_PER_EVENT {
            match self.forget.first().copied() {
                // What it owes is metered first: that is due already.
                Some(next @ (at, seq)) if at <= now && !self.unsettled.contains(&next) => {
                    self.forget_one(at, seq);
                }
                _ => return,
            }
        }
    }

    fn forget_one(&mut self, at: Time, seq: u64) {
        self.forget.remove(&(at, seq));
        self.leases.remove(&seq);
    }

    pub(super) fn lease_granted(&mut self, event: &LeaseGranted, meta: &Meta) {
        let Some(lease) = granted(event, meta) else { return };
        let (session, node, expires_at) = (lease.session, lease.node, lease.expires_at);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.reserved = session.reserved.saturating_add(lease.allowance.into());
            session.leases.insert(meta.seq);
        }
        self.leases.insert(meta.seq, lease);
        self.expiries.insert((expires_at, meta.seq));
        self.use_node(node, meta.seq, |node| {
            node.leases.insert(meta.seq);
            node.last_lease = meta.seq;
        });
    }

    /// Leaves a lease to the job that ends it; one that is ending keeps its first reason.
    pub(super) fn doom(&mut self, seq: u64, reason: LeaseEnd) {
        let Some(lease) = self.leases.get_mut(&seq).filter(|lease| lease.is_open()) else { return };
        lease.stand = Stand::Ending(reason.into());
        self.expiries.remove(&(lease.expires_at, seq));
        self.ending.insert(seq);
    }

    pub(super) fn lease_ended(&mut self, event: &LeaseEnded, meta: &Meta) {
        let Some(seq) = LeaseId::from_slice(&event.lease).map(|id| id.seq) else { return };
        let Some(lease) = self.leases.get_mut(&seq).filter(|lease| !lease.has_ended()) else { return };
        let forget_at = meta.ts.after_millis(self.params.late_calls_ms);
        let (session_id, node) = (lease.session, lease.node);
        let freed = lease.left().saturating_sub(lease.pending);
        lease.stand = Stand::Ended { reason: event.reason, forget_at };
        self.expiries.remove(&(lease.expires_at, seq));
        self.ending.remove(&seq);
        self.forget.insert((forget_at, seq));
        self.use_node(node, meta.seq, |node| {
            node.leases.remove(&seq);
        });
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.reserved = session.reserved.saturating_sub(freed.into());
            session.leases.remove(&seq);
            session.last_ended = meta.ts;
        }
        self.await_lines(seq, forget_at);
        self.set_drain(session_id);
        self.forget_session(session_id);
        self.forget_beyond();
    }

    /// Memory is bounded whatever the rate: what ended first is forgotten first, unless it still owes.
    pub(super) fn forget_beyond(&mut self) {
        if self.forget.len() > self.params.most_leases.saturating_add(self.unsettled.len())
            && let Some((at, oldest)) = self.forget.difference(&self.unsettled).next().copied()
        {
            self.forget_one(at, oldest);
        }
    }

    /// Forgets a session that is closed once it has nothing open.
    pub(super) fn forget_session(&mut self, id: Id) {
        if self.sessions.get(&id).is_some_and(|session| session.closed && session.leases.is_empty()) {
            self.sessions.remove(&id);
        }
    }

    pub(super) fn lease_renewed(&mut self, event: &LeaseRenewed) {
        let Some(renewed) = &event.renewed else { return };
        let Some(seq) = LeaseId::from_slice(&renewed.lease).map(|id| id.seq) else { return };
        let Some(lease) = self.leases.get_mut(&seq).filter(|lease| lease.is_open()) else { return };
        let more = renewed.allowance_pico_usd.saturating_sub(lease.allowance);
        self.expiries.remove(&(lease.expires_at, seq));
        lease.allowance = renewed.allowance_pico_usd;
        lease.expires_at = Time::from_micros(renewed.expires_at_us);
        self.expiries.insert((lease.expires_at, seq));
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.reserved = session.reserved.saturating_add(more.into());
        }
    }

    pub(super) fn calls_metered(&mut self, event: &CallsMetered, meta: &Meta) {
        let Some(seq) = LeaseId::from_slice(&event.lease).map(|id| id.seq) else { return };
        let Some(lease) = self.leases.get_mut(&seq) else { return };
        let before = lease.reserved();
        let mut price = 0u64;
        for (at, line) in event.lines.iter().enumerate() {
            let Some(call) = Id::from_slice(&line.call) else { continue };
            let place = (meta.seq, at as u32);
            lease.reported(&call);
            lease.calls.insert(call, place);
            self.calls.metered(call, place, meta.ts);
            let of_line = lease.prices.of(line.input_tokens, line.output_tokens).unwrap_or(u64::MAX);
            price = price.saturating_add(of_line);
        }
        lease.metered = lease.metered.saturating_add(price);
        let freed = before.saturating_sub(lease.reserved());
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.metered = session.metered.saturating_add(price.into());
            session.reserved = session.reserved.saturating_sub(freed.into());
        }
        self.settled(seq);
    }
}

fn granted(event: &LeaseGranted, meta: &Meta) -> Option<Lease> {
    Some(Lease {
        term: meta.term,
        session: Id::from_slice(&event.session)?,
        renter: Principal::from_slice(&event.renter)?,
        node: Id::from_slice(&event.node)?,
        owner: Principal::from_slice(&event.owner)?,
        gateway: Id::from_slice(&event.gateway)?,
        asked_by: meta.principal,
        generation: event.generation,
        model: event.model.clone(),
        prices: Prices {
            input_pico: event.input_pico_usd,
            output_pico: event.output_pico_usd,
            input_micro_units: event.input_micro_units,
            output_micro_units: event.output_micro_units,
        },
        credit: event.credit,
        allowance: event.allowance_pico_usd,
        metered: 0,
        expires_at: Time::from_micros(event.expires_at_us),
        stand: Stand::Open,
        calls: BTreeMap::new(),
        running: BTreeMap::new(),
        pending: 0,
        placement: event.placement.as_ref().map(Message::encode_to_vec).unwrap_or_default(),
    })
}
