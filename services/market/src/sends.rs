//! What the market asks of the ledger: commands in the ledger's own encoding, carried by events.
//!
//! Transfer ids follow from what they are for and from how many sends the session has had, so that what was refused, which
//! the ledger remembers under its id, is asked for under another.

use std::collections::BTreeMap;

use holmes_kernel::{Ctx, Id, Principal, Time};
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::ledger::v1::TransferKind;
use holmes_proto::ledger::v1::command::Command as Asked;
use prost::Message;
use prost::bytes::Bytes;

use crate::fees::Bill;
use crate::state::{Ended, Hold, Purse, Session, Stage, State, SystemAccount};

/// To open one of the market's accounts.
pub(crate) fn open_account(purse: &SystemAccount, ctx: &Ctx) -> Bytes {
    encoded(Asked::OpenAccount(ledger::OpenAccountRequest {
        asset: purse.asset,
        owner: Principal::service(ctx.log.svc).to_string(),
        name: purse.name.clone(),
        history: true,
        ..Default::default()
    }))
}

/// The id of a session's n-th transfer of a send.
pub(crate) fn transfer_id(session: Id, sends: u32, n: u32, ctx: &Ctx) -> Id {
    let cause = [b"market session".as_slice(), &session.to_bytes(), &sends.to_le_bytes()].concat();
    Id::derive(ctx.now, &cause, n)
}

/// What a hold reserves, and for whom.
pub(crate) struct Reserve {
    /// The session.
    pub session: Id,
    /// Whose account must be debited.
    pub renter: Principal,
    /// The account that is debited.
    pub account: Id,
    /// The account that a post credits.
    pub market: Id,
    /// The hold.
    pub hold: Hold,
    /// It ends by itself then.
    pub until: Time,
}

/// To make a session's first hold.
pub(crate) fn reserve(reserve: &Reserve, ctx: &Ctx) -> Bytes {
    chain(vec![hold(reserve, ctx)])
}

/// To pay an owner what waits for it.
pub(crate) fn pay_owed(state: &State, owner: Principal, asset: u32, to: Id, units: u64, ctx: &Ctx) -> Bytes {
    // The place in the log makes each try another transfer.
    let place = [&owner.to_bytes()[..], &ctx.term.to_le_bytes(), &ctx.seq.to_le_bytes()].concat();
    let id = Id::derive(ctx.now, &[b"market owed".as_slice(), &place].concat(), asset);
    chain(vec![single(id, state.purse(Purse::Unclaimed, asset), to, units)])
}

/// A settlement as a chain of the ledger, and what it means.
pub(crate) struct Settlement {
    /// Owners and their accounts, as transfers 1, 2, …
    pub payees: Vec<(Principal, Id)>,
    /// The next hold.
    pub hold: Option<Hold>,
    /// What may be charged with it, micro-dollars.
    pub covers: u128,
    transfers: Vec<ledger::Transfer>,
}

impl Settlement {
    /// How many transfers it has; none when there is nothing to ask the ledger for.
    pub(crate) fn len(&self) -> u32 {
        self.transfers.len() as u32
    }

    /// The command.
    pub(crate) fn encoded(self) -> Bytes {
        chain(self.transfers)
    }
}

/// What the ledger is asked for a session: to post what its ended window charges (or to void its hold), to pay owners,
/// fees, surcharge and, at the end, what conversion has left, and to make the next hold while it goes on.
pub(crate) fn settlement(
    state: &State,
    id: Id,
    session: &Session,
    ended: Option<&Ended>,
    last: bool,
    ctx: &Ctx,
) -> Settlement {
    let charged = ended.map_or(0, |ended| ended.charged);
    let mut made =
        Settlement { payees: Vec::new(), hold: None, covers: session.covers, transfers: Vec::new() };
    if charged == 0 && !last {
        made.hold = session.hold; // nothing moves: the hold stays as it is
        return made;
    }
    let mut n = 0;
    let mut next_id = || {
        n += 1;
        transfer_id(id, session.sends, n, ctx)
    };
    made.transfers.extend(session.hold.map(|hold| end_hold(next_id(), hold, charged)));
    let market = state.purse(Purse::Market, session.asset);
    let mut pay = |to: Id, units: u64| (units > 0).then(|| single(next_id(), market, to, units));
    let (mut unclaimed, purse) = (0u64, |purse| state.purse(purse, session.asset));
    for (owner, units) in owners(ended) {
        match state.accounts.get(&(owner, session.asset)) {
            Some(account) => {
                made.payees.push((owner, *account));
                made.transfers.extend(pay(*account, units));
            }
            None => unclaimed = unclaimed.saturating_add(units),
        }
    }
    made.transfers.extend(pay(purse(Purse::Unclaimed), unclaimed));
    if let Some(ended) = ended {
        made.transfers.extend(pay(purse(Purse::Fees), ended.fee_units));
        made.transfers.extend(pay(purse(Purse::Surcharges), ended.surcharge_units));
    }
    if last {
        made.transfers.extend(pay(purse(Purse::Rounding), left_over(session, ended)));
    } else if let Some((units, covers)) = next_hold(state, session, ended) {
        (made.hold, made.covers) = (Some(Hold { id: next_id(), units }), covers);
    }
    made.transfers.extend(made.hold.map(|next| hold(&of(id, session, market, next, state), ctx)));
    made
}

/// What a session's hold reserves.
fn of(id: Id, session: &Session, market: Id, hold: Hold, state: &State) -> Reserve {
    let until = session.expires_at.after_millis(state.params.hold_grace_ms);
    Reserve { session: id, renter: session.renter, account: session.account, market, hold, until }
}

/// What the next hold reserves, and what may be charged with it: as much as the session's budget again, or, where that
/// was refused and while it closes, what is left of the one before.
fn next_hold(state: &State, session: &Session, ended: Option<&Ended>) -> Option<(u64, u128)> {
    let charged = ended.map_or(0, |ended| ended.charged);
    let price: u128 = ended.iter().flat_map(|ended| &ended.rows).map(|row| u128::from(row.price)).sum();
    let settled = Bill::of(session.totals.price + price, &session.rates).buyer_pays();
    let left = session.hold.map_or(0, |hold| hold.units.saturating_sub(charged));
    let whole = session.conversion.held(session.budget, state.params.token_margin_ppb);
    match whole {
        Some(units) if session.stage == Stage::Open && !session.shrink => {
            Some((units, settled + u128::from(session.budget)))
        }
        _ => (left > 0).then_some((left, session.covers)),
    }
}

/// What the owners of an ended window's rows get together, each once; nothing is nobody's.
fn owners(ended: Option<&Ended>) -> BTreeMap<Principal, u64> {
    let mut owners = BTreeMap::new();
    for row in ended.iter().flat_map(|ended| &ended.rows).filter(|row| row.paid > 0) {
        let units: &mut u64 = owners.entry(row.key.1).or_default();
        *units = units.saturating_add(row.paid);
    }
    owners
}

/// What conversion has left when the ended window is paid: for `rounding/<asset>`.
fn left_over(session: &Session, ended: Option<&Ended>) -> u64 {
    let Some(ended) = ended else {
        return u64::try_from(session.totals.left_over()).unwrap_or(0);
    };
    let paid: u128 = ended.rows.iter().map(|row| u128::from(row.paid)).sum();
    let out = paid + u128::from(ended.fee_units) + u128::from(ended.surcharge_units);
    let left = (session.totals.left_over() + u128::from(ended.charged)).saturating_sub(out);
    u64::try_from(left).unwrap_or(0)
}

fn end_hold(id: Id, hold: Hold, charged: u64) -> ledger::Transfer {
    let kind = if charged > 0 { TransferKind::Post } else { TransferKind::Void };
    ledger::Transfer {
        transfer_id: id.to_string(),
        kind: kind.into(),
        amount_units: charged,
        hold_id: hold.id.to_string(),
        ..Default::default()
    }
}

fn single(id: Id, from: Id, to: Id, units: u64) -> ledger::Transfer {
    ledger::Transfer {
        transfer_id: id.to_string(),
        kind: TransferKind::Single.into(),
        debit_account_id: from.to_string(),
        credit_account_id: to.to_string(),
        amount_units: units,
        ..Default::default()
    }
}

fn hold(reserve: &Reserve, ctx: &Ctx) -> ledger::Transfer {
    let left_us = reserve.until.micros().saturating_sub(ctx.now.micros());
    ledger::Transfer {
        transfer_id: reserve.hold.id.to_string(),
        kind: TransferKind::Hold.into(),
        debit_account_id: reserve.account.to_string(),
        credit_account_id: reserve.market.to_string(),
        amount_units: reserve.hold.units,
        timeout_ms: (left_us / 1_000).max(1),
        coordinator: Some(ledger::Coordinator {
            service: ctx.log.svc.0.into(),
            coordination_id: reserve.session.to_string(),
        }),
        debit_owner: reserve.renter.to_string(),
        ..Default::default()
    }
}

/// Transfers that succeed or fail together.
fn chain(mut transfers: Vec<ledger::Transfer>) -> Bytes {
    let last = transfers.len().saturating_sub(1);
    transfers.iter_mut().enumerate().for_each(|(at, transfer)| transfer.linked = at < last);
    encoded(Asked::CreateTransfers(ledger::CreateTransfersRequest { transfers, ..Default::default() }))
}

fn encoded(command: Asked) -> Bytes {
    ledger::Command { command: Some(command) }.encode_to_vec().into()
}
