//! A send that is tried until it succeeds.

use holmes_kernel::Time;
use serde::{Deserialize, Serialize};

/// The first pause after a refusal, ms; each further one is twice as long.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest pause, ms: 1 h, after which the ledger has forgotten what it refused (E-2.3).
const LONGEST_PAUSE_MS: u64 = 3_600_000;

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

    /// The pause before the next try, when it is refused now.
    pub fn pause_ms(&self) -> u64 {
        FIRST_PAUSE_MS
            .checked_shl(self.attempt.min(32))
            .map_or(LONGEST_PAUSE_MS, |ms| ms.min(LONGEST_PAUSE_MS))
    }
}
