//! `holmes config`: is it right, what is it, what does it mean.

use std::path::Path;

use holmes_runtime::config::{self, Config};
use holmes_runtime::telemetry;

use crate::output::{self, Format};
use crate::profile::Profile;

/// What to do with the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes config dump > holmes.toml              the defaults as a file to begin with
  holmes -c holmes.toml config check            is it right?
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
    Explain,
}

/// What only a use would show: a profile, a filter or a directory that is none.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    Profile::load(&config.cell.profile)?;
    telemetry::filter(&config.telemetry)?;
    let ports = [
        ("server.listen", config.server.listen),
        ("server.admin", config.server.admin),
        ("gateway.http", config.gateway.http),
    ];
    for (at, (name, address)) in ports.iter().enumerate() {
        let same = ports[..at].iter().find(|(_, other)| other == address && address.port() != 0);
        if let Some((other, _)) = same {
            anyhow::bail!("{other} and {name} are both {address}: give each a port of its own");
        }
    }
    let dir = &config.store.dir;
    anyhow::ensure!(!dir.exists() || dir.is_dir(), "store.dir = {}: a file, not a directory", dir.display());
    Ok(())
}

/// Carries it out.
pub(crate) fn run(args: &Args, file: Option<&Path>, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Check => {
            check(&config::load(file)?)?;
            eprintln!("the configuration is right");
        }
        Action::Dump => output::text(config::load(file)?.to_toml().trim_end())?,
        Action::Explain => {
            let rows = config::explain(file)?;
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
