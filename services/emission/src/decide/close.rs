//! The steps of a close (E-4): each looks at a bounded part of what stands still.

use ethnum::U256;
use holmes_kernel::Place;
use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Amount, Ctx, Id, apportion};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{
    CloseBegun, CloseEnded, EpochClosed, NodesWeighed, OwnerCut, OwnersChecked, Pool, PoolClose,
    RewardsGranted, SharesFloored, SharesRounded,
};

use super::{Decided, column, grants, only_time, wide, wides};
use crate::decay::{self, Throttle};
use crate::params::MOST_NODES_PER_STEP;
use crate::state::{BR, Closing, OwnerRow, Phase, Row, State, TRR};
use crate::{br, trr};

/// The greatest weight of a node: 2^24 nodes of it fit a u128, and a bond of 100,000 HOL with a = 1.5 is below it.
const MOST_WEIGHT: u128 = u128::MAX >> 24;

pub(super) fn begin(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    Ok(vec![Kind::CloseBegun(CloseBegun { epoch: state.next })])
}

pub(super) fn go_on(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let Some(closing) = &state.closing else { return Ok(Vec::new()) };
    Ok(match closing.phase {
        Phase::Weigh => vec![weigh(state, closing)],
        Phase::Share => vec![share(closing)],
        Phase::Round => vec![round(closing)],
        Phase::Bound => bound(state, closing),
        Phase::Publish => vec![publish(state, closing)],
        Phase::Grant => vec![grant(state, closing)],
        Phase::Unlock => vec![grants::unlock(state, closing)],
        Phase::End => vec![Kind::CloseEnded(CloseEnded { epoch: closing.epoch })],
    })
}

/// The next rows of a close.
fn rows(closing: &Closing) -> impl Iterator<Item = (&Id, &Row)> {
    let places = (closing.next..).take(MOST_NODES_PER_STEP);
    places.map_while(|place: Place| closing.facts.rows.at(place))
}

/// E-4.6: units are held to what the node's collateral is good for at the epoch's end; its presence weighs by the least
/// stake of the epoch.
fn weigh(state: &State, closing: &Closing) -> Kind {
    let params = &state.params;
    let mut weighed = NodesWeighed::default();
    let (mut nodes, mut of_trr, mut of_br, mut work) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, row) in rows(closing) {
        let node = state.nodes.get(id);
        let stand = node.map(|node| node.stand(closing.epoch)).unwrap_or_default();
        let counts = node.is_some_and(|node| !node.barred);
        let (slashable, required) = (Amount::new(stand.slashable), Amount::new(stand.required));
        let units = trr::counted(row.full, row.quarter, params.quarter);
        let capacity = trr::capacity(stand.rating_milli_cu, params.calendar.epoch_s(), slashable, required);
        let for_work = trr::weight(units.min(capacity), params.score).min(MOST_WEIGHT);
        let (least, exponents) = (Amount::new(stand.least), params.exponents());
        let for_presence = br::weight(least, required, params.score, row.beats, exponents).min(MOST_WEIGHT);
        let present = counts && row.active && node.is_some_and(|node| node.compute);
        nodes.push(*id);
        of_trr.push(if counts { for_work } else { 0 });
        of_br.push(if present { for_presence } else { 0 });
        work.push(units);
        weighed.classes.push(params.class(stand.rating_milli_cu) as u32);
    }
    weighed.nodes = column(nodes);
    (weighed.trr_weights, weighed.br_weights, weighed.units) = (wides(of_trr), wides(of_br), wides(work));
    Kind::NodesWeighed(weighed)
}

/// E-0.4: the floor of an exact share and what flooring leaves. All weights together come to `whole`.
fn floored(total: u64, weight: u128, whole: u128) -> (u64, u128) {
    if whole == 0 || total == 0 {
        return (0, 0);
    }
    let (share, rest) = (U256::from(total) * U256::from(weight)).div_rem(U256::from(whole)); // < 2^192
    (share.as_u64(), rest.as_u128()) // at most `total`; below `whole`
}

fn share(closing: &Closing) -> Kind {
    let mut floors = SharesFloored::default();
    let (mut nodes, mut rests) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (id, row) in rows(closing) {
        let [(trr, trr_rest), (br, br_rest)] =
            [TRR, BR].map(|at| floored(closing.actual[at], row.weights[at], closing.weights[at]));
        nodes.push(*id);
        floors.trr_units.push(trr);
        floors.br_units.push(br);
        rests[TRR].push(trr_rest);
        rests[BR].push(br_rest);
    }
    let [trr, br] = rests;
    floors.nodes = column(nodes);
    (floors.trr_remainders, floors.br_remainders) = (wides(trr), wides(br));
    Kind::SharesFloored(floors)
}

fn round(closing: &Closing) -> Kind {
    let left = closing.left();
    let [trr_nodes, br_nodes] = [TRR, BR].map(|at| {
        let most = usize::try_from(left[at]).unwrap_or(usize::MAX).min(MOST_NODES_PER_STEP);
        column(closing.remainders[at].iter().take(most).map(|(_, id)| *id))
    });
    Kind::SharesRounded(SharesRounded { trr_nodes, br_nodes })
}

/// E-3.2: the next owners, each held to κ. A step ends behind an owner whose cut is long.
fn bound(state: &State, closing: &Closing) -> Vec<Kind> {
    let (mut events, mut checked, mut nodes) = (Vec::new(), 0, 0);
    let places = (closing.next..).take(MOST_NODES_PER_STEP - 1); // the event that counts them is one more
    for (owner, row) in places.map_while(|place| closing.facts.owners.at(place)) {
        checked += 1;
        if let Some(cut) = cut(state, closing, row) {
            nodes += row.nodes.len();
            let owner = owner.to_bytes().to_vec().into();
            events.push(Kind::OwnerCut(OwnerCut { owner, ..cut }));
        }
        if nodes >= MOST_NODES_PER_STEP {
            break;
        }
    }
    events.push(Kind::OwnersChecked(OwnersChecked { owners: checked }));
    events
}

/// What an owner's nodes lose, shared by what they would have got (E-0.4).
fn cut(state: &State, closing: &Closing, owner: &OwnerRow) -> Option<OwnerCut> {
    let bound = state.params.kappa().bound(owner.fees_full, owner.fees_quarter, closing.price);
    let shares: Vec<(Id, u128)> = owner
        .nodes
        .iter()
        .filter_map(|place| closing.facts.rows.at(*place))
        .map(|(id, row)| (*id, u128::from(row.shares[TRR])))
        .collect();
    let sum = Amount::from_wide(shares.iter().map(|(_, units)| units).sum())?; // at most the pool
    let over = sum.checked_sub(bound).filter(|over| !over.is_zero() && !is_off(Guard::Kappa))?;
    let cuts = apportion(over, &shares);
    Some(OwnerCut {
        owner: Default::default(),
        bound_units: bound.units(),
        nodes: column(shares.into_iter().map(|(id, _)| id)),
        cut_units: cuts.into_iter().map(Amount::units).collect(),
    })
}

fn publish(state: &State, closing: &Closing) -> Kind {
    let (params, paid, throttles) =
        (&state.params, closing.paid(), closing.throttles(state.params.target_nodes));
    let pool = |at: usize, pool: Pool| {
        let throttle = throttles.get(at).copied().unwrap_or(Throttle::NONE); // E-4.5: there are no checks
        let target = Amount::new(closing.targets[at]);
        let paid = paid.get(at).copied().unwrap_or_default();
        PoolClose {
            pool: pool.into(),
            target_units: target.units(),
            m_numerator: throttle.numerator,
            m_denominator: throttle.denominator,
            actual_units: decay::actual(target, throttle).units(),
            paid_units: paid,
            remaining_units: state.remaining[at].saturating_sub(paid),
            weights: wide(closing.weights.get(at).copied().unwrap_or_default()),
        }
    };
    let pools = vec![pool(TRR, Pool::Trr), pool(BR, Pool::Br), pool(2, Pool::Verifier)];
    let next = (0..).zip(&pools).map(|(at, pool): (usize, &PoolClose)| {
        decay::target(Amount::new(pool.remaining_units), params.pools[at].decay).units()
    });
    let scheduled = Amount::sum(closing.targets.map(Amount::new)).unwrap_or(Amount::MAX);
    Kind::EpochClosed(EpochClosed {
        epoch: closing.epoch,
        scheduled_units: scheduled.units(),
        next_scheduled_units: next.sum(),
        ceiling_units: params.ceiling.mul_floor(scheduled).unwrap_or(Amount::MAX).units(),
        pools,
        active_nodes: closing.facts.active,
        token_price_micro_usd: closing.price,
        circulating_units: state.circulating().units(),
        full_units: wide(closing.facts.full),
        quarter_units: wide(closing.facts.quarter),
        cut_units: closing.cut,
        nodes: closing.facts.rows.len() as u64,
    })
}

/// E-5.1, E-5.4: what is liquid is owed at once, the rest is a grant. N is fixed here.
fn grant(state: &State, closing: &Closing) -> Kind {
    let terms = &state.params.terms;
    let mut granted = RewardsGranted::default();
    let (mut nodes, mut full_work) = (Vec::new(), Vec::new());
    for (id, row) in rows(closing) {
        let reward = Amount::new(row.shares[TRR]);
        let liquid = terms.liquid(reward);
        let rating = state.nodes.get(id).map_or(0, |node| node.stand(closing.epoch).rating_milli_cu);
        let median = closing.medians.get(state.params.class(rating)).map_or(0, |median| median.get());
        let capacity = u128::from(rating) * u128::from(state.params.calendar.epoch_s());
        nodes.push(*id);
        granted.liquid_units.push(liquid.units().saturating_add(row.shares[BR]));
        granted.locked_units.push(reward.saturating_sub(liquid).units());
        full_work.push(if reward.is_zero() { 0 } else { terms.full_work(median, capacity) });
    }
    granted.nodes = column(nodes);
    granted.full_work_units = wides(full_work);
    Kind::RewardsGranted(granted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn floors_and_remainders_give_what_apportioning_gives(total: u64, weights in proptest::collection::vec(0..MOST_WEIGHT, 1..20)) {
            // E-0.4
            let whole: u128 = weights.iter().sum();
            let named: Vec<(usize, u128)> = weights.iter().copied().enumerate().collect();
            let mut rows: Vec<(u64, u128)> = weights.iter().map(|weight| floored(total, *weight, whole)).collect();
            if whole > 0 {
                let left = total - rows.iter().map(|(share, _)| share).sum::<u64>();
                let mut order: Vec<usize> = (0..rows.len()).collect();
                order.sort_by_key(|at| (u128::MAX - rows[*at].1, *at));
                order[..left as usize].iter().for_each(|at| rows[*at].0 += 1);
            }
            let shares: Vec<u64> = rows.iter().map(|(share, _)| *share).collect();
            let expected: Vec<u64> = apportion(Amount::new(total), &named).into_iter().map(Amount::units).collect();
            prop_assert_eq!(shares, expected);
        }
    }
}
