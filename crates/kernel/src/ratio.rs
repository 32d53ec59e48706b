//! Ratios in parts per billion (E-0.2). The rounding is in the name (E-0.3).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Amount;
use crate::wide::{mul_div_ceil, mul_div_floor};

/// Parts per billion. What the network pays out is floored, what it takes is ceiled (E-0.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(u64);

impl Ratio {
    /// 0.
    pub const ZERO: Ratio = Ratio(0);
    /// 1.
    pub const ONE: Ratio = Ratio(PPB);

    /// So many parts per billion.
    pub const fn from_ppb(ppb: u64) -> Ratio {
        Ratio(ppb)
    }

    /// So many hundredths.
    pub const fn from_percent(percent: u32) -> Ratio {
        Ratio(percent as u64 * (PPB / 100))
    }

    /// Parts per billion.
    pub const fn ppb(self) -> u64 {
        self.0
    }

    /// `floor(amount · ratio)`; `None` when it does not fit (only a ratio above 1 can).
    pub fn mul_floor(self, amount: Amount) -> Option<Amount> {
        mul_div_floor(amount.wide(), u128::from(self.0), u128::from(PPB)).and_then(Amount::from_wide)
    }

    /// `ceil(amount · ratio)`; `None` when it does not fit (only a ratio above 1 can).
    pub fn mul_ceil(self, amount: Amount) -> Option<Amount> {
        mul_div_ceil(amount.wide(), u128::from(self.0), u128::from(PPB)).and_then(Amount::from_wide)
    }
}

const PPB: u64 = 1_000_000_000;

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / PPB, self.0 % PPB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fee_rounds_up_and_a_payout_down() {
        let two_percent = Ratio::from_percent(2);
        assert_eq!(two_percent.mul_ceil(Amount::new(51)), Some(Amount::new(2)));
        assert_eq!(two_percent.mul_floor(Amount::new(51)), Some(Amount::new(1)));
        assert_eq!(two_percent.to_string(), "0.020000000");
    }

    proptest! {
        #[test]
        fn a_share_of_at_most_one_never_exceeds_the_whole(units: u64, ppb in 0..=1_000_000_000u64) {
            let (amount, ratio) = (Amount::new(units), Ratio::from_ppb(ppb));
            let (floor, ceil) = (ratio.mul_floor(amount).unwrap(), ratio.mul_ceil(amount).unwrap());
            prop_assert!(floor <= ceil && ceil <= amount);
            prop_assert!(ceil.units() - floor.units() <= 1);
        }
    }
}
