//! How fast an answer comes, as its renter has it.

use std::sync::Arc;
use std::time::Instant;

use holmes_proto::scheduling::v1::CallLine;

use crate::metrics::ModelMeters;

/// The clock of one call.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    /// When the first tokens were there, and when the last ones.
    first: Option<Instant>,
    last: Instant,
    /// Tokens behind the first ones, which come together.
    rest: u64,
    /// Once it is known that there is such a model.
    meters: Option<Arc<ModelMeters>>,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        let now = Instant::now();
        Pace { began: now, first: None, last: now, rest: 0, meters: None }
    }

    /// The call is of this model.
    pub(crate) fn is_of(&mut self, meters: Arc<ModelMeters>) {
        self.meters = Some(meters);
    }

    /// Tokens have come.
    pub(crate) fn tokens(&mut self, count: u64) {
        self.last = Instant::now();
        if self.first.is_some() {
            self.rest += count;
            return;
        }
        self.first = Some(self.last);
        if let Some(meters) = &self.meters {
            meters.first_token.record(self.last - self.began);
        }
    }

    /// A node has signed for this, and it is billed.
    pub(crate) fn billed(&self, line: Option<&CallLine>, cached: u32) {
        if let (Some(meters), Some(line)) = (&self.meters, line) {
            meters.prompt_tokens.increment(line.input_tokens);
            meters.completion_tokens.increment(line.output_tokens);
            meters.cached_tokens.increment(cached.into());
        }
    }

    /// The call has ended with an answer.
    pub(crate) fn ended(&self) {
        let Some(meters) = &self.meters else { return };
        meters.call.record(self.began.elapsed());
        if let Some(first) = self.first
            && self.rest > 0
        {
            meters.output_token.record((self.last - first).as_secs_f64() / self.rest as f64);
        }
    }
}
