//! A process for each role over real servers: paid through, killed, stopped, taken over, restarted under load.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::crash::{Payment, connect, transfer_ids};
use crate::harness::{Place, Server, number, until};
use crate::nats::Broker;
use crate::tellers::Tellers;

const ROLES: [&str; 7] = ["ledger", "accounts", "treasury", "staking", "scheduling", "market", "emission"];
const CALLERS: usize = 8;

/// The processes of a place's cluster, each with what it says of itself.
fn processes(place: &Place) -> BTreeMap<String, Value> {
    let rows = place.run(&["cluster", "status", "-o", "json"]).json();
    let of = |row: &Value| (row["name"].as_str().expect("a name").to_owned(), row.clone());
    rows.as_array().expect("rows").iter().map(of).collect()
}

fn state(row: &Value) -> &str {
    row["state"].as_str().expect("a state")
}

/// Waits until every process is ready.
fn ready(place: &Place) {
    until("every process to be ready", || {
        let all = processes(place);
        all.values().all(|row| state(row).starts_with("ready")).then_some(())
    });
}

/// The process that owns a role's log.
fn owner(place: &Place, role: &str) -> String {
    until("an owner", || {
        let owns = |(name, row): &(String, Value)| name.starts_with(role) && state(row) == "ready";
        processes(place).into_iter().find(owns).map(|(name, _)| name)
    })
}

fn signal(place: &Place, process: &str, signal: &str) {
    let pid = processes(place)[process]["pid"].to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
    assert!(sent.success(), "{process}, process {pid}");
}

/// What callers have been told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<String>,
    /// What they had to send again, and how that was refused.
    again: Vec<String>,
    /// How long the slowest of them waited for a definite answer.
    longest: Duration,
}

/// Callers that pay one unit after the other, each until there is a definite answer.
struct Load {
    going: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Told>>,
}

impl Load {
    async fn begin(server: &Server<'_>, payment: &Arc<Payment>) -> Load {
        let (going, mut callers) = (Arc::new(AtomicBool::new(true)), Vec::new());
        for _ in 0..CALLERS {
            let client = connect(&server.address).await;
            callers.push(tokio::spawn(pay(client, payment.clone(), going.clone())));
        }
        Load { going, callers }
    }

    async fn end(self) -> Told {
        self.going.store(false, Ordering::Relaxed);
        let mut all = Told::default();
        for caller in self.callers {
            let told = caller.await.expect("a caller ends");
            all.acknowledged.extend(told.acknowledged);
            all.again.extend(told.again);
            all.longest = all.longest.max(told.longest);
        }
        all
    }
}

async fn pay(mut client: LedgerClient<Channel>, payment: Arc<Payment>, going: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    while going.load(Ordering::Relaxed) {
        let (id, began) = (holmes_runtime::fresh_id().to_string(), Instant::now());
        let message = payment.message(&id);
        loop {
            match client.create_transfers(payment.request(message.clone())).await {
                Ok(answer) => {
                    assert_eq!(answer.get_ref().results[0].code(), wire::TransferCode::Ok);
                    break;
                }
                Err(status) => {
                    assert!(began.elapsed() < Duration::from_secs(60), "never a definite answer: {status}");
                    told.again.push(format!("{:?} {}", status.code(), status.message()));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        told.longest = told.longest.max(began.elapsed());
        told.acknowledged.push(id);
    }
    told
}

fn payment(server: &Server<'_>) -> Arc<Payment> {
    let key = server.payer("alice");
    let (from, to) = (server.dollars(&key, 10_000_000), server.dollars(&key, 0));
    Arc::new(Payment { key, from, to })
}

/// What must hold of a cluster that has ended: each acknowledged payment stands in the log once, every log and every
/// invariant across them holds, and each stream holds what its log holds and nothing else.
fn sound(place: &Place, told: &Told) {
    assert!(place.verified() > ROLES.len());
    place.audit();
    let log = place.run(&["replay", "--role", "ledger"]).out;
    let mut ids: Vec<String> = log.lines().flat_map(transfer_ids).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "each stands there once");
    for id in &told.acknowledged {
        assert!(ids.binary_search(id).is_ok(), "{id} was acknowledged and is not there");
    }
    for row in place.run(&["stream", "lag", "-o", "json"]).json().as_array().expect("a row for each") {
        assert_eq!(row["behind"], 0, "{row}");
    }
}

/// Ends a cluster in order.
fn end(server: Server<'_>) {
    let (status, said) = server.terminate();
    assert!(status.success(), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_role_may_die_or_stand_still_under_load_and_nothing_acknowledged_is_lost() {
    let Some(mut broker) = Broker::new("") else { return };
    let Some(place) = broker.cell() else { return };
    let server = place.cluster(&[]);
    let payment = payment(&server);
    let (load, tellers) = (Load::begin(&server, &payment).await, Tellers::begin(&server).await);
    let mut faults = || {
        for role in ROLES.iter().map(|role| format!("{role}-1")).chain(["gateway".to_owned()]) {
            let before = processes(&place)[&role]["pid"].clone();
            signal(&place, &role, "-KILL");
            until("it to run again", || {
                let row = &processes(&place)[&role];
                (row["pid"] != before && row["pid"].is_u64() && state(row) == "ready").then_some(())
            });
        }
        for role in ["ledger-1", "accounts-1"] {
            signal(&place, role, "-STOP");
            std::thread::sleep(Duration::from_secs(5));
            signal(&place, role, "-CONT");
            ready(&place);
        }
        broker.kill(); // calls go on without it
        std::thread::sleep(Duration::from_secs(2));
        broker.start();
        std::thread::sleep(Duration::from_secs(1));
    };
    tokio::task::block_in_place(&mut faults);
    let (told, history) = (load.end().await, tellers.end().await);
    println!(
        "a history of {history} operations; {} payments, {} sent again, the slowest after {:?}",
        told.acknowledged.len(),
        told.again.len(),
        told.longest
    );
    assert!(told.acknowledged.len() > 10 * CALLERS, "the load was no load");
    assert!(!told.again.is_empty(), "the gateway's death was noticed by nobody");
    let arrived = server.balance(&payment.key, &payment.to);
    assert_eq!(arrived, told.acknowledged.len() as u64, "each once");
    tokio::task::block_in_place(|| end(server));
    sound(&place, &told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_from_one_that_dies_stands_still_or_is_restarted() {
    let Some(broker) = Broker::new("") else { return };
    let Some(place) = broker.cell() else { return };
    let server = place.cluster(&["--replicas", "2"]);
    let payment = payment(&server);

    // Restarted one after the other, in order: nobody who asks the gateway notices.
    let load = Load::begin(&server, &payment).await;
    let rolled = || {
        for role in ["ledger", "accounts"] {
            for _ in 0..2 {
                let owned = owner(&place, role);
                signal(&place, &owned, "-TERM");
                until("the other one to own the log", || (owner(&place, role) != owned).then_some(()));
                ready(&place);
            }
        }
    };
    tokio::task::block_in_place(rolled);
    let mut told = load.end().await;
    println!("restarted: {} payments, the slowest after {:?}", told.acknowledged.len(), told.longest);
    assert_eq!(told.again, Vec::<String>::new(), "no request fails");

    // Killed, or standing still until another one owns the log, and then going on as if it still did.
    let (load, tellers) = (Load::begin(&server, &payment).await, Tellers::begin(&server).await);
    let lost = || {
        let owned = owner(&place, "ledger");
        signal(&place, &owned, "-KILL");
        until("it to be dead", || (state(&processes(&place)[&owned]) != "ready").then_some(()));
        let owned = owner(&place, "ledger"); // the other one, or it again: the log's name picks one of them
        ready(&place);
        signal(&place, &owned, "-STOP");
        until("the other one to own the log", || (owner(&place, "ledger") != owned).then_some(()));
        signal(&place, &owned, "-CONT");
        until("it to stand by", || state(&processes(&place)[&owned]).contains("stands by").then_some(()));
        std::thread::sleep(Duration::from_secs(1));
    };
    tokio::task::block_in_place(lost);
    let (more, history) = (load.end().await, tellers.end().await);
    println!(
        "lost: a history of {history} operations; {} payments, {} sent again, the slowest after {:?}",
        more.acknowledged.len(),
        more.again.len(),
        more.longest
    );
    told.acknowledged.extend(more.acknowledged);
    let arrived = server.balance(&payment.key, &payment.to);
    assert_eq!(arrived, told.acknowledged.len() as u64, "each once");
    tokio::task::block_in_place(|| end(server));
    sound(&place, &told);
}

#[test]
fn whoever_lacks_its_key_or_has_anothers_is_refused_and_told_why() {
    let Some(broker) = Broker::new("") else { return };
    let Some(place) = broker.cell() else { return };
    place.run(&["cluster", "status"]).fails(1, &["holmes cluster up"]);
    let nowhere = Place::new();
    nowhere.run(&["cluster", "up"]).fails(1, &["--cql host:port", "--nats host:port"]);
    let server = place.cluster(&[]);
    let key = server.payer("alice");
    let account = server.dollars(&key, 7);
    // The key of a service that accounts do not know: who asks the ledger cannot be found out there.
    let file = place.path("holmes-cluster/ledger-1/service-ledger.key");
    let kept = std::fs::read(&file).expect("a key");
    std::fs::remove_file(&file).expect("removed");
    let ran = place.run(&[
        "--config",
        "holmes-cluster/ledger-1/holmes.toml",
        "serve",
        "--role",
        "ledger",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    ran.fails(1, &["service-ledger.key is missing", "RegisterServiceKey", "KEPT_FILE_MISSING"]);
    assert_eq!(place.run(&["keys", "new", file.to_str().expect("UTF-8")]).code, 0);
    signal(&place, "ledger-1", "-KILL");
    ready(&place);
    let ask = ["Ledger/GetAccount", &json!({ "account_id": account }).to_string(), "--key", &key];
    let refused = server.call(&ask);
    refused.fails(1, &["who calls cannot be found out now", "KEYS_AWAY"]);
    std::fs::write(&file, kept).expect("written");
    signal(&place, "ledger-1", "-KILL");
    ready(&place);
    let found = until("the ledger to answer", || {
        let ran = server.call(&ask);
        (ran.code == 0).then(|| ran.json())
    });
    assert_eq!(number(&found["account"]["balanceUnits"]), 7);
    // Whose log it is decides where a replay goes.
    let logs = server.staff("Replay/ListLogs", &json!({}));
    assert_eq!(logs["logs"].as_array().expect("logs").len(), ROLES.len(), "{logs}");
    let read = server.call(&["Replay/ReadEvents", r#"{"service": "ledger"}"#, "--key", &key]);
    assert!(read.code == 0 && read.out.contains("AccountOpened"), "{}{}", read.out, read.err);
    server
        .call(&["Replay/ReadEvents", r#"{"service": "nobody"}"#, "--key", &key])
        .fails(1, &["LOG_NOT_HERE"]);
    end(server);
}
