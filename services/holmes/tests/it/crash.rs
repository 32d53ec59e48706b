//! SIGKILL in the middle of a write load, again and again: what was acknowledged is there, once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Killed, Place, until};

const KILLS: usize = 4;
const CALLERS: usize = 16;
/// For how long calls run before the process dies.
const LOAD: Duration = Duration::from_millis(500);

/// Who pays whom.
pub(crate) struct Payment {
    pub(crate) key: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Payment {
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.key).parse().expect("printable");
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    fn transfer(&self, id: &str) -> Request<wire::CreateTransfersRequest> {
        self.request(self.message(id))
    }

    /// The same message again is the same request.
    pub(crate) fn message(&self, id: &str) -> wire::CreateTransfersRequest {
        let transfer = wire::Transfer {
            transfer_id: id.to_owned(),
            kind: wire::TransferKind::Single.into(),
            debit_account_id: self.from.clone(),
            credit_account_id: self.to.clone(),
            amount_units: 1,
            ..wire::Transfer::default()
        };
        let request_id = holmes_runtime::fresh_id().to_string();
        wire::CreateTransfersRequest {
            request_id,
            transfers: vec![transfer],
            ..wire::CreateTransfersRequest::default()
        }
    }
}

pub(crate) async fn connect(address: &str) -> LedgerClient<Channel> {
    let endpoint = Endpoint::new(address.to_owned()).expect("an address");
    LedgerClient::new(endpoint.connect().await.expect("the server answers"))
}

/// Calls until the server is gone; the ids of the transfers that it acknowledged.
async fn pay(mut client: LedgerClient<Channel>, payment: Arc<Payment>, sent: Arc<AtomicU64>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let id = holmes_runtime::fresh_id().to_string();
        sent.fetch_add(1, Ordering::Relaxed);
        let Ok(answer) = client.create_transfers(payment.transfer(&id)).await else { return acknowledged };
        assert_eq!(answer.get_ref().results[0].code(), wire::TransferCode::Ok);
        acknowledged.push(id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_under_load_has_every_transfer_that_it_acknowledged_and_each_once() {
    dies_under_load(&Place::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_has_one_whose_logs_lie_on_cql_servers() {
    if let Some(place) = Place::migrated() {
        dies_under_load(&place).await;
    }
}

async fn dies_under_load(place: &Place) {
    let mut server = place.serve(&[]);
    let key = server.payer("alice");
    let (from, to) = (server.dollars(&key, 10_000_000), server.dollars(&key, 0));
    let payment = Arc::new(Payment { key: key.clone(), from, to: to.clone() });
    let sent = Arc::new(AtomicU64::new(0));
    let mut acknowledged: Vec<String> = Vec::new();
    for _ in 0..KILLS {
        let client = connect(&server.address).await;
        let callers: Vec<_> =
            (0..CALLERS).map(|_| tokio::spawn(pay(client.clone(), payment.clone(), sent.clone()))).collect();
        tokio::time::sleep(LOAD).await;
        server.kill();
        for caller in callers {
            acknowledged.extend(caller.await.expect("a caller ends"));
        }
        server = place.serve(&[]);
    }
    let sent = sent.load(Ordering::Relaxed);
    assert!(acknowledged.len() > KILLS * CALLERS, "the load was no load: {} of {sent}", acknowledged.len());
    let mut client = connect(&server.address).await;
    for id in &acknowledged {
        let request = wire::GetTransferRequest { transfer_id: id.clone() };
        let found = client.get_transfer(payment.request(request)).await.expect("an acknowledged transfer");
        assert_eq!((found.get_ref().code(), found.get_ref().amount_units), (wire::TransferCode::Ok, 1));
    }
    let arrived = server.balance(&key, &to);
    assert!(
        (acknowledged.len() as u64..=sent).contains(&arrived),
        "{arrived} of {} to {sent}",
        acknowledged.len()
    );
    server.kill();
    assert!(place.verified() > 0);
    place.audit();
    let log = place.run(&["replay", "--role", "ledger"]).out;
    let mut ids: Vec<String> = log.lines().flat_map(transfer_ids).collect();
    ids.sort_unstable();
    let before = ids.len();
    ids.dedup();
    assert_eq!((ids.len(), before as u64), (before, arrived), "each stands in the log once");
}

/// The ids of the transfers that a line of `replay` holds.
pub(crate) fn transfer_ids(line: &str) -> Vec<String> {
    let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    let events = line["events"].as_array().cloned().unwrap_or_default();
    let ids = events
        .iter()
        .flat_map(|event| event["transfersRecorded"]["ids"].as_array().cloned().unwrap_or_default());
    ids.map(|id| id.as_str().expect("a text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_server_answers_what_it_has_begun_and_breaks_off_nothing() {
    let place = Place::new();
    let server = place.serve(&[]);
    let key = server.payer("alice");
    let (from, to) = (server.dollars(&key, 10_000_000), server.dollars(&key, 0));
    let payment = Arc::new(Payment { key, from, to });
    let going = Arc::new(AtomicBool::new(true));
    let client = connect(&server.address).await;
    let caller = |going: Arc<AtomicBool>, payment: Arc<Payment>, mut client: LedgerClient<Channel>| async move {
        let (mut answered, mut lost) = (0u64, Vec::new());
        while going.load(Ordering::Relaxed) {
            let id = holmes_runtime::fresh_id().to_string();
            match client.create_transfers(payment.transfer(&id)).await {
                Ok(_) => answered += 1,
                // Refused before it began, because nobody listens any more: nothing of it is in the log.
                Err(status) => lost.push((id, status.to_string())),
            }
            if lost.len() > 3 {
                break;
            }
        }
        (answered, lost)
    };
    let callers: Vec<_> =
        (0..CALLERS).map(|_| tokio::spawn(caller(going.clone(), payment.clone(), client.clone()))).collect();
    tokio::time::sleep(LOAD).await;
    let (status, said) = tokio::task::block_in_place(|| server.terminate());
    assert!(status.success(), "{said:#?}");
    assert!(
        said.last().is_some_and(|line| line.starts_with("stopped; everything acknowledged")),
        "{said:#?}"
    );
    going.store(false, Ordering::Relaxed);
    let (mut answered, mut lost) = (0, Vec::new());
    for caller in callers {
        let (more, without) = caller.await.expect("a caller ends");
        answered += more;
        lost.extend(without);
    }
    let log = place.run(&["replay", "--role", "ledger"]).out;
    let opened: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    let hol = &opened["origin"]["opened"]["params"]["assets"][0]; // all tokens exist before the first event
    assert_eq!((&hol["name"], &hol["capUnits"]), (&"HOL".into(), &"1000000000000000000".into()));
    assert_eq!(log.matches("transfersRecorded").count() as u64, answered, "{:?}", lost.first());
}

/// A demo that is being played, up to its first node.
struct Played {
    place: Place,
    demo: Killed,
}

impl Played {
    fn begun() -> Played {
        let place = Place::new();
        let mut command = place.command(&["demo", "--model", "holmes-tiny", "--dir", "played"]);
        command.env("HOLMES__MODELS__DIR", place.path("models"));
        let out = std::fs::File::create(place.path("said")).expect("a file");
        let demo = Killed(command.stdout(out).stderr(Stdio::null()).spawn().expect("it starts"));
        let played = Played { place, demo };
        until("a node's process", || played.said().contains("executor runs as process").then_some(()));
        played
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.place.path("said")).expect("it speaks")
    }

    /// Its processes so far, and theirs.
    fn processes(&self) -> BTreeSet<u32> {
        let all = parents();
        let mut found = BTreeSet::from([self.demo.0.id()]);
        while let Some(child) = all.iter().find(|(pid, of)| found.contains(of) && !found.contains(pid)) {
            found.insert(*child.0);
        }
        found.remove(&self.demo.0.id());
        found
    }
}

/// Every process that runs, and whose child it is; the dead that nobody has buried do not run.
fn parents() -> BTreeMap<u32, u32> {
    let parent = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // Its name, in parentheses, may hold anything.
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent) = (words.next()?, words.next()?.parse().ok()?);
        (state != "Z").then_some((pid, parent))
    };
    std::fs::read_dir("/proc").expect("processes").filter_map(|entry| parent(entry.ok()?)).collect()
}

fn still_running(pids: &BTreeSet<u32>) -> Vec<u32> {
    let running = parents();
    pids.iter().filter(|pid| running.contains_key(pid)).copied().collect()
}

#[test]
fn a_demo_that_is_asked_to_stop_leaves_no_process_behind() {
    let mut played = Played::begun();
    let pids = played.processes();
    let id = played.demo.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(played.demo.0.wait().expect("it ends").code(), Some(1));
    let said = played.said();
    assert!(said.contains("the demo stops here: it was asked to stop"), "{said}");
    assert!(pids.len() >= 2, "the server and a node: {said}");
    assert!(still_running(&pids).is_empty(), "{:?} still run: {said}", still_running(&pids));
}

#[test]
fn a_demo_that_is_killed_takes_its_processes_and_their_workers_with_it() {
    let mut played = Played::begun();
    let is_worker = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).nth(1) == Some(b"worker")
    };
    let pids = until("a node's worker", || {
        let pids = played.processes();
        pids.iter().any(is_worker).then_some(pids)
    });
    assert!(pids.len() >= 3, "the server, a node and its worker: {}", played.said());
    played.demo.0.kill().expect("killed");
    played.demo.0.wait().expect("gone");
    until("the death of all that it has started", || still_running(&pids).is_empty().then_some(()));
}
