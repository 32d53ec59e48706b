//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::Place;
use holmes_kernel::window::WINDOW_AGE_MS;
use holmes_kernel::{Id, Meta, Principal, canon};
use holmes_proto::columns::ids;
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{
    AccountOpened, Event, HoldsExpired, LimitsSet, SubmitterRegistered, TokensDestroyed, TransferCode,
    TransferKind, TransfersRecorded,
};
use serde::Serialize;

use super::account::{Account, is_party};
use super::{Hold, Known, NOWHERE, State};
use crate::rate::RateLimit;
use crate::rows::{self, Row};

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    match &event.event {
        Some(Kind::TransfersRecorded(e)) => state.transfers_recorded(e, meta),
        Some(Kind::HoldsExpired(e)) => state.holds_expired(e),
        Some(Kind::AccountOpened(e)) => state.account_opened(e),
        Some(Kind::AccountClosed(e)) => state.change(&e.account, |account| account.closed = true),
        Some(Kind::AccountFrozen(e)) => {
            state.change(&e.account, |account| account.frozen_out = e.frozen_out);
        }
        Some(Kind::LimitsSet(e)) => state.limits_set(e),
        Some(Kind::SubmitterRegistered(e)) => state.submitter_registered(e),
        Some(Kind::DepositRecorded(e)) => {
            state.crossed(&e.account, e.amount_units, &e.reference, Border::In, meta);
        }
        Some(Kind::WithdrawalRecorded(e)) => {
            state.crossed(&e.account, e.amount_units, &e.reference, Border::Out, meta);
        }
        Some(Kind::TokensDestroyed(e)) => state.tokens_destroyed(e),
        None => {}
    }
}

/// The key under which an outside reference is remembered: unique for ever within its asset.
pub fn reference_key(asset: u32, reference: &str) -> [u8; 16] {
    canon::digest(&("reference", asset, reference))
}

/// Which way money crosses the ledger's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Border {
    /// It came from outside.
    In,
    /// It left.
    Out,
}

/// What a reference was used for.
pub fn movement_digest(account: Id, units: u64, border: Border) -> [u8; 16] {
    canon::digest(&(account, units, border))
}

impl State {
    fn transfers_recorded(&mut self, event: &TransfersRecorded, meta: &Meta) {
        self.transfers.advance(meta.ts);
        for row in rows::rows(event) {
            let place = |id: Id| if id == Id::default() { None } else { self.accounts.place(&id) };
            let (debit, credit) = (place(row.debit), place(row.credit));
            if row.code == TransferCode::Ok {
                self.transferred(&row, debit, credit, meta);
            } else if !rows::is_remembered(row.code) || self.transfer(row.id).is_some() {
                continue;
            }
            // A send's id may be older than the window: its place in the inbox is what keeps it from running twice.
            let is_young =
                row.id.moment().is_some_and(|moment| moment.after_millis(WINDOW_AGE_MS) >= meta.ts);
            if !event.by_number && is_young {
                let known = Known {
                    digest: row.digest,
                    amount: row.amount,
                    seq: meta.seq,
                    debit: debit.unwrap_or(NOWHERE),
                    credit: credit.unwrap_or(NOWHERE),
                    kind: row.kind as u8,
                    code: row.code as u8,
                };
                self.transfers.insert(meta.principal, row.id, known);
            }
        }
    }

    fn transferred(&mut self, row: &Row, debit: Option<Place>, credit: Option<Place>, meta: &Meta) {
        let (Some(debit), Some(credit)) = (debit, credit) else { return };
        match row.kind {
            TransferKind::Single => {
                self.count_outflow(debit, row.amount, meta);
                self.moved(debit, credit, row.amount, row.burned);
            }
            TransferKind::Hold => {
                self.count_outflow(debit, row.amount, meta);
                self.held(row, debit, credit, meta);
            }
            TransferKind::Post => {
                self.released(row.hold);
                self.moved(debit, credit, row.amount, row.burned);
            }
            TransferKind::Void => self.released(row.hold),
            TransferKind::Unspecified => {}
        }
    }

    /// Posts both sides of a transfer and its burn.
    fn moved(&mut self, debit: Place, credit: Place, units: u64, burned: u64) {
        let Some(account) = self.accounts.at_mut(debit) else { return };
        account.balance.debit(units);
        let asset = account.asset as usize;
        if let Some(account) = self.accounts.at_mut(credit) {
            account.balance.credit(units.saturating_sub(burned));
        }
        let Some(totals) = self.assets.get_mut(asset) else { return };
        totals.debits += u128::from(units);
        totals.credits += u128::from(units.saturating_sub(burned));
        if burned > 0
            && let Some(inbox) = totals.burn_inbox.and_then(|place| self.accounts.at_mut(place))
        {
            inbox.balance.credit(burned);
            totals.credits += u128::from(burned);
        }
    }

    fn count_outflow(&mut self, debit: Place, units: u64, meta: &Meta) {
        if let Some(account) = self.accounts.at_mut(debit)
            && let Some(rate) = account.rate
        {
            account.balance.outflow = rate.after(account.balance.outflow, units, meta.ts);
        }
    }

    fn held(&mut self, row: &Row, debit: Place, credit: Place, meta: &Meta) {
        if let Some(account) = self.accounts.at_mut(debit) {
            account.balance.hold_debit(row.amount);
            if let Some(asset) = self.assets.get_mut(account.asset as usize) {
                asset.held += u128::from(row.amount);
            }
        }
        if let Some(account) = self.accounts.at_mut(credit) {
            account.balance.hold_credit(row.amount);
        }
        if let Some(at) = row.expires {
            self.expiring.insert((at, row.id));
        }
        let hold = Hold {
            debit,
            credit,
            amount: row.amount,
            opener: meta.principal,
            expires: row.expires,
            coordinator: row.coordinator,
        };
        self.holds.insert(row.id, hold);
    }

    /// Ends a hold: what it reserves is free again.
    fn released(&mut self, id: Id) {
        let Some(hold) = self.holds.remove(&id) else { return };
        if let Some(at) = hold.expires {
            self.expiring.remove(&(at, id));
        }
        if let Some(account) = self.accounts.at_mut(hold.debit) {
            account.balance.release_debit(hold.amount);
            if let Some(asset) = self.assets.get_mut(account.asset as usize) {
                asset.held = asset.held.saturating_sub(hold.amount.into());
            }
        }
        if let Some(account) = self.accounts.at_mut(hold.credit) {
            account.balance.release_credit(hold.amount);
        }
    }

    fn holds_expired(&mut self, event: &HoldsExpired) {
        ids(&event.holds).for_each(|id| self.released(id));
    }

    fn account_opened(&mut self, event: &AccountOpened) {
        let (Some(id), Some(owner)) = (Id::from_slice(&event.account), Principal::from_slice(&event.owner))
        else {
            return;
        };
        let Some(asset) = self.asset(event.asset) else { return };
        let rate = if is_party(&owner) { self.params.default_rate } else { None };
        self.open(id, Account::new(asset, owner, event.history, rate));
    }

    fn limits_set(&mut self, event: &LimitsSet) {
        let rate = RateLimit::new(event.rate_units, event.rate_window_ms).and_then(RateLimit::limited);
        self.change(&event.account, |account| {
            account.credit_limit = event.credit_limit_units;
            if account.rate != rate {
                account.rate = rate;
                account.balance.outflow = Default::default(); // counted in units of the window before
            }
        });
    }

    fn submitter_registered(&mut self, event: &SubmitterRegistered) {
        let Some(submitter) = Principal::from_slice(&event.submitter) else { return };
        if event.registered {
            self.submitters.insert(submitter, ());
        } else {
            self.submitters.remove(&submitter);
        }
    }

    fn crossed(&mut self, account: &[u8], units: u64, reference: &str, border: Border, meta: &Meta) {
        let Some(id) = Id::from_slice(account) else { return };
        let Some(inside) = self.accounts.place(&id) else { return };
        let Some(asset) = self.accounts.at(inside).and_then(|(_, account)| self.asset_at(account.asset))
        else {
            return;
        };
        let (key, Some(outside)) = (reference_key(asset.params.id, reference), asset.external) else {
            return;
        };
        self.references.insert(key, movement_digest(id, units, border));
        match border {
            Border::In => self.moved(outside, inside, units, 0),
            Border::Out => {
                self.count_outflow(inside, units, meta);
                self.moved(inside, outside, units, 0);
            }
        }
    }

    fn tokens_destroyed(&mut self, event: &TokensDestroyed) {
        let Some(at) = self.asset(event.asset) else { return };
        let Some(asset) = self.assets.get_mut(at as usize) else { return };
        let Some(inbox) = asset.burn_inbox.and_then(|place| self.accounts.at_mut(place)) else { return };
        inbox.balance.debit(event.amount_units);
        asset.debits += u128::from(event.amount_units);
        asset.destroyed = asset.destroyed.saturating_add(event.amount_units);
    }

    fn change(&mut self, account: &[u8], change: impl FnOnce(&mut Account)) {
        if let Some(account) = Id::from_slice(account).and_then(|id| self.accounts.get_mut(&id)) {
            change(account);
        }
    }
}
