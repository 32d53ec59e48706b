//! `holmes config`: is it right, what is it, what does it mean.

use std::net::SocketAddr;
use std::path::Path;

use holmes_runtime::config::{self, Config, ConfigError};
use holmes_runtime::telemetry;

use crate::output::{self, Format};
use crate::profile::Profile;
use crate::roles;

/// What to do with the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes config dump > holmes.toml              the defaults as a file to begin with
  holmes -c holmes.toml config check            is it right?
  holmes config explain server.listen           what a key means (or a section: server)
  HOLMES__SERVER__LISTEN=0.0.0.0:7070 holmes config explain
                                                every key, and where its value comes from")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say whether file and environment are right.
    Check,
    /// Print the whole configuration as a file.
    Dump,
    /// Print every key with its meaning, its value, and where the value comes from.
    Explain {
        /// Only this key, or the keys of this section.
        key: Option<String>,
    },
}

/// What only a use would show: a profile with which no log can be opened, a filter, an address or a directory that is none.
pub(crate) fn check(config: &Config, file: Option<&Path>) -> Result<(), ConfigError> {
    let mut found = Vec::new();
    if let Err(why) = Profile::load(&config.cell.profile).and_then(roles::openable) {
        found.push(("cell.profile", format!(" = {:?}: {why:#}", config.cell.profile)));
    }
    for (key, why) in telemetry::check(&config.telemetry) {
        let why = why.to_string();
        found.push((key, why.strip_prefix(key).unwrap_or(&why).to_owned()));
    }
    found.extend(same_ports(config, file)?);
    for (key, dir) in [("store.dir", &config.store.dir), ("models.dir", &config.models.dir)] {
        if dir.exists() && !dir.is_dir() {
            found.push((key, format!(" = {}: a file, not a directory", dir.display())));
        }
    }
    config::refused(file, found)
}

/// Ports of which another one has the address.
fn same_ports(config: &Config, file: Option<&Path>) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let rows = config::explain(file)?;
    let source =
        |key: &str| rows.iter().find(|row| row.key == key).map_or("default", |row| row.source.as_str());
    let ports = [
        ("server.listen", config.server.listen),
        ("server.admin", config.server.admin),
        ("gateway.http", config.gateway.http),
    ];
    let same = |(at, (name, address)): (usize, &(&'static str, SocketAddr))| {
        let (other, _) = ports[..at].iter().find(|(_, other)| other == address && address.port() != 0)?;
        let from = source(other);
        let what = format!(
            " = {address}, and so is {other} ({from}): {other} and {name} cannot share it, give each a port of its own"
        );
        Some((*name, what))
    };
    Ok(ports.iter().enumerate().filter_map(same).collect())
}

/// Carries it out.
pub(crate) fn run(args: &Args, file: Option<&Path>, format: Format) -> anyhow::Result<()> {
    match &args.action {
        Action::Check => {
            let config = config::load(file)?;
            check(&config, file)?;
            eprintln!("the configuration is right");
            let otlp = &config.telemetry.otlp;
            if !otlp.is_empty() && !otlp.contains("://") {
                eprintln!("telemetry.otlp = {otlp:?} is read as http://{otlp}");
            }
        }
        Action::Dump => output::text(config::load(file)?.to_toml().trim_end())?,
        Action::Explain { key } => {
            let mut rows = config::explain(file)?;
            if let Some(key) = key {
                let section = format!("{key}.");
                rows.retain(|row| row.key == key || row.key.starts_with(&section));
                anyhow::ensure!(
                    !rows.is_empty(),
                    "there is no key {key}: `holmes config explain` lists all of them"
                );
            }
            output::rows(format, &["KEY", "VALUE", "FROM", "MEANING"], &rows, |row| {
                vec![row.key.to_owned(), row.value.clone(), row.source.clone(), row.meaning.to_owned()]
            })?;
            if format == Format::Table {
                eprintln!("Each key can be set as HOLMES__SECTION__KEY, which goes before the file.");
            }
        }
    }
    Ok(())
}
