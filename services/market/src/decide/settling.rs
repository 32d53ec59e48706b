//! E-9.1, E-9.2, E-10.2: windows end, the ledger pays them, sessions close. Nobody has to call it.

use holmes_kernel::{Ctx, Id, Principal};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{
    HoldLost, SessionForgotten, SessionLimited, Settled, SettlementRefused, SettlementSent, WindowEnded,
};

use super::sessions::{closed, closing, funded};
use super::{Decided, bytes, only_time, owned};
use crate::params::MOST_ROWS;
use crate::sends;
use crate::settlement::{self, bytes as wide};
use crate::state::{Ended, Sent, Session, Stage, State, Step, credit_of};

/// A session, and the window of it that has ended, if one has.
struct Case<'a> {
    state: &'a State,
    id: Id,
    session: &'a Session,
    ended: Option<&'a Ended>,
    /// That window's number.
    window: u64,
    /// The session's last settlement.
    last: bool,
    ctx: &'a Ctx,
}

/// Does what the time of the first session has come for.
pub(super) fn attend(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let Some((_, id)) = state.timers.first().filter(|(at, _)| *at <= ctx.now).copied() else {
        return Ok(Vec::new());
    };
    let Some(session) = state.sessions.get(&id) else { return Ok(Vec::new()) };
    let Some((_, step)) = session.next(&state.params) else { return Ok(Vec::new()) };
    Ok(match step {
        Step::Settle => end_window(state, id, session, false, ctx),
        Step::Finish => end_window(state, id, session, session.rows.len() <= MOST_ROWS, ctx),
        Step::Resend => ask(&standing(state, id, session, ctx)),
        Step::Idle => vec![closing(state, id, session, "IDLE", ctx.now)],
        Step::Expire => vec![closing(state, id, session, "EXPIRED", ctx.now)],
        Step::Forget => vec![Kind::SessionForgotten(SessionForgotten { session: bytes(id) })],
    })
}

/// Ends the window that runs, if anything was metered in it, and asks the ledger to settle it.
fn end_window(state: &State, id: Id, session: &Session, last: bool, ctx: &Ctx) -> Vec<Kind> {
    let standing = Case { last, ..standing(state, id, session, ctx) };
    if session.rows.is_empty() {
        return ask(&standing);
    }
    let ended = settlement::window(session);
    let window = session.window.saturating_add(1);
    let mut kinds = vec![Kind::WindowEnded(window_ended(id, window, &ended))];
    kinds.extend(ask(&Case { ended: Some(&ended), window, ..standing }));
    kinds
}

/// A session as it stands.
fn standing<'a>(state: &'a State, id: Id, session: &'a Session, ctx: &'a Ctx) -> Case<'a> {
    let (ended, window, last) = (session.ended.as_ref(), session.window, session.finishing);
    Case { state, id, session, ended, window, last, ctx }
}

/// Asks the ledger; where there is nothing to ask for, it is settled at once.
fn ask(case: &Case<'_>) -> Vec<Kind> {
    let &Case { state, id, session, ended, last, ctx, .. } = case;
    let made = sends::settlement(state, id, session, ended, last, ctx);
    let transfers = made.len();
    let sent = Sent { payees: made.payees.clone(), hold: made.hold, covers: made.covers, transfers };
    if transfers == 0 {
        return settled(case, &sent);
    }
    vec![Kind::SettlementSent(SettlementSent {
        session: bytes(id),
        payees: sent.payees.iter().flat_map(|(owner, _)| owner.to_bytes()).collect::<Vec<u8>>().into(),
        accounts: sent.payees.iter().flat_map(|(_, account)| account.to_bytes()).collect::<Vec<u8>>().into(),
        hold: sent.hold.map(|hold| bytes(hold.id)).unwrap_or_default(),
        hold_units: sent.hold.map_or(0, |hold| hold.units),
        covers_micro_usd: wide(sent.covers),
        transfers,
        last,
        send: made.encoded(),
    })]
}

/// The ledger's answer.
pub(super) fn answered(state: &State, id: Id, refused: Option<&Refused>, ctx: &Ctx) -> Vec<Kind> {
    let Some(session) = state.sessions.get(&id) else { return Vec::new() };
    let Some(sent) = &session.sent else { return Vec::new() };
    match refused {
        None => settled(&standing(state, id, session, ctx), sent),
        Some(why) => not_settled(state, id, session, sent, why, ctx),
    }
}

/// What follows when an ended window is paid, or when there was none.
fn settled(case: &Case<'_>, sent: &Sent) -> Vec<Kind> {
    let &Case { state, id, session, ended, last, ctx, .. } = case;
    let mut kinds: Vec<Kind> = ended.iter().map(|ended| Kind::Settled(paid(case, ended))).collect();
    if last {
        kinds.push(closed(id, session, &session.reason));
        return kinds;
    }
    let extended = sent.covers > session.covers;
    if extended {
        kinds.push(funded(id, session, sent.covers));
    } else if session.shrink && session.limited.is_empty() {
        let reason = "INSUFFICIENT_FUNDS".to_owned();
        kinds.push(Kind::SessionLimited(SessionLimited { session: bytes(id), reason }));
    }
    // E-9.1: a call has passed what the hold covers, and it cannot be extended: the work stops.
    if !extended && session.stage == Stage::Open && (session.capped || sent.hold.is_none()) {
        kinds.push(closing(state, id, session, "INSUFFICIENT_FUNDS", ctx.now));
    }
    kinds
}

/// What the ledger refused, and how it is asked next.
fn not_settled(state: &State, id: Id, session: &Session, sent: &Sent, why: &Refused, ctx: &Ctx) -> Vec<Kind> {
    let reason = why.reason.clone();
    let at = why.at.filter(|_| !why.is_of_the_id());
    let is_hold = sent.hold.is_some() && at.is_some_and(|at| at + 1 == sent.transfers);
    let hold_is_gone = why.at == Some(0) && matches!(reason.as_str(), "HOLD_ENDED" | "HOLD_NOT_FOUND");
    if hold_is_gone && session.hold.is_some() {
        let lost = Kind::HoldLost(HoldLost { session: bytes(id), reason: reason.clone() });
        let closes = (session.stage == Stage::Open).then(|| closing(state, id, session, &reason, ctx.now));
        return [lost].into_iter().chain(closes).collect();
    }
    let hold_refused = is_hold && session.stage == Stage::Open;
    let payee = at.and_then(|at| payee_at(session, sent, at));
    // What can be asked otherwise is asked at once.
    let retry_at = if hold_refused || payee.is_some() || why.is_of_the_id() {
        ctx.now
    } else {
        state.params.retry.at(ctx.now, session.refusals)
    };
    let refused = SettlementRefused {
        session: bytes(id),
        reason: reason.clone(),
        owner: payee.map(owned).unwrap_or_default(),
        hold_refused,
        retry_at_us: retry_at.micros(),
    };
    let mut kinds = vec![Kind::SettlementRefused(refused)];
    if hold_refused && session.shrink {
        kinds.push(closing(state, id, session, &reason, ctx.now));
    }
    kinds
}

/// The owner that a transfer of the chain was to pay: they stand behind the end of the hold, where there was one.
fn payee_at(session: &Session, sent: &Sent, at: u32) -> Option<Principal> {
    let first = u32::from(session.hold.is_some());
    let payee = sent.payees.get(usize::try_from(at.checked_sub(first)?).ok()?)?;
    Some(payee.0)
}

fn window_ended(id: Id, window: u64, ended: &Ended) -> WindowEnded {
    let rows = &ended.rows;
    WindowEnded {
        session: bytes(id),
        window,
        nodes: rows.iter().flat_map(|row| row.key.0.to_bytes()).collect::<Vec<u8>>().into(),
        owners: rows.iter().flat_map(|row| row.key.1.to_bytes()).collect::<Vec<u8>>().into(),
        credits: rows.iter().map(|row| credit_of(row.key.2).into()).collect(),
        calls: rows.iter().map(|row| row.row.calls).collect(),
        input_tokens: rows.iter().map(|row| row.row.input_tokens).collect(),
        output_tokens: rows.iter().map(|row| row.row.output_tokens).collect(),
        units: rows.iter().map(|row| row.units).collect(),
        price_micro_usd: rows.iter().map(|row| row.price).collect(),
        buyer_fee_micro_usd: rows.iter().map(|row| row.buyer_fee).collect(),
        seller_fee_micro_usd: rows.iter().map(|row| row.seller_fee).collect(),
        paid_units: rows.iter().map(|row| row.paid).collect(),
        surcharge_micro_usd: ended.surcharge,
        charged_units: ended.charged,
        fee_units: ended.fee_units,
        surcharge_units: ended.surcharge_units,
    }
}

/// E-0.5: a window belongs to the epoch in which its payment is recorded.
fn paid(case: &Case<'_>, ended: &Ended) -> Settled {
    let &Case { state, id, session, window, ctx, .. } = case;
    let rows = &ended.rows;
    Settled {
        epoch: state.params.calendar.epoch(ctx.now),
        session: bytes(id),
        renter: owned(session.renter),
        asset: session.asset,
        window,
        nodes: rows.iter().flat_map(|row| row.key.0.to_bytes()).collect::<Vec<u8>>().into(),
        owners: rows.iter().flat_map(|row| row.key.1.to_bytes()).collect::<Vec<u8>>().into(),
        credits: rows.iter().map(|row| credit_of(row.key.2).into()).collect(),
        units: rows.iter().map(|row| row.units).collect(),
        price_micro_usd: rows.iter().map(|row| row.price).collect(),
        fees_micro_usd: rows.iter().map(|row| row.buyer_fee.saturating_add(row.seller_fee)).collect(),
        paid_units: rows.iter().map(|row| row.paid).collect(),
        charged_units: ended.charged,
        surcharge_micro_usd: ended.surcharge,
        calls: rows.iter().map(|row| row.row.calls).sum(),
    }
}
