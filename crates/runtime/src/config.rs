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

/// Where callers are answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address of the gRPC port.
    pub listen: SocketAddr,
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
            dev: false,
            snapshot_every: 1_000_000,
            accept_clock: false,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
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
#[allow(clippy::result_large_err)] // closures of a jail answer figment's own large error
mod tests {
    use figment::Jail;

    use super::*;

    fn jailed(test: impl FnOnce(&mut Jail) -> figment::Result<()>) {
        Jail::expect_with(test);
    }

    #[test]
    fn every_key_is_explained_and_every_explained_key_exists() {
        let value = figment::value::Value::serialize(Config::default()).unwrap();
        let sections = value.as_dict().unwrap();
        let mut keys: Vec<String> = Vec::new();
        for (section, value) in sections {
            keys.extend(value.as_dict().unwrap().keys().map(|key| format!("{section}.{key}")));
        }
        let mut explained: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        explained.sort_unstable();
        keys.sort_unstable();
        assert_eq!(keys, explained);
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
        jailed(|jail| {
            jail.create_file("holmes.toml", "[server]\nmax_calls = 5\ndeadline_ms = 7\n")?;
            jail.set_env("HOLMES__SERVER__MAX_CALLS", "6");
            let config = load(Some(Path::new("holmes.toml"))).unwrap();
            assert_eq!((config.server.max_calls, config.server.deadline_ms), (6, 7));
            assert_eq!(config.server.drain_ms, Server::default().drain_ms);
            let rows = explain(Some(Path::new("holmes.toml"))).unwrap();
            let source = |key| rows.iter().find(|row| row.key == key).map(|row| row.source.clone()).unwrap();
            assert!(source("server.max_calls").contains("environment"));
            assert!(source("server.deadline_ms").contains("holmes.toml"));
            assert_eq!(source("server.drain_ms"), "default");
            Ok(())
        });
    }

    #[test]
    fn what_is_wrong_is_told_by_its_key_what_stands_there_what_is_expected_and_where() {
        for (text, told) in [
            (
                "[server]\nmax_cals = 5\n",
                "server.max_cals: there is no such key; [server] has listen, admin, max_calls,",
            ),
            ("[sever]\nmax_calls = 5\n", "sever: there is no such key; the sections are cell, store, bus,"),
            (
                "[server]\nmax_calls = \"many\"\n",
                "server.max_calls = \"many\": a whole number from 0 on is expected",
            ),
            ("[server]\nmax_calls = -1\n", "server.max_calls = -1: a whole number from 0 on is expected"),
            ("[cell]\nnumber = 70000\n", "cell.number = 70000: a whole number from 0 to 65535 is expected"),
            ("[cell]\nnumber = 0\n", "cell.number = 0: cells are numbered from 1"),
            (
                "[server]\nlisten = \"nowhere\"\n",
                "server.listen = \"nowhere\": an address with its port, as in",
            ),
            ("[server]\nlisten = 7070\n", "server.listen = 7070: an address with its port, as in"),
            ("server = 5\n", "server = 5: a section with keys of its own is expected"),
            ("[store]\naccept_clock = \"yes\"\n", "store.accept_clock = \"yes\": true or false is expected"),
            ("[store]\ndir = 5\n", "store.dir = 5: a text (in quotes) is expected"),
            ("[server]\nmax_request_bytes = 1\n", "server.max_request_bytes = 1: 1024 bytes to 64 MiB"),
            ("[server]\nmax_calls = 9000000000000000000\n", "1 to 1000000"),
            ("[server]\nmax_calls_per_connection = 0\n", "1 to 1000000"),
            ("[telemetry]\nformat = \"xml\"\n", "telemetry.format = \"xml\": text or json is expected"),
            ("[telemetry]\nformat = 5\n", "telemetry.format = 5: text or json is expected"),
            ("[server\n", "TOML parse error at line 1"),
        ] {
            jailed(|jail| {
                jail.create_file("holmes.toml", text)?;
                let error = load(Some(Path::new("holmes.toml"))).unwrap_err().to_string();
                for words in [told, "\n  in holmes.toml; `holmes config explain"] {
                    assert!(error.contains(words), "{text:?} gave {error:?}");
                }
                for inner in ["usize", "figment", "struct ", "default.", "Some("] {
                    assert!(!error.contains(inner), "{text:?} gave {error:?}");
                }
                Ok(())
            });
        }
        assert!(matches!(load(Some(Path::new("absent.toml"))), Err(ConfigError::NoFile(_))));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        jailed(|jail| {
            let text = "[server]\nmax_cals = 5\nmax_calls = \"many\"\nmax_streams = 0\n[sever]\na = 1\n[cell]\nnumber = 0\n";
            jail.create_file("holmes.toml", text)?;
            jail.set_env("HOLMES__GATEWAY__MAX_CALLS", "0");
            let error = load(Some(Path::new("holmes.toml"))).unwrap_err().to_string();
            for key in [
                "server.max_cals: ",
                "server.max_calls = ",
                "server.max_streams = 0",
                "sever: ",
                "cell.number = 0",
                "gateway.max_calls = 0",
            ] {
                assert_eq!(error.matches(key).count(), 1, "{key} in {error}");
            }
            assert!(error.contains("in the environment variable HOLMES__GATEWAY__MAX_CALLS"), "{error}");
            assert_eq!(error.matches("in holmes.toml").count(), 5, "{error}");
            Ok(())
        });
    }

    #[test]
    fn what_is_wrong_in_the_environment_is_told_by_its_variable() {
        for (variable, value, told) in [
            ("HOLMES__SERVER__MAX_CALLS", "many", "server.max_calls = \"many\": a whole number"),
            ("HOLMES__SERVER__MAX_CALLS", "0", "server.max_calls = 0: 1 to 1000000"),
            ("HOLMES__SERVER__MAX_CALS", "5", "server.max_cals: there is no such key"),
            ("HOLMES__SERVER__LISTEN", "x", "server.listen = \"x\": an address with its port"),
        ] {
            jailed(|jail| {
                jail.set_env(variable, value);
                let error = load(None).unwrap_err().to_string();
                let place = format!("\n  in the environment variable {variable}; `holmes config explain");
                assert!(error.contains(told) && error.contains(&place), "{variable}={value} gave {error:?}");
                Ok(())
            });
        }
    }

    #[test]
    fn a_file_that_is_no_toml_is_not_explained_as_if_it_said_nothing() {
        jailed(|jail| {
            jail.create_file("holmes.toml", "[server\n")?;
            assert!(explain(Some(Path::new("holmes.toml"))).is_err());
            Ok(())
        });
    }

    #[test]
    fn what_is_dumped_can_be_loaded() {
        jailed(|jail| {
            jail.create_file("holmes.toml", &Config::default().to_toml())?;
            assert_eq!(load(Some(Path::new("holmes.toml"))).unwrap(), Config::default());
            Ok(())
        });
    }
}
