//! `holmes cluster`: every role as a process of its own on this machine, over real CQL and NATS servers, for development and
//! for tests. Each process has its own configuration file, its own keys and its own ports; one that dies is started again,
//! as a supervisor would.

mod certificates;
mod layout;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holmes_runtime::config::Config;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::migrate;
use crate::output::{self, Format};
use crate::processes::Processes;
use crate::serve::wait_for_end;
use layout::{Layout, Place};

/// What to do with a cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes cluster up --cql 127.0.0.1:9042 --nats 127.0.0.1:4222        each role a process, data in these servers
  holmes cluster up --cql … --nats … --replicas 2                     two processes of each role: one owns its log
  holmes cluster status                                               which processes there are, and how they are

Keys, configuration files and what the processes say lie in ./holmes-cluster. For development: one copy of each row, \
everything on loopback; docs/how-to/run-roles-as-processes.md says how the same is deployed.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make tables, streams and logs, then run every role as processes of its own until Ctrl-C.
    Up(UpArgs),
    /// Print the processes of a running cluster.
    Status {
        /// Directory of the cluster.
        #[arg(long, default_value = "holmes-cluster")]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// Directory of keys and configuration files.
    #[arg(long, default_value = "holmes-cluster")]
    dir: PathBuf,
    /// CQL servers that keep the logs, host:port with commas between them.
    #[arg(long)]
    cql: Option<String>,
    /// Keyspace of the cell there.
    #[arg(long)]
    keyspace: Option<String>,
    /// NATS servers that carry them, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// Profile that opens a new network: a built-in name or a file.
    #[arg(long)]
    profile: Option<String>,
    /// Processes of each role with a log.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// Port of the gateway's gRPC on loopback; its admin port is the next one, its HTTP port the one behind that. 0: free ones.
    #[arg(long, default_value_t = 7070)]
    port: u16,
    /// No TLS between the processes: to look at what they say with tools that have no certificate.
    #[arg(long)]
    plain: bool,
    /// Leave a process that dies as it is.
    #[arg(long)]
    no_restart: bool,
    /// Stop when stdin ends, too.
    #[arg(long)]
    until_stdin_ends: bool,
}

/// How long a cluster may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a process that died stays dead: one that dies at once must not be started a hundred times a second.
const RESTS: Duration = Duration::from_millis(500);

/// What is told of a process, to people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The process's name, as in `ledger-1`.
    pub name: String,
    /// Its number for the system; none while it is dead.
    pub pid: Option<u32>,
    /// Its gRPC port.
    pub grpc: String,
    /// Its HTTP port, where it has one.
    pub http: Option<String>,
    /// Its admin port.
    pub admin: String,
}

/// Carries it out.
pub(crate) async fn run(args: Args, config: Config, format: Format) -> Result<()> {
    match args.action {
        Action::Up(args) => up(args, config).await,
        Action::Status { dir } => status(&dir, format).await,
    }
}

async fn up(args: UpArgs, mut config: Config) -> Result<()> {
    config.store.cql = args.cql.unwrap_or(config.store.cql);
    config.store.keyspace = args.keyspace.unwrap_or(config.store.keyspace);
    config.store.dev = true;
    config.bus.nats = args.nats.unwrap_or(config.bus.nats);
    config.cell.profile = args.profile.unwrap_or(config.cell.profile);
    if config.store.cql.is_empty() || config.bus.nats.is_empty() {
        bail!(
            "a cluster needs servers: --cql host:port and --nats host:port (in this repository `cargo xtask infra up` starts both)"
        );
    }
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{} cannot be made", args.dir.display()))?;
    let dir = args.dir.canonicalize()?;
    config.store.dir = dir.join("keys");
    let stopping = wait_for_end(args.until_stdin_ends);
    tokio::pin!(stopping);
    tokio::select! {
        made = migrate::open_for_development(&config) => made?,
        stopped = &mut stopping => return stopped,
    }
    let layout = Layout::new(&dir, &config, args.replicas, args.port, args.plain)?;
    let mut processes = Processes::new(&dir);
    for place in &layout.places {
        processes.start(&place.name, &place.command())?;
    }
    layout.write(&told(&layout, &processes))?;
    let started = tokio::select! {
        ready = all_ready(&layout, &mut processes) => ready,
        stopped = &mut stopping => stopped,
    };
    if let Err(why) = started {
        processes.stop_all().await;
        return Err(why);
    }
    greet(&layout, &dir);
    tokio::select! {
        kept = keep(&layout, &mut processes, !args.no_restart) => kept?,
        stopped = &mut stopping => stopped?,
    }
    processes.stop_all().await;
    eprintln!("stopped; everything acknowledged is in keyspace {}", config.store.keyspace);
    Ok(())
}

fn told(layout: &Layout, processes: &Processes) -> Vec<Told> {
    let of = |place: &Place| Told {
        name: place.name.clone(),
        pid: processes.pid(&place.name),
        grpc: place.url(),
        http: place.http.map(|http| format!("http://{http}/v1")),
        admin: format!("http://{}", place.admin),
    };
    layout.places.iter().map(of).collect()
}

/// Waits until every process is ready.
async fn all_ready(layout: &Layout, processes: &mut Processes) -> Result<()> {
    let began = Instant::now();
    for place in &layout.places {
        loop {
            let said = readiness(&place.admin.to_string()).await;
            if said.starts_with("ready") {
                break;
            }
            processes.check(&place.name)?;
            if began.elapsed() > STARTS_WITHIN {
                bail!("{} is not ready after {} s: {said}", place.name, began.elapsed().as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Starts again what dies.
async fn keep(layout: &Layout, processes: &mut Processes, restart: bool) -> Result<()> {
    let mut died: Vec<Option<Instant>> = vec![None; layout.places.len()];
    loop {
        tokio::time::sleep(LOOK).await;
        for (place, died) in layout.places.iter().zip(&mut died) {
            if died.is_none() && processes.forget_ended(&place.name)? {
                eprintln!("{} has died; what it said: {}.log", place.name, place.name);
                *died = Some(Instant::now());
                layout.write(&told(layout, processes))?;
            }
            if restart && died.is_some_and(|at| at.elapsed() >= RESTS) {
                processes.start(&place.name, &place.command())?;
                *died = None;
                layout.write(&told(layout, processes))?;
            }
        }
    }
}

fn greet(layout: &Layout, dir: &Path) {
    let gateway = layout.gateway();
    eprintln!("{} processes are serving", layout.places.len());
    eprintln!("  gRPC     http://{0}     holmes call --server http://{0}", gateway.grpc);
    if let Some(http) = gateway.http {
        eprintln!("  HTTP     http://{http}/v1     any OpenAI client");
    }
    eprintln!(
        "  admin    http://{}/metrics /healthz /readyz     of the gateway; each process has one",
        gateway.admin
    );
    eprintln!("  staff    {}", dir.join("keys").join(crate::kept::STAFF_KEY).display());
    eprintln!("  all      holmes cluster status --dir {}", dir.display());
}

/// What a process's admin port says of its readiness, in a line.
async fn readiness(admin: &str) -> String {
    match get(admin, "/readyz").await {
        Ok(said) => said.rsplit("\r\n\r\n").next().unwrap_or_default().trim().replace('\n', ", "),
        Err(_) => "does not answer".to_owned(),
    }
}

/// A page of an admin port, with its head.
pub(crate) async fn get(address: &str, page: &str) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {page} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(2), asked).await.context("no answer in time")?
}

/// The processes of a running cluster, as its launcher has written them down.
pub(crate) fn read(dir: &Path) -> Result<Vec<Told>> {
    let file = dir.join(layout::FILE);
    let text = std::fs::read(&file).with_context(|| {
        format!(
            "{} cannot be read: name the cluster's directory (--dir), or start one (holmes cluster up)",
            file.display()
        )
    })?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not what a cluster writes", file.display()))
}

#[derive(Serialize)]
struct Row {
    name: String,
    pid: Option<u32>,
    grpc: String,
    admin: String,
    state: String,
}

async fn status(dir: &Path, format: Format) -> Result<()> {
    let mut rows = Vec::new();
    for Told { name, pid, grpc, admin, .. } in read(dir)? {
        let state = readiness(admin.trim_start_matches("http://")).await;
        rows.push(Row { name, pid, grpc, admin, state });
    }
    output::rows(format, &["PROCESS", "PID", "GRPC", "ADMIN", "STATE"], &rows, |row| {
        let pid = row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        vec![row.name.clone(), pid, row.grpc.clone(), row.admin.clone(), row.state.clone()]
    })
}
