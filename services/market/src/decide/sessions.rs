//! Sessions from their opening until they close.

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind, Time};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{
    HoldMade, HoldSent, SessionClosed, SessionClosing, SessionFunded, SessionOpened,
};

use super::offers::known_asset;
use super::{Decided, bytes, forbidden, is_platform, may_act_for, owned, refuse_if};
use crate::command::{OpenSession, Rejection};
use crate::fees::{Conversion, Rates, cap_pico};
use crate::sends::{self, Reserve};
use crate::settlement::bytes as wide;
use crate::state::{Hold, Purse, Session, Stage, State};

/// Opens a session and asks the ledger for its hold.
pub(super) fn open(state: &State, asked: &OpenSession, ctx: &Ctx) -> Decided {
    let renter = renter(asked.renter, ctx)?;
    let params = &state.params;
    let asset = asked.asset.unwrap_or(params.usd.id);
    known_asset(state, asset)?;
    let (least, most) = (params.least_budget, params.most_budget);
    let budget = asked.budget.unwrap_or(least);
    refuse_if(!(least..=most).contains(&budget), || Rejection::BudgetOutOfRange {
        found: budget,
        least,
        most,
    })?;
    refuse_if(state.sessions.contains(&asked.session), || Rejection::SessionExists(asked.session))?;
    refuse_if(!state.is_ready(asset), || Rejection::NotReady)?;
    let account = state.accounts.get(&(renter, asset)).copied();
    let account = account.ok_or(Rejection::SessionNoAccount { renter, asset })?;
    let open = state.renters.get(&renter).map_or(0, |renter| renter.open);
    refuse_if(open >= params.most_sessions_per_renter, || Rejection::TooManySessionsOfRenter(renter))?;
    refuse_if(state.open_sessions >= params.most_sessions, || Rejection::TooManySessions)?;
    let conversion = conversion(state, asset);
    let units = conversion.held(budget, params.token_margin_ppb).ok_or(Rejection::BudgetTooLarge(budget))?;
    let hold = Hold { id: sends::transfer_id(asked.session, 0, 0, ctx), units };
    let expires_at = ctx.now.after_millis(params.longest_session_ms);
    let until = expires_at.after_millis(params.hold_grace_ms);
    let market = state.purse(Purse::Market, asset);
    let reserve = Reserve { session: asked.session, renter, account, market, hold, until };
    let rates = rates(state, asset);
    Ok(vec![Kind::SessionOpened(SessionOpened {
        session: bytes(asked.session),
        renter: owned(renter),
        asset,
        account: bytes(account),
        budget_micro_usd: budget,
        token_price_micro_usd: conversion.token_price,
        buyer_fee_ppb: rates.buyer_ppb,
        seller_fee_ppb: rates.seller_ppb,
        surcharge_ppb: rates.surcharge_ppb,
        expires_at_us: expires_at.micros(),
        hold: bytes(hold.id),
        hold_units: units,
        send: sends::reserve(&reserve, ctx),
    })])
}

/// Whose session it shall be.
fn renter(named: Option<Principal>, ctx: &Ctx) -> Result<Principal, Rejection> {
    let renter = named.unwrap_or(ctx.principal);
    let may = may_act_for(&ctx.principal, &renter);
    refuse_if(!may, || forbidden(ctx, "only gateways, services and staff open sessions for others"))?;
    let is_party = renter.kind == PrincipalKind::Account;
    refuse_if(!is_party, || forbidden(ctx, "a session is an account's: name it as renter"))?;
    Ok(renter)
}

/// How a payer's micro-dollars become base units now.
pub(crate) fn conversion(state: &State, asset: u32) -> Conversion {
    let in_token = asset == state.params.token.id;
    Conversion { token_price: if in_token { state.params.token_price } else { 0 } }
}

/// E-9.1: what a payer is charged beside the price; only who pays in dollars has a surcharge.
pub(crate) fn rates(state: &State, asset: u32) -> Rates {
    let in_token = asset == state.params.token.id;
    Rates {
        buyer_ppb: state.params.buyer_fee_ppb,
        seller_ppb: state.params.seller_fee_ppb,
        surcharge_ppb: if in_token { 0 } else { state.params.surcharge_ppb },
    }
}

/// A session that closes already, or is closed, stays so.
pub(super) fn close(state: &State, id: Id, ctx: &Ctx) -> Decided {
    let session = state.sessions.get(&id).filter(|session| may_act_for(&ctx.principal, &session.renter));
    let session = session.ok_or(Rejection::SessionNotFound(id))?;
    if matches!(session.stage, Stage::Closing | Stage::Closed) {
        return Ok(Vec::new());
    }
    Ok(vec![closing(state, id, session, "CLOSED_BY_RENTER", ctx.now)])
}

/// The event by which a session takes no new leases. One that was never funded has no calls to wait for.
pub(super) fn closing(state: &State, id: Id, session: &Session, reason: &str, now: Time) -> Kind {
    let drain_ms = if session.stage == Stage::Opening { 0 } else { state.params.drain_ms };
    Kind::SessionClosing(SessionClosing {
        session: bytes(id),
        renter: owned(session.renter),
        reason: reason.to_owned(),
        drains_until_us: now.after_millis(drain_ms).micros(),
    })
}

/// The event by which a session is over.
pub(super) fn closed(id: Id, session: &Session, reason: &str) -> Kind {
    Kind::SessionClosed(SessionClosed {
        session: bytes(id),
        renter: owned(session.renter),
        reason: reason.to_owned(),
    })
}

/// The event by which so much may be metered on a session.
pub(super) fn funded(id: Id, session: &Session, covers: u128) -> Kind {
    let cap = cap_pico(covers, &session.rates).max(session.cap);
    Kind::SessionFunded(SessionFunded {
        session: bytes(id),
        renter: owned(session.renter),
        cap_pico_usd: wide(cap),
        expires_at_us: session.expires_at.micros(),
    })
}

/// The ledger has made the first hold, or there is no session. One that its renter has closed meanwhile is not funded.
pub(super) fn hold_answered(state: &State, id: Id, refused: Option<&Refused>, ctx: &Ctx) -> Vec<Kind> {
    let Some(session) = state.sessions.get(&id) else { return Vec::new() };
    if let Some(why) = refused {
        if why.is_of_the_id() && session.stage == Stage::Opening {
            return hold_again(state, id, session, ctx).into_iter().collect();
        }
        return vec![closed(id, session, &why.reason)];
    }
    let made = Kind::HoldMade(HoldMade { session: bytes(id) });
    if session.stage == Stage::Opening {
        vec![made, funded(id, session, session.budget.into())]
    } else {
        vec![made]
    }
}

/// The first hold under another id.
fn hold_again(state: &State, id: Id, session: &Session, ctx: &Ctx) -> Option<Kind> {
    let hold = Hold { id: sends::transfer_id(id, session.sends, 0, ctx), ..session.hold? };
    let until = session.expires_at.after_millis(state.params.hold_grace_ms);
    let market = state.purse(Purse::Market, session.asset);
    let Session { renter, account, .. } = *session;
    let reserve = Reserve { session: id, renter, account, market, hold, until };
    let send = sends::reserve(&reserve, ctx);
    Some(Kind::HoldSent(HoldSent { session: bytes(id), hold: bytes(hold.id), send }))
}

/// Whose sessions a caller may list: its own, those of the renter that it acts for, or all.
pub(crate) fn may_list(who: &Principal, whose: Option<&Principal>) -> bool {
    whose.map_or(is_platform(who), |renter| may_act_for(who, renter))
}
