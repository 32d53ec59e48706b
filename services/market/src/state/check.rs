//! The invariants of the market as code.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Broken, Id, Principal};
use holmes_proto::market::v1::Event;
use holmes_proto::market::v1::event::Event as Kind;

use super::{Awaited, Session, Stage, State};
use crate::fees::{Bill, PICO_PER_MICRO};

/// What one command's events can break: the sessions that they name.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    let named = |bytes: &[u8]| {
        let session = Id::from_slice(bytes).and_then(|id| Some((id, state.sessions.get(&id)?)));
        match session {
            Some((id, session)) => check_session(state, &id, session),
            None => Err(Broken(format!("an event names the session {bytes:02x?}, which is not there"))),
        }
    };
    for event in events {
        match &event.event {
            Some(Kind::SessionOpened(e)) => named(&e.session)?,
            Some(Kind::HoldSent(e)) => named(&e.session)?,
            Some(Kind::CallsEnded(e)) => named(&e.session)?,
            Some(Kind::SessionLeased(e)) => named(&e.session)?,
            Some(Kind::HoldMade(e)) => named(&e.session)?,
            Some(Kind::SessionFunded(e)) => named(&e.session)?,
            Some(Kind::SessionLimited(e)) => named(&e.session)?,
            Some(Kind::SessionClosing(e)) => named(&e.session)?,
            Some(Kind::CallsNoted(e)) => named(&e.session)?,
            Some(Kind::WindowEnded(e)) => named(&e.session)?,
            Some(Kind::SettlementSent(e)) => named(&e.session)?,
            Some(Kind::SettlementRefused(e)) => named(&e.session)?,
            Some(Kind::Settled(e)) => named(&e.session)?,
            Some(Kind::HoldLost(e)) => named(&e.session)?,
            Some(Kind::SessionClosed(e)) => named(&e.session)?,
            Some(Kind::SessionForgotten(_) | Kind::CallsUnbilled(_) | Kind::AccountSet(_)) => {}
            Some(Kind::ModelPriced(_) | Kind::MarketOpened(_)) => {}
            Some(Kind::SystemAccountRequested(_) | Kind::SystemAccountOpened(_)) => {}
            Some(Kind::SystemAccountRefused(_) | Kind::PriceSealed(_) | Kind::EpochSealed(_)) => {}
            Some(Kind::OwedSent(_) | Kind::OwedPaid(_) | Kind::OwedRefused(_)) | None => {}
        }
    }
    Ok(())
}

/// One session by itself (E-9.1, E-9.2).
fn check_session(state: &State, id: &Id, session: &Session) -> Result<(), Broken> {
    let broken = |what: &str| {
        let (totals, stage) = (&session.totals, session.stage);
        Err(Broken(format!(
            "{what}: session {id} {stage:?} metered {} taken {} {totals:?}",
            session.metered, session.taken
        )))
    };
    let totals = &session.totals;
    let bill = Bill::of(totals.price, &session.rates);
    if session.metered > session.cap {
        return broken("E-9.1: more was metered than its hold covers");
    }
    if session.bill().buyer_pays() > session.covers {
        return broken("E-9.1: it comes to more than its hold covers");
    }
    if session.ended.is_none() && totals.price != session.taken / PICO_PER_MICRO {
        return broken("E-9.2: what was posted is not the floor of what was metered");
    }
    if totals.charged != session.conversion.paid_in(bill.buyer_pays()) {
        return broken("E-9.1: the renter was charged another amount than the ceil of its bill");
    }
    if totals.paid != session.conversion.paid_out(bill.seller_gets())
        || totals.fees != session.conversion.paid_out(bill.fees())
        || totals.surcharges != session.conversion.paid_out(bill.surcharge)
    {
        return broken("E-9.1: owners, fees or surcharges were not paid the floor of their part");
    }
    let out = totals.paid + totals.fees + totals.surcharges + totals.rounding;
    let closed = session.stage == Stage::Closed;
    if out > totals.charged || totals.left_over() > 2 || closed && totals.left_over() > 0 {
        return broken("E-9.1: what was charged is not what was paid out");
    }
    if session.timer != session.next(&state.params).map(|(at, _)| at) {
        return broken("its timer is not when something is to be done with it");
    }
    if session.timer.is_some_and(|at| !state.timers.contains(&(at, *id))) {
        return broken("something is to be done with it, and nobody waits for it");
    }
    if session.asked.is_some_and(|seq| !state.awaited.contains_key(&seq)) {
        return broken("it waits for an answer that nobody awaits");
    }
    Ok(())
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    broken.extend(state.sessions.iter().filter_map(|(id, session)| check_session(state, id, session).err()));
    check_rows(state, &mut broken);
    check_places(state, &mut broken);
    check_awaited(state, &mut broken);
    check_owed(state, &mut broken);
    broken
}

/// E-9.2: nothing that was metered is lost between windows.
fn check_rows(state: &State, broken: &mut Vec<Broken>) {
    for (id, session) in state.sessions.iter() {
        let running: u128 = session.rows.values().map(|row| row.pico).sum();
        if session.taken + running != session.metered {
            let (metered, taken) = (session.metered, session.taken);
            broken
                .push(Broken(format!("E-9.2: session {id} metered {metered}, {taken} ended, {running} run")));
        }
    }
}

/// Every session is where it can be found, and counted once.
fn check_places(state: &State, broken: &mut Vec<Broken>) {
    let mut by_time = BTreeSet::new();
    let mut renters: BTreeMap<Principal, (u64, usize)> = BTreeMap::new();
    for (id, session) in state.sessions.iter() {
        by_time.insert((session.opened_at, *id));
        let of = renters.entry(session.renter).or_default();
        of.0 += u64::from(session.stage != Stage::Closed);
        of.1 += 1;
    }
    let told = state.renters.iter().map(|(who, of)| (*who, (of.open, of.sessions.len()))).collect();
    let open: u64 = renters.values().map(|(open, _)| open).sum();
    if by_time != state.by_time || renters != told || open != state.open_sessions {
        broken.push(Broken("sessions, their renters and their count do not fit".into()));
    }
    let timers = state.sessions.iter().filter_map(|(id, session)| Some((session.timer?, *id)));
    if timers.collect::<BTreeSet<_>>() != state.timers {
        broken.push(Broken("a timer has no session".into()));
    }
}

/// Every send that is awaited is somebody's, and the other way round.
fn check_awaited(state: &State, broken: &mut Vec<Broken>) {
    let purses = state.purses.iter().filter_map(|it| Some((it.asked?, Awaited::Account(it.name.clone()))));
    let sessions = state.sessions.iter().filter_map(|(id, session)| {
        let first = session.covers == 0; // HoldMade says what it covers
        Some((session.asked?, if first { Awaited::Hold(*id) } else { Awaited::Settlement(*id) }))
    });
    let owed =
        state.owed.iter().filter_map(|((who, asset), it)| Some((it.asked?, Awaited::Owed(*who, *asset))));
    let asked: BTreeMap<u64, Awaited> = purses.chain(sessions).chain(owed).collect();
    if asked != state.awaited {
        broken.push(Broken(format!("awaited are {:?}, asked were {asked:?}", state.awaited)));
    }
}

/// What is owed is something, and queued where an account is named.
fn check_owed(state: &State, broken: &mut Vec<Broken>) {
    let queued = state.owed.iter().filter_map(|((who, asset), it)| Some((it.queued_at?, *who, *asset)));
    if queued.collect::<BTreeSet<_>>() != state.owed_queue {
        broken.push(Broken("what is owed and what is queued do not fit".into()));
    }
    for ((who, asset), owed) in &state.owed {
        let waits = owed.asked.is_some() || owed.queued_at.is_some();
        if owed.units == 0 || owed.sending > owed.units || state.accounts.contains(&(*who, *asset)) && !waits
        {
            broken.push(Broken(format!("{who} is owed {owed:?} of asset {asset}")));
        }
    }
}
