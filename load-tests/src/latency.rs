//! How long answers took, and what a run measured.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use holmes_kernel::Id;
use serde::{Deserialize, Serialize};

/// The longest wait that is told apart; longer ones count as this.
const LONGEST_US: u64 = 600_000_000;

/// Waits, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Result<Latency> {
        Ok(Latency(Histogram::new_with_bounds(1, LONGEST_US, 3)?))
    }

    pub(crate) fn record(&mut self, wait: Duration) {
        self.0.saturating_record(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, other: &Latency) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn waits(&self) -> Waits {
        let ms = |share| self.0.value_at_quantile(share) as f64 / 1_000.0;
        Waits {
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// The waits below which so much of the requests were answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waits {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Items that were durable within the time that counts, a second.
    pub(crate) per_second: f64,
    /// Requests among them.
    pub(crate) batches: u64,
    /// Requests that were never sent, because too many were under way for too long: the waits say nothing then.
    pub(crate) unsent: u64,
    pub(crate) waits: Waits,
}

/// A run with all that was acknowledged in it, warm-up included.
pub(crate) struct Ran {
    pub(crate) measured: Measured,
    pub(crate) acknowledged: Vec<Id>,
    /// All requests, warm-up included.
    pub(crate) batches: u64,
}
