//! What a process tells of itself: log lines on stderr, traces to a collector when one is configured, metrics as
//! Prometheus text. Where lines are JSON, whoever collects them reads all of stderr as such, so nothing else is said there.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use holmes_proto::address::{self, AddressError};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, Telemetry};

/// Buckets of every duration, in seconds: from one fsync to a caller's patience.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not in the language of `tracing`.
    #[error("telemetry.log = {0:?} is not a filter: write a level (info), or target=level,…")]
    Filter(String),
    /// The collector's address is no address.
    #[error("telemetry.otlp = {0}")]
    Collector(AddressError),
    /// Nothing can be sent to the collector.
    #[error("telemetry.otlp = {0:?}: no traces can be sent there: {1}")]
    Exporter(String, String),
    /// Set up before, by somebody else.
    #[error("telemetry is set up already: {0}")]
    Twice(String),
}

/// How this process' log lines look, once there are any.
static LINES: OnceLock<LogFormat> = OnceLock::new();

/// Whether stderr holds lines of JSON: what a person would be told there is then a log line too.
pub fn is_json() -> bool {
    LINES.get() == Some(&LogFormat::Json)
}

/// Keeps telemetry going; [`Guard::shutdown`] sends what is left.
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    metrics: PrometheusHandle,
}

/// Whether the settings can be used: what only a use would show.
pub fn check(settings: &Telemetry) -> Result<(), TelemetryError> {
    filter(settings)?;
    collector(settings)?;
    Ok(())
}

/// Where traces are sent, if anywhere.
fn collector(settings: &Telemetry) -> Result<Option<String>, TelemetryError> {
    let named = Some(settings.otlp.as_str()).filter(|named| !named.is_empty());
    let url = |named| address::url(named, "http://127.0.0.1:4317").map_err(TelemetryError::Collector);
    named.map(url).transpose()
}

/// What is logged.
fn filter(settings: &Telemetry) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(&settings.log).map_err(|_| TelemetryError::Filter(settings.log.clone()))
}

/// Sets telemetry up for the whole process. Inside a tokio runtime, once.
pub fn init(settings: &Telemetry, service: &str) -> Result<Guard, TelemetryError> {
    let filter = filter(settings)?;
    let traces = collector(settings)?.map(|url| traces(&url, settings, service)).transpose()?;
    let exported =
        traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("holmes")));
    let lines = match settings.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(exported)
        .with(lines)
        .try_init()
        .map_err(|why| TelemetryError::Twice(why.to_string()))?;
    LINES.get_or_init(|| settings.format);
    let metrics = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|why| TelemetryError::Twice(why.to_string()))?;
    describe();
    Ok(Guard { traces, metrics })
}

/// What each metric means, for those who only see its name.
fn describe() {
    metrics::describe_gauge!("holmes_build_info", "Always 1; the label says which build runs.");
    metrics::gauge!("holmes_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_gauge!(
        "holmes_log_head",
        "Sequence number of the last durable event of a service's log."
    );
    metrics::describe_histogram!("holmes_append_seconds", "How long a frame took until it was durable.");
    metrics::describe_histogram!("holmes_call_seconds", "How long a call took, by method and status.");
    metrics::describe_counter!(
        "holmes_connections_refused_total",
        "Connections that were closed at once because their port, or their address on it, had too many."
    );
    metrics::describe_counter!(
        "holmes_sources_parked_total",
        "Logs that a service no longer follows until a person has looked."
    );
    metrics::describe_counter!(
        "holmes_sources_ahead_total",
        "Entries that came with a time ahead of the clock."
    );
}

fn traces(url: &str, settings: &Telemetry, service: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(url)
        .build()
        .map_err(|why| TelemetryError::Exporter(url.to_owned(), why.to_string()))?;
    let share = f64::from(settings.sample_percent) / 100.0;
    Ok(SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(service.to_owned()).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
        .with_batch_exporter(exporter)
        .build())
}

impl Guard {
    /// The metrics as Prometheus text.
    pub fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    /// Sends what is left.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(why) = traces.shutdown()
        {
            tracing::warn!(%why, "the last traces did not reach the collector");
        }
    }
}
