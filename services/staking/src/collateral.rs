//! E-6.2: what a node must bond. Exact rationals: one ceil for the base, one for the requirement.

use ethnum::U256;
use holmes_kernel::{Amount, Ratio, Time};
use serde::{Deserialize, Serialize};

/// Thousandths in a whole: ratings are in milli-CU.
const MILLI: u64 = 1_000;
const PPB: u64 = 1_000_000_000;

/// What the base follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// E_next: what the pools pay in the next epoch.
    pub next_emission: Amount,
    /// C: circulating supply.
    pub circulating: Amount,
    /// S: all compute bonds without what unbonds.
    pub bonded: Amount,
    /// N: active, qualified compute nodes.
    pub nodes: u64,
    /// Their ratings together.
    pub network_milli_cu: u64,
    /// s; at most 1.
    pub bonded_share: Ratio,
    /// Days of rewards; below 2^10.
    pub reward_days: u64,
    /// N_target; below 2^32.
    pub target_nodes: u64,
    /// B.
    pub target_milli_cu: u64,
}

/// m = clamp(s·C/S, 0.5, 2) as a fraction; 2 when S = 0.
pub fn m(inputs: &Inputs) -> (u128, u128) {
    let wanted = u128::from(inputs.bonded_share.ppb()) * inputs.circulating.wide(); // < 2^94
    let bonded = u128::from(PPB) * inputs.bonded.wide(); // < 2^94
    if bonded == 0 || wanted >= 2 * bonded {
        (2, 1)
    } else if 2 * wanted <= bonded {
        (1, 2)
    } else {
        (wanted, bonded)
    }
}

/// g = clamp(N/N_target, 0.5, 1) as a fraction.
pub fn g(inputs: &Inputs) -> (u64, u64) {
    let Inputs { nodes, target_nodes, .. } = *inputs;
    if nodes >= target_nodes {
        (1, 1)
    } else if nodes.saturating_mul(2) <= target_nodes {
        (1, 2)
    } else {
        (nodes, target_nodes)
    }
}

/// CU* = max(network CU, B), in milli-CU.
pub fn power(inputs: &Inputs) -> u64 {
    inputs.network_milli_cu.max(inputs.target_milli_cu).max(1)
}

/// base = ceil((reward_days·E_next + s·C·m) / CU* · g), base units per CU, before the bound on its change. What does
/// not fit 64 bits is the largest amount: every requirement is far below it (E-6.2's clamp).
///
/// 256 bits suffice: s·C·m is below 2^30 · 2^64 · 2^94 = 2^188 over 10^9 · md, days·E·10^9·md below
/// 2^10 · 2^64 · 2^30 · 2^94 = 2^198; their sum times g's numerator (below 2^32) and 1,000 is below 2^241. The
/// denominator is below 2^30 · 2^94 · 2^64 · 2^32 = 2^220.
pub fn base(inputs: &Inputs) -> Amount {
    let ((mn, md), (gn, gd)) = (m(inputs), g(inputs));
    let (mn, md, ppb) = (U256::from(mn), U256::from(md), U256::from(PPB));
    let rewards = U256::from(inputs.reward_days) * U256::from(inputs.next_emission.units()) * ppb * md;
    let wanted = U256::from(inputs.bonded_share.ppb()) * U256::from(inputs.circulating.units()) * mn;
    let whole = (rewards + wanted) * U256::from(gn) * U256::from(MILLI);
    let parts = ppb * md * U256::from(power(inputs)) * U256::from(gd);
    let (floor, rest) = whole.div_rem(parts);
    let base = if rest == U256::ZERO { floor } else { floor + U256::ONE };
    u64::try_from(base).map_or(Amount::MAX, Amount::new)
}

/// The new base: the formula, at most a step away from the old one; the first is free (E-6.2).
pub fn next_base(formula: Amount, old: Option<Amount>, step: Ratio) -> Amount {
    let Some(old) = old.filter(|old| !old.is_zero()) else { return formula };
    let less = Ratio::from_ppb(PPB.saturating_sub(step.ppb())).mul_ceil(old).unwrap_or(old);
    let more = Ratio::from_ppb(PPB.saturating_add(step.ppb())).mul_floor(old).unwrap_or(Amount::MAX);
    formula.clamp(less, more.max(less))
}

/// required = clamp(ceil(r · base), ceil(r · least), floor(r · most)) with r in CU. What does not fit is the largest
/// amount.
pub fn required(rating_milli_cu: u32, base: Amount, least: Amount, most: Amount) -> Amount {
    let r = u128::from(rating_milli_cu); // products below 2^96
    let ceil = |per_cu: Amount| (r * per_cu.wide()).div_ceil(u128::from(MILLI));
    let floor = r * most.wide() / u128::from(MILLI);
    Amount::from_wide(ceil(base).min(floor).max(ceil(least))).unwrap_or(Amount::MAX)
}

/// The bases that a node was told of: the one in force, and rises that come into force later, each above the one before
/// (E-0.6: after a rise the old, lower value counts for 30 d). A fall counts at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bases {
    in_force: Amount,
    rises: Vec<(Time, Amount)>,
}

impl Bases {
    /// One base, in force.
    pub fn new(base: Amount) -> Bases {
        Bases { in_force: base, rises: Vec::new() }
    }

    /// The base in force at a moment.
    pub fn at(&self, now: Time) -> Amount {
        self.rises.iter().rev().find(|(at, _)| *at <= now).map_or(self.in_force, |(_, base)| *base)
    }

    /// The newest base, in force or not.
    pub fn last(&self) -> Amount {
        self.rises.last().map_or(self.in_force, |(_, base)| *base)
    }

    /// The rises that are not in force at a moment, the first one first.
    pub fn rises_after(&self, now: Time) -> impl Iterator<Item = (Time, Amount)> + '_ {
        self.rises.iter().copied().filter(move |(at, _)| *at > now)
    }

    /// A new base. A rise to it that was told of before keeps its time.
    pub fn set(&mut self, base: Amount, now: Time, rise_at: Time) {
        self.in_force = self.at(now);
        self.rises.retain(|(at, _)| *at > now);
        if base <= self.in_force {
            *self = Bases::new(base);
            return;
        }
        let higher = self.rises.iter().position(|(_, known)| *known >= base);
        let at = higher.map_or(rise_at, |place| self.rises[place].0);
        self.rises.truncate(higher.unwrap_or(self.rises.len()));
        self.rises.push((at, base));
    }

    /// Whether the rises come one after another, each higher.
    pub fn is_rising(&self) -> bool {
        let first = self.rises.first().is_none_or(|(_, base)| *base > self.in_force);
        first && self.rises.windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 < two[1].1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::params;

    fn inputs() -> Inputs {
        let params = params::read(&params::defaults()).unwrap();
        Inputs { bonded: Amount::ZERO, nodes: 0, network_milli_cu: 0, ..params.inputs }
    }

    #[test]
    fn base_and_requirement_are_those_of_the_golden_vectors() {
        // E-6.2
        let params = params::read(&params::defaults()).unwrap();
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../tests/golden/collateral.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |side: &str, key: &str| case[side][key].as_u64().unwrap();
            let inputs = Inputs {
                next_emission: Amount::new(number("in", "e_next")),
                circulating: Amount::new(number("in", "circulating")),
                bonded: Amount::new(number("in", "bonded")),
                nodes: number("in", "nodes"),
                network_milli_cu: number("in", "network_milli_cu"),
                ..inputs()
            };
            let base = base(&inputs);
            assert_eq!(base.units(), number("out", "base_per_cu"), "{case}");
            let rating = number("in", "rating_milli_cu") as u32;
            let required = required(rating, base, params.least_per_cu, params.most_per_cu);
            assert_eq!(required.units(), number("out", "required"), "{case}");
        }
    }

    #[test]
    fn the_largest_inputs_fit_256_bits() {
        let most = Inputs {
            next_emission: Amount::MAX,
            circulating: Amount::MAX,
            bonded: Amount::new(u64::MAX / 2),
            nodes: u64::from(u32::MAX) - 1,
            network_milli_cu: 0,
            bonded_share: Ratio::ONE,
            reward_days: 1_023,
            target_nodes: u32::MAX.into(),
            target_milli_cu: 1,
        };
        assert_eq!(base(&most), Amount::MAX);
        // Overflow panics in tests: the same with the largest denominator.
        assert!(base(&Inputs { target_milli_cu: u64::MAX, ..most }) > Amount::ZERO);
        assert_eq!(required(u32::MAX, Amount::MAX, Amount::MAX, Amount::MAX), Amount::MAX);
    }

    #[test]
    fn a_base_moves_a_step_at_a_time_and_the_first_is_free() {
        // E-6.2
        let ten = Ratio::from_percent(10);
        let next = |formula, old| next_base(Amount::new(formula), Some(Amount::new(old)), ten).units();
        assert_eq!(next_base(Amount::new(7), None, ten), Amount::new(7));
        assert_eq!((next(5_000, 1_005), next(1, 1_005), next(1_000, 1_005)), (1_105, 905, 1_000));
    }

    #[test]
    fn a_rise_counts_after_its_time_and_a_fall_at_once() {
        // E-0.6
        let (day, t) = (|n: u64| Time::from_millis(n * 86_400_000), Amount::new);
        let mut bases = Bases::new(t(100));
        bases.set(t(110), day(1), day(31));
        bases.set(t(121), day(8), day(38));
        assert_eq!((bases.at(day(30)), bases.at(day(31)), bases.at(day(38))), (t(100), t(110), t(121)));
        bases.set(t(105), day(15), day(45)); // lower than what was told of: it keeps the first rise's time
        assert_eq!((bases.at(day(30)), bases.at(day(31)), bases.at(day(99))), (t(100), t(105), t(105)));
        bases.set(t(95), day(16), day(46));
        assert_eq!(bases, Bases::new(t(95)));
    }

    proptest! {
        #[test]
        fn whatever_comes_the_newest_base_is_in_force_at_last_and_none_sooner_than_told(
            first in 1u64..1_000, steps in proptest::collection::vec((1u64..20, 1u64..1_000), 1..20),
        ) {
            let (mut now, mut bases) = (Time::from_millis(0), Bases::new(Amount::new(first)));
            for (wait, base) in steps {
                now = now.after_millis(wait);
                let before = bases.at(now);
                bases.set(Amount::new(base), now, now.after_millis(30));
                prop_assert!(bases.is_rising());
                prop_assert_eq!(bases.at(now), before.min(Amount::new(base)));
                prop_assert_eq!(bases.at(now.after_millis(30)), Amount::new(base));
            }
        }
    }
}
