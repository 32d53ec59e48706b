//! What work unlocks of a grant, and what an early exit burns (E-5).

use ethnum::U256;
use holmes_kernel::wide::mul_div_floor;
use holmes_kernel::{Amount, Ratio};
use serde::{Deserialize, Serialize};

/// The numbers of section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What is liquid at once.
    pub liquid: Ratio,
    /// Days of the class's median work until all is unlocked.
    pub median_days: u64,
    /// The same in days of the node's full capacity, at least.
    pub capacity_days: u64,
    /// Days within which no more unlocks than linearly.
    pub linear_days: u64,
    /// Days after which all is unlocked.
    pub full_days: u64,
    /// p: part of what is locked that an exit on the first day burns.
    pub exit_burn: Ratio,
}

/// Both clocks of a grant: they run only while the node is Active and not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// n: work since the grant, units.
    pub work: u128,
    /// N: work that unlocks all, units; at least 1.
    pub full_work: u128,
    /// d: days since the grant.
    pub days: u64,
}

impl Terms {
    /// E-5.4: what of a grant is liquid at once; the rest is locked.
    pub fn liquid(&self, grant: Amount) -> Amount {
        self.liquid.mul_floor(grant).map_or(grant, |liquid| liquid.min(grant))
    }

    /// E-5.1: N, units: days of the class's median work, or of the full capacity, whichever is more.
    pub fn full_work(&self, median_a_day: u128, capacity_a_day: u128) -> u128 {
        let median = median_a_day.saturating_mul(self.median_days.into());
        let capacity = capacity_a_day.saturating_mul(self.capacity_days.into());
        median.max(capacity).max(1)
    }

    /// E-5.1: what is unlocked of G_l, all in all: by work, never faster than linearly, all of it at last.
    pub fn unlocked(&self, locked_at_first: Amount, clocks: Clocks) -> Amount {
        if clocks.days >= self.full_days {
            return locked_at_first;
        }
        let part = |n: u128, of: u128| match of {
            0 => locked_at_first,
            _ => mul_div_floor(locked_at_first.wide(), n.min(of), of)
                .and_then(Amount::from_wide)
                .unwrap_or(locked_at_first),
        };
        part(clocks.work, clocks.full_work).min(part(clocks.days.into(), self.linear_days.into()))
    }

    /// E-5.2: what an exit burns of what is locked: `ceil(locked · p · max(0, (N − n)/N, (30 − d)/30))`.
    pub fn exit_burn(&self, locked: Amount, clocks: Clocks) -> Amount {
        let by_work = (clocks.full_work.saturating_sub(clocks.work), clocks.full_work.max(1));
        let days = u128::from(self.linear_days);
        let by_days = (days.saturating_sub(clocks.days.into()), days.max(1));
        let burn = |(left, of): (u128, u128)| {
            // locked · p is below 2^94, left ≤ of < 2^128: the product fits.
            let product = U256::from(locked.units()) * U256::from(self.exit_burn.ppb()) * U256::from(left);
            let parts = U256::from(of) * U256::from(Ratio::ONE.ppb());
            let burn = product / parts + U256::from(u8::from(product % parts != U256::ZERO));
            u64::try_from(burn).map_or(locked, Amount::new)
        };
        burn(by_work).max(burn(by_days)).min(locked) // ceiling keeps the order of the two
    }
}

/// E-5.3, for an epoch in which a node was seen: whether its clocks run, and for how many days of presence in a row they
/// stand still from now on. `left` is that number before, `unseen` the days since it was seen last.
pub fn presence(left: u64, unseen: u64, offline_days: u64, return_days: u64) -> (bool, u64) {
    let left = if unseen >= offline_days || (left > 0 && unseen > 0) { return_days } else { left };
    (left == 0, left.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    pub(crate) const TERMS: Terms = Terms {
        liquid: Ratio::from_percent(25),
        median_days: 180,
        capacity_days: 18,
        linear_days: 30,
        full_days: 540,
        exit_burn: Ratio::from_percent(50),
    };

    #[test]
    fn grants_unlock_and_exits_burn_as_in_the_golden_vectors() {
        // E-5.1, E-5.2
        let file: Value = serde_json::from_str(include_str!("../tests/golden/work_vesting.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let (given, out) = (&case["in"], &case["out"]);
            let number = |value: &Value| value.as_u64().unwrap();
            let grant = Amount::new(number(&given["grant"]));
            let clocks = Clocks {
                work: number(&given["n"]).into(),
                full_work: number(&given["N"]).into(),
                days: number(&given["days"]),
            };
            let liquid = TERMS.liquid(grant);
            let first = grant.checked_sub(liquid).unwrap();
            let unlocked = TERMS.unlocked(first, clocks);
            let locked = first.checked_sub(unlocked).unwrap();
            let burn = TERMS.exit_burn(locked, clocks);
            let told = [liquid, unlocked, locked, burn, locked.checked_sub(burn).unwrap()];
            let expected = ["liquid", "unlocked", "locked", "burn", "paid"].map(|key| number(&out[key]));
            assert_eq!(told.map(Amount::units), expected, "{case}");
        }
    }

    #[test]
    fn all_work_is_the_median_or_a_tenth_of_the_capacity_and_never_nothing() {
        // E-5.1
        assert_eq!(TERMS.full_work(100, 999), 18_000);
        assert_eq!(TERMS.full_work(100, 1_001), 18_018);
        assert_eq!(TERMS.full_work(0, 0), 1);
    }

    #[test]
    fn three_days_unseen_stop_the_clocks_for_seven_days_of_presence_in_a_row() {
        // E-5.3
        assert_eq!(presence(0, 0, 3, 7), (true, 0));
        assert_eq!(presence(0, 2, 3, 7), (true, 0));
        let mut left = 0;
        for day in 0..7 {
            let (runs, after) = presence(left, if day == 0 { 3 } else { 0 }, 3, 7);
            assert!(!runs, "day {day}");
            left = after;
        }
        assert_eq!(presence(left, 0, 3, 7), (true, 0));
        assert_eq!(presence(1, 1, 3, 7), (false, 6), "a gap begins the seven days anew");
    }

    proptest! {
        #[test]
        fn what_is_unlocked_only_grows_and_an_exit_costs_less_the_more_is_done(
            units: u64, full_work in 1..u128::MAX, work: u128, days in 0..600u64, more: u128, later in 0..600u64,
        ) {
            // E-5.1, E-5.2
            let locked = Amount::new(units);
            let at = |work, days| Clocks { work, full_work, days };
            let (a, b) = (at(work, days), at(work.saturating_add(more), days + later));
            prop_assert!(TERMS.unlocked(locked, a) <= TERMS.unlocked(locked, b));
            prop_assert!(TERMS.unlocked(locked, b) <= locked);
            prop_assert!(TERMS.exit_burn(locked, a) >= TERMS.exit_burn(locked, b));
            prop_assert!(TERMS.exit_burn(locked, a).units() <= units.div_ceil(2));
        }
    }
}
