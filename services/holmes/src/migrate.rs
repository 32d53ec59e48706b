//! `holmes migrate`: makes what logs are kept in and carried by, on CQL and NATS servers.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use holmes_runtime::config::Config;
use holmes_runtime::telemetry;
use holmes_store::bus::nats::{Bus, Keep};
use holmes_store::journal::scylla::{Journal, Replication};

use crate::data;
use crate::doctor::{self, Check};
use crate::output::{self, Format};
use crate::{roles, stream};

/// What is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes migrate --cql 10.0.0.1:9042,10.0.0.2:9042        three copies, in the servers' data centre
  holmes migrate --cql 127.0.0.1:9042 --dev               one copy, for development
  holmes migrate --cql 10.0.0.1:9042 --plan               only say what would be done
  holmes migrate --nats 10.0.0.1:4222 --replicas 3        streams on three NATS servers

It may be said again at any time: what is there stays. Copies and data centre are fixed once they are said; replicas and days \
of streams are not. Then: holmes serve, with the same servers (store.cql and bus.nats, or HOLMES__STORE__CQL and \
HOLMES__BUS__NATS).")]
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
    /// NATS servers, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// How many NATS servers keep each stream: 1, 3 or 5; as it is where a stream is, 1 for a new one.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// Days that a message stays in its stream, as it is where a stream is, 14 for a new one; what is older is read from the
    /// log.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3650))]
    keep_days: Option<u16>,
    /// Print what would be done and do nothing.
    #[arg(long)]
    plan: bool,
}

/// Makes it, and says what the servers are found to be.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<bool> {
    telemetry::warnings();
    config.store.cql = args.cql.clone().unwrap_or(config.store.cql);
    config.store.keyspace = args.keyspace.clone().unwrap_or(config.store.keyspace);
    config.store.dev |= args.dev;
    config.bus.nats = args.nats.clone().unwrap_or(config.bus.nats);
    if config.store.cql.is_empty() && config.bus.nats.is_empty() {
        bail!(
            "no server is named: --cql host:port, or store.cql, for tables (the embedded journal needs none); --nats host:port, or bus.nats, for streams"
        );
    }
    let mut checks = Vec::new();
    if !config.store.cql.is_empty() {
        checks.extend(tables(&args, &config).await?);
    }
    if !config.bus.nats.is_empty() {
        checks.extend(streams(&args, &config).await?);
    }
    if args.plan { Ok(true) } else { doctor::show(format, &checks) }
}

async fn tables(args: &Args, config: &Config) -> Result<Vec<Check>> {
    let copies = args.copies.unwrap_or(if config.store.dev { 1 } else { 3 });
    ensure!(
        copies % 2 == 1 && (copies >= 3 || config.store.dev),
        "a log needs an odd number of copies, at least 3 (--copies 3), or --dev where losing it is no loss"
    );
    let options = data::options(config);
    let datacenter = match &args.datacenter {
        Some(named) => named.clone(),
        None => Journal::datacenter(&options).await?,
    };
    let replication = Replication { datacenter, copies };
    if args.plan {
        for statement in Journal::plan(&options, &replication) {
            output::text(&format!("{statement};"))?;
        }
        return Ok(Vec::new());
    }
    Journal::migrate(&options, &replication).await?;
    let checks = Journal::connect(options).await?.checks().await?;
    Ok(checks.into_iter().map(Check::from).collect())
}

async fn streams(args: &Args, config: &Config) -> Result<Vec<Check>> {
    ensure!(
        args.replicas.is_none_or(|count| count % 2 == 1),
        "a stream needs an odd number of servers: --replicas 1, 3 or 5"
    );
    let age = args.keep_days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
    let keep = Keep { replicas: args.replicas.map(usize::from), age };
    let options = stream::options(config)?;
    let logs: Vec<_> = roles::all().iter().map(|role| role.log(config.cell.number)).collect();
    if args.plan {
        for log in logs {
            output::text(&options.names.plan(log, keep))?;
        }
        return Ok(Vec::new());
    }
    let bus = Bus::connect(options).await?;
    for log in logs {
        bus.migrate(log, keep).await?;
    }
    Ok(doctor::streams(config).await)
}
