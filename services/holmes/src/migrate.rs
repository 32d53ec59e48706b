//! `holmes migrate`: makes on CQL servers what logs are kept in.

use anyhow::{Result, bail, ensure};
use holmes_runtime::config::Config;
use holmes_runtime::telemetry;
use holmes_store::journal::scylla::{Journal, Replication};

use crate::data;
use crate::doctor::{self, Check};
use crate::output::{self, Format};

/// What is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes migrate --cql 10.0.0.1:9042,10.0.0.2:9042        three copies, in the servers' data centre
  holmes migrate --cql 127.0.0.1:9042 --dev               one copy, for development
  holmes migrate --cql 10.0.0.1:9042 --plan               only say what would be done

It may be said again at any time: what is there stays. Copies and data centre are fixed once they are said. \
Then: holmes serve, with the same servers (store.cql, or HOLMES__STORE__CQL).")]
pub(crate) struct Args {
    /// CQL servers, host:port with commas between them.
    #[arg(long)]
    cql: Option<String>,
    /// Keyspace of the cell.
    #[arg(long)]
    keyspace: Option<String>,
    /// One copy of each row, where losing them is no loss.
    #[arg(long)]
    dev: bool,
    /// How often each row is kept: odd, at least 3 but with --dev.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    copies: Option<u8>,
    /// The servers' data centre; by default that of the server that answers.
    #[arg(long)]
    datacenter: Option<String>,
    /// Print the statements and do nothing.
    #[arg(long)]
    plan: bool,
}

/// Makes it, and says what the servers are found to be.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<bool> {
    telemetry::warnings();
    config.store.cql = args.cql.unwrap_or(config.store.cql);
    config.store.keyspace = args.keyspace.unwrap_or(config.store.keyspace);
    config.store.dev |= args.dev;
    if config.store.cql.is_empty() {
        bail!(
            "no CQL server is named: --cql host:port, or store.cql (the embedded journal needs no migration)"
        );
    }
    let copies = args.copies.unwrap_or(if config.store.dev { 1 } else { 3 });
    ensure!(
        copies % 2 == 1 && (copies >= 3 || config.store.dev),
        "a log needs an odd number of copies, at least 3 (--copies 3), or --dev where losing it is no loss"
    );
    let options = data::options(&config);
    let datacenter = match args.datacenter {
        Some(named) => named,
        None => Journal::datacenter(&options).await?,
    };
    let replication = Replication { datacenter, copies };
    if args.plan {
        for statement in Journal::plan(&options, &replication) {
            output::text(&format!("{statement};"))?;
        }
        return Ok(true);
    }
    Journal::migrate(&options, &replication).await?;
    let checks = Journal::connect(options).await?.checks().await?;
    let checks: Vec<Check> = checks.into_iter().map(Check::from).collect();
    doctor::show(format, &checks)
}
