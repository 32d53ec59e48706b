//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Id, Meta, Principal, Time};
use holmes_proto::columns;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{
    AccountSet, CallsNoted, Event, HoldSent, ModelPriced, OwedPaid, OwedRefused, OwedSent, SessionClosed,
    SessionClosing, SessionFunded, SessionOpened, SystemAccountRefused,
};

use super::{Awaited, Row, Session, Stage, State, SystemAccount};
use crate::model::Model;
use crate::params::MOST_CLOSED_PER_RENTER;

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    state.at = meta.ts;
    match &event.event {
        Some(Kind::MarketOpened(_)) => {
            state.next_seal = state.params.calendar.epoch(meta.ts); // of what lies before, nobody knows anything here
        }
        Some(Kind::ModelPriced(e)) => state.model_priced(e),
        Some(Kind::SystemAccountRequested(e)) => {
            state.awaited.insert(meta.seq, Awaited::Account(e.name.clone()));
            state.purse_mut(&e.name, |purse| (purse.ask_at, purse.asked) = (None, Some(meta.seq)));
        }
        Some(Kind::SystemAccountOpened(e)) => {
            state.forget_request(&e.name);
            state.purse_mut(&e.name, |purse| purse.open = true);
        }
        Some(Kind::SystemAccountRefused(e)) => state.system_account_refused(e),
        Some(Kind::AccountSet(e)) => state.account_set(e, meta.ts),
        Some(Kind::SessionOpened(e)) => state.session_opened(e, meta),
        Some(Kind::HoldMade(e)) => {
            state.answered(&e.session);
            state.change(&e.session, |session, _| session.covers = session.budget.into());
        }
        Some(Kind::SessionFunded(e)) => state.session_funded(e, meta),
        Some(Kind::SessionLimited(e)) => {
            state.change(&e.session, |session, _| session.limited.clone_from(&e.reason));
        }
        Some(Kind::SessionClosing(e)) => state.session_closing(e),
        Some(Kind::SessionClosed(e)) => state.session_closed(e, meta.ts),
        Some(Kind::SessionForgotten(e)) => {
            if let Some(id) = Id::from_slice(&e.session) {
                state.forget(id);
            }
        }
        Some(Kind::CallsNoted(e)) => state.calls_noted(e, meta.ts),
        Some(Kind::CallsEnded(e)) => {
            state.change(&e.session, |session, _| session.finishes_at = meta.ts);
        }
        Some(Kind::SessionLeased(e)) => {
            let until = Time::from_micros(e.until_us);
            state.change(&e.session, |session, _| session.leased_until = until);
        }
        Some(Kind::HoldSent(e)) => state.hold_sent(e, meta.seq),
        Some(Kind::CallsUnbilled(e)) => {
            state.unbilled.calls = state.unbilled.calls.saturating_add(e.calls);
            state.unbilled.pico = state.unbilled.pico.saturating_add(wide(&e.unbilled_pico_usd));
        }
        Some(Kind::WindowEnded(e)) => state.window_ended(e, meta.ts),
        Some(Kind::SettlementSent(e)) => state.settlement_sent(e, meta),
        Some(Kind::SettlementRefused(e)) => state.settlement_refused(e),
        Some(Kind::Settled(e)) => state.settled(&e.session, meta.ts),
        Some(Kind::HoldLost(e)) => state.hold_lost(&e.session),
        Some(Kind::OwedSent(e)) => state.owed_sent(e, meta.seq),
        Some(Kind::OwedPaid(e)) => state.owed_paid(e, meta.ts),
        Some(Kind::OwedRefused(e)) => state.owed_refused(e),
        Some(Kind::PriceSealed(_)) | None => {}
        Some(Kind::EpochSealed(e)) => state.next_seal = e.epoch.saturating_add(1),
    }
}

/// The principals of a column: 17 bytes each.
pub(crate) fn principals(column: &[u8]) -> impl Iterator<Item = Principal> + '_ {
    column.chunks_exact(17).filter_map(Principal::from_slice)
}

/// A u128 of 16 bytes, big-endian; 0 where it is none.
pub(crate) fn wide(bytes: &[u8]) -> u128 {
    columns::wide(bytes).unwrap_or_default()
}

impl State {
    /// Changes a session, and when time alone does something with it.
    pub(super) fn change<T>(
        &mut self,
        session: &[u8],
        change: impl FnOnce(&mut Session, Id) -> T,
    ) -> Option<T> {
        let id = Id::from_slice(session)?;
        let session = self.sessions.get_mut(&id)?;
        let told = change(session, id);
        let timer = session.next(&self.params).map(|(at, _)| at);
        if timer != session.timer {
            if let Some(at) = session.timer {
                self.timers.remove(&(at, id));
            }
            self.timers.extend(timer.map(|at| (at, id)));
            session.timer = timer;
        }
        Some(told)
    }

    /// Nothing is awaited for a session any more.
    pub(super) fn answered(&mut self, session: &[u8]) {
        let Some(id) = Id::from_slice(session) else { return };
        let asked = self.sessions.get_mut(&id).and_then(|session| session.asked.take());
        if let Some(seq) = asked {
            self.awaited.remove(&seq);
        }
    }

    fn purse_mut(&mut self, name: &str, change: impl FnOnce(&mut SystemAccount)) {
        if let Some(purse) = self.purses.iter_mut().find(|purse| purse.name == name) {
            change(purse);
        }
    }

    fn forget_request(&mut self, name: &str) {
        let asked =
            self.purses.iter_mut().find(|purse| purse.name == name).and_then(|purse| purse.asked.take());
        if let Some(seq) = asked {
            self.awaited.remove(&seq);
        }
    }

    fn system_account_refused(&mut self, event: &SystemAccountRefused) {
        self.forget_request(&event.name);
        self.purse_mut(&event.name, |purse| {
            purse.refusals = purse.refusals.saturating_add(1);
            purse.ask_at = Some(Time::from_micros(event.retry_at_us));
        });
    }

    fn model_priced(&mut self, event: &ModelPriced) {
        self.models.insert(event.model.clone(), Model::of(event));
    }

    fn account_set(&mut self, event: &AccountSet, now: Time) {
        let (Some(who), Some(account)) =
            (Principal::from_slice(&event.principal), Id::from_slice(&event.account))
        else {
            return;
        };
        self.accounts.insert((who, event.asset), account);
        self.queue_owed(who, event.asset, now);
    }

    fn session_opened(&mut self, event: &SessionOpened, meta: &Meta) {
        let ids =
            (Id::from_slice(&event.session), Id::from_slice(&event.account), Id::from_slice(&event.hold));
        let ((Some(id), Some(account), Some(hold)), Some(renter)) =
            (ids, Principal::from_slice(&event.renter))
        else {
            return;
        };
        self.sessions.insert(id, Session::opened(event, [account, hold], renter, meta.ts, meta.seq));
        self.by_time.insert((meta.ts, id));
        self.open_sessions = self.open_sessions.saturating_add(1);
        let of = self.renters.get_or_insert_with(renter, Default::default);
        of.open = of.open.saturating_add(1);
        of.sessions.insert((meta.ts, id));
        self.awaited.insert(meta.seq, Awaited::Hold(id));
    }

    fn hold_sent(&mut self, event: &HoldSent, seq: u64) {
        self.answered(&event.session);
        let id = self.change(&event.session, |session, id| {
            let hold = session.hold.as_mut().zip(Id::from_slice(&event.hold));
            hold.into_iter().for_each(|(hold, other)| hold.id = other);
            session.sends = session.sends.saturating_add(1);
            session.asked = Some(seq);
            id
        });
        self.awaited.extend(id.map(|id| (seq, Awaited::Hold(id))));
    }

    fn session_funded(&mut self, event: &SessionFunded, meta: &Meta) {
        self.change(&event.session, |session, _| {
            if session.stage == Stage::Opening {
                session.stage = Stage::Open;
                session.last_call_at = meta.ts;
            }
            session.cap = wide(&event.cap_pico_usd);
            session.funded_seq = meta.seq;
            session.capped = false;
            session.limited.clear();
        });
    }

    fn session_closing(&mut self, event: &SessionClosing) {
        let silence_ms = self.params.silence_ms;
        self.change(&event.session, |session, _| {
            session.stage = Stage::Closing;
            session.reason.clone_from(&event.reason);
            let drains_until = Time::from_micros(event.drains_until_us);
            // One that was never funded has nothing to drain; otherwise scheduling says when it has, and the hold stands
            // until then: what it has metered by then must be paid.
            let silence_ms = if session.drains() { silence_ms } else { 0 };
            session.finishes_at = drains_until.after_millis(silence_ms);
        });
    }

    fn session_closed(&mut self, event: &SessionClosed, now: Time) {
        self.answered(&event.session);
        let closed = self.change(&event.session, |session, _| {
            session.stage = Stage::Closed;
            session.reason.clone_from(&event.reason);
            session.closed_at = now;
            session.totals.rounding += session.totals.left_over();
            session.hold = None;
            session.sent = None;
            session.work_rest.clear();
            session.renter
        });
        let Some(renter) = closed else { return };
        self.open_sessions = self.open_sessions.saturating_sub(1);
        let Some(of) = self.renters.get_mut(&renter) else { return };
        of.open = of.open.saturating_sub(1);
        let remembered = of.sessions.len() as u64;
        if remembered.saturating_sub(of.open) > MOST_CLOSED_PER_RENTER as u64 {
            let is_closed = |id: &Id| self.sessions.get(id).is_some_and(|of| of.stage == Stage::Closed);
            let oldest = of.sessions.iter().map(|(_, id)| *id).find(is_closed);
            if let Some(id) = oldest {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: Id) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_time.remove(&(session.opened_at, id));
        if let Some(at) = session.timer {
            self.timers.remove(&(at, id));
        }
        let Some(of) = self.renters.get_mut(&session.renter) else { return };
        of.sessions.remove(&(session.opened_at, id));
        if of.sessions.is_empty() {
            self.renters.remove(&session.renter);
        }
    }

    fn calls_noted(&mut self, event: &CallsNoted, now: Time) {
        let (Some(node), Some(owner)) = (Id::from_slice(&event.node), Principal::from_slice(&event.owner))
        else {
            return;
        };
        let unbilled = wide(&event.unbilled_pico_usd);
        self.unbilled.pico = self.unbilled.pico.saturating_add(unbilled);
        self.change(&event.session, |session, _| {
            if session.rows.is_empty() {
                session.window_at = now;
            }
            let billed = Row {
                calls: event.calls,
                input_tokens: event.input_tokens,
                output_tokens: event.output_tokens,
                pico: wide(&event.billed_pico_usd),
                micro_units: wide(&event.billed_micro_units),
            };
            session.rows.entry((node, owner, event.credit as u8)).or_default().add(&billed);
            session.metered = session.metered.saturating_add(billed.pico);
            session.unbilled = session.unbilled.saturating_add(unbilled);
            session.capped |= unbilled > 0;
            session.calls = session.calls.saturating_add(event.calls);
            session.window_calls = session.window_calls.saturating_add(event.calls);
            session.last_call_at = now;
        });
    }

    pub(super) fn queue_owed(&mut self, owner: Principal, asset: u32, at: Time) {
        let Some(owed) = self.owed.get_mut(&(owner, asset)) else { return };
        if owed.sending > 0 {
            return; // its answer queues what is left
        }
        if let Some(was) = owed.queued_at {
            self.owed_queue.remove(&(was, owner, asset));
        }
        owed.queued_at = Some(at);
        self.owed_queue.insert((at, owner, asset));
    }

    fn owed_sent(&mut self, event: &OwedSent, seq: u64) {
        let Some(owner) = Principal::from_slice(&event.owner) else { return };
        let Some(owed) = self.owed.get_mut(&(owner, event.asset)) else { return };
        (owed.sending, owed.asked) = (event.units, Some(seq));
        if let Some(at) = owed.queued_at.take() {
            self.owed_queue.remove(&(at, owner, event.asset));
        }
        self.awaited.insert(seq, Awaited::Owed(owner, event.asset));
    }

    fn owed_answered(&mut self, owner: &[u8], asset: u32) -> Option<Principal> {
        let owner = Principal::from_slice(owner)?;
        let asked = self.owed.get_mut(&(owner, asset)).and_then(|owed| owed.asked.take());
        if let Some(seq) = asked {
            self.awaited.remove(&seq);
        }
        Some(owner)
    }

    fn owed_paid(&mut self, event: &OwedPaid, now: Time) {
        let Some(owner) = self.owed_answered(&event.owner, event.asset) else { return };
        let key = (owner, event.asset);
        let Some(owed) = self.owed.get_mut(&key) else { return };
        owed.units = owed.units.saturating_sub(owed.sending);
        owed.sending = 0;
        owed.refusals = 0;
        if owed.units == 0 {
            self.owed.remove(&key);
        } else {
            self.queue_owed(owner, event.asset, now);
        }
    }

    fn owed_refused(&mut self, event: &OwedRefused) {
        let Some(owner) = self.owed_answered(&event.owner, event.asset) else { return };
        if let Some(owed) = self.owed.get_mut(&(owner, event.asset)) {
            owed.sending = 0;
            owed.refusals = owed.refusals.saturating_add(1);
        }
        self.queue_owed(owner, event.asset, Time::from_micros(event.retry_at_us));
    }
}
