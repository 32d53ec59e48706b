//! E-4.1: what a pool is to pay in an epoch. It keeps what remains and a decay factor; what is not paid stays.

use ethnum::U256;
use holmes_kernel::Amount;
use holmes_kernel::wide::mul_div_floor;
use serde::{Deserialize, Serialize};

/// A factor below 1 by which a pool shrinks in an epoch: `value · 2^128`, floored (E-0.2, E-4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decay(u128);

impl Decay {
    /// From `value · 2^128`.
    pub const fn from_q128(bits: u128) -> Decay {
        Decay(bits)
    }

    /// `floor(amount · factor)`; always below `amount` unless that is 0.
    pub fn mul_floor(self, amount: Amount) -> Amount {
        let product = (U256::from(amount.units()) * U256::from(self.0)) >> 128u32; // < 2^64: the factor is below 1
        Amount::new(product.as_u64())
    }
}

/// m_k: by how much of its target a pool is throttled. Never above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Numerator.
    pub numerator: u64,
    /// Denominator; never 0.
    pub denominator: u64,
}

impl Throttle {
    /// All of the target.
    pub const FULL: Throttle = Throttle { numerator: 1, denominator: 1 };
    /// Nothing: there is nobody to pay.
    pub const NONE: Throttle = Throttle { numerator: 0, denominator: 1 };

    /// E-4.3: all of it while at most `most` are there, then `most / there`.
    pub fn of_crowd(there: u64, most: u64) -> Throttle {
        if there <= most { Throttle::FULL } else { Throttle { numerator: most, denominator: there } }
    }
}

/// `target_k = R − floor(R·λ)`, base units.
pub fn target(remaining: Amount, decay: Decay) -> Amount {
    remaining.saturating_sub(decay.mul_floor(remaining)) // the factor is below 1
}

/// `actual_k = floor(target_k · m_k)`, base units.
pub fn actual(target: Amount, throttle: Throttle) -> Amount {
    let units = mul_div_floor(target.wide(), throttle.numerator.into(), throttle.denominator.into());
    units.and_then(Amount::from_wide).map_or(Amount::ZERO, |actual| actual.min(target))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const TRR: Decay = Decay::from_q128(340_120_963_895_082_053_022_182_018_437_844_622_363);
    const BR: Decay = Decay::from_q128(339_959_637_426_048_117_187_196_252_907_708_701_238);

    fn cases(text: &str) -> Vec<Value> {
        let file: Value = serde_json::from_str(text).unwrap();
        let cases = file["cases"].as_array().unwrap().clone();
        assert!(!cases.is_empty());
        cases
    }

    fn units(value: &Value) -> Amount {
        Amount::new(value.as_u64().unwrap())
    }

    #[test]
    fn pools_run_down_as_in_the_golden_vectors() {
        // E-4.1
        for case in cases(include_str!("../tests/golden/emission.json")) {
            let mut remaining = units(&case["in"]["remaining"]);
            let decay = Decay::from_q128(case["in"]["lambda_q128"].as_str().unwrap().parse().unwrap());
            let (ms, outs) = (case["in"]["m"].as_array().unwrap(), case["out"].as_array().unwrap());
            assert_eq!(ms.len(), outs.len());
            for (m, out) in ms.iter().zip(outs) {
                let (numerator, denominator) = (m[0].as_u64().unwrap(), m[1].as_u64().unwrap());
                let target = target(remaining, decay);
                let actual = actual(target, Throttle { numerator, denominator });
                remaining = remaining.checked_sub(actual).unwrap();
                assert_eq!(target, units(&out["target"]));
                assert_eq!(actual, units(&out["actual"]));
                assert_eq!(remaining, units(&out["remaining"]));
            }
        }
    }

    #[test]
    fn ten_years_of_task_rewards_are_those_of_the_golden_vectors() {
        // E-4.2
        let cases = cases(include_str!("../tests/golden/emission_trr_10y.json"));
        let last = cases.iter().map(|case| case["in"]["epoch"].as_u64().unwrap()).max().unwrap();
        let (mut remaining, mut rows) =
            (Amount::new(300_000_000_000_000_000), vec![(Amount::ZERO, Amount::ZERO)]);
        for _ in 0..last {
            let paid = actual(target(remaining, TRR), Throttle::FULL);
            remaining = remaining.checked_sub(paid).unwrap();
            rows.push((paid, remaining));
        }
        for case in cases {
            let row = rows[case["in"]["epoch"].as_u64().unwrap() as usize];
            assert_eq!(row, (units(&case["out"]["actual"]), units(&case["out"]["remaining"])), "{case}");
        }
    }

    #[test]
    fn the_first_year_is_the_published_one() {
        // E-4.8
        for (decay, initial, day_one, year_one) in [
            (TRR, 300_000_000_000_000_000u64, 142_296_258_824_876u64, 47_701_152_449_190_298u64),
            (BR, 100_000_000_000_000_000, 94_841_674_521_834, 29_272_546_138_370_373),
        ] {
            let mut remaining = Amount::new(initial);
            assert_eq!(target(remaining, decay), Amount::new(day_one));
            for _ in 0..365 {
                remaining = remaining.checked_sub(actual(target(remaining, decay), Throttle::FULL)).unwrap();
            }
            assert_eq!(initial - remaining.units(), year_one);
        }
    }

    proptest! {
        #[test]
        fn decay_is_the_exact_product_floored(units: u64, bits: u128) {
            // E-0.2
            let kept = Decay::from_q128(bits).mul_floor(Amount::new(units)).units();
            // Schoolbook in 64-bit limbs, independent of the 256-bit crate.
            let (hi, lo) = (bits >> 64, bits & u128::from(u64::MAX));
            let carry = (lo * u128::from(units)) >> 64;
            prop_assert_eq!(u128::from(kept), (hi * u128::from(units) + carry) >> 64);
        }

        #[test]
        fn targets_never_rise_and_nothing_is_paid_that_is_not_there(
            units: u64, bits: u128, crowds in proptest::collection::vec(0..9_000u64, 1..50),
        ) {
            // E-4.1, E-4.3
            let (mut remaining, decay, mut before) = (Amount::new(units), Decay::from_q128(bits), Amount::MAX);
            for there in crowds {
                let target = target(remaining, decay);
                let paid = actual(target, Throttle::of_crowd(there, 2_000));
                prop_assert!(paid <= target && target <= before && target <= remaining);
                remaining = remaining.checked_sub(paid).unwrap();
                before = target;
            }
        }
    }
}
