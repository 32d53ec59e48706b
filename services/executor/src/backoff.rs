//! Pauses between attempts: from 200 ms to 10 s, each twice the one before, with jitter so that many nodes that lost
//! one gateway do not come back at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// The next pause.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { next: FIRST }
    }

    /// It went well: the next pause is a short one.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The pause before the next attempt: between half of it and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        let mut random = [0; 1];
        // without randomness there is no jitter, which is no reason not to try again
        let share = getrandom::fill(&mut random).map_or(255, |()| u32::from(random[0]));
        whole / 2 + whole * share / 510
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new();
        for whole in [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            let (pause, whole) = (backoff.pause(), Duration::from_millis(whole));
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
