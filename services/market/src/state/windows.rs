//! What a window's end, its settlement and its loss do to a session, and to those who are paid.

use holmes_kernel::{Id, Meta, Principal, Time};
use holmes_proto::columns::ids;
use holmes_proto::market::v1::{SettlementRefused, SettlementSent, WindowEnded};

use super::evolve::{principals, wide};
use super::{Awaited, Ended, EndedRow, Hold, Line, Row, RowKey, Sent, Session, State};
use crate::params::MOST_LINES;
use crate::settlement::MICRO;

impl State {
    pub(super) fn window_ended(&mut self, event: &WindowEnded, now: Time) {
        self.change(&event.session, |session, _| {
            let keys = ids(&event.nodes).zip(principals(&event.owners)).zip(&event.credits);
            let mut rows = Vec::with_capacity(event.credits.len());
            for (at, ((node, owner), credit)) in keys.enumerate() {
                let key = (node, owner, *credit as u8);
                let row = session.rows.remove(&key).unwrap_or_default();
                let of = |column: &[u64]| column.get(at).copied().unwrap_or(0);
                let units = of(&event.units);
                session.carry_work(key, &row, units);
                session.taken = session.taken.saturating_add(row.pico);
                rows.push(EndedRow {
                    key,
                    row,
                    units,
                    price: of(&event.price_micro_usd),
                    buyer_fee: of(&event.buyer_fee_micro_usd),
                    seller_fee: of(&event.seller_fee_micro_usd),
                    paid: of(&event.paid_units),
                });
            }
            session.window = event.window;
            session.window_at = now;
            session.window_calls = session.rows.values().map(|row| row.calls).sum();
            session.ended = Some(Ended {
                rows,
                surcharge: event.surcharge_micro_usd,
                charged: event.charged_units,
                fee_units: event.fee_units,
                surcharge_units: event.surcharge_units,
            });
        });
    }

    pub(super) fn settlement_sent(&mut self, event: &SettlementSent, meta: &Meta) {
        let id = self.change(&event.session, |session, id| {
            let hold = Id::from_slice(&event.hold).map(|id| Hold { id, units: event.hold_units });
            session.sent = Some(Sent {
                payees: principals(&event.payees).zip(ids(&event.accounts)).collect(),
                hold,
                covers: wide(&event.covers_micro_usd),
                transfers: event.transfers,
            });
            session.asked = Some(meta.seq);
            session.sends = session.sends.saturating_add(1);
            session.finishing = event.last;
            id
        });
        self.awaited.extend(id.map(|id| (meta.seq, Awaited::Settlement(id))));
    }

    pub(super) fn settlement_refused(&mut self, event: &SettlementRefused) {
        self.answered(&event.session);
        let owner = Principal::from_slice(&event.owner);
        let astray = self.change(&event.session, |session, _| {
            session.refusals = session.refusals.saturating_add(1);
            session.retry_at = Time::from_micros(event.retry_at_us);
            let sent = session.sent.as_ref()?;
            let payee = sent.payees.iter().find(|(payee, _)| Some(*payee) == owner).copied();
            if event.hold_refused && session.shrink {
                session.reopen_window();
            }
            session.shrink |= event.hold_refused;
            payee.map(|(payee, account)| (payee, session.asset, account))
        });
        // An account that was named meanwhile stays.
        if let Some((payee, asset, account)) = astray.flatten()
            && self.accounts.get(&(payee, asset)) == Some(&account)
        {
            self.accounts.remove(&(payee, asset));
        }
    }

    pub(super) fn settled(&mut self, session: &[u8], now: Time) {
        self.answered(session);
        let unpaid = self.change(session, |session, _| {
            let Some(ended) = session.ended.take() else { return Vec::new() };
            let sent = session.sent.take();
            let payees = sent.as_ref().map(|sent| sent.payees.as_slice()).unwrap_or_default();
            let paid = |owner: &Principal| payees.iter().any(|(payee, _)| payee == owner);
            let unpaid = ended.rows.iter().filter(|row| row.paid > 0 && !paid(&row.key.1));
            let unpaid = unpaid.map(|row| (row.key.1, session.asset, row.paid)).collect();
            session.add_up(&ended, now);
            if let Some(sent) = sent {
                session.hold = sent.hold;
                session.covers = sent.covers;
            }
            session.refusals = 0;
            session.shrink = false;
            unpaid
        });
        for (owner, asset, units) in unpaid.unwrap_or_default() {
            let owed = self.owed.entry((owner, asset)).or_default();
            owed.units = owed.units.saturating_add(units);
            // One who has named an account meanwhile is paid at once.
            if self.accounts.contains(&(owner, asset)) {
                self.queue_owed(owner, asset, now);
            }
        }
    }

    pub(super) fn hold_lost(&mut self, session: &[u8]) {
        self.answered(session);
        let lost = self.change(session, |session, _| {
            session.reopen_window();
            let lost: u128 = session.rows.values().map(|row| row.pico).sum();
            session.rows.clear();
            session.metered = session.metered.saturating_sub(lost);
            session.unbilled = session.unbilled.saturating_add(lost);
            session.hold = None;
            session.finishing = true;
            lost
        });
        self.unbilled.pico = self.unbilled.pico.saturating_add(lost.unwrap_or(0));
    }
}

impl Row {
    pub(super) fn add(&mut self, more: &Row) {
        self.calls = self.calls.saturating_add(more.calls);
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.pico = self.pico.saturating_add(more.pico);
        self.micro_units = self.micro_units.saturating_add(more.micro_units);
    }
}

impl Session {
    /// Work of a row, with what was carried to it, millionths.
    pub(crate) fn work(&self, key: &RowKey, row: &Row) -> u128 {
        row.micro_units.saturating_add(self.work_rest.get(key).copied().unwrap_or(0).into())
    }

    fn carry_work(&mut self, key: RowKey, row: &Row, units: u64) {
        let rest = self.work(&key, row).saturating_sub(u128::from(units).saturating_mul(MICRO));
        let rest = u64::try_from(rest).unwrap_or(0); // below one unit, or what would not fit a lifetime of work
        if rest == 0 {
            self.work_rest.remove(&key);
        } else {
            self.work_rest.insert(key, rest);
        }
    }

    /// The window that has ended goes on: it is settled together with what follows it.
    fn reopen_window(&mut self) {
        self.sent = None;
        let Some(ended) = self.ended.take() else { return };
        for EndedRow { key, row, units, .. } in ended.rows {
            // Its whole units come back as millionths; what was carried stays carried.
            let rest = self.work_rest.remove(&key).unwrap_or(0);
            let work = u128::from(units).saturating_mul(MICRO).saturating_add(rest.into());
            self.rows.entry(key).or_default().add(&Row { micro_units: work, ..row });
            self.taken = self.taken.saturating_sub(row.pico);
            self.window_calls = self.window_calls.saturating_add(row.calls);
        }
        self.window = self.window.saturating_sub(1);
    }

    /// Adds a settled window to what the session comes to.
    fn add_up(&mut self, ended: &Ended, now: Time) {
        for row in &ended.rows {
            self.totals.price += u128::from(row.price);
            self.totals.paid += u128::from(row.paid);
            if self.lines.len() >= MOST_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(Line { window: self.window, at: now, row: *row });
        }
        self.totals.charged += u128::from(ended.charged);
        self.totals.fees += u128::from(ended.fee_units);
        self.totals.surcharges += u128::from(ended.surcharge_units);
    }
}
