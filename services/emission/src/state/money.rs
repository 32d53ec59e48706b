//! What each event of the dealings with the ledger does to the state.

use holmes_kernel::{Id, Meta, Time};
use holmes_proto::columns::ids;
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{Event, PaymentsAnswered, PaymentsSent};

use super::{ACCOUNTS, Account, Awaited, State};

impl State {
    /// What is asked of the ledger, and what it answers.
    pub(super) fn moved(&mut self, event: &Event, meta: &Meta) {
        match &event.event {
            Some(Kind::AccountRequested(e)) => {
                if let Some(at) = self.openings.iter().position(|opening| opening.name == e.name) {
                    self.openings[at].ask_at = None;
                    self.awaited.insert(meta.seq, Awaited::Opening(at));
                }
            }
            Some(Kind::AccountOpened(e)) => self.opening_answered(&e.name, None),
            Some(Kind::AccountRefused(e)) => {
                self.opening_answered(&e.name, Some(Time::from_micros(e.retry_at_us)))
            }
            Some(Kind::MoveSent(e)) => {
                if let Some(begun) = self.moves.get_mut(&e.number) {
                    begun.ask_at = None;
                    self.awaited.insert(meta.seq, Awaited::Move(e.number));
                }
            }
            Some(Kind::MoveMade(e)) => self.move_made(e.number),
            Some(Kind::MoveRefused(e)) => {
                self.awaited.retain(|_, awaited| *awaited != Awaited::Move(e.number));
                if let Some(begun) = self.moves.get_mut(&e.number) {
                    begun.refusals = begun.refusals.saturating_add(1);
                    begun.refused.clone_from(&e.reason);
                    begun.ask_at = Some(Time::from_micros(e.retry_at_us));
                }
            }
            Some(Kind::PaymentsSent(e)) => self.payments_sent(e, meta),
            Some(Kind::PaymentsAnswered(e)) => self.payments_answered(e, meta.ts),
            _ => {}
        }
    }

    fn opening_answered(&mut self, name: &str, retry_at: Option<Time>) {
        let Some(at) = self.openings.iter().position(|opening| opening.name == name) else { return };
        self.awaited.retain(|_, awaited| *awaited != Awaited::Opening(at));
        let opening = &mut self.openings[at];
        opening.open = retry_at.is_none();
        opening.ask_at = retry_at;
        opening.refusals = opening.refusals.saturating_add(u32::from(retry_at.is_some()));
    }

    fn move_made(&mut self, number: u64) {
        self.awaited.retain(|_, awaited| *awaited != Awaited::Move(number));
        let Some(made) = self.moves.remove(&number) else { return };
        self.pending.take_all(&made.legs);
        for (from, to, units) in made.legs.iter() {
            let place = |account| ACCOUNTS.iter().position(|known| *known == account).unwrap_or_default();
            self.held[place(from)] = self.held[place(from)].saturating_sub(units);
            self.held[place(to)] = self.held[place(to)].saturating_add(units);
        }
    }

    fn payments_sent(&mut self, event: &PaymentsSent, meta: &Meta) {
        let payments: Vec<(Id, u64)> = ids(&event.nodes).zip(event.units.iter().copied()).collect();
        for (id, units) in &payments {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if let Some(at) = node.pays_at.take() {
                self.payable.remove(&(at, *id));
            }
            node.paying = *units;
            node.payments = node.payments.saturating_add(1);
        }
        self.awaited.insert(meta.seq, Awaited::Payments(payments));
    }

    fn payments_answered(&mut self, event: &PaymentsAnswered, now: Time) {
        let Some(Awaited::Payments(payments)) = self.awaited.remove(&event.cause_seq) else { return };
        let pot = ACCOUNTS.iter().position(|account| *account == Account::Pot).unwrap_or_default();
        for ((id, units), reason) in payments.into_iter().zip(&event.reasons) {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.paying = 0;
            node.refused.clone_from(reason);
            if !reason.is_empty() {
                node.refusals = node.refusals.saturating_add(1);
                self.queue(id, Time::from_micros(event.retry_at_us));
                continue;
            }
            node.refusals = 0;
            node.owed = node.owed.saturating_sub(units);
            node.totals.paid = node.totals.paid.saturating_add(units);
            self.books.owed = self.books.owed.saturating_sub(units);
            self.books.paid = self.books.paid.saturating_add(units);
            self.held[pot] = self.held[pot].saturating_sub(units);
            self.queue(id, now); // it may be owed more since
        }
    }
}
