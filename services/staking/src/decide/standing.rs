//! E-6.2: the base computed anew, the nodes that follow it step by step, and what time alone takes from a node.

use holmes_kernel::{Amount, Ctx, Id, Time};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{
    BondCause, EmissionNoted, EpochSealed, RecomputeStarted, RequiredRecomputed,
};

use super::{Decided, changed, column, only_emission, only_time};
use crate::collateral;
use crate::params::MOST_NODES_PER_STEP;
use crate::state::{Node, State};
use crate::wire;

pub(super) fn recompute(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let (inputs, params) = (state.inputs(), &state.params);
    let formula = collateral::base(&inputs);
    let old = state.base.computed.map(|_| state.base.units); // the first is free
    Ok(vec![Kind::RecomputeStarted(RecomputeStarted {
        inputs: Some(wire::inputs(&inputs)),
        formula_units: formula.units(),
        base_units: collateral::next_base(formula, old, params.base_step).units(),
        nodes: state.nodes.len() as u32,
        rise_at_us: params.calendar.after(ctx.now, params.rise_days).micros(),
        period: state.period(ctx.now),
    })])
}

/// The next nodes of the job. A fall may qualify a node at once.
pub(super) fn go_on(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let Some(job) = state.base.job else { return Ok(Vec::new()) };
    let places = (job.next..job.end).take(MOST_NODES_PER_STEP);
    let (mut nodes, mut required, mut qualified) = (Vec::new(), Vec::new(), Vec::new());
    for (id, node) in places.filter_map(|place| state.nodes.at(place)) {
        let after = told(node, state, ctx.now, job.rise_at);
        nodes.push(*id);
        required.push(after.required(&state.params, ctx.now).units());
        if after.is_qualified(&state.params, ctx.now) != node.qualified {
            qualified.push(changed(state, *id, after, BondCause::Recomputed, ctx));
        }
    }
    let followed = RequiredRecomputed { nodes: column(nodes), required_units: required };
    Ok(std::iter::once(Kind::RequiredRecomputed(followed)).chain(qualified).collect())
}

fn told(node: &Node, state: &State, now: Time, rise_at: Time) -> Node {
    let mut node = node.clone();
    node.bases.set(state.base.units, now, rise_at);
    node
}

/// Nodes that time has disqualified: a pass ended, or a rise that they did not follow came into force.
pub(super) fn lapse(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let past = state.lapses.iter().take_while(|(at, _)| *at <= ctx.now).take(MOST_NODES_PER_STEP);
    let lapsed = |(_, id): &(Time, Id)| {
        let node = state.nodes.get(id)?.clone();
        Some(changed(state, *id, node, BondCause::Lapsed, ctx))
    };
    Ok(past.filter_map(lapsed).collect())
}

/// What the base follows from when it is computed next (E-6.2).
pub(super) fn note_emission(
    state: &State,
    next_emission: Amount,
    circulating: Option<Amount>,
    ctx: &Ctx,
) -> Decided {
    only_emission(ctx)?;
    let circulating = circulating.unwrap_or(state.inputs().circulating);
    Ok(vec![Kind::EmissionNoted(EmissionNoted {
        next_emission_units: next_emission.units(),
        circulating_units: circulating.units(),
    })])
}

/// E-0.5: every later fact has a later time, so it belongs to a later epoch.
pub(super) fn seal(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    Ok(vec![Kind::EpochSealed(EpochSealed { epoch: state.seals_next })])
}
