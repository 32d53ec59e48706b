//! E-0.5: epochs of log time.

use holmes_kernel::Time;
use serde::{Deserialize, Serialize};

/// When epochs begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs {
    /// When epoch 1 begins.
    pub tge_at: Time,
    /// How long each is, ms; at least 1.
    pub length_ms: u64,
}

impl Epochs {
    /// The epoch of a moment; what lies before TGE belongs to the first.
    pub fn of(&self, at: Time) -> u64 {
        let since = at.micros().saturating_sub(self.tge_at.micros());
        since / self.length_us() + 1
    }

    /// When an epoch ends: the first moment of the next.
    pub fn end(&self, epoch: u64) -> Time {
        Time::from_micros(self.tge_at.micros().saturating_add(epoch.saturating_mul(self.length_us())))
    }

    /// So long before the end of the epoch of a moment.
    pub fn last_call(&self, at: Time, ahead_ms: u64) -> Time {
        let end = self.end(self.of(at));
        Time::from_micros(end.micros().saturating_sub(ahead_ms.saturating_mul(1_000)))
    }

    fn length_us(&self) -> u64 {
        self.length_ms.saturating_mul(1_000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_count_from_one_and_end_where_the_next_begins() {
        // E-0.5
        let epochs = Epochs { tge_at: Time::from_millis(100_000), length_ms: 45_000 };
        let at = |ms: u64| Time::from_millis(ms);
        assert_eq!([0, 100_000, 144_999, 145_000].map(|ms| epochs.of(at(ms))), [1, 1, 1, 2]);
        assert_eq!((epochs.end(1), epochs.last_call(at(144_999), 5_000)), (at(145_000), at(140_000)));
    }
}
