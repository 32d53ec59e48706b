//! E-2.5: how fast money may leave an account. A bucket that leaks evenly, in integers: what left is kept as
//! units · window, so nothing is ever rounded and no order of small steps gains anything.

use holmes_kernel::Time;
use serde::{Deserialize, Serialize};

/// At most so many base units in any stretch of `window_ms`, and as many again as have leaked away meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    units: u64,
    window_us: u64,
}

/// What left an account lately: units · window_us, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outflow {
    level: u128,
    at: Time,
}

/// The longest window: 400 days.
pub const LONGEST_WINDOW_MS: u64 = 400 * 86_400_000;

impl RateLimit {
    /// `units` in `window_ms`; both 0 for no limit. `None` for a window that is 0 or too long.
    pub fn new(units: u64, window_ms: u64) -> Option<RateLimit> {
        let none = units == 0 && window_ms == 0;
        let real = window_ms > 0 && window_ms <= LONGEST_WINDOW_MS;
        // Only of a window that may be, or the product may not be a number.
        (none || real).then(|| RateLimit { units, window_us: window_ms * 1_000 })
    }

    /// The limit, unless it is none.
    pub fn limited(self) -> Option<RateLimit> {
        (self.window_us > 0).then_some(self)
    }

    /// Base units that may leave in a window.
    pub fn units(self) -> u64 {
        self.units
    }

    /// The window, ms.
    pub fn window_ms(self) -> u64 {
        self.window_us / 1_000
    }

    /// How much may leave now.
    pub fn room(self, out: Outflow, now: Time) -> u64 {
        let full = u128::from(self.units) * u128::from(self.window_us);
        let free = full.saturating_sub(self.level(out, now));
        // The quotient is at most `units`.
        free.checked_div(u128::from(self.window_us)).and_then(|room| u64::try_from(room).ok()).unwrap_or(0)
    }

    /// What left, after some more has.
    pub fn after(self, out: Outflow, units: u64, now: Time) -> Outflow {
        let more = u128::from(units) * u128::from(self.window_us);
        Outflow { level: self.level(out, now).saturating_add(more), at: now }
    }

    fn level(self, out: Outflow, now: Time) -> u128 {
        let elapsed = now.micros().saturating_sub(out.at.micros());
        out.level.saturating_sub(u128::from(elapsed) * u128::from(self.units))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_is_empty_after_its_window() {
        // E-2.5
        let limit = RateLimit::new(100, 1_000).unwrap();
        let start = Time::from_millis(5_000);
        let out = limit.after(Outflow::default(), 100, start);
        assert_eq!(limit.room(out, start), 0);
        assert_eq!(limit.room(out, start.after_millis(10)), 1);
        assert_eq!(limit.room(out, start.after_millis(500)), 50);
        assert_eq!(limit.room(out, start.after_millis(1_000)), 100);
    }

    #[test]
    fn a_window_of_nothing_or_of_ages_is_refused() {
        assert_eq!(RateLimit::new(1, 0), None);
        assert_eq!(RateLimit::new(1, LONGEST_WINDOW_MS + 1), None);
        assert_eq!(RateLimit::new(1, u64::MAX), None);
        assert!(RateLimit::new(0, 0).is_some_and(|none| none.limited().is_none()));
    }

    proptest! {
        #[test]
        fn no_order_of_steps_lets_more_leave_than_the_limit_and_what_leaked(
            units: u64, window_ms in 1..=LONGEST_WINDOW_MS,
            steps in proptest::collection::vec((0u64..100_000_000, any::<u64>()), 1..40),
        ) {
            let limit = RateLimit::new(units, window_ms).unwrap();
            let (mut now, mut out, mut left) = (Time::from_millis(1), Outflow::default(), 0u128);
            let start = now;
            for (wait, wish) in steps {
                now = Time::from_micros(now.micros() + wait);
                let take = wish.min(limit.room(out, now));
                out = limit.after(out, take, now);
                left += u128::from(take);
                let elapsed = u128::from(now.micros() - start.micros());
                let leaked = elapsed * u128::from(units) / u128::from(window_ms * 1_000);
                prop_assert!(left <= u128::from(units) + leaked);
            }
        }
    }
}
