//! E-6.5: how much stake may leave a class in a day.

use holmes_kernel::{Amount, Ratio};
use serde::{Deserialize, Serialize};

/// How stake leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Share of the stake at 00:00.
    pub share: Ratio,
    /// What may leave anyway.
    pub floor: Amount,
}

impl Throttle {
    /// What may leave in a day: max(share of the stake at 00:00, floored, and the floor).
    pub fn most(&self, stake_at_midnight: Amount) -> Amount {
        self.share.mul_floor(stake_at_midnight).unwrap_or(stake_at_midnight).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_per_cent_leave_in_a_day_or_the_floor() {
        // E-6.5
        let throttle = Throttle { share: Ratio::from_percent(9), floor: Amount::new(50_000) };
        for (stake, most) in [(0, 50_000), (555_555, 50_000), (555_567, 50_001), (1_000_011, 90_000)] {
            assert_eq!(throttle.most(Amount::new(stake)), Amount::new(most));
        }
    }
}
