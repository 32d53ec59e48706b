//! Transfers: checked in order against the state and what their batch has changed so far; chains whole or not at all.

use holmes_kernel::Place;
use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::window::NotTaken;
use holmes_kernel::{Amount, Ctx, Id, Principal};
use holmes_proto::ledger::v1::{TransferCode as Code, TransferKind, TransfersRecorded};

use super::overlay::{Overlay, Seen};
use super::{is_service, only_platform, rights};
use crate::burn;
use crate::command::{Coordinator, Kind, Move, Rejection, Transfer, Via};
use crate::params::{MOST_TRANSFERS_PER_CHAIN, MOST_TRANSFERS_PER_COMMAND};
use crate::rows::{Columns, Row, is_remembered};
use crate::state::{Account, Balance, Hold, State, balance_after, is_party};

/// What is wrong with a batch as a whole, whatever the state.
///
/// # Errors
/// `BATCH_EMPTY`, `BATCH_TOO_LARGE`, `CHAIN_OPEN`, `CHAIN_TOO_LONG` (E-2.2).
pub fn well_formed(transfers: &[Transfer], most: usize) -> Result<(), Rejection> {
    let Some(last) = transfers.last() else { return Err(Rejection::BatchEmpty) };
    if transfers.len() > most {
        return Err(Rejection::BatchTooLarge { found: transfers.len(), most });
    }
    if last.linked {
        return Err(Rejection::ChainOpen);
    }
    let mut at = 0;
    for chain in chains(transfers) {
        if chain.len() > MOST_TRANSFERS_PER_CHAIN {
            return Err(Rejection::ChainTooLong { at });
        }
        at += chain.len();
    }
    Ok(())
}

/// The chains of a batch; a transfer by itself is a chain of one.
pub fn chains(transfers: &[Transfer]) -> impl Iterator<Item = &[Transfer]> {
    transfers.split_inclusive(|transfer| !transfer.linked)
}

/// Carries out a batch in thought.
pub(super) fn create(
    state: &State,
    via: Via,
    transfers: &[Transfer],
    ctx: &Ctx,
) -> Result<TransfersRecorded, Rejection> {
    well_formed(transfers, MOST_TRANSFERS_PER_COMMAND)?;
    if via == Via::Number && !state.submitters.contains(&ctx.principal) {
        return Err(Rejection::NotASubmitter(ctx.principal));
    }
    let mut columns = Columns::with_capacity(transfers.len());
    let mut batch = Batch { state, ctx, via, overlay: Overlay::new(state) };
    for chain in chains(transfers) {
        match chain {
            [transfer] => columns.push(&batch.transfer(transfer)),
            _ if is_off(Guard::Whole) => chain.iter().for_each(|one| columns.push(&batch.transfer(one))),
            _ => batch.chain(chain).iter().for_each(|row| columns.push(row)),
        }
    }
    Ok(columns.finish(via == Via::Number))
}

struct Batch<'a> {
    state: &'a State,
    ctx: &'a Ctx,
    via: Via,
    overlay: Overlay<'a>,
}

/// The two sides of a transfer, checked.
struct Sides<'a> {
    debit: (Place, &'a Account, Balance),
    credit: (Place, &'a Account, Balance),
    units: u64,
}

impl<'a> Batch<'a> {
    /// E-2.2: all of a chain or nothing. A chain that had happened before is all `EXISTS`; one that mixes new
    /// transfers with such ones fails.
    fn chain(&mut self, chain: &[Transfer]) -> Vec<Row> {
        self.overlay.begin();
        let mut rows = Vec::with_capacity(chain.len());
        let mut stopped = false;
        for transfer in chain {
            let row = if stopped { self.not_tried(transfer) } else { self.transfer(transfer) };
            stopped |= !matches!(row.code, Code::Ok | Code::Exists);
            rows.push(row);
        }
        let happens = |code| !stopped && rows.iter().all(|row| row.code == code);
        if happens(Code::Ok) || happens(Code::Exists) {
            self.overlay.keep();
            return rows;
        }
        self.overlay.take_back();
        for row in &mut rows {
            if row.code == Code::Ok {
                *row = Row::failed(*row, Code::LinkedFailed);
            } else if is_remembered(row.code) {
                self.overlay.remember(row); // the failure itself is not taken back
            }
        }
        rows
    }

    fn not_tried(&self, transfer: &Transfer) -> Row {
        let row = Row::of(transfer);
        self.repeated(&row).unwrap_or(row.failed(Code::LinkedFailed))
    }

    fn transfer(&mut self, transfer: &Transfer) -> Row {
        let row = Row::of(transfer);
        if let Some(row) = self.repeated(&row) {
            return row;
        }
        let row = self.attempt(transfer, row).unwrap_or_else(|code| row.failed(code));
        if is_remembered(row.code) {
            self.overlay.remember(&row);
        }
        row
    }

    /// E-2.3: what a transfer's id was answered before, in this batch or in the last hour.
    fn repeated(&self, row: &Row) -> Option<Row> {
        let in_window = || {
            self.state.transfer(row.id).map(|known| Seen {
                digest: known.digest,
                amount: known.amount,
                code: known.result(),
            })
        };
        let Seen { digest, amount, code } = self.overlay.seen(row.id).or_else(in_window)?;
        Some(if digest != row.digest {
            row.failed(Code::ExistsDifferent)
        } else if code == Code::Ok {
            Row { amount, ..row.failed(Code::Exists) }
        } else {
            row.failed(code)
        })
    }

    fn attempt(&mut self, transfer: &Transfer, row: Row) -> Result<Row, Code> {
        self.admit(transfer.id)?;
        match &transfer.kind {
            Kind::Single(of) => self.single(of, row),
            Kind::Hold { of, timeout_ms, coordinator } => {
                self.hold(of, *timeout_ms, coordinator.as_ref(), row)
            }
            Kind::Post { amount, .. } => self.post(*amount, row),
            Kind::Void { .. } => self.void(row),
        }
    }

    /// E-2.3. The quota may be passed by the transfers of one batch: the window is asked before each, but filled after
    /// all.
    fn admit(&self, id: Id) -> Result<(), Code> {
        if self.via != Via::Call {
            return if id.moment().is_some() { Ok(()) } else { Err(Code::IdInvalid) };
        }
        self.state.transfers.admits(&self.ctx.principal, id, self.ctx.now).map_err(|why| match why {
            NotTaken::NotAnId => Code::IdInvalid,
            NotTaken::Expired => Code::IdExpired,
            NotTaken::Full => Code::WindowFull,
        })
    }

    fn single(&mut self, of: &Move, row: Row) -> Result<Row, Code> {
        let Sides { debit, credit, units } = self.sides(of, None)?;
        let burned = self.burned(debit.1, credit.1, units, &self.ctx.principal)?;
        let (mut from, mut to) = (debit.2, credit.2);
        from.debit(units);
        to.credit(units - burned);
        self.put(debit, from, units, credit.0, to)?;
        self.burn(debit.1, burned);
        Ok(Row { amount: units, burned, ..row })
    }

    fn hold(
        &mut self,
        of: &Move,
        timeout_ms: Option<u64>,
        coordinator: Option<&Coordinator>,
        row: Row,
    ) -> Result<Row, Code> {
        if timeout_ms.is_some_and(|ms| ms == 0 || ms > self.state.params.longest_hold_ms) {
            return Err(Code::TimeoutInvalid);
        }
        let Sides { debit, credit, units } = self.sides(of, coordinator)?;
        if self.overlay.hold(row.id).is_some() {
            return Err(Code::ExistsDifferent); // open for longer than ids are remembered
        }
        let room = self.ctx.principal.room(self.state.params.most_open_holds);
        if self.overlay.most_holds() as u64 >= room {
            return Err(Code::TooManyHolds);
        }
        let (mut from, mut to) = (debit.2, credit.2);
        from.hold_debit(units);
        to.hold_credit(units);
        self.put(debit, from, units, credit.0, to)?;
        let expires = timeout_ms.map(|ms| self.ctx.now.after_millis(ms));
        let hold = Hold {
            debit: debit.0,
            credit: credit.0,
            amount: units,
            opener: self.ctx.principal,
            expires,
            coordinator: row.coordinator,
        };
        self.overlay.set_hold(row.id, Some(hold));
        Ok(Row { amount: units, expires, ..row })
    }

    fn post(&mut self, amount: Option<Amount>, row: Row) -> Result<Row, Code> {
        let (hold, row) = self.open_hold(row)?;
        let units = amount.map_or(hold.amount, Amount::units);
        if units == 0 {
            return Err(Code::AmountZero);
        }
        if units > hold.amount {
            return Err(Code::ExceedsHold);
        }
        let (debit, mut from) = self.overlay.account(hold.debit).ok_or(Code::DebitNotFound)?;
        let (credit, mut to) = self.overlay.account(hold.credit).ok_or(Code::CreditNotFound)?;
        // E-2.4: it is external unless a service opened the hold.
        let burned = self.burned(debit, credit, units, &hold.opener)?;
        from.release_debit(hold.amount);
        from.debit(units);
        to.release_credit(hold.amount);
        to.credit(units - burned);
        self.overlay.set(hold.debit, from);
        self.overlay.set(hold.credit, to);
        self.overlay.set_hold(row.hold, None);
        self.burn(debit, burned);
        Ok(Row { amount: units, burned, ..row })
    }

    fn void(&mut self, row: Row) -> Result<Row, Code> {
        let (hold, row) = self.open_hold(row)?;
        self.overlay.change(hold.debit, |balance| balance.release_debit(hold.amount));
        self.overlay.change(hold.credit, |balance| balance.release_credit(hold.amount));
        self.overlay.set_hold(row.hold, None);
        Ok(Row { amount: hold.amount, ..row })
    }

    /// What a single or a hold needs to be true, and how much it moves.
    fn sides(&self, of: &Move, coordinator: Option<&Coordinator>) -> Result<Sides<'a>, Code> {
        if of.amount.is_zero() {
            return Err(Code::AmountZero);
        }
        if of.debit == of.credit {
            return Err(Code::SameAccount);
        }
        let side = |id: Id| {
            let place = self.state.accounts.place(&id)?;
            let (account, balance) = self.overlay.account(place)?;
            Some((place, account, balance))
        };
        let debit = side(of.debit).ok_or(Code::DebitNotFound)?;
        let credit = side(of.credit).ok_or(Code::CreditNotFound)?;
        let who = &self.ctx.principal;
        rights::debit(self.state, who, of.debit, debit.1)?;
        if of.debit_owner.is_some_and(|owner| owner != debit.1.owner) {
            return Err(Code::Forbidden);
        }
        if debit.1.asset != credit.1.asset {
            return Err(Code::AssetMismatch);
        }
        if debit.1.may_be_overdrawn || credit.1.may_be_overdrawn {
            return Err(Code::ReservedAccount);
        }
        if debit.1.closed || credit.1.closed {
            return Err(Code::AccountClosed);
        }
        rights::credit(who, credit.1, coordinator)?;
        let units = self.allowed(debit.1, &debit.2, of)?;
        Ok(Sides { debit, credit, units })
    }

    /// E-2.5: how much of what is asked may leave an account now.
    fn allowed(&self, account: &Account, balance: &Balance, of: &Move) -> Result<u64, Code> {
        if account.frozen_out {
            return Err(Code::AccountFrozen);
        }
        let (available, room) = (account.available(balance), account.room(balance, self.ctx.now));
        let least = if of.balancing { 1 } else { of.amount.units() };
        if available < least {
            return Err(Code::InsufficientFunds);
        }
        if room < least {
            return Err(Code::RateLimited);
        }
        Ok(of.amount.units().min(available).min(room))
    }

    /// Writes both sides, unless a balance would not fit (E-0.1).
    fn put(
        &mut self,
        (debit, account, _): (Place, &Account, Balance),
        from: Balance,
        units: u64,
        credit: Place,
        to: Balance,
    ) -> Result<(), Code> {
        if !from.fits() || !to.fits() {
            return Err(Code::BalanceOverflow);
        }
        self.overlay.set(debit, balance_after(from, account.rate, units, self.ctx.now));
        self.overlay.set(credit, to);
        Ok(())
    }

    /// E-2.4: what a transfer between two parties burns, when a party asked for it. Only the token burns: of other
    /// assets nothing can be destroyed.
    fn burned(&self, debit: &Account, credit: &Account, units: u64, asker: &Principal) -> Result<u64, Code> {
        let between = is_party(&debit.owner) && is_party(&credit.owner) && debit.owner != credit.owner;
        if !between || is_service(asker) || self.burn_inbox(debit).is_none() {
            return Ok(0);
        }
        let burned = burn::burned(Amount::new(units), self.state.params.burn_rate);
        burned.map(Amount::units).ok_or(Code::NetZero)
    }

    fn burn_inbox(&self, account: &Account) -> Option<Place> {
        self.state.asset_at(account.asset)?.burn_inbox
    }

    fn burn(&mut self, account: &Account, burned: u64) {
        if burned > 0
            && let Some(inbox) = self.burn_inbox(account)
        {
            self.overlay.change(inbox, |balance| balance.credit(burned));
        }
    }

    /// The hold that a row ends, and the row with the hold's accounts.
    fn open_hold(&self, row: Row) -> Result<(Hold, Row), Code> {
        let open = self.overlay.hold(row.hold).filter(|hold| hold.expires.is_none_or(|at| at > self.ctx.now));
        let Some(hold) = open else { return Err(self.why_not_open(row.hold)) };
        let side = |place| self.state.accounts.at(place);
        let (debit, _) = side(hold.debit).ok_or(Code::DebitNotFound)?;
        let (credit, to) = side(hold.credit).ok_or(Code::CreditNotFound)?;
        if !self.may_end(&hold, to, row.kind) {
            let known = self.concerns([hold.debit, hold.credit], Some(&hold.opener));
            return Err(if known { Code::Forbidden } else { Code::HoldNotFound });
        }
        Ok((hold, Row { debit: *debit, credit: *credit, ..row }))
    }

    /// A coordinator alone, where one is named; otherwise who opened it, and who would get the money may do without it.
    /// No other service: one that posts a hold whose name a caller gave it could be made to take somebody's escrow.
    fn may_end(&self, hold: &Hold, credit: &Account, kind: TransferKind) -> bool {
        let who = &self.ctx.principal;
        match hold.coordinator {
            _ if is_off(Guard::End) => true,
            Some(by) => *who == Principal::service(by.service),
            None => {
                let renounces = kind == TransferKind::Void && *who == credit.owner;
                *who == hold.opener || renounces
            }
        }
    }

    /// Whether a hold is the caller's business: no tenant learns that another's is there, or was.
    fn concerns(&self, sides: [Place; 2], opener: Option<&Principal>) -> bool {
        let who = &self.ctx.principal;
        let owns = |at: Place| self.state.accounts.at(at).is_some_and(|(_, account)| account.owner == *who);
        only_platform(self.ctx).is_ok() || opener == Some(who) || sides.into_iter().any(owns)
    }

    fn why_not_open(&self, hold: Id) -> Code {
        let was_hold = |known: &crate::state::Known| {
            let held = known.moved_as() == TransferKind::Hold && known.result() == Code::Ok;
            held && self.concerns([known.debit, known.credit], None)
        };
        let expired = |hold: Hold| self.concerns([hold.debit, hold.credit], Some(&hold.opener));
        let ended = self.overlay.hold(hold).is_some_and(expired)
            || self.overlay.has_ended(hold)
            || self.state.transfer(hold).is_some_and(was_hold);
        if ended { Code::HoldEnded } else { Code::HoldNotFound }
    }
}
