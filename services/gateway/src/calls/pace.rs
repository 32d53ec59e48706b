//! How fast an answer comes, as its renter has it.

use std::sync::Arc;

use holmes_proto::scheduling::v1::CallLine;
use tokio::time::Instant;

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// What the page says after an answer whose tokens came so many milliseconds apart, so many at a time.
    async fn after(tokens: &[(u64, u64)]) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let meters = metrics::with_local_recorder(&recorder, || Arc::new(ModelMeters::new("m")));
        let mut pace = Pace::new();
        pace.is_of(meters);
        for (ms, count) in tokens {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            pace.tokens(*count);
        }
        pace.ended();
        recorder.handle().render()
    }

    /// A family's sum in milliseconds, and how many went into it.
    fn seen(page: &str, family: &str) -> Option<(f64, f64)> {
        let value = |end: &str| -> Option<f64> {
            let series = format!("holmes_gateway_{family}_seconds_{end}{{model=\"m\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
        };
        Some(((value("sum")? * 1e3).round(), value("count")?))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answers_pace_is_the_mean_time_of_the_tokens_behind_the_first_ones() {
        let page = after(&[(300, 2), (40, 1), (60, 4)]).await;
        assert_eq!(seen(&page, "first_token"), Some((300.0, 1.0)));
        assert_eq!(seen(&page, "output_token"), Some((20.0, 1.0)), "100 ms, five tokens");
        assert_eq!(seen(&page, "call"), Some((400.0, 1.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_came_all_at_once_has_no_pace_and_an_empty_one_no_first_token() {
        let page = after(&[(300, 7)]).await;
        assert_eq!(seen(&page, "first_token"), Some((300.0, 1.0)));
        assert!(!matches!(seen(&page, "output_token"), Some((_, 1.0))), "{page}");
        let page = after(&[]).await;
        assert!(!matches!(seen(&page, "first_token"), Some((_, 1.0))), "{page}");
        assert!(matches!(seen(&page, "call"), Some((_, 1.0))));
    }
}
