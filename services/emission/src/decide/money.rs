//! What the ledger is asked, and what its answers mean.

use holmes_kernel::{Ctx, Id, Principal, Time};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{
    AccountOpened, AccountRefused, AccountRequested, MoveMade, MoveRefused, MoveSent, PaymentsAnswered,
    PaymentsSent,
};

use super::{Decided, column, forbidden, only_time, refuse_if};
use crate::LEDGER;
use crate::command::Outcome;
use crate::params::MOST_NODES_PER_STEP;
use crate::sends::{self, Payment};
use crate::state::{Awaited, Node, State};

pub(super) fn open(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let asks = state.openings.iter().filter(|opening| opening.ask_at.is_some_and(|at| at <= ctx.now)).take(1);
    let request =
        |name: &String| AccountRequested { name: name.clone(), send: sends::open(state, name, ctx) };
    Ok(asks.map(|opening| Kind::AccountRequested(request(&opening.name))).collect())
}

/// The first movement: another one begins when it is made.
pub(super) fn send_move(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let first = state.moves.iter().next().filter(|(_, begun)| begun.ask_at.is_some_and(|at| at <= ctx.now));
    let sent = first.map(|(number, begun)| {
        let send = sends::chain(state, *number, begun, ctx);
        Kind::MoveSent(MoveSent { number: *number, send })
    });
    Ok(sent.into_iter().collect())
}

/// The nodes that wait longest.
pub(super) fn pay(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let ready = state.payable.iter().take_while(|(at, _)| *at <= ctx.now).take(MOST_NODES_PER_STEP);
    let payment = |(_, id): &(Time, Id)| {
        let node = state.nodes.get(id)?;
        Some(Payment { node: *id, account: node.payout?, units: node.owed, nth: node.payments })
    };
    let payments: Vec<Payment> = ready.filter_map(payment).collect();
    if payments.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Kind::PaymentsSent(PaymentsSent {
        nodes: column(payments.iter().map(|payment| payment.node)),
        units: payments.iter().map(|payment| payment.units).collect(),
        send: sends::payments(state, &payments, ctx),
    })])
}

/// An answer to a send that is not awaited (any more) is dropped.
pub(super) fn answered(state: &State, seq: u64, outcome: &Outcome, ctx: &Ctx) -> Decided {
    refuse_if(ctx.principal != Principal::service(LEDGER), || {
        forbidden(ctx, "only the ledger's log says so")
    })?;
    Ok(match state.awaited.get(&seq) {
        None => Vec::new(),
        Some(Awaited::Opening(at)) => opened(state, *at, outcome, ctx),
        Some(Awaited::Move(number)) => vec![moved(state, *number, outcome, ctx)],
        Some(Awaited::Payments(payments)) => vec![paid(state, seq, payments, outcome, ctx)],
    })
}

/// Why the ledger did not carry out a send whose transfers happen all or none.
fn refusal(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Refused(reason) => Some(reason),
        Outcome::Done(reasons) => {
            let mut failed = reasons.iter().map(String::as_str).filter(|reason| !reason.is_empty());
            let first = failed.clone().next();
            failed.find(|reason| *reason != "LINKED_FAILED").or(first)
        }
    }
}

fn opened(state: &State, at: usize, outcome: &Outcome, ctx: &Ctx) -> Vec<Kind> {
    let Some(opening) = state.openings.get(at) else { return Vec::new() };
    let name = opening.name.clone();
    vec![match refusal(outcome) {
        None => Kind::AccountOpened(AccountOpened { name }),
        Some(reason) => Kind::AccountRefused(AccountRefused {
            name,
            reason: reason.to_owned(),
            retry_at_us: state.params.retry.at(ctx.now, opening.refusals).micros(),
        }),
    }]
}

fn moved(state: &State, number: u64, outcome: &Outcome, ctx: &Ctx) -> Kind {
    let refusals = state.moves.get(&number).map_or(0, |begun| begun.refusals);
    match refusal(outcome) {
        None => Kind::MoveMade(MoveMade { number }),
        Some(reason) => Kind::MoveRefused(MoveRefused {
            number,
            reason: reason.to_owned(),
            retry_at_us: state.params.retry.at(ctx.now, refusals).micros(),
        }),
    }
}

/// Payments are paid or refused one by one; those that were refused wait as long as the one that was refused most often.
fn paid(state: &State, cause_seq: u64, payments: &[(Id, u64)], outcome: &Outcome, ctx: &Ctx) -> Kind {
    let reasons: Vec<String> = match outcome {
        Outcome::Refused(reason) => vec![reason.clone(); payments.len()],
        // An answer that says too little of a payment is none to that payment.
        Outcome::Done(told) => (0..payments.len())
            .map(|at| told.get(at).cloned().unwrap_or_else(|| "UNANSWERED".to_owned()))
            .collect(),
    };
    let refused = payments.iter().zip(&reasons).filter(|(_, reason)| !reason.is_empty());
    let refusals =
        refused.filter_map(|((id, _), _)| state.nodes.get(id)).map(|node: &Node| node.refusals).max();
    let retry_at = state.params.retry.at(ctx.now, refusals.unwrap_or_default());
    Kind::PaymentsAnswered(PaymentsAnswered { cause_seq, reasons, retry_at_us: retry_at.micros() })
}
