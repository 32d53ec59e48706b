//! What checkpoints of calls that run do to the state, and what becomes of them.

use holmes_kernel::{Id, Meta, Time};
use holmes_proto::scheduling::v1::{CallLine, CallsCheckpointed};
use holmes_proto::statements::LEASE_BYTES;
use prost::Message;

use super::{Lease, LeaseId, Running, State};

impl State {
    pub(super) fn calls_checkpointed(&mut self, event: &CallsCheckpointed, meta: &Meta) {
        let leases = event.leases.chunks_exact(LEASE_BYTES).map(LeaseId::from_slice);
        for (lease, line) in leases.zip(&event.lines) {
            let Some((lease, call)) = lease.zip(Id::from_slice(&line.call)) else { continue };
            let Some(lease) = self.leases.get_mut(&lease.seq).filter(|lease| !lease.has_ended()) else {
                continue;
            };
            lease.checkpoint(call, line);
            self.calls.runs(call, meta.ts);
        }
    }

    /// Of a lease that has ended, what was checkpointed waits for the calls' own lines.
    pub(super) fn await_lines(&mut self, seq: u64, forget_at: Time) {
        let Some(lease) = self.leases.get(&seq).filter(|lease| !lease.running.is_empty()) else { return };
        let session = self.sessions.get_mut(&lease.session).filter(|session| !session.closed);
        match session {
            Some(session) => {
                session.unsettled.insert(seq);
                self.unsettled.insert((forget_at, seq));
            }
            None => self.drop_running(seq),
        }
    }

    /// Nothing that was checkpointed of a lease waits any more.
    pub(super) fn settled(&mut self, seq: u64) {
        let Some(lease) = self.leases.get(&seq) else { return };
        let super::Stand::Ended { forget_at, .. } = lease.stand else { return };
        if lease.running.is_empty() && self.unsettled.remove(&(forget_at, seq)) {
            let session = self.sessions.get_mut(&lease.session);
            session.into_iter().for_each(|session| _ = session.unsettled.remove(&seq));
            self.forget_beyond();
        }
    }

    /// Nobody pays what was checkpointed of a lease: its session is closed.
    pub(super) fn drop_running(&mut self, seq: u64) {
        let Some(lease) = self.leases.get_mut(&seq) else { return };
        lease.running.clear();
        let pending = std::mem::take(&mut lease.pending);
        let reserved = if lease.has_ended() { pending } else { 0 };
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.reserved = session.reserved.saturating_sub(reserved.into());
        }
        self.settled(seq);
    }
}

impl Lease {
    fn checkpoint(&mut self, call: Id, line: &CallLine) {
        let price = self.prices.of(line.input_tokens, line.output_tokens).unwrap_or(u64::MAX);
        let running = Running { price, line: line.encode_to_vec() };
        let before = self.running.insert(call, running).map_or(0, |before| before.price);
        self.pending = self.pending.saturating_sub(before).saturating_add(price);
    }

    /// A call has its own line: its checkpoint counts no more.
    pub(super) fn reported(&mut self, call: &Id) {
        let price = self.running.remove(call).map_or(0, |running| running.price);
        self.pending = self.pending.saturating_sub(price);
    }
}
