//! Configuration: typed defaults, then a file, then the environment (`HOLMES__SECTION__KEY`), then flags. Unknown keys
//! in the file are errors: a misspelt limit is a limit that is not there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

mod bounds;
mod keys;
mod wrong;

use keys::KEYS;
pub use wrong::Wrong;

/// What every environment variable of ours begins with.
const PREFIX: &str = "HOLMES__";

/// Everything that can be set from outside. What the network agrees on (parameters, prices) is not here: it is in the
/// logs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The deployment.
    pub cell: Cell,
    /// Where logs are kept.
    pub store: Store,
    /// What carries them to readers in other processes.
    pub bus: Bus,
    /// The other processes of the cell.
    pub cluster: Cluster,
    /// What they know this process by.
    pub tls: Tls,
    /// Where callers are answered.
    pub server: Server,
    /// The edge for renters and nodes.
    pub gateway: Gateway,
    /// The models that this machine can serve.
    pub models: Models,
    /// What is told about the process.
    pub telemetry: Telemetry,
}

/// The deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cell {
    /// Number of the cell, in every frame and id.
    pub number: u16,
    /// The network's profile: a file, or the name of one that is built in; empty means the binary's own choice.
    pub profile: String,
}

/// Where logs are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Directory of keys and of the embedded journal.
    pub dir: PathBuf,
    /// CQL servers that keep the logs instead, `host:port` with commas between them; empty: the embedded journal does.
    pub cql: String,
    /// The keyspace of the cell there.
    pub keyspace: String,
    /// User there; empty: none.
    pub user: String,
    /// File with its password.
    pub password_file: PathBuf,
    /// One copy of each row is enough: for development.
    pub dev: bool,
    /// Behind how many events a new snapshot is written; 0 means never.
    pub snapshot_every: u64,
    /// Start although the clock is more than 30 days past the last frame.
    pub accept_clock: bool,
}

/// What carries logs to readers in other processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bus {
    /// NATS servers with JetStream, `host:port` with commas between them; empty: logs are not carried anywhere.
    pub nats: String,
    /// User there; empty: none.
    pub user: String,
    /// File with its password.
    pub password_file: PathBuf,
    /// File with the certificates of those who may sign the servers' (PEM); empty: no TLS, or the system's own.
    pub ca: PathBuf,
    /// File with our certificate for the servers (PEM); empty: none.
    pub certificate: PathBuf,
    /// File with its key (PEM).
    pub key: PathBuf,
}

/// The other processes of the cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Where each service is: `ledger=http://a:7070|http://b:7070, *=http://holmes-{service}:7070`; empty: this process is the
    /// whole cell.
    pub peers: String,
    /// How long a process that owns a log may be silent before another one claims it, in milliseconds.
    pub lease_ms: u64,
}

/// What the other processes of the cell know this one by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// File with the certificates of those who may sign the cell's (PEM).
    pub authority: PathBuf,
    /// File with our certificate and those between it and theirs (PEM); empty: no TLS.
    pub certificate: PathBuf,
    /// File with its key (PEM).
    pub key: PathBuf,
}

/// Who may connect to the gRPC port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// Whoever reaches it, without TLS.
    Plain,
    /// Whoever reaches it, within TLS.
    Anybody,
    /// Who shows a certificate of the cell's authority.
    Cell,
}

/// Where callers are answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address of the gRPC port.
    pub listen: SocketAddr,
    /// Who may connect to it.
    pub clients: Clients,
    /// Address of the admin port: metrics, health, readiness. Never reachable from outside.
    pub admin: SocketAddr,
    /// Unary calls in progress in the whole process, of callers who have proven who they are; more are refused at once.
    pub max_calls: usize,
    /// The same of callers who have not.
    pub max_guest_calls: usize,
    /// Open streams in the whole process, of callers who have proven who they are; more are refused at once.
    pub max_streams: usize,
    /// The same of callers who have not; the oldest gives way to the one too many.
    pub max_guest_streams: usize,
    /// How long a stream may last whose caller has not proven who it is, in milliseconds.
    pub guest_stream_ms: u64,
    /// Connections of the gRPC port; when there are more, the oldest of a caller who has proven nothing gives way.
    pub max_connections: usize,
    /// The same from one address.
    pub max_connections_per_address: usize,
    /// Calls and streams in progress of one connection.
    pub max_calls_per_connection: usize,
    /// Bytes of one signed request, which is held whole while its signature is checked.
    pub max_request_bytes: usize,
    /// Bytes of all signed requests together whose signature is being checked.
    pub max_unproven_bytes: usize,
    /// Deadline of a call whose caller has set none, in milliseconds.
    pub deadline_ms: u64,
    /// Longest deadline of a call, in milliseconds, whatever its caller has set.
    pub longest_deadline_ms: u64,
    /// How long calls in progress may take after a signal to stop, in milliseconds.
    pub drain_ms: u64,
}

/// The edge for renters and nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Address of the HTTP port where renters call as they would call OpenAI.
    pub http: SocketAddr,
    /// Connections of the HTTP port; when there are more, the oldest of a caller who has proven nothing gives way.
    pub max_connections: usize,
    /// The same from one address.
    pub max_connections_per_address: usize,
    /// How long the head of an HTTP request may be on its way, and a connection without one stays open, in milliseconds.
    pub header_ms: u64,
    /// How long the body of an HTTP request may be on its way, in milliseconds.
    pub body_ms: u64,
    /// Renters' calls in progress.
    pub max_calls: usize,
    /// The same of one account.
    pub max_calls_per_account: usize,
    /// Share of the slots of the nodes that serve a model, in percent, that one account may hold.
    pub max_slots_percent: u8,
}

/// The models that this machine can serve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// Directory with a directory for each; empty means `holmes/models` in the user's data directory.
    pub dir: PathBuf,
}

/// What is told about the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What is logged, in the filter language of `tracing`: `info`, `holmes_runtime=debug,info`.
    pub log: String,
    /// How log lines look: `text` or `json`.
    pub format: LogFormat,
    /// Address of an OpenTelemetry collector (OTLP over gRPC) for traces; empty means none.
    pub otlp: String,
    /// Share of traces that are kept when the caller has not decided, in percent.
    pub sample_percent: u8,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Cell {
    fn default() -> Self {
        Cell { number: 1, profile: String::new() }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store {
            dir: "holmes-data".into(),
            cql: String::new(),
            keyspace: "holmes".into(),
            user: String::new(),
            password_file: PathBuf::new(),
            dev: false,
            snapshot_every: 1_000_000,
            accept_clock: false,
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { peers: String::new(), lease_ms: 3_000 }
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            clients: Clients::Plain,
            admin: SocketAddr::from(([127, 0, 0, 1], 7071)),
            max_calls: 8_192,
            max_guest_calls: 1_024,
            max_streams: 16_384,
            max_guest_streams: 512,
            guest_stream_ms: 300_000,
            max_connections: 16_384,
            max_connections_per_address: 1_024,
            max_calls_per_connection: 256,
            max_request_bytes: 4 * 1024 * 1024,
            max_unproven_bytes: 64 * 1024 * 1024,
            deadline_ms: 10_000,
            longest_deadline_ms: 120_000,
            drain_ms: 20_000, // with the last bytes of answers less than the 30 s that supervisors give
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            http: SocketAddr::from(([127, 0, 0, 1], 7072)),
            max_connections: 4_096,
            max_connections_per_address: 1_024,
            header_ms: 10_000,
            body_ms: 30_000,
            max_calls: 4_096,
            max_calls_per_account: 256,
            max_slots_percent: 80,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry { log: "info".into(), format: LogFormat::Text, otlp: String::new(), sample_percent: 10 }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named and is not there.
    #[error(
        "there is no configuration file {0}: create it (`holmes config dump > {0}`), or leave --config out"
    )]
    NoFile(String),
    /// Keys that are unknown, values of another type or out of their bounds.
    #[error("{}", .0.iter().map(Wrong::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Wrong>),
}

impl ConfigError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            ConfigError::NoFile(_) => "CONFIG_MISSING",
            ConfigError::Wrong(_) => "CONFIG_INVALID",
        }
    }
}

/// The configuration of a file, if one is named, and of the environment.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    extract(&figment(file)?)
}

/// The configuration that the text of a file says, whatever the environment is.
pub fn read(text: &str) -> Result<Config, ConfigError> {
    extract(&Figment::from(Serialized::defaults(Config::default())).merge(Toml::string(text)))
}

fn extract(figment: &Figment) -> Result<Config, ConfigError> {
    let config: Config = figment.extract().map_err(|why| ConfigError::Wrong(Wrong::all(figment, why)))?;
    let wrong = Wrong::bounds(figment, &config);
    if wrong.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(wrong)) }
}

/// What is wrong with values in the eyes of who uses them, told as [`load`] tells what it finds: keys, each with what
/// stands behind it in the message.
pub fn refused(file: Option<&Path>, found: Vec<(&'static str, String)>) -> Result<(), ConfigError> {
    let figment = figment(file)?;
    let wrong: Vec<Wrong> = found.into_iter().map(|(key, what)| Wrong::of_key(&figment, key, what)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(wrong)) }
}

/// The layers themselves, for those who want to know where a value comes from.
fn figment(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file.display().to_string()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    Ok(figment.merge(Env::prefixed(PREFIX).split("__")))
}

impl Config {
    /// The configuration as a file would say it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|why| format!("# cannot be shown: {why}\n"))
    }
}

/// A key with its meaning, its value, and where the value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `section.key`.
    pub key: &'static str,
    /// The environment variable that sets it.
    pub variable: String,
    /// What it means.
    pub meaning: &'static str,
    /// Its value now.
    pub value: String,
    /// `default`, the file's name, or the environment.
    pub source: String,
}

/// Every key, as it is now.
pub fn explain(file: Option<&Path>) -> Result<Vec<Explained>, ConfigError> {
    let figment = figment(file)?;
    // Whatever is wrong with a value, the table shows it; a file that is no TOML has no values.
    figment.find_value(KEYS[0].0).map_err(|why| ConfigError::Wrong(Wrong::all(&figment, why)))?;
    let row = |(key, meaning): &(&'static str, &'static str)| {
        let value = figment.find_value(key).map(|value| shown(&value)).unwrap_or_default();
        let from = figment
            .find_metadata(key)
            .map(|m| (m.name.to_string(), m.source.as_ref().map(|s| s.to_string())));
        let source = match from {
            Some((name, _)) if name.contains("Config") => "default".into(),
            Some((_, Some(file))) => file,
            Some((_, None)) => "environment".into(), // figment's own words have its prefix in them
            None => String::new(),
        };
        Explained { key, variable: wrong::variable(key), meaning, value, source }
    };
    Ok(KEYS.iter().map(row).collect())
}

fn shown(value: &figment::value::Value) -> String {
    use figment::value::Value;
    match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, on) => on.to_string(),
        Value::Num(_, number) => {
            number.to_u128().map_or_else(|| format!("{number:?}"), |integer| integer.to_string())
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
