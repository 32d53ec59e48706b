//! When things happen by rule: epochs and days of log time (E-0.5), and the next try after a refusal.

use serde::{Deserialize, Serialize};

use crate::Time;

/// E-0.5: log time cut into epochs of one length. Epochs count from 1, days from 0: day d is epoch d + 1. What lies
/// before TGE belongs to the first of them, so that no fact is left out when epochs close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    tge_at: Time,
    epoch_ms: u64,
}

impl Calendar {
    /// Epochs of so many seconds, at least one, from a moment on.
    pub fn new(tge_at: Time, epoch_s: u64) -> Calendar {
        Calendar { tge_at, epoch_ms: epoch_s.max(1).saturating_mul(1_000) }
    }

    /// When epoch 1 begins.
    pub fn tge_at(&self) -> Time {
        self.tge_at
    }

    /// How long an epoch is, in seconds.
    pub fn epoch_s(&self) -> u64 {
        self.epoch_ms / 1_000
    }

    /// The epoch of a moment.
    pub fn epoch(&self, at: Time) -> u64 {
        self.day(at).saturating_add(1)
    }

    /// When an epoch begins.
    pub fn begins(&self, epoch: u64) -> Time {
        self.day_begins(epoch.saturating_sub(1))
    }

    /// When an epoch is over: the first moment of the next.
    pub fn ends(&self, epoch: u64) -> Time {
        self.day_begins(epoch)
    }

    /// The day of a moment: how many whole ones lie between TGE and it.
    pub fn day(&self, at: Time) -> u64 {
        at.millis().saturating_sub(self.tge_at.millis()) / self.epoch_ms
    }

    /// When a day begins.
    pub fn day_begins(&self, day: u64) -> Time {
        self.after(self.tge_at, day)
    }

    /// So many days later.
    pub fn after(&self, at: Time, days: u64) -> Time {
        at.after_millis(days.saturating_mul(self.epoch_ms))
    }
}

/// When another service is asked again: each wait is twice the one before, up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The first wait, ms.
    pub first_ms: u64,
    /// The longest, ms; never below the first.
    pub longest_ms: u64,
}

impl Backoff {
    /// When to ask again, refused now, after so many refusals before.
    pub fn at(&self, now: Time, refusals: u32) -> Time {
        let wait = self.first_ms.saturating_mul(1 << refusals.min(32));
        now.after_millis(wait.min(self.longest_ms.max(self.first_ms)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn epochs_count_from_one_and_days_from_nought_and_what_lies_before_tge_is_of_the_first() {
        // E-0.5
        let at = |s: u64| Time::from_millis(s * 1_000);
        let calendar = Calendar::new(at(100), 45);
        assert_eq!([0, 99, 100, 144, 145].map(|s| calendar.epoch(at(s))), [1, 1, 1, 1, 2]);
        assert_eq!([0, 99, 100, 144, 145].map(|s| calendar.day(at(s))), [0, 0, 0, 0, 1]);
        assert_eq!((calendar.begins(1), calendar.ends(1), calendar.begins(2)), (at(100), at(145), at(145)));
        assert_eq!((calendar.day_begins(2), calendar.after(at(1), 14)), (at(190), at(631)));
    }

    #[test]
    fn a_wait_doubles_up_to_the_longest() {
        let waits = |first_ms, longest_ms| {
            let backoff = Backoff { first_ms, longest_ms };
            [0, 1, 20, 500].map(|refusals| backoff.at(Time::default(), refusals).millis())
        };
        assert_eq!(waits(60_000, 21_600_000), [60_000, 120_000, 21_600_000, 21_600_000]);
        assert_eq!(waits(9, 1), [9; 4], "bounds that cross");
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_its_epoch(tge in 0u64..1 << 50, length in 0u64..100_000, at in 0u64..1 << 60) {
            let (calendar, at) = (Calendar::new(Time::from_millis(tge), length), Time::from_micros(at));
            let epoch = calendar.epoch(at);
            prop_assert!(at < calendar.ends(epoch) && (at >= calendar.begins(epoch) || epoch == 1));
            prop_assert_eq!(calendar.day(at) + 1, epoch);
            prop_assert_eq!(calendar.epoch(calendar.begins(epoch)), epoch);
        }
    }
}
