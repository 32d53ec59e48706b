//! Between the wire's messages and the types of the market.

use std::ops::Bound;

use holmes_kernel::{Id, Principal, PrincipalKind, Time};
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Parsed, malformed};
use holmes_proto::market::v1 as wire;

use crate::command::{Command, OpenSession};
use crate::decide;
use crate::fees::{Bill, PICO_PER_MICRO};
use crate::model::Model;
use crate::state::{Line, Session, State, credit_of};

/// A renter in a text field, as it prints.
pub fn renter(field: &'static str, text: &str) -> Parsed<Principal> {
    match text.parse::<Principal>() {
        Ok(who) if who.kind == PrincipalKind::Account => Ok(who),
        _ => malformed(field, "account/<id>"),
    }
}

/// A model as it shall be; whether it can be is the machine's to say.
pub fn set_model(request: &wire::SetModelRequest) -> Parsed<Command> {
    let Some(model) = &request.model else { return malformed("model", "a model with its prices") };
    let read = crate::model::read(model);
    let model_of = |expected| Malformed { field: "model".into(), expected };
    Ok(Command::SetModel { name: model.name.clone(), model: read.map_err(model_of)? })
}

/// An account to name.
pub fn set_account(request: &wire::SetAccountRequest) -> Parsed<Command> {
    Ok(Command::SetAccount { asset: request.asset, account: id("account_id", &request.account_id)? })
}

/// A session to open: its id is the request's.
pub fn open_session(request: &wire::OpenSessionRequest) -> Parsed<Command> {
    let named = |text: &str| renter("renter", text);
    Ok(Command::OpenSession(OpenSession {
        session: id("request_id", &request.request_id)?,
        renter: (!request.renter.is_empty()).then(|| named(&request.renter)).transpose()?,
        asset: (request.asset > 0).then_some(request.asset),
        budget: (request.budget_micro_usd > 0).then_some(request.budget_micro_usd),
    }))
}

/// A session to close.
pub fn close_session(request: &wire::CloseSessionRequest) -> Parsed<Command> {
    Ok(Command::CloseSession { session: id("session_id", &request.session_id)? })
}

/// A session as it stands.
pub fn session(state: &State, id: Id, session: &Session) -> wire::Session {
    let reason = if session.reason.is_empty() { &session.limited } else { &session.reason };
    let first_hold = session.conversion.held(session.budget, state.params.token_margin_ppb);
    wire::Session {
        session_id: id.to_string(),
        renter: session.renter.to_string(),
        asset: session.asset,
        state: session.state().into(),
        reason: reason.clone(),
        budget_micro_usd: session.budget,
        cap_pico_usd: session.cap.to_string(),
        metered_pico_usd: session.metered.to_string(),
        calls: session.calls,
        charged_units: narrow(session.totals.charged),
        token_price_micro_usd: session.conversion.token_price,
        opened_at_us: session.opened_at.micros(),
        expires_at_us: session.expires_at.micros(),
        funded_seq: session.funded_seq,
        account_id: session.account.to_string(),
        first_hold_units: first_hold.unwrap_or(u64::MAX),
    }
}

/// What a session cost, window by window.
pub fn invoice(state: &State, id: Id, of: &Session) -> wire::GetInvoiceResponse {
    let bill = Bill::of(of.totals.price, &of.rates);
    wire::GetInvoiceResponse {
        session: Some(session(state, id, of)),
        lines: of.lines.iter().map(line).collect(),
        price_micro_usd: narrow(bill.price),
        buyer_fee_micro_usd: narrow(bill.buyer_fee),
        surcharge_micro_usd: narrow(bill.surcharge),
        open_pico_usd: of.metered.saturating_sub(of.totals.price.saturating_mul(PICO_PER_MICRO)).to_string(),
    }
}

fn line(line: &Line) -> wire::InvoiceLine {
    wire::InvoiceLine {
        window: line.window,
        settled_at_us: line.at.micros(),
        node_id: line.row.key.0.to_string(),
        calls: line.row.row.calls,
        input_tokens: line.row.row.input_tokens,
        output_tokens: line.row.row.output_tokens,
        price_micro_usd: line.row.price,
        paid_units: line.row.paid,
        credit: credit_of(line.row.key.2).into(),
    }
}

fn narrow(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// What so many tokens of a model would cost at most, paid in an asset (E-9.1); `None` when it does not fit 64 bits.
pub fn quote(
    state: &State,
    model: &Model,
    asset: u32,
    input_tokens: u64,
    output_tokens: u64,
) -> Option<wire::QuoteResponse> {
    let price = model.price_pico(input_tokens, output_tokens).div_ceil(PICO_PER_MICRO);
    let bill = Bill::of(price, &decide::rates(state, asset));
    let conversion = decide::conversion(state, asset);
    let total = bill.buyer_pays();
    Some(wire::QuoteResponse {
        price_micro_usd: u64::try_from(bill.price).ok()?,
        buyer_fee_micro_usd: u64::try_from(bill.buyer_fee).ok()?,
        surcharge_micro_usd: u64::try_from(bill.surcharge).ok()?,
        total_micro_usd: u64::try_from(total).ok()?,
        total_units: u64::try_from(conversion.paid_in(total)).ok()?,
        token_price_micro_usd: conversion.token_price,
    })
}

/// Where a page of sessions ended, in text.
pub fn page_token((at, id): (Time, Id)) -> String {
    format!("{}.{id}", at.micros())
}

/// Where the page before ended; `None` for the first page.
pub fn page_from(text: &str) -> Parsed<Option<(Time, Id)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let place = text.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    place.map_or_else(
        || malformed("page_token", "the next_page_token of the page before"),
        |(at, id)| Ok(Some((Time::from_micros(at), id))),
    )
}

/// A page of sessions, of a renter or of all, the newest first, behind a place; and where it ended if more follow.
pub fn page(
    state: &State,
    whose: Option<Principal>,
    behind: Option<(Time, Id)>,
    size: usize,
) -> (Vec<wire::Session>, Option<(Time, Id)>) {
    let none = std::collections::BTreeSet::new();
    let places = match whose {
        Some(renter) => state.renters.get(&renter).map_or(&none, |renter| &renter.sessions),
        None => &state.by_time,
    };
    let end = behind.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = places.range((Bound::Unbounded, end)).rev();
    let taken: Vec<(Time, Id)> = rest.by_ref().take(size).copied().collect();
    let more = rest.next().and(taken.last().copied());
    let sessions = taken.iter().filter_map(|(_, id)| Some(session(state, *id, state.sessions.get(id)?)));
    (sessions.collect(), more)
}
