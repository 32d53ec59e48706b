//! `holmes migrate`: makes what logs are kept in and carried by, on CQL and NATS servers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::LogId;
use holmes_kernel::ports::{Bus as _, Journal as _};
use holmes_runtime::config::Config;
use holmes_runtime::{Clock, PublicFrame, telemetry};
use holmes_store as store;
use holmes_store::bus::nats::{Bus, Keep};
use holmes_store::journal::scylla::{Journal, Replication};

use crate::data;
use crate::doctor::{self, Check};
use crate::kept::{self, Directory};
use crate::output::{self, Format};
use crate::profile::Profile;
use crate::serve::alone::provision;
use crate::{roles, stream};

/// What is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes migrate --cql 10.0.0.1:9042,10.0.0.2:9042        three copies, in the servers' data centre
  holmes migrate --cql 127.0.0.1:9042 --dev               one copy, for development
  holmes migrate --cql 10.0.0.1:9042 --plan               only say what would be done
  holmes migrate --nats 10.0.0.1:4222 --replicas 3        streams on three NATS servers
  holmes migrate --cql 10.0.0.1:9042 --open --dir keys --profile hol
                                                          logs too, for roles in processes of their own

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
    /// With --cql: open the logs too, so that each role can run in a process of its own. DIR then holds the keys that their
    /// processes need: service-ROLE.key each, scheduling.key and gateway.key besides.
    #[arg(long)]
    open: bool,
    /// Directory of the keys that logs are opened with.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Profile that opens the logs: a built-in name or a file.
    #[arg(long)]
    profile: Option<String>,
    /// Print what would be done and do nothing.
    #[arg(long)]
    plan: bool,
    /// With --cql: print what gives each service a role of its own on these servers, and do nothing. Passwords are yours to set.
    #[arg(long)]
    rights: bool,
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
    config.store.dir = args.dir.clone().unwrap_or(config.store.dir);
    config.cell.profile = args.profile.clone().unwrap_or(config.cell.profile);
    ensure!(
        !args.open || !config.store.cql.is_empty(),
        "logs are opened on CQL servers: name them (--cql); in a directory `holmes serve` opens them"
    );
    if args.rights {
        for statement in Journal::rights(&data::options(&config)?) {
            output::text(&format!("{statement};"))?;
        }
        return Ok(true);
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

/// Makes tables, streams and logs where one copy of each is enough.
pub(crate) async fn open_for_development(config: &Config) -> Result<()> {
    let options = data::options(config)?;
    let replication = Replication { datacenter: Journal::datacenter(&options).await?, copies: 1 };
    Journal::migrate(&options, &replication).await?;
    let journal: store::Journal = Journal::connect(options).await?.into();
    open(config, journal.clone()).await?;
    let bus = Bus::connect(stream::options(config)?).await?;
    for role in roles::all() {
        let log = role.log(config.cell.number);
        bus.migrate(log, Keep { replicas: None, age: None }).await?;
        of_this_network(&journal, &bus, log).await.with_context(|| format!("the stream of {}", role.name))?;
    }
    Ok(())
}

/// Refuses a stream that another network has left on these servers.
async fn of_this_network(journal: &store::Journal, bus: &Bus, log: LogId) -> Result<()> {
    let Some(last) = bus.last(log).await? else { return Ok(()) };
    let there = journal.read(log, last.message.first.saturating_sub(1), 1).await?;
    let ours = there.first().map(|frame| *frame.chain());
    let theirs = PublicFrame::from_bytes(&last.message.body).ok().map(|frame| frame.chain);
    ensure!(
        ours.is_some() && ours == theirs,
        "holds what another network has said: name other NATS servers, or take its streams away (`holmes stream remove`)"
    );
    Ok(())
}

async fn tables(args: &Args, config: &Config) -> Result<Vec<Check>> {
    let copies = args.copies.unwrap_or(if config.store.dev { 1 } else { 3 });
    ensure!(
        copies % 2 == 1 && (copies >= 3 || config.store.dev),
        "a log needs an odd number of copies, at least 3 (--copies 3), or --dev where losing it is no loss"
    );
    let options = data::options(config)?;
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
    let journal = Journal::connect(options).await?;
    let checks = journal.checks().await?;
    if args.open {
        open(config, journal.into()).await?;
    }
    Ok(checks.into_iter().map(Check::from).collect())
}

/// Opens the logs that are not there yet, with the keys of the directory; those that no log depends on yet are made.
async fn open(config: &Config, journal: store::Journal) -> Result<()> {
    let (dir, cell, roles, clock) = (&config.store.dir, config.cell.number, roles::all(), Clock::System);
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let name = match kept::profile_file(dir) {
        Some(kept) if config.cell.profile.is_empty() => kept.display().to_string(),
        _ => config.cell.profile.clone(),
    };
    let mut profile = kept::profile(dir, &name)?;
    let given = Profile::load(&name)?;
    let directory = Directory::of(dir, &journal, cell, &given, &roles).await.map_err(data::named)?;
    let kept = directory.kept(clock.now(), true, true).await.map_err(data::named)?;
    kept.open_with(&mut profile);
    let gateway = kept.gateway.as_ref().context("a gateway's key was asked for")?;
    profile.processes(&directory.processes(&roles, gateway)?)?;
    kept::keep_profile(dir, profile.text())?;
    provision(&roles, &journal, cell, &clock, &profile).await?;
    eprintln!("the logs are open; their keys lie in {}: keep a copy", dir.display());
    Ok(())
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
