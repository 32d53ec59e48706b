//! What the demo plays with: its directory, its processes, its people and their clients.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::SigningKey;
use holmes_kernel::{Calendar, Id, Principal, PrincipalKind, Time};
use holmes_proto::ledger::v1 as ledger;
use holmes_runtime::auth::Network;
use holmes_runtime::config::Config;
use holmes_runtime::{Clock, fresh_id};

use super::tell::Teller;
use crate::client::{Client, Proof};
use crate::cluster;
use crate::kept::STAFF_KEY;
use crate::keys;
pub(super) use crate::models::OWN_MODEL as OWN;
use crate::models::{self, Store};
use crate::processes::{Processes, free_ports};
use crate::profile::Profile;

/// The larger model, where it can be had.
const SPEAKER: &str = "smollm2-135m-instruct";
/// The model for embeddings, where it can be had.
const EMBEDDER: &str = "all-minilm-l6-v2";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(100);
/// E-0.5: length of an epoch of the profile demo, seconds.
pub(super) const EPOCH_S: u64 = 45;
/// Tokens of the grants: base units of HOL.
const HOL: u64 = 1_000_000_000;

/// A model and where it lies.
#[derive(Clone)]
pub(super) struct Model {
    pub name: String,
    pub path: PathBuf,
}

/// The models of the demo.
#[derive(Clone)]
pub(super) struct Models {
    pub speaker: Model,
    pub embedder: Option<Model>,
}

/// Who runs a node, and the node.
pub(super) struct Operator {
    pub name: &'static str,
    pub wallet: SigningKey,
    pub node: SigningKey,
    pub node_file: PathBuf,
    pub hardware: &'static str,
    pub rating_milli_cu: u32,
    pub slots: u32,
    /// The account in the ledger that the grant was paid to.
    pub hol_account: Id,
    pub client: Client,
}

impl Operator {
    /// The account that owns the node.
    pub(super) fn id(&self) -> Id {
        Id::of_key(&self.wallet.verifying_key().to_bytes())
    }

    /// The node's id.
    pub(super) fn node_id(&self) -> Id {
        Id::of_key(&self.node.verifying_key().to_bytes())
    }

    /// The name of its process.
    pub(super) fn process(&self) -> String {
        format!("executor-{}", self.name)
    }
}

/// Who asks and pays.
pub(super) struct Renter {
    pub name: &'static str,
    pub id: Id,
    pub api_key: String,
    /// What it pays with, and from which account.
    pub asset: &'static str,
    pub account: Id,
    pub client: Client,
}

/// Where the network runs.
pub(super) enum Home {
    /// One process over a directory.
    Directory,
    /// A process for each role over these servers.
    Servers { cql: String, nats: String, keyspace: String },
}

impl Home {
    /// Over servers where they are named.
    pub(super) fn of(cql: Option<String>, nats: Option<String>) -> Home {
        match (cql, nats) {
            (Some(cql), Some(nats)) => {
                let keyspace = format!("demo_{}", fresh_id().to_string().replace('-', ""));
                Home::Servers { cql, nats, keyspace }
            }
            _ => Home::Directory,
        }
    }

    /// Where its keys lie, from the demo's directory.
    fn keys(&self) -> &'static str {
        match self {
            Home::Directory => "data",
            Home::Servers { .. } => "data/keys",
        }
    }

    /// What it is started with.
    fn args(&self, dir: &Path, [grpc, http, admin]: [u16; 3]) -> Vec<String> {
        let (data, profile) =
            (dir.join("data").display().to_string(), dir.join("demo.toml").display().to_string());
        let args = match self {
            Home::Directory => vec![
                "serve".to_owned(),
                "--listen".into(),
                format!("127.0.0.1:{grpc}"),
                "--http".into(),
                format!("127.0.0.1:{http}"),
                "--admin".into(),
                format!("127.0.0.1:{admin}"),
            ],
            Home::Servers { cql, nats, keyspace } => {
                let words = ["cluster", "up", "--cql", cql, "--nats", nats, "--keyspace", keyspace, "--port"];
                words.into_iter().map(str::to_owned).chain([grpc.to_string()]).collect()
            }
        };
        args.into_iter().chain(["--dir".into(), data, "--profile".into(), profile]).collect()
    }
}

/// Everything.
pub(super) struct World {
    pub home: Home,
    pub dir: PathBuf,
    pub models: Models,
    pub processes: Processes,
    pub url: String,
    pub http: String,
    pub admin: String,
    pub network: Network,
    pub staff: Client,
    pub operators: Vec<Operator>,
    pub renters: Vec<Renter>,
    /// A call of the story, to ask questions about.
    pub shown: Shown,
}

/// A call to ask questions about.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub lease: String,
    pub node: String,
    pub receipt: String,
}

/// The models, fetched where that is possible.
pub(super) fn models(tell: &Teller, config: &Config, named: Option<&str>) -> Result<Models> {
    let store = Store::of(config)?;
    let of = |name: &str| -> Result<Model> { Ok(Model { name: name.to_owned(), path: store.path(name)? }) };
    let fetched = |name: &str| match models::need(&store, name) {
        Some(Ok(path)) => Some(Model { name: name.to_owned(), path }),
        Some(Err(why)) => {
            eprintln!("{name} cannot be had: {why:#}");
            None
        }
        None => None,
    };
    let speaker = match named {
        Some(name) => fetched(name).map_or_else(|| of(name), Ok)?,
        None => fetched(SPEAKER).map_or_else(|| of(OWN), Ok)?,
    };
    let embedder = if named == Some(OWN) { of(EMBEDDER).ok() } else { fetched(EMBEDDER) };
    tell.line(&format!("the model that speaks: {}", speaker.name))?;
    match &embedder {
        Some(model) => tell.line(&format!("the model that embeds: {}", model.name))?,
        None => {
            tell.line("no model for embeddings is here: `holmes models pull all-minilm-l6-v2` brings one")?
        }
    }
    Ok(Models { speaker, embedder })
}

impl World {
    /// Makes keys and the network's profile, and starts the server.
    pub(super) async fn open(tell: &Teller, dir: PathBuf, models: Models, home: Home) -> Result<World> {
        let hardware = [("ada", "4090", 1_000, 4), ("ben", "3090", 850, 3), ("cleo", "5090", 1_700, 6)];
        let mut wallets = Vec::new();
        for (name, hardware, rating_milli_cu, slots) in hardware {
            let wallet = keys::make(&dir.join(format!("{name}-wallet.key")))?;
            let node_file = dir.join(format!("{name}-node.key"));
            let node = keys::make(&node_file)?;
            wallets.push((name, wallet, node, node_file, hardware, rating_milli_cu, slots));
        }
        let (dora, emil) = (fresh_id(), fresh_id());
        let profile = dir.join("demo.toml");
        let grants = wallets
            .iter()
            .map(|(name, wallet, ..)| (*name, Id::of_key(&wallet.verifying_key().to_bytes()), 50_000))
            .chain([("emil", emil, 1_000)]);
        std::fs::write(&profile, profile_text(grants)?)?;
        let network = Network { genesis: Profile::load(&profile.display().to_string())?.hash(), cell: 1 };
        let [grpc, admin, http] = free_row()?;
        let mut processes = Processes::new(&dir);
        let url = format!("http://127.0.0.1:{grpc}");
        let pid = processes.start("server", &home.args(&dir, [grpc, http, admin]))?;
        tell.line(&format!(
            "the server runs as process {pid}: gRPC {url}, OpenAI http://127.0.0.1:{http}/v1"
        ))?;
        let client = |proof| Client::new(&url, network.clone(), proof);
        let staff = dir.join(home.keys()).join(STAFF_KEY);
        wait_for(&mut processes, "server", || staff.exists()).await?;
        let staff = client(Proof::Key(Box::new(keys::read(&staff)?), PrincipalKind::Staff))?;
        let mut operators = Vec::new();
        for (name, wallet, node, node_file, hardware, rating_milli_cu, slots) in wallets {
            let client = client(Proof::Key(Box::new(wallet.clone()), PrincipalKind::Account))?;
            let hol_account = Id::default();
            operators.push(Operator {
                name,
                wallet,
                node,
                node_file,
                hardware,
                rating_milli_cu,
                slots,
                hol_account,
                client,
            });
        }
        let mut renters = Vec::new();
        for (name, id, asset) in [("dora", dora, "USD"), ("emil", emil, "HOL")] {
            let api_key = keys::fresh_api_key()?;
            let client = client(Proof::ApiKey(api_key.clone()))?;
            renters.push(Renter { name, id, api_key, asset, account: Id::default(), client });
        }
        let (http, admin) = (format!("http://127.0.0.1:{http}/v1"), format!("http://127.0.0.1:{admin}"));
        let shown = Shown::default();
        Ok(World {
            home,
            dir,
            models,
            processes,
            url,
            http,
            admin,
            network,
            staff,
            operators,
            renters,
            shown,
        })
    }

    /// A node that is not this one.
    pub(super) fn other_node(&self, node: &str) -> String {
        let mut ids = self.operators.iter().map(|of| of.node_id().to_string());
        ids.find(|id| id != node).unwrap_or_default()
    }

    /// What the server is started with.
    pub(super) fn server_args(&self) -> Result<Vec<String>> {
        Ok(self.home.args(&self.dir, [port(&self.url)?, port(&self.http)?, port(&self.admin)?]))
    }

    /// Where staff's key lies.
    pub(super) fn staff_key(&self) -> PathBuf {
        self.dir.join(self.home.keys()).join(STAFF_KEY)
    }

    /// What tells a command where the logs are.
    pub(super) fn logs(&self) -> [String; 2] {
        let data = self.dir.join("data");
        match self.home {
            Home::Directory => ["--dir".into(), data.display().to_string()],
            Home::Servers { .. } => ["--config".into(), data.join("holmes.toml").display().to_string()],
        }
    }

    /// Writes down, for programs, where everything can be reached.
    pub(super) fn write_places(&self) -> Result<()> {
        let process = |name: &str| self.processes.pid(name);
        let nodes: Vec<_> =
            self.operators.iter().map(|of| (of.node_id().to_string(), process(&of.process()))).collect();
        let places = serde_json::json!({
            "grpc": self.url, "http": self.http, "admin": self.admin,
            "api_key": self.renters[0].api_key, "model": self.models.speaker.name,
            "data": self.dir.join("data"), "profile": self.dir.join("demo.toml"),
            "server_pid": process("server"), "node_pids": nodes,
        });
        // Whole or not at all: who waits for the file reads it at once.
        let (fresh, file) = (self.dir.join(".demo.json"), self.dir.join("demo.json"));
        std::fs::write(&fresh, format!("{places:#}\n"))?;
        std::fs::rename(&fresh, &file).with_context(|| format!("{} cannot be written", file.display()))
    }

    /// The operator of a node.
    pub(super) fn operator_of(&self, node: &str) -> Option<&Operator> {
        self.operators.iter().find(|operator| operator.node_id().to_string() == node)
    }

    /// A node's name for people.
    pub(super) fn node_name(&self, node: &str) -> String {
        self.operator_of(node).map_or_else(|| node.to_owned(), |of| format!("{}'s {}", of.name, of.hardware))
    }

    /// Starts an operator's executor.
    pub(super) fn attach(&mut self, at: usize) -> Result<u32> {
        let operator = &self.operators[at];
        let mut args = vec!["executor".into(), "--join".into(), self.url.clone()];
        args.extend(["--key".into(), operator.node_file.display().to_string()]);
        for model in std::iter::once(&self.models.speaker).chain(&self.models.embedder) {
            args.extend(["--model".into(), format!("{}={}", model.name, model.path.display())]);
        }
        args.extend([
            "--slots".into(),
            operator.slots.to_string(),
            "--hardware".into(),
            operator.hardware.into(),
        ]);
        let state = self.dir.join(format!("{}-state", operator.name));
        args.extend(["--state".into(), state.display().to_string()]);
        self.processes.start(&operator.process(), &args)
    }

    /// The epoch that runs now (E-0.5).
    pub(super) fn epoch(&self) -> Result<u64> {
        Ok(self.calendar()?.epoch(Clock::System.now()))
    }

    /// Seconds until an epoch ends.
    pub(super) fn epoch_ends_in(&self, epoch: u64) -> Result<u64> {
        let left_ms = self.calendar()?.ends(epoch).millis().saturating_sub(Clock::System.now().millis());
        Ok(left_ms.div_ceil(1_000))
    }

    /// The network's epochs.
    fn calendar(&self) -> Result<Calendar> {
        let text = std::fs::read_to_string(self.dir.join(self.home.keys()).join("tge_at_ms"))?;
        let began_ms = text.trim().parse().context("the beginning of the first epoch")?;
        Ok(Calendar::new(Time::from_millis(began_ms), EPOCH_S))
    }

    /// The supply of every asset.
    pub(super) async fn supply(&self) -> Result<Vec<ledger::Supply>> {
        let method = "holmes.ledger.v1.Ledger/GetSupply";
        let answer: ledger::GetSupplyResponse =
            self.staff.ask(method, fresh_id(), ledger::GetSupplyRequest {}).await?;
        Ok(answer.supplies)
    }

    /// Kills the server and starts it again.
    pub(super) async fn restart(&mut self, tell: &Teller) -> Result<()> {
        let heads = self.heads().await?;
        self.processes.kill("server").await?;
        tell.line("killed with SIGKILL")?;
        let began = std::time::Instant::now();
        let args = self.server_args()?;
        self.processes.start("server", &args)?;
        while self.heads().await.is_err() {
            self.processes.check("server")?;
            pause().await;
        }
        let again = self.heads().await?;
        let took = began.elapsed().as_millis();
        tell.line(&format!("answers again after {took} ms, everything acknowledged is there"))?;
        let row = |(name, seq): &(String, u64)| {
            let now = again.iter().find(|(other, _)| other == name).map_or(0, |(_, seq)| *seq);
            vec![name.clone(), seq.to_string(), now.to_string()]
        };
        tell.table(&["SERVICE", "EVENTS BEFORE", "EVENTS NOW"], &heads.iter().map(row).collect::<Vec<_>>())?;
        tell.line("more events than before are new ones: time goes on, and the nodes attach again")?;
        if let Some((name, _)) =
            heads.iter().find(|(name, seq)| again.iter().any(|(other, now)| other == name && now < seq))
        {
            bail!("{name} has lost events");
        }
        Ok(())
    }

    /// How far each service's log is, by the metrics.
    async fn heads(&self) -> Result<Vec<(String, u64)>> {
        let admins = match self.home {
            Home::Directory => vec![self.admin.clone()],
            Home::Servers { .. } => {
                cluster::read(&self.dir.join("data"))?.into_iter().map(|process| process.admin).collect()
            }
        };
        let mut page = String::new();
        for admin in admins {
            page += &cluster::get(admin.trim_start_matches("http://"), "/metrics").await?;
        }
        let head = |line: &str| {
            let (name, seq) = line.strip_prefix("holmes_log_head{service=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), seq.parse().ok()?))
        };
        let mut heads: Vec<(String, u64)> = page.lines().filter_map(head).collect();
        heads.sort();
        if heads.is_empty() { bail!("the server shows no logs") } else { Ok(heads) }
    }

    /// Rebuilds every service from its log, in a process of its own.
    pub(super) async fn verify(&self, tell: &Teller) -> Result<()> {
        let mut holmes = tokio::process::Command::new(std::env::current_exe()?);
        holmes.arg("verify").args(self.logs());
        let done = holmes.output().await?;
        for line in String::from_utf8_lossy(&done.stdout).lines() {
            crate::output::text(&format!("          {line}"))?;
        }
        if !done.status.success() {
            bail!("verify failed: {}", String::from_utf8_lossy(&done.stderr));
        }
        tell.line("every digest, chain and invariant holds")
    }
}

/// The demo network's profile with grants to these people.
fn profile_text(grants: impl Iterator<Item = (&'static str, Id, u64)>) -> Result<String> {
    let mut text = Profile::load("demo")?.text().to_owned();
    for (name, id, whole) in grants {
        let owner = Principal::new(PrincipalKind::Account, id);
        let units = whole * HOL;
        text.push_str(&format!(
            "\n[[treasury.grants]]\nname = \"{name}\"\nowner = \"{owner}\"\namount_units = \"{units}\"\n"
        ));
    }
    Ok(text)
}

/// The port of an address.
fn port(url: &str) -> Result<u16> {
    let behind = url.rsplit(':').next().unwrap_or_default();
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{url} has no port"))
}

/// Three ports in a row that nobody listens on now.
fn free_row() -> Result<[u16; 3]> {
    for _ in 0..100 {
        let first = free_ports(1)?[0];
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let row = [first, first.saturating_add(1), first.saturating_add(2)];
        if first < u16::MAX - 2 && row.iter().all(free) {
            return Ok(row);
        }
    }
    bail!("no three ports in a row are free on this machine")
}

/// Waits until something is so, as long as a process lives.
async fn wait_for(processes: &mut Processes, name: &str, is_so: impl Fn() -> bool) -> Result<()> {
    while !is_so() {
        processes.check(name)?;
        pause().await;
    }
    Ok(())
}

/// Asks again and again until there is an answer; gives up when a process that it concerns has died, or after a while.
pub(super) async fn until<T>(
    world: &mut World,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = std::time::Instant::now();
    loop {
        match ask().await {
            Ok(Some(found)) => return Ok(found),
            Err(why) if began.elapsed() > PATIENCE => return Err(why),
            Ok(None) if began.elapsed() > PATIENCE => {
                bail!("waited {} s for {what}, in vain", PATIENCE.as_secs())
            }
            Ok(None) | Err(_) => {}
        }
        world.processes.check_all()?;
        pause().await;
    }
}

/// A moment.
pub(super) async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
