//! E-1.5: what time has vested. What is paid out floors (E-0.3), and at the end it is exactly all.

use holmes_kernel::Amount;
use holmes_kernel::wide::{mul_div_ceil, mul_div_floor};
use serde::{Deserialize, Serialize};

/// When a grant vests, in whole days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The day from which both others count.
    pub start_day: u64,
    /// Nothing has vested before so many days.
    pub cliff_days: u32,
    /// All has vested after so many days; at least 1, and not before the cliff.
    pub vesting_days: u32,
}

impl Schedule {
    /// What of a grant has vested on a day: nothing before the cliff, all of it at the end, and in between
    /// `floor(granted · days / vesting_days)`, so that the cliff frees what is due on that day.
    pub fn vested(&self, granted: Amount, day: u64) -> Amount {
        let (cliff, end) = (u64::from(self.cliff_days), u64::from(self.vesting_days));
        match day.checked_sub(self.start_day) {
            None => Amount::ZERO,
            Some(days) if days >= end => granted,
            Some(days) if days < cliff => Amount::ZERO,
            // Below `granted`, since days < vesting_days.
            Some(days) => mul_div_floor(granted.wide(), days.into(), end.into())
                .and_then(Amount::from_wide)
                .unwrap_or(Amount::ZERO),
        }
    }

    /// The first day on which more of a grant has vested than so much; `None` when never.
    pub fn next_day(&self, granted: Amount, released: Amount) -> Option<u64> {
        if released >= granted {
            return None;
        }
        // floor(granted · d / n) > released exactly from d = ceil((released + 1) · n / granted) on, which is at most n.
        let needed = mul_div_ceil(released.wide() + 1, self.vesting_days.into(), granted.wide())?;
        let days = needed.max(self.cliff_days.into());
        u64::try_from(days).ok()?.checked_add(self.start_day)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_vested_is_that_of_the_golden_vectors() {
        // E-1.5
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../tests/golden/time_vesting.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |key: &str| case["in"][key].as_u64().unwrap();
            let schedule = Schedule {
                start_day: number("start_day"),
                cliff_days: number("cliff_days") as u32,
                vesting_days: number("duration_days") as u32,
            };
            let vested = schedule.vested(Amount::new(number("grant")), number("day"));
            assert_eq!(vested.units(), case["out"].as_u64().unwrap(), "{case}");
        }
    }

    #[test]
    fn a_quarter_is_free_at_the_cliff_and_everything_after_four_years() {
        // E-1.2
        let schedule = Schedule { start_day: 0, cliff_days: 365, vesting_days: 1_460 };
        let granted = Amount::new(150_000_000_000_000_000);
        assert_eq!(schedule.vested(granted, 364), Amount::ZERO);
        assert_eq!(schedule.vested(granted, 365), Amount::new(granted.units() / 4));
        assert_eq!(schedule.vested(granted, 1_460), granted);
        assert_eq!(schedule.vested(granted, u64::MAX), granted);
        assert_eq!(schedule.next_day(granted, Amount::ZERO), Some(365));
        assert_eq!(schedule.next_day(granted, granted), None);
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        (0..3_000u64, 1..5_000u32).prop_flat_map(|(start_day, vesting_days)| {
            let with_cliff = move |cliff_days| Schedule { start_day, cliff_days, vesting_days };
            (0..=vesting_days).prop_map(with_cliff)
        })
    }

    proptest! {
        #[test]
        fn vesting_never_falls_and_never_exceeds_the_grant(s in schedules(), granted: u64, day in 0..9_000u64) {
            let granted = Amount::new(granted);
            let (today, tomorrow) = (s.vested(granted, day), s.vested(granted, day + 1));
            prop_assert!(today <= tomorrow && tomorrow <= granted);
        }

        #[test]
        fn the_next_day_is_the_first_with_more(s in schedules(), granted in prop_oneof![0..50u64, any::<u64>()], day in 0..9_000u64) {
            let granted = Amount::new(granted);
            let released = s.vested(granted, day);
            match s.next_day(granted, released) {
                None => prop_assert_eq!(released, granted),
                Some(next) => {
                    prop_assert!(next > day);
                    prop_assert!(s.vested(granted, next) > released);
                    prop_assert_eq!(s.vested(granted, next - 1), released);
                }
            }
        }
    }
}
