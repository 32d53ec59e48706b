//! The close of an epoch (E-3.2, E-4).

use std::collections::BTreeMap;

use holmes_kernel::{Id, Principal};
use holmes_proto::columns::{ids, wide};
use holmes_proto::emission::v1::{
    EpochClosed, NodesWeighed, OwnerCut, PoolClose, RewardsGranted, SharesFloored, SharesRounded,
};

use super::super::{Wrong, divided, is_shared};
use super::{Facts, Rewards};
use crate::world::{COIN, EPOCH_S};

/// E-1.2, E-4.2, E-4.3, E-4.5: what TRR, BR and verifiers begin with, and by which factor each runs down, as Q128.
const POOLS: [(u64, u128); 3] = [
    (300_000_000 * COIN, 340_120_963_895_082_053_022_182_018_437_844_622_363),
    (100_000_000 * COIN, 339_959_637_426_048_117_187_196_252_907_708_701_238),
    (40_000_000 * COIN, 340_120_963_895_082_053_022_182_018_437_844_622_363),
];
/// E-4.3: with more active nodes base rewards are throttled.
const NODES: u64 = 2_000;
/// E-8.1: what a node scores that nothing is known of.
const SCORE: u128 = 488;

/// What all pools have left, and what was scheduled last.
#[derive(Debug)]
pub(super) struct Pools {
    left: [u64; 3],
    scheduled: Option<u64>,
}

impl Default for Pools {
    fn default() -> Pools {
        Pools { left: POOLS.map(|(units, _)| units), scheduled: None }
    }
}

/// E-4.1: `R − floor(R·λ)`.
fn target(left: u64, factor: u128) -> u64 {
    let (left, low) = (u128::from(left), factor & u128::from(u64::MAX));
    let kept = (left * (factor >> 64) + ((left * low) >> 64)) >> 64;
    (left - kept) as u64
}

/// An epoch that is being closed.
#[derive(Debug)]
pub(super) struct Close {
    pub(super) epoch: u64,
    facts: Facts,
    price: u64,
    rows: BTreeMap<Id, Row>,
}

/// A node in it: of TRR and of BR.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    weights: [u128; 2],
    shares: [u64; 2],
    cut: u64,
    units: u128,
}

impl Close {
    pub(super) fn begin(epoch: u64, facts: Facts, price: u64) -> Close {
        Close { epoch, facts, price, rows: BTreeMap::new() }
    }

    /// Whether it has looked at a node.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.rows.contains_key(id)
    }

    fn row(&mut self, id: Id) -> &mut Row {
        self.rows.entry(id).or_default()
    }

    pub(super) fn floored(&mut self, event: &SharesFloored) {
        for (id, (trr, br)) in ids(&event.nodes).zip(event.trr_units.iter().zip(&event.br_units)) {
            self.row(id).shares = [*trr, *br];
        }
    }

    pub(super) fn rounded(&mut self, event: &SharesRounded) {
        ids(&event.trr_nodes).for_each(|id| self.row(id).shares[0] += 1);
        ids(&event.br_nodes).for_each(|id| self.row(id).shares[1] += 1);
    }

    pub(super) fn cut(&mut self, event: &OwnerCut) {
        ids(&event.nodes).zip(&event.cut_units).for_each(|(id, units)| self.row(id).cut += units);
    }

    /// E-3.2: base units that an owner's nodes earn of TRR at most: five times the fees of work that counts in full, half of
    /// the others'.
    fn bound(&self, owner: &Principal) -> u128 {
        let [full, quarter] = self.facts.fees.get(owner).copied().unwrap_or_default();
        match self.price {
            0 => 0,
            price => divided(10 * full + quarter, COIN.into(), 2 * u128::from(price)).0,
        }
    }

    /// E-0.4, E-4.6: a pool's shares, before κ.
    fn is_shared(&self, at: usize, units: u64) -> bool {
        let shares: Vec<u64> = self.rows.values().map(|row| row.shares[at]).collect();
        let weights: Vec<u128> = self.rows.values().map(|row| row.weights[at]).collect();
        is_shared(units, &shares, &weights)
    }

    fn median(&self) -> u128 {
        let active = |id: &Id| self.facts.seen.get(id).is_some_and(|(_, active)| *active);
        let counted = self.rows.iter().filter(|(id, row)| row.units > 0 || active(id));
        let mut units: Vec<u128> = counted.map(|(_, row)| row.units).collect();
        units.sort_unstable();
        match units.len() {
            0 => 0,
            n if n % 2 == 1 => units[n / 2],
            n => (units[n / 2 - 1] + units[n / 2]) / 2,
        }
    }
}

impl Rewards {
    /// E-0.6, E-3.2, E-4.6: what each node weighs.
    pub(super) fn weighed(&mut self, event: &NodesWeighed) -> Wrong {
        let mut wrong = Wrong::new();
        let Some(close) = &mut self.close else { return vec!["nodes are weighed and nothing closes".into()] };
        let columns = event.trr_weights.chunks_exact(16).zip(event.br_weights.chunks_exact(16));
        for ((id, (trr, br)), work) in ids(&event.nodes).zip(columns).zip(event.units.chunks_exact(16)) {
            let [trr, br, work] = [trr, br, work].map(|column| wide(column).unwrap_or(0));
            let [full, quarter] = close.facts.work.get(&id).copied().unwrap_or_default();
            let (beats, active) = close.facts.seen.get(&id).copied().unwrap_or_default();
            let units = full + quarter / 4;
            let Some(node) = self.nodes.get_mut(&id) else {
                wrong.push(format!("node {id} is weighed and was not heard of"));
                continue;
            };
            let stand = node.stand(close.epoch);
            let most = u128::from(stand.rating) * u128::from(EPOCH_S);
            let held = stand.slashable.min(stand.required);
            let capacity =
                if stand.required == 0 { most } else { divided(most, held.into(), stand.required.into()).0 };
            let of_work = if node.barred { 0 } else { units.min(capacity) * (2_000 + 3 * SCORE) };
            let least = stand.least.min(stand.required);
            let is_present = active && node.compute && !node.barred;
            let of_presence = if is_present { u128::from(least) * SCORE * u128::from(beats) } else { 0 };
            if (work, trr, br) != (units, of_work, of_presence) {
                let right = (units, of_work, of_presence);
                wrong.push(format!("E-4.6: node {id} weighs {:?}, not {right:?}", (work, trr, br)));
            }
            *close.row(id) = Row { weights: [trr, br], units, ..Row::default() };
            if beats > 0 {
                node.clocks.seen(close.epoch, active, units);
            }
        }
        wrong
    }

    /// E-3.2, E-4.1 to E-4.7: what the pools pay.
    pub(super) fn closed(&mut self, event: &EpochClosed) -> Wrong {
        let Some(close) = &self.close else { return vec!["an epoch is closed and none was begun".into()] };
        let active = close.facts.seen.values().filter(|(_, active)| *active).count() as u64;
        let mut wrong = Wrong::new();
        let mut says = |rule: &str, right: bool| {
            if !right {
                wrong.push(format!("{rule} does not hold of the close of epoch {}: {event:?}", close.epoch));
            }
        };
        let targets: Vec<u64> = (0..3).map(|at| target(self.pools.left[at], POOLS[at].1)).collect();
        let weigh = |at: usize| close.rows.values().any(|row| row.weights[at] > 0);
        let of_br = divided(targets[1].into(), NODES.into(), active.max(NODES).into()).0 as u64;
        let pays = [weigh(0) && close.price > 0, weigh(1), false];
        let actual = [targets[0], of_br, 0];
        let cut: u64 = close.rows.values().map(|row| row.cut).sum();
        for (at, pool) in event.pools.iter().enumerate().take(3) {
            let actual = if pays[at] { actual[at] } else { 0 };
            let paid = if at == 0 { actual.saturating_sub(cut) } else { actual };
            let PoolClose { target_units, actual_units, paid_units, remaining_units, .. } = *pool;
            says("E-4.1", (target_units, actual_units, paid_units) == (targets[at], actual, paid));
            says("E-4.1", self.pools.left[at].checked_sub(paid) == Some(remaining_units));
            says("E-0.4", at == 2 || close.is_shared(at, actual));
            self.pools.left[at] = remaining_units;
        }
        let (scheduled, paid) =
            (targets.iter().sum::<u64>(), event.pools.iter().map(|pool| pool.paid_units).sum::<u64>());
        says("E-4.7", event.pools.len() == 3 && event.scheduled_units == scheduled);
        says("E-4.7", self.pools.scheduled.is_none_or(|before| scheduled <= before));
        says("E-4.7", event.ceiling_units == scheduled + scheduled / 5 && paid <= event.ceiling_units);
        says("E-0.6", event.active_nodes == active && event.token_price_micro_usd == close.price);
        says("E-3.2", event.cut_units == cut);
        self.pools.scheduled = Some(scheduled);
        wrong.extend(self.over_bound());
        wrong
    }

    /// E-3.2: κ holds each owner, and cuts nobody further.
    fn over_bound(&self) -> Wrong {
        let Some(close) = &self.close else { return Wrong::new() };
        let mut owners: BTreeMap<Principal, [u128; 2]> = BTreeMap::new();
        for (id, row) in &close.rows {
            let Some(node) = self.nodes.get(id) else { continue };
            let sums = owners.entry(node.owner).or_default();
            sums[0] += u128::from(row.shares[0]);
            sums[1] += u128::from(row.cut);
        }
        let is_wrong = |(owner, [share, cut]): &(Principal, [u128; 2])| {
            share.checked_sub(*cut) != Some((*share).min(close.bound(owner)))
        };
        let told = |(owner, [share, cut]): (Principal, [u128; 2])| {
            let bound = close.bound(&owner);
            format!("E-3.2: {owner} may earn {bound} of {share} in epoch {}, and {cut} were cut", close.epoch)
        };
        owners.into_iter().filter(is_wrong).map(told).collect()
    }

    /// E-5.1, E-5.4: what is liquid, what is locked, and how much work unlocks it.
    pub(super) fn granted(&mut self, event: &RewardsGranted) -> Wrong {
        let Some(close) = &self.close else { return vec!["rewards are granted and nothing closes".into()] };
        let mut wrong = Wrong::new();
        let columns = event.liquid_units.iter().zip(&event.locked_units);
        for ((id, (liquid, locked)), work) in
            ids(&event.nodes).zip(columns).zip(event.full_work_units.chunks_exact(16))
        {
            let row = close.rows.get(&id).copied().unwrap_or_default();
            let (reward, full_work) = (row.shares[0].saturating_sub(row.cut), wide(work).unwrap_or(0));
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let capacity = u128::from(node.stand(close.epoch).rating) * u128::from(EPOCH_S);
            let of_class = (180 * close.median()).max(18 * capacity).max(1);
            let right =
                (reward / 4 + row.shares[1], reward - reward / 4, if reward == 0 { 0 } else { of_class });
            if (*liquid, *locked, full_work) != right {
                let has = (liquid, locked, full_work);
                wrong.push(format!("E-5.1: in epoch {} node {id} gets {has:?}, not {right:?}", close.epoch));
            }
            node.owed += u128::from(*liquid);
            node.clocks.grant(close.epoch, *locked, full_work);
        }
        wrong
    }
}
