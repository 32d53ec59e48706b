//! Says when traces do not reach their collector: the SDK drops them without a word.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::measure::SPANS_DROPPED;

/// While the collector stays away, its operator is told again so often.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// An exporter whose failures are counted, and said now and then.
#[derive(Debug)]
pub(super) struct Told<E> {
    inner: E,
    url: String,
    said: Mutex<Said>,
}

impl<E> Told<E> {
    pub(super) fn new(inner: E, url: &str) -> Told<E> {
        Told { inner, url: url.to_owned(), said: Mutex::default() }
    }
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.inner.export(batch).await;
        if sent.is_err() {
            SPANS_DROPPED.counter(&[]).increment(spans);
        }
        let say =
            self.said.lock().unwrap_or_else(PoisonError::into_inner).after(sent.is_ok(), Instant::now());
        match (say, &sent) {
            (Say::Away, Err(why)) => {
                let url = &self.url;
                tracing::warn!(
                    url,
                    %why,
                    "traces do not reach their collector and are dropped: is telemetry.otlp its address, and does it run?"
                );
            }
            (Say::Back, _) => tracing::info!(url = self.url, "traces reach their collector again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// When it was last said that the collector is away; `None` while it is there.
#[derive(Debug, Default)]
struct Said(Option<Instant>);

/// What is to be said of an export.
#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Away,
    Back,
}

impl Said {
    fn after(&mut self, sent: bool, now: Instant) -> Say {
        match (sent, self.0) {
            (true, None) => Say::Nothing,
            (true, Some(_)) => {
                self.0 = None;
                Say::Back
            }
            (false, Some(last)) if now.duration_since(last) < AGAIN => Say::Nothing,
            (false, _) => {
                self.0 = Some(now);
                Say::Away
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_collector_is_away_is_said_once_then_rarely_and_that_it_is_back_too() {
        let (mut said, start) = (Said::default(), Instant::now());
        let mut after = |sent, seconds| said.after(sent, start + Duration::from_secs(seconds));
        assert_eq!(
            [after(true, 0), after(false, 5), after(false, 10)],
            [Say::Nothing, Say::Away, Say::Nothing]
        );
        assert_eq!([after(false, 904), after(false, 905)], [Say::Nothing, Say::Away]);
        assert_eq!([after(true, 910), after(true, 915)], [Say::Back, Say::Nothing]);
        assert_eq!(after(false, 920), Say::Away);
    }
}
