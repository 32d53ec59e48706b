//! `holmes serve`: roles over the embedded journal or over CQL servers, one process, until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;

use anyhow::{Context, Result, anyhow};
use holmes_runtime::auth::Auth;
use holmes_runtime::config::{Clients, Config};
use holmes_runtime::reach::ByLog;
use holmes_runtime::replay::Replay;
use holmes_runtime::server::{bind, serve, serve_admin};
use holmes_runtime::{Clock, Status, Tls, telemetry};
use holmes_store::Bus;
use holmes_store::bus::nats;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::data;
use crate::edge;
use crate::kept::{self, STAFF_KEY};
use crate::profile;
use crate::roles::{GATEWAY, Role};
use crate::stream;

pub(crate) mod alone;
mod among;
mod running;

pub(crate) use running::Relay;
use running::{Given, Running};

/// What is served.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes serve                                      every role, data in ./holmes-data
  holmes serve --dir /var/lib/holmes --profile hol  a network of its own profile
  holmes serve --role ledger,accounts               only these
  holmes serve --cql 10.0.0.1:9042,10.0.0.2:9042    logs on ScyllaDB or Cassandra (holmes migrate makes the tables)
  holmes serve --nats 10.0.0.1:4222                 logs carried to NATS streams (holmes migrate makes them)

A directory without logs is opened with the profile; its staff key is made beside them (DIR/staff.key) and signs \
what only staff may do: holmes call … --sign-with DIR/staff.key \
Keep a copy of DIR: where logs depend on a file that is missing or another one's, nothing starts and none is made anew. \
On SIGTERM or Ctrl-C calls in progress end, everything queued becomes durable, then the process exits. \
Where it listens is told on stderr; with telemetry.format = \"json\" as a log line, and nothing else is said there.")]
pub(crate) struct Args {
    /// Roles to run.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    role: Vec<String>,
    /// Data directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// CQL servers that keep the logs, host:port with commas between them; by default a directory does.
    #[arg(long)]
    cql: Option<String>,
    /// NATS servers that carry the logs to readers in other processes, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// With --cql: one copy of each row is enough, where losing them is no loss.
    #[arg(long)]
    dev: bool,
    /// Profile that opens a new network: a built-in name or a file.
    #[arg(long)]
    profile: Option<String>,
    /// Address of the gRPC port.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of the admin port.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Address of the HTTP port of the gateway.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Start although the clock is more than 30 days past the last frame.
    #[arg(long)]
    accept_clock: bool,
    /// Start without DIR/staff.key: staff signs with a key that is kept elsewhere.
    #[arg(long)]
    no_staff_key: bool,
    /// Stop when stdin ends, too: whoever holds its other end takes this process with it, however that dies.
    #[arg(long)]
    until_stdin_ends: bool,
}

impl Args {
    fn over(&self, mut config: Config) -> Config {
        config.store.dir = self.dir.clone().unwrap_or(config.store.dir);
        config.store.cql = self.cql.clone().unwrap_or(config.store.cql);
        config.store.dev |= self.dev;
        config.bus.nats = self.nats.clone().unwrap_or(config.bus.nats);
        config.cell.profile = self.profile.clone().unwrap_or(config.cell.profile);
        config.server.listen = self.listen.unwrap_or(config.server.listen);
        config.server.admin = self.admin.unwrap_or(config.server.admin);
        config.gateway.http = self.http.unwrap_or(config.gateway.http);
        config.store.accept_clock |= self.accept_clock;
        if let (true, Some(kept)) = (config.cell.profile.is_empty(), kept::profile_file(&config.store.dir)) {
            config.cell.profile = kept.display().to_string(); // the one that the directory was opened with
        }
        config
    }
}

/// Serves until a signal.
pub(crate) async fn run(args: Args, config: Config, guided: bool) -> Result<()> {
    let telemetry = telemetry::init(&config.telemetry, "holmes", holmes_gateway::FAMILIES)?;
    let config = args.over(config);
    let (roles, with_gateway) = wanted(&args.role, &config)?;
    let profile = kept::profile(&config.store.dir, &config.cell.profile)?;
    all_descriptors();
    // Profile and ports first: what is misspelt or taken should cost nothing.
    let grpc = bind(config.server.listen, "server.listen").await?;
    let admin = bind(config.server.admin, "server.admin").await?;
    let http = if with_gateway { Some(bind(config.gateway.http, "gateway.http").await?) } else { None };
    // port 0 means any that is free
    let addresses = Addresses {
        grpc: grpc.local_addr()?,
        admin: admin.local_addr()?,
        http: http.as_ref().map(TcpListener::local_addr).transpose()?,
    };
    let (stop, stopped) = watch::channel(false);
    let mut ended = pin!(wait_for_end(args.until_stdin_ends));
    let (machines, shown) = watch::channel(vec![("logs", watch::channel(Status::Recovering).1)]);
    let admin_task = tokio::spawn(serve_admin(admin, telemetry.metrics(), shown, stopped.clone()));
    tokio::select! {
        answered = data::servers_answer(&config) => answered?,
        stopped = &mut ended => return stopped,
    }
    let (clock, network) = (Clock::System, profile::network(&config)?);
    let tls = Tls::load(&config.tls, config.server.clients)?;
    let given = Given {
        config: &config,
        roles: &roles,
        with_gateway,
        with_staff: !args.no_staff_key,
        bus: carrier(&config).await?,
        network: network.clone(),
        tls: tls.clone(),
        clock: clock.clone(),
    };
    let running = match config.cluster.peers.as_str() {
        "" => alone::start(given, profile).await?,
        _ => among::start(given, &profile).await?,
    };
    let Running { mut services, logs, statuses, keyring, edge, reach, with_staff, hand_over, end } = running;
    machines.send_replace(statuses);
    let replaying = watch::Sender::new(Status::Serving); // for as long as the process lives
    let owned: Vec<_> = logs.iter().map(|log| (log.name, log.feed.clone())).collect();
    let replay = Replay::server(logs, stopped.clone());
    match &reach {
        None => services.add(replay, replaying.subscribe()),
        Some(reach) => {
            let owns =
                move |name: &str| owned.iter().any(|(log, feed)| *log == name && feed.borrow().is_some());
            services.add(ByLog::new(replay, owns, reach), replaying.subscribe())
        }
    };
    let (most, unproven) = (config.server.max_request_bytes, config.server.max_unproven_bytes);
    let auth = Auth::new(keyring, network, clock, most, unproven);
    let mut edge_task = None;
    if let (Some(http), Some(edge)) = (http, edge) {
        edge.add_to(&mut services);
        edge_task = Some(tokio::spawn(edge.run(http, edge::web(&config), stopped.clone())));
    }
    if let Some(reach) = reach {
        services.pass_on(&reach);
    }
    let settings = edge::drained(&config.server);
    let server = tokio::spawn(async move { serve(grpc, tls, services, auth, &settings, stopped).await });
    greet(&config, &roles, &addresses, with_staff);
    if guided && !telemetry::is_json() {
        guide(&config, &addresses, with_staff);
    }
    ended.await?;
    tracing::info!("draining");
    hand_over().await?;
    stop.send_replace(true);
    server.await.context("the gRPC port")??; // it lets calls in progress end, within the drain time
    if let Some(edge) = edge_task {
        edge.await.context("the gateway")?;
    }
    end().await?;
    admin_task.await?.context("the admin port")?;
    telemetry.shutdown();
    let dir = data::place(&config);
    if telemetry::is_json() {
        tracing::info!(%dir, "stopped; everything acknowledged is there");
    } else {
        eprintln!("stopped; everything acknowledged is in {dir}");
    }
    Ok(())
}

/// Lets the process have as many open files and connections as its user may: the usual soft limit is for programs that
/// cannot count beyond it.
fn all_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(why) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%why, "the limit of open files stays as it is");
    }
}

/// What carries the logs, where they are to be carried. Servers that are away now may come: the logs do not wait for them.
async fn carrier(config: &Config) -> Result<Option<Bus>> {
    match config.bus.nats.as_str() {
        "" => Ok(None),
        _ => Ok(Some(nats::Bus::open(stream::options(config)?).await?.into())),
    }
}

/// The roles with a log that are wanted, and whether the gateway is.
fn wanted(names: &[String], config: &Config) -> Result<(Vec<Role>, bool)> {
    let every = names.iter().any(|name| name == "all");
    let logs: Vec<String> = names.iter().filter(|name| *name != GATEWAY).cloned().collect();
    let with_gateway = every || logs.len() < names.len();
    let roles = match logs.is_empty() {
        true => Vec::new(), // none, where data::roles means all
        false => data::roles(&logs).map_err(|why| anyhow!("{why}; and {GATEWAY}, which has none"))?,
    };
    if with_gateway && config.cluster.peers.is_empty() {
        edge::check(&roles)?;
    }
    Ok((roles, with_gateway))
}

/// Where a process is reached.
struct Addresses {
    grpc: SocketAddr,
    admin: SocketAddr,
    http: Option<SocketAddr>,
}

/// Says where the process is reached: to a person in words, to whoever collects logs as a line of them.
fn greet(config: &Config, roles: &[Role], at: &Addresses, with_staff: bool) {
    let mut names: Vec<&str> = roles.iter().map(|role| role.name).collect();
    names.extend(at.http.map(|_| GATEWAY));
    let (names, dir) = (names.join(", "), data::place(config));
    if telemetry::is_json() {
        let http = at.http.map(|http| http.to_string()).unwrap_or_default();
        tracing::info!(roles = names, %dir, grpc = %at.grpc, http, admin = %at.admin, "serving");
        return;
    }
    eprintln!("serving {names} over {dir}");
    match config.server.clients {
        Clients::Plain => eprintln!("  gRPC     http://{0}     holmes call --server http://{0}", at.grpc),
        Clients::Anybody => eprintln!("  gRPC     https://{}     for everybody", at.grpc),
        Clients::Cell => {
            eprintln!("  gRPC     https://{}     for whom the cell's authority has certified", at.grpc)
        }
    }
    if let Some(http) = at.http {
        eprintln!("  HTTP     http://{http}/v1     any OpenAI client");
    }
    if !config.bus.nats.is_empty() && !roles.is_empty() {
        eprintln!("  events   {}     subjects evt.v1.{}.<service>", config.bus.nats, config.cell.number);
    }
    eprintln!("  admin    http://{}/metrics /healthz /readyz", at.admin);
    let keys = config.store.dir.display();
    if !config.cluster.peers.is_empty() {
        return; // one of several: whoever made their logs has the key of staff
    }
    match with_staff {
        true => eprintln!("  staff    {keys}/{STAFF_KEY}"),
        false => eprintln!("  staff    signs with a key that is kept elsewhere than in {keys}/{STAFF_KEY}"),
    }
}

/// What `holmes up` says beside its options.
pub(crate) const UP_HELP: &str = "Examples:
  holmes up                     in a directory of its own: everything lies in ./holmes-data
  holmes up --profile hol       epochs of a day instead of 45 seconds

The same as `holmes serve`, with a word on how to go on. Ctrl-C stops it; everything acknowledged is there next time.";

/// How to go on, for whoever is new here.
fn guide(config: &Config, at: &Addresses, with_staff: bool) {
    let (dir, grpc) = (config.store.dir.display(), at.grpc);
    // A signature counts in one network: that of the profile.
    let signed = match config.cell.profile.as_str() {
        "" => String::new(),
        profile => format!(" --profile {profile}"),
    };
    let staff = match with_staff {
        true => format!("{dir}/{STAFF_KEY}"),
        false => "FILE".to_owned(),
    };
    eprintln!(
        "
what now (each in another terminal)
  see it all once       holmes demo
  every method          holmes call --server http://{grpc}
  as staff              holmes call Ledger/GetSupply --server http://{grpc} --sign-with {staff} --as staff{signed}
  serve a model         docs/how-to/operate-a-node.md: register, bond, attach
  rent inference        docs/how-to/rent-inference.md"
    );
}

/// Waits for SIGTERM or Ctrl-C, or, where it is wanted, the end of stdin.
pub(crate) async fn wait_for_end(until_stdin_ends: bool) -> Result<()> {
    tokio::select! {
        signalled = signal() => signalled,
        () = stdin_ended(), if until_stdin_ends => Ok(()),
    }
}

async fn stdin_ended() {
    let (ended, wait) = oneshot::channel();
    // A thread that nobody waits for: one of the runtime's would keep the process until somebody writes.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()); // unreadable is ended, too
        let _ = ended.send(()); // nobody waits any more: as good
    });
    let _ = wait.await;
}

/// Waits for SIGTERM or Ctrl-C.
pub(crate) async fn signal() -> Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done?,
        _ = term.recv() => {}
    }
    Ok(())
}
