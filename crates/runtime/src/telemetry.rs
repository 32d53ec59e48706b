//! What a process tells of itself: log lines on stderr, traces to a collector when one is configured, metrics as
//! Prometheus text. Where lines are JSON, whoever collects them reads all of stderr as such, so nothing else is said there.

mod collector;

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use holmes_proto::address::{self, AddressError};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, Telemetry};
use crate::measure::{self, BUILD, FAMILIES, Family, Kind, SPANS_DROPPED};

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
    metrics: Metrics,
}

/// What a process measures, for those who ask.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// The media type of [`Metrics::page`].
    pub const TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// All of it as Prometheus text.
    pub fn page(&self) -> String {
        measure::look();
        self.0.render()
    }
}

/// How often what histograms were told is folded into their buckets.
const KEEP_UP: Duration = Duration::from_secs(5);

/// Why the settings cannot be used, each with its key: what only a use would show.
pub fn check(settings: &Telemetry) -> Vec<(&'static str, TelemetryError)> {
    let log = filter(settings).err().map(|why| ("telemetry.log", why));
    let otlp = collector(settings).err().map(|why| ("telemetry.otlp", why));
    log.into_iter().chain(otlp).collect()
}

/// Where traces are sent, if anywhere.
fn collector(settings: &Telemetry) -> Result<Option<String>, TelemetryError> {
    let named = Some(settings.otlp.as_str()).filter(|named| !named.is_empty());
    let url = |named| address::url(named, "http://127.0.0.1:4317").map_err(TelemetryError::Collector);
    named.map(url).transpose()
}

/// What is logged. The database's driver tells of every connection: only what it warns of is news here, unless its name is
/// in the filter.
fn filter(settings: &Telemetry) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("async_nats=warn,scylla=warn,{}", settings.log))
        .map_err(|_| TelemetryError::Filter(settings.log.clone()))
}

/// Sets telemetry up for the whole process, which measures `families` besides what every process does. Inside a tokio
/// runtime, once, before anything is started that measures.
pub fn init(
    settings: &Telemetry,
    service: &str,
    families: &[&'static Family],
) -> Result<Guard, TelemetryError> {
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
    let metrics = (FAMILIES.iter().chain(families))
        .try_fold(PrometheusBuilder::new(), |builder, family| bucketed(builder, family))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|why| TelemetryError::Twice(why.to_string()))?;
    FAMILIES.iter().chain(families).for_each(|family| family.describe());
    BUILD.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    SPANS_DROPPED.counter(&[]).increment(0); // there from the start: the first is a change that an alert sees
    tokio::spawn(keep_up(metrics.clone()));
    Ok(Guard { traces, metrics: Metrics(metrics) })
}

/// Lets a tool that serves nothing say on stderr what must not be passed over in silence: warnings and errors, without
/// times. Where somebody else hears already, nothing changes.
pub fn warnings() {
    let lines = tracing_subscriber::fmt::layer().without_time().with_target(false).with_ansi(false);
    let lines = lines.with_writer(std::io::stderr).with_filter(LevelFilter::WARN);
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Has the buckets of a histogram be its family's.
fn bucketed(builder: PrometheusBuilder, family: &Family) -> Result<PrometheusBuilder, BuildError> {
    match family.kind {
        Kind::Histogram(buckets) => {
            builder.set_buckets_for_metric(Matcher::Full(family.name.to_owned()), buckets)
        }
        Kind::Counter | Kind::Gauge => Ok(builder),
    }
}

/// Folds what histograms were told into their buckets now and then: nobody may ever ask for them.
async fn keep_up(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(KEEP_UP).await;
        metrics.run_upkeep();
    }
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
        .with_batch_exporter(collector::Told::new(exporter, url))
        .build())
}

impl Guard {
    /// What the process measures.
    pub fn metrics(&self) -> Metrics {
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
