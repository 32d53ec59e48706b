//! A send that is tried until it succeeds.

use holmes_kernel::{Backoff, Time};
use serde::{Deserialize, Serialize};

/// Up to an hour, after which the ledger has forgotten what it refused (E-2.3).
const PAUSES: Backoff = Backoff { first_ms: 1_000, longest_ms: 3_600_000 };

/// Where the send of a step or of a release stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// Sequence number of our event that carries the send whose answer is awaited.
    pub awaits: Option<u64>,
    /// How often it was refused.
    pub attempt: u32,
    /// Why it was refused last; empty when it was not.
    pub refused: String,
    /// It is not sent before this.
    pub not_before: Time,
}

impl Errand {
    /// An event of ours carries it to the ledger.
    pub(super) fn sent(&mut self, seq: u64) {
        self.awaits = Some(seq);
    }

    /// The ledger has refused it.
    pub(super) fn refused(&mut self, reason: &str, not_before: Time) {
        *self = Errand {
            awaits: None,
            attempt: self.attempt.saturating_add(1),
            refused: reason.to_owned(),
            not_before,
        };
    }

    /// When to try next, when it is refused now.
    pub fn retry_at(&self, now: Time) -> Time {
        PAUSES.at(now, self.attempt)
    }
}
