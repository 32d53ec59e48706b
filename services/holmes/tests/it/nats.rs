//! Logs on NATS streams, as whoever runs the binary meets them: made, carried, killed, limited to their own subjects.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holmes_consumer::{Consumer, Replay, Signed, checkpoint};
use holmes_kernel::{LogId, Principal, ServiceId};
use holmes_proto::log::v1::replay_client::ReplayClient;
use holmes_proto::signing::Network;
use holmes_store::bus::nats::{Bus, Names, Options, Proof};
use serde_json::{Value, json};

use crate::harness::{Killed, PATIENCE, Place, Server, until};
use crate::raw::{self, genesis, secret};

/// A nats-server of one test. Its store outlives its process.
pub(crate) struct Broker {
    program: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) address: String,
    process: Option<Killed>,
}

impl Broker {
    /// `None`, and said so, where this machine has no nats-server.
    pub(crate) fn new(settings: &str) -> Option<Broker> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/venv/bin");
        let mut dirs = std::iter::once(ours).chain(std::env::split_paths(&path));
        let Some(program) = dirs.find_map(|dir| Some(dir.join("nats-server")).filter(|file| file.is_file()))
        else {
            eprintln!("NOT TESTED: this machine has no nats-server; `cargo xtask test` fetches one");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("its address").to_string();
        let store = dir.path().join("store");
        let file =
            format!("listen: {address}\njetstream {{\n  store_dir: \"{}\"\n}}\n{settings}", store.display());
        std::fs::write(dir.path().join("nats.conf"), file).expect("written");
        drop(free);
        let mut broker = Broker { program, dir, address, process: None };
        broker.start();
        Some(broker)
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.dir.path().join("nats.conf"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        self.process = Some(Killed(child));
        until("nats-server to listen", || std::net::TcpStream::connect(&self.address).ok());
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// A directory whose logs are to be carried here.
    fn place(&self) -> Place {
        Place::new().with("HOLMES__BUS__NATS", &self.address)
    }

    /// A directory of a cell whose logs are to lie on the CQL servers of the tests and to be carried here; `None`, and said
    /// so, where there are none.
    pub(crate) fn cell(&self) -> Option<Place> {
        Some(Place::over_cql()?.with("HOLMES__BUS__NATS", &self.address))
    }
}

/// Somebody who pays himself, one unit at a time.
pub(crate) struct Payer {
    pub(crate) key: String,
    from: String,
    to: String,
}

impl Payer {
    pub(crate) fn of(server: &Server<'_>) -> Payer {
        let key = server.payer("alice");
        let (from, to) = (server.dollars(&key, 100_000), server.dollars(&key, 0));
        Payer { key, from, to }
    }

    pub(crate) fn pay(&self, server: &Server<'_>, times: usize) {
        for _ in 0..times {
            let id = server.new_id();
            let transfer = json!({
                "transfer_id": id, "kind": "SINGLE", "amount_units": 1,
                "debit_account_id": self.from, "credit_account_id": self.to,
            });
            let request = json!({ "request_id": id, "transfers": [transfer] });
            server.with_key(&self.key, "Ledger/CreateTransfers", &request);
        }
    }
}

fn by_seq(lines: &str) -> BTreeMap<u64, Value> {
    let line = |line| -> Value { serde_json::from_str(line).expect("a line is JSON") };
    lines.lines().map(line).map(|entry| (entry["seq"].as_u64().expect("a number"), entry)).collect()
}

/// Ends the server, waits until the ledger's stream is as long as its log, and compares them.
fn same(place: &Place, server: Server<'_>) {
    let head = server.heads()["ledger"];
    let lag = || place.run(&["stream", "lag", "--role", "ledger", "-o", "json"]).json();
    until("the stream to catch up", || (lag()[0]["last"].as_u64() == Some(head)).then_some(()));
    drop(server);
    // Logs speak of their beginning with a private word: what others may see comes behind it.
    let log = by_seq(&place.run(&["replay", "--role", "ledger"]).out);
    let public: BTreeMap<u64, Value> = log
        .into_iter()
        .filter(|(_, entry)| !entry["events"].as_array().expect("a list").is_empty())
        .collect();
    let count = public.len().to_string();
    let ran = place.run(&["stream", "tail", "--role", "ledger", "--after", "0", "--count", &count]);
    let heard = by_seq(&ran.out);
    for (seq, entry) in &public {
        assert_eq!(heard.get(seq), Some(entry), "what leaves is what was written");
    }
}

#[test]
fn streams_are_planned_made_and_made_again_and_servers_that_are_away_are_named() {
    let Some(broker) = Broker::new("") else { return };
    let place = broker.place();
    let planned = place.run(&["migrate", "--plan"]);
    assert!(planned.out.starts_with("stream EVT_1_LEDGER on subject evt.v1.1.ledger"), "{}", planned.out);
    place.run(&["stream", "lag"]).fails(1, &["there is no stream EVT_1_LEDGER", "run `holmes migrate`"]);
    assert_eq!(place.run(&["doctor"]).code, 1);
    for days in ["14", "7"] {
        let made = place.run(&["migrate", "--keep-days", days, "-o", "json"]).json();
        let fine = |check: &Value| check["verdict"] == "fine";
        assert!(made.as_array().is_some_and(|checks| checks.len() == 7 && checks.iter().all(fine)), "{made}");
    }
    place.run(&["migrate", "--replicas", "2"]).fails(1, &["odd number of servers"]);
    place.run(&["migrate", "--replicas", "3"]).fails(1, &["replicas"]);
    let away = Place::new().with("HOLMES__BUS__NATS", "127.0.0.1:9");
    away.run(&["migrate"]).fails(1, &["NATS at 127.0.0.1:9"]);
    away.run(&["stream", "tail"]).fails(1, &["NATS at 127.0.0.1:9"]);
    Place::new().run(&["stream", "lag"]).fails(1, &["no NATS server is named", "bus.nats"]);
    Place::new().run(&["migrate"]).fails(1, &["no server is named", "store.cql", "bus.nats"]);
}

#[test]
fn what_is_durable_is_carried_though_the_broker_is_killed_paused_or_loses_its_store() {
    let Some(mut broker) = Broker::new("") else { return };
    let place = broker.place();
    assert_eq!(place.run(&["migrate"]).code, 0);
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    payer.pay(&server, 10);
    for _ in 0..2 {
        broker.kill();
        payer.pay(&server, 5); // nobody who pays waits for a stream
        broker.start();
        payer.pay(&server, 5);
    }
    let pid = broker.process.as_ref().expect("it runs").0.id().to_string();
    let signal =
        |word: &str| assert!(Command::new("kill").args([word, &pid]).status().expect("ran").success());
    signal("-STOP");
    payer.pay(&server, 5);
    signal("-CONT");
    broker.kill();
    std::fs::remove_dir_all(broker.dir.path().join("store")).expect("taken away");
    payer.pay(&server, 5);
    broker.start();
    payer.pay(&server, 5);
    assert!(server.metrics().contains("holmes_relay_halted{service=\"ledger\"} 0"));
    assert_eq!(place.run(&["migrate"]).code, 0, "the streams are made anew, and filled from the logs");
    same(&place, server);
    assert!(place.verified() > 0);
}

/// Follows the ledger as a service of its own does, until it has applied so many events; then its place.
async fn followed(place: &Place, server: &Server<'_>, nats: &str, kept: &Path, upto: u64) -> (u64, u64) {
    let key = secret(place, "billing.key");
    let network =
        Network { genesis: genesis(include_bytes!("../../../../deploy/profiles/demo.toml")), cell: 1 };
    let channel = Signed::new(raw::connect(server).await, Principal::service(ServiceId(100)), key, network);
    let log = LogId::new(1, holmes_proto::service("ledger").expect("a service"));
    let options = Options {
        servers: vec![nats.to_owned()],
        name: "billing".into(),
        proof: Proof::default(),
        names: Names::new([(log.svc, "ledger".to_owned())]),
    };
    let bus = Bus::open(options).await.expect("a handle");
    let kept = checkpoint::File::open(kept).expect("a place");
    let mut ledger = Consumer::new(bus, Replay(ReplayClient::new(channel)), log, kept.place());
    let mut next = kept.place().seq + 1;
    while ledger.place().seq < upto {
        let frame =
            tokio::time::timeout(PATIENCE, ledger.next()).await.expect("before long").expect("a frame");
        assert_eq!(frame.first, next, "each once and in order");
        next = frame.last + 1;
        kept.keep(ledger.place()).expect("kept");
    }
    (ledger.counts().given, ledger.counts().repaired)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_its_own_follows_through_kills_lost_streams_and_its_own_death() {
    let Some(mut broker) = Broker::new("") else { return };
    let place = broker.place();
    assert_eq!(place.run(&["migrate"]).code, 0);
    let server = place.serve(&[]);
    assert_eq!(place.run(&["keys", "new", "billing.key"]).code, 0);
    let offered = place.run(&["keys", "offer", "billing.key", "--as", "service", "--number", "100"]).json();
    server.staff("Accounts/RegisterServiceKey", &offered);
    let payer = Payer::of(&server);
    let (kept, mut repaired) = (place.path("ledger.place"), 0);
    for round in 0..4 {
        payer.pay(&server, 10);
        match round {
            1 => {
                broker.kill();
                broker.start();
            }
            2 => {
                broker.kill();
                std::fs::remove_dir_all(broker.dir.path().join("store")).expect("taken away");
                broker.start(); // there is no stream: what is missing the service gives
            }
            3 => assert_eq!(place.run(&["migrate"]).code, 0),
            _ => {}
        }
        payer.pay(&server, 5);
        let head = server.heads()["ledger"];
        let (given, from_service) = followed(&place, &server, &broker.address, &kept, head).await;
        assert!(given > 0, "round {round}");
        repaired += from_service;
    }
    let place_kept = std::fs::read_to_string(&kept).expect("kept");
    assert!(place_kept.starts_with(&format!("{} ", server.heads()["ledger"])), "{place_kept}");
    assert!(repaired > 10, "what no stream had came from the service: {repaired}");
}

#[test]
fn a_server_that_starts_before_its_broker_serves_and_is_carried_later() {
    let Some(mut broker) = Broker::new("") else { return };
    let place = broker.place();
    assert_eq!(place.run(&["migrate"]).code, 0);
    broker.kill();
    let server = place.serve(&[]);
    Payer::of(&server).pay(&server, 5);
    broker.start();
    same(&place, server);
}

#[test]
fn a_log_that_was_put_back_is_not_carried_behind_what_its_stream_has() {
    let Some(broker) = Broker::new("") else { return };
    let place = broker.place();
    assert_eq!(place.run(&["migrate"]).code, 0);
    let server = place.serve(&[]);
    Payer::of(&server).pay(&server, 20);
    let head = server.heads()["ledger"];
    let last = || place.run(&["stream", "lag", "--role", "ledger", "-o", "json"]).json()[0]["last"].as_u64();
    until("the stream to catch up", || (last() == Some(head)).then_some(()));
    drop(server);
    std::fs::rename(place.path("holmes-data"), place.path("gone")).expect("moved");
    let server = place.serve(&[]); // another log, under the same name
    until("the relay to halt", || {
        server.metrics().contains("holmes_relay_halted{service=\"ledger\"} 1").then_some(())
    });
    assert_eq!(last(), Some(head), "nothing was carried");
    let (_, lines) = server.terminate();
    assert!(lines.iter().any(|line| line.contains("BUS_DIVERGED")), "{lines:#?}");
    // What the alarm says to do.
    assert_eq!(place.run(&["stream", "remove", "--role", "ledger"]).code, 0);
    place.run(&["stream", "remove", "--role", "ledger"]).fails(1, &["there is no stream EVT_1_LEDGER"]);
    assert_eq!(place.run(&["migrate"]).code, 0);
    let server = place.serve(&[]);
    same(&place, server);
}

#[test]
fn what_somebody_else_has_put_into_a_stream_halts_it_and_says_so() {
    use std::io::Write as _;
    let Some(broker) = Broker::new("") else { return };
    let place = broker.place();
    assert_eq!(place.run(&["migrate"]).code, 0);
    let server = place.serve(&[]);
    let payer = Payer::of(&server);
    let mut theirs = std::net::TcpStream::connect(&broker.address).expect("connected");
    let hello = "CONNECT {\"verbose\":false}\r\nPUB evt.v1.1.accounts 5\r\nhello\r\nPING\r\n";
    theirs.write_all(hello.as_bytes()).expect("sent");
    until("the relay of accounts to halt", || {
        server.metrics().contains("holmes_relay_halted{service=\"accounts\"} 1").then_some(())
    });
    payer.pay(&server, 3); // the services and the other streams go on
    let looked = place.run(&["stream", "lag"]);
    assert!(looked.code == 1 && looked.out.contains("evt.v1.1.ledger"), "{}{}", looked.out, looked.err);
    assert!(
        looked.err.contains("accounts: ") && looked.err.contains("not put there by Holmes"),
        "{}",
        looked.err
    );
    same(&place, server);
}

const LIMITED: &str = r#"
authorization {
  users: [
    { user: admin, password: all }
    { user: ledger, password: own, permissions: {
        publish: ["evt.v1.1.ledger", "$JS.API.STREAM.MSG.GET.EVT_1_LEDGER", "$JS.API.STREAM.INFO.EVT_1_LEDGER"]
        subscribe: ["_INBOX.ledger.>"] } }
  ]
}
"#;

#[test]
fn a_user_limited_to_its_own_subject_carries_that_alone_and_denials_are_told() {
    let Some(broker) = Broker::new(LIMITED) else { return };
    let as_user = |user: &str, password: &str| {
        let place =
            broker.place().with("HOLMES__BUS__USER", user).with("HOLMES__BUS__PASSWORD_FILE", "password");
        std::fs::write(place.path("password"), format!("{password}\n")).expect("written");
        place
    };
    let admin = as_user("admin", "all");
    assert_eq!(admin.run(&["migrate"]).code, 0);
    broker.place().run(&["stream", "lag"]).fails(1, &["authorization"]);
    as_user("ledger", "wrong").run(&["stream", "lag"]).fails(1, &["authorization"]);
    broker
        .place()
        .with("HOLMES__BUS__USER", "ledger")
        .run(&["stream", "lag"])
        .fails(1, &["bus.password_file"]);
    let ledger = as_user("ledger", "own");
    let mut server = ledger.serve(&[]);
    Payer::of(&server).pay(&server, 10);
    let head = server.heads()["ledger"];
    let lag = || admin.run(&["stream", "lag", "-o", "json"]).json();
    let row = |name: &str| lag().as_array().expect("rows").iter().find(|row| row["service"] == name).cloned();
    until("the ledger's stream", || (row("ledger")?["last"].as_u64() == Some(head)).then_some(()));
    let denied = server.says("Permissions Violation");
    assert!(denied.contains("EVT_1_ACCOUNTS"), "{denied}");
    assert_eq!(row("accounts").expect("a row")["messages"], 0);
}
