//! E-6.5: bonds on their way back, in order of request, in parts.

use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Amount, Ctx, Id, Time};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{
    BondCause, LeasesNoted, NodeState, PayoutMade, PayoutRefused, PayoutSent, UnbondingStarted,
};

use super::{
    Decided, bytes, changed, column, of_a_party, only_from, only_scheduling, only_time, own, refuse_if,
};
use crate::command::{LeaseFact, Rejection};
use crate::sends::{self, Part};
use crate::state::{Node, State};

/// Accepts an unbonding. What others have not yet heard of it is no matter: see the race in [`crate`].
pub(super) fn unbond(
    state: &State,
    id: Id,
    amount: Option<Amount>,
    account: Option<Id>,
    ctx: &Ctx,
) -> Decided {
    let node = own(state, id, ctx)?;
    account.map_or(Ok(()), of_a_party)?;
    let from = [NodeState::Registered, NodeState::Active, NodeState::Jailed, NodeState::Tombstoned];
    only_from(id, node, &from, "only what is bonded can be unbonded")?;
    free(state, id, ctx)?;
    let (bond, amount) = (Amount::new(node.bond), amount.unwrap_or(Amount::new(node.bond)));
    let left = bond.checked_sub(amount).ok_or(Rejection::ExceedsBond { node: id, bond })?;
    refuse_if(amount.is_zero(), || Rejection::AmountZero)?;
    let most = state.params.most_unbondings_per_node;
    // All of it is always accepted: nobody is kept in by having asked too often.
    refuse_if(!left.is_zero() && node.unbondings.len() as u64 >= most, || Rejection::TooManyUnbondings(id))?;
    let serves = matches!(node.state(), NodeState::Active | NodeState::Jailed);
    let required = node.required(&state.params, ctx.now);
    refuse_if(serves && !left.is_zero() && left < required, || Rejection::BelowRequired {
        node: id,
        left,
        required,
    })?;
    refuse_if(left.is_zero() && node.pending > 0, || Rejection::BondPending(id))?;
    // A bond has come from an account, so there is always one to pay to.
    let account = account.or(node.payout).ok_or(Rejection::ExceedsBond { node: id, bond: Amount::ZERO })?;
    let days = state.params.unbonding_days(node.kind());
    let started = UnbondingStarted {
        unbonding: state.last_unbonding.saturating_add(1),
        node: bytes(id),
        amount_units: amount.units(),
        ready_at_us: state.params.calendar.after(ctx.now, days).micros(),
        account: bytes(account),
    };
    let leaves = left.is_zero() && node.state() != NodeState::Tombstoned;
    let unbonding = node.unbonding.saturating_add(amount.units());
    let node = Node { bond: left.units(), unbonding, ..node.clone() };
    let node = if leaves { node.at(NodeState::Unbonding) } else { node };
    Ok(vec![Kind::UnbondingStarted(started), changed(state, id, node, BondCause::Unbonded, ctx)])
}

/// E-6.5: only a node without a lease unbonds.
fn free(state: &State, id: Id, ctx: &Ctx) -> Result<(), Rejection> {
    let Some(leases) = state.leases.get(&id).filter(|_| !is_off(Guard::Leased)) else { return Ok(()) };
    let last = leases.values().max().copied().unwrap_or_default();
    let left_us = last.micros().saturating_sub(ctx.now.micros());
    let ends_in_s = left_us.div_ceil(1_000_000);
    Err(Rejection::NodeHoldsLease { node: id, leases: leases.len(), ends_in_s })
}

/// All that scheduling says is noted, also of a node that is not known here: it is known there.
pub(super) fn note_leases(facts: &[LeaseFact], ctx: &Ctx) -> Decided {
    only_scheduling(ctx)?;
    Ok(vec![Kind::LeasesNoted(LeasesNoted {
        grants: facts.iter().map(|fact| fact.grant).collect(),
        nodes: column(facts.iter().map(|fact| fact.node)),
        granted_until_us: facts.iter().map(|fact| fact.until.map_or(0, Time::micros)).collect(),
    })])
}

/// Sends what waits longest, as much of it as may still leave its class today.
pub(super) fn pay(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let next = state.next_payout().filter(|(at, _)| *at <= ctx.now);
    let Some((_, class)) = next else { return Ok(Vec::new()) };
    let first = class.queue.first().and_then(|(_, number)| Some((*number, state.unbondings.get(number)?)));
    let Some((number, unbonding)) = first else { return Ok(Vec::new()) };
    let amount = Amount::new(unbonding.left).min(state.may_leave(class, ctx.now));
    let node = state.nodes.get(&unbonding.node);
    let Some(to) = node.and_then(|node| node.payout).filter(|_| !amount.is_zero()) else {
        return Ok(Vec::new());
    };
    let part = Part { unbonding: number, left: unbonding.left, refusals: unbonding.refusals };
    let send = sends::pay(state.vault.account, to, amount, &part, ctx);
    Ok(vec![Kind::PayoutSent(PayoutSent { unbonding: number, amount_units: amount.units(), send })])
}

pub(super) fn answered(
    state: &State,
    number: u64,
    cause_seq: u64,
    refused: Option<&str>,
    ctx: &Ctx,
) -> Decided {
    let Some(unbonding) = state.unbondings.get(&number) else { return Ok(Vec::new()) };
    let id = unbonding.node;
    if let Some(reason) = refused {
        return Ok(vec![Kind::PayoutRefused(PayoutRefused {
            unbonding: number,
            node: bytes(id),
            reason: reason.to_owned(),
            retry_at_us: state.params.retry.at(ctx.now, unbonding.refusals).micros(),
            cause_seq,
        })]);
    }
    let amount_units = unbonding.paying;
    let paid = PayoutMade { unbonding: number, node: bytes(id), amount_units, cause_seq };
    let mut events = vec![Kind::PayoutMade(paid)];
    events.extend(state.nodes.get(&id).map(|node| {
        let node = Node { unbonding: node.unbonding.saturating_sub(amount_units), ..node.clone() };
        let gone = node.state() == NodeState::Unbonding && node.unbonding == 0;
        let node = if gone { node.at(NodeState::Exited) } else { node };
        changed(state, id, node, BondCause::Paid, ctx)
    }));
    Ok(events)
}
