//! Task rewards: what a node's work weighs (E-4.6), and what its operator earns at most (E-3.2, κ).

use ethnum::U256;
use holmes_kernel::wide::mul_div_floor;
use holmes_kernel::{Amount, Ratio};

/// E-3.2: work that counts, units: all of the one part, and a share of the other.
pub fn counted(full: u128, quarter: u128, share: Ratio) -> u128 {
    let some = mul_div_floor(quarter, share.ppb().into(), Ratio::ONE.ppb().into()).unwrap_or(quarter);
    full.saturating_add(some.min(quarter))
}

/// E-0.6: collateral capacity, units: `floor(rating_milli_cu · epoch_s · min(1, stake / required))`. What requires
/// nothing has all of it.
pub fn capacity(rating_milli_cu: u32, epoch_s: u64, stake: Amount, required: Amount) -> u128 {
    let most = u128::from(rating_milli_cu) * u128::from(epoch_s);
    if stake >= required {
        return most;
    }
    mul_div_floor(most, stake.wide(), required.wide()).unwrap_or_default() // required is above 0 here
}

/// E-4.6: `units · (2000 + 3·score)`, a multiplier of 0.5 to 1.25. Units are held to the capacity before. A weight that
/// does not fit counts as the greatest that does.
pub fn weight(units: u128, score: u64) -> u128 {
    units.saturating_mul(2_000 + 3 * u128::from(score))
}

/// What bounds an operator's reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kappa {
    /// How much of full work's fees is earned at most.
    pub full: Ratio,
    /// The same of the other work's fees.
    pub quarter: Ratio,
    /// Base units of one whole token.
    pub token: u64,
}

impl Kappa {
    /// E-3.2: `floor((5 · fees_full + 0.5 · fees_25) / price)`, base units. Fees and the price of one whole token are
    /// micro-dollars; at a price of 0 nothing is earned (E-14.5).
    pub fn bound(&self, fees_full: u128, fees_quarter: u128, price_micro_usd: u64) -> Amount {
        if price_micro_usd == 0 {
            return Amount::ZERO;
        }
        let fees = U256::from(fees_full) * U256::from(self.full.ppb())
            + U256::from(fees_quarter) * U256::from(self.quarter.ppb()); // < 2^193
        let parts = U256::from(price_micro_usd) * U256::from(Ratio::ONE.ppb());
        let tokens = fees.saturating_mul(U256::from(self.token)) / parts;
        u64::try_from(tokens).map_or(Amount::MAX, Amount::new)
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::apportion;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_pool_is_shared_as_in_the_golden_vectors() {
        // E-4.6, E-0.4
        let file: Value = serde_json::from_str(include_str!("../tests/golden/trr_pay.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |value: &Value| value.as_u64().unwrap();
            let nodes = case["in"]["nodes"].as_array().unwrap();
            let weights: Vec<(&str, u128)> = nodes
                .iter()
                .map(|row| (row[0].as_str().unwrap(), weight(number(&row[1]).into(), number(&row[2]))))
                .collect();
            let shares = apportion(Amount::new(number(&case["in"]["pool"])), &weights);
            for ((id, _), share) in weights.iter().zip(shares) {
                assert_eq!(share.units(), number(&case["out"][*id]), "{id} of {case}");
            }
        }
    }

    #[test]
    fn work_beyond_the_collateral_does_not_count() {
        // E-0.6: half the collateral, half the capacity, floored.
        let (half, whole) = (Amount::new(1), Amount::new(2));
        assert_eq!(capacity(1_001, 45, half, whole), 22_522);
        assert_eq!(capacity(1_001, 45, whole, whole), 45_045);
        assert_eq!(capacity(1_001, 45, Amount::MAX, whole), 45_045);
        assert_eq!(capacity(1_001, 45, Amount::ZERO, whole), 0);
    }

    #[test]
    fn a_quarter_of_a_quarter_is_floored() {
        // E-3.2
        assert_eq!(counted(10, 7, Ratio::from_percent(25)), 11);
        assert_eq!(counted(0, u128::MAX, Ratio::from_percent(25)), u128::MAX / 4);
    }

    #[test]
    fn an_operator_earns_five_times_its_fees_and_half_of_the_doubtful_ones() {
        // E-3.2: $3.00 of fees for full work and $1.00 for other, at $0.70: (15 + 0.5) / 0.7 tokens.
        let kappa =
            Kappa { full: Ratio::from_percent(500), quarter: Ratio::from_percent(50), token: 1_000_000_000 };
        assert_eq!(kappa.bound(3_000_000, 1_000_000, 700_000), Amount::new(22_142_857_142));
        assert_eq!(kappa.bound(3_000_000, 1_000_000, 0), Amount::ZERO);
        assert_eq!(kappa.bound(u128::MAX, u128::MAX, 1), Amount::MAX);
    }

    proptest! {
        #[test]
        fn more_stake_never_lowers_a_capacity(rating: u32, epoch_s in 1..86_400u64, a: u64, b: u64, required: u64) {
            let capacity = |stake| capacity(rating, epoch_s, Amount::new(stake), Amount::new(required));
            prop_assert!(capacity(a.min(b)) <= capacity(a.max(b)));
        }
    }
}
