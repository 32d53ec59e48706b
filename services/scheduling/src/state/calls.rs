//! Calls by their ids, beyond their leases: a request id is good for an hour, and must not run again in it, whatever
//! gateway or lease it comes to (design: one way in).

use std::collections::BTreeMap;

use holmes_kernel::window::{WINDOW_AGE_MS, WINDOW_AHEAD_MS};
use holmes_kernel::{Id, Time};
use serde::{Deserialize, Serialize};

use crate::params::MOST_CALLS_KNOWN;

/// Calls that one event forgets at most beside as many as it adds.
const FORGOTTEN_PER_EVENT: usize = 4;

/// The calls whose ids can come again. Ids are UUIDv7: in their order the oldest come first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Of each the place of its last receipt, sequence number and line; `None` while it has none.
    places: BTreeMap<Id, Option<(u64, u32)>>,
    /// Of ids up to this moment nobody can say any more whether they were used.
    until: Option<Time>,
}

impl Calls {
    /// What is known of a call: `None` when its id was never used.
    pub fn find(&self, call: &Id) -> Option<Option<(u64, u32)>> {
        let too_old = call.moment().is_some_and(|moment| Some(moment) <= self.until);
        self.places.get(call).copied().or_else(|| too_old.then_some(None))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A call runs.
    pub(super) fn runs(&mut self, call: Id, now: Time) {
        self.places.entry(call).or_default();
        self.forget(now);
    }

    /// A call has a receipt.
    pub(super) fn metered(&mut self, call: Id, place: (u64, u32), now: Time) {
        self.places.insert(call, Some(place));
        self.forget(now);
    }

    /// Forgets ids that gateways refuse by their age, with room for clocks that differ; and the oldest where memory is
    /// short: those are as good as too old from then on.
    fn forget(&mut self, now: Time) {
        for _ in 0..=FORGOTTEN_PER_EVENT {
            let Some(oldest) = self.places.first_key_value().map(|(call, _)| *call) else { return };
            let moment = oldest.moment().unwrap_or_default();
            let over = moment.after_millis(WINDOW_AGE_MS + WINDOW_AHEAD_MS) < now;
            if !over && self.places.len() <= MOST_CALLS_KNOWN {
                return;
            }
            self.places.remove(&oldest);
            self.until = self.until.max(Some(moment));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(100_000_000);

    fn call(ms: u64, n: u8) -> Id {
        Id::v7(ms, [n; 10])
    }

    #[test]
    fn a_call_is_known_as_long_as_its_id_can_come_again() {
        let mut calls = Calls::default();
        calls.runs(call(NOW.millis(), 1), NOW);
        assert_eq!(calls.find(&call(NOW.millis(), 1)), Some(None));
        calls.metered(call(NOW.millis(), 1), (7, 2), NOW);
        calls.runs(call(NOW.millis(), 1), NOW);
        assert_eq!(calls.find(&call(NOW.millis(), 1)), Some(Some((7, 2))), "a receipt is not forgotten");
        assert_eq!(calls.find(&call(NOW.millis(), 2)), None);
        let later = NOW.after_millis(WINDOW_AGE_MS + WINDOW_AHEAD_MS);
        calls.runs(call(later.millis(), 3), later);
        assert_eq!(calls.find(&call(NOW.millis(), 1)), Some(Some((7, 2))));
        let later = later.after_millis(1);
        calls.runs(call(later.millis(), 4), later);
        assert_eq!(calls.len(), 2);
        assert_eq!(calls.find(&call(NOW.millis(), 2)), Some(None), "nobody can say any more");
    }
}
