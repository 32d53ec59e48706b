//! Paid calls over real processes: a server, three executors with the model of the binary, a renter with dollars.

use std::fs::DirEntry;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Killed, Place, Ran, Server, ask, number, until};

pub(crate) const MODEL: &str = "holmes-tiny";
pub(crate) const HOL: u64 = 1_000_000_000;
pub(crate) const PEOPLE: [&str; 3] = ["ada", "ben", "cleo"];

/// A node, whose process is killed when it is dropped.
pub(crate) struct Node {
    pub(crate) id: String,
    dollars: String,
    pub(crate) process: Killed,
}

impl Node {
    /// The process that computes for it: its agent's one child.
    fn worker(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.0.id())).expect("its threads");
        let children = |task: std::io::Result<DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("children")).ok()
        };
        let workers: String = tasks.filter_map(children).collect();
        assert_eq!(workers.split_whitespace().count(), 1, "{workers:?}");
        workers.trim().to_owned()
    }

    /// Stops or continues the process that computes: the agent goes on.
    pub(crate) fn signal(&self, signal: &str) {
        send(&self.worker(), signal);
    }

    /// Ends both at once.
    fn die(self) {
        let worker = self.worker();
        drop(self); // the agent goes first: it would begin another worker
        send(&worker, "-KILL");
    }
}

fn send(process: &str, signal: &str) {
    let sent = Command::new("kill").args([signal, process]).status().expect("kill runs");
    assert!(sent.success(), "process {process}");
}

pub(crate) fn show(place: &Place, key: &str) -> String {
    let rows = place.run(&["keys", "show", key, "-o", "json"]).json();
    rows[0]["id"].as_str().expect("an id").to_owned()
}

/// A place whose network grants HOL to three operators.
pub(crate) fn network() -> Place {
    network_with("")
}

/// The same, with more in the market's section.
pub(crate) fn network_with(market: &str) -> Place {
    network_of(|text| text.replace("[market]\n", &format!("[market]\n{market}")))
}

/// The same, with epochs so short that a test can wait for a close.
pub(crate) fn quick_network() -> Place {
    network_of(|text| text.replace("epoch_s = 45", "epoch_s = 12"))
}

fn network_of(changed: impl Fn(&str) -> String) -> Place {
    let place = Place::of("net.toml");
    let mut text = changed(include_str!("../../../../deploy/profiles/demo.toml"));
    for name in PEOPLE {
        for key in [format!("{name}.key"), format!("{name}-node.key")] {
            assert_eq!(place.run(&["keys", "new", &key]).code, 0);
        }
        let (owner, units) = (show(&place, &format!("{name}.key")), 50_000 * HOL);
        text.push_str(&format!(
            "\n[[treasury.grants]]\nname = \"{name}\"\nowner = \"account/{owner}\"\namount_units = \"{units}\"\n"
        ));
    }
    std::fs::write(place.path("net.toml"), text).expect("written");
    place
}

fn signed(server: &Server<'_>, name: &str, method: &str, request: &Value) -> Ran {
    server.call(&[method, &request.to_string(), "--sign-with", &format!("{name}.key")])
}

/// Registers, bonds and attests a node, as its owner does it; the owner's account in dollars.
fn bond(place: &Place, server: &Server<'_>, name: &str, grant: &str) -> (String, String) {
    let (wallet, node) = (format!("{name}.key"), format!("{name}-node.key"));
    let owner = show(place, &wallet);
    let key = place.run(&["keys", "offer", &wallet]).json();
    let account = json!({ "name": name, "roles": ["ROLE_OPERATOR"], "key": key });
    server.call(&["Accounts/CreateAccount", &account.to_string()]).json();
    let offer = place.run(&["keys", "offer", &node, "--as", "staking-node", "--owner", &owner]).json();
    let register = json!({
        "public_key": offer["public_key"], "possession": offer["possession"],
        "kind": "NODE_KIND_COMPUTE", "rating_milli_cu": 1_000,
    });
    signed(server, name, "Staking/RegisterNode", &register).json();
    let node = show(place, &node);
    let required = signed(server, name, "Staking/GetRequired", &json!({ "node_id": node })).json();
    let required = number(&required["requiredUnits"]);
    let hold = server.new_id();
    let transfer = json!({
        "transfer_id": hold, "kind": "TRANSFER_KIND_HOLD", "debit_account_id": grant,
        "credit_account_id": holmes_ledger::state::system_account("bonds/HOL").to_string(),
        "amount_units": (required + required / 10).to_string(),
        "coordinator": {
            "service": holmes_proto::service("staking").expect("its number").0, "coordination_id": node,
        },
    });
    let held = signed(server, name, "Ledger/CreateTransfers", &json!({ "transfers": [transfer] })).json();
    assert_eq!(held["results"][0]["code"], "TRANSFER_CODE_OK");
    let request = json!({ "node_id": node, "hold_id": hold });
    until("a bond", || (signed(server, name, "Staking/Bond", &request).code == 0).then_some(()));
    server.staff("Staking/SetRating", &json!({ "node_id": node, "rating_milli_cu": 1_000 }));
    let dollars = server.new_id();
    let open = json!({ "account_id": dollars, "asset": 2 });
    signed(server, name, "Ledger/OpenAccount", &open).json();
    for (asset, account) in [(1, grant), (2, dollars.as_str())] {
        let set = json!({ "asset": asset, "account_id": account });
        signed(server, name, "Market/SetAccount", &set).json();
    }
    (node, dollars)
}

/// Starts a node's executor; what it says goes to a file beside its key.
fn executor(place: &Place, server: &Server<'_>, key: &str) -> Killed {
    let model = format!("{MODEL}={}", concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/holmes-tiny"));
    let words = ["executor", "--join", &server.address, "--key", key, "--model", &model, "--slots", "4"];
    let mut command = place.command(&[&words[..], &["--threads", "1"]].concat());
    let log = std::fs::File::create(place.path(&format!("{key}.log"))).expect("a file");
    Killed(command.stderr(log).spawn().expect("the binary starts"))
}

/// The account of an operator's grant, once genesis has paid it.
pub(crate) fn grant(server: &Server<'_>, name: &str) -> String {
    let grants = until("genesis", || {
        let at = server.staff("Treasury/GetGenesis", &json!({}));
        (at["state"] == "GENESIS_STATE_COMPLETED")
            .then(|| server.staff("Treasury/GetAllocations", &json!({}))["grants"].clone())
    });
    let grant = grants.as_array().and_then(|all| all.iter().find(|grant| grant["name"] == name));
    grant.and_then(|grant| grant["accountId"].as_str()).expect("its grant").to_owned()
}

/// Three nodes that may serve.
pub(crate) fn nodes(place: &Place, server: &Server<'_>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in PEOPLE {
        let grant = grant(server, name);
        let (id, dollars) = bond(place, server, name, &grant);
        let process = executor(place, server, &format!("{name}-node.key"));
        nodes.push(Node { id, dollars, process });
    }
    for node in &nodes {
        attached(server, &node.id);
    }
    nodes
}

pub(crate) fn attached(server: &Server<'_>, node: &str) {
    let request = json!({ "node_id": node }).to_string();
    let proof = ["--sign-with", "holmes-data/staff.key", "--as", "staff"];
    until("a node", || {
        let ran = server.call(&[&["Scheduling/GetNode", &request], &proof[..]].concat());
        let found = (ran.code == 0).then(|| ran.json())?;
        (found["node"]["attached"] == true && found["node"]["qualified"] == true).then_some(())
    });
}

/// A renter with dollars that pay.
pub(crate) fn payer(server: &Server<'_>, units: u64) -> (String, String) {
    let (_, key) = server.renter("dora");
    let account = server.dollars(&key, units);
    server.with_key(&key, "Market/SetAccount", &json!({ "asset": 2, "account_id": account }));
    (key, account)
}

/// A request for text.
pub(crate) fn generate(most: u32) -> Value {
    let message = json!({ "role": "user", "content": "Sort these numbers: 41, 7, 93, 18" });
    json!({
        "model": MODEL,
        "work": { "chat": { "messages": [message] }, "max_tokens": most, "sampling": { "seed": "7" } },
    })
}

/// A process that calls for a long text.
fn calling(place: &Place, server: &Server<'_>, key: &str, out: Stdio) -> Child {
    let request = generate(160).to_string();
    let words = ["call", "--server", &server.address, "Inference/Generate", &request, "--key", key];
    place.command(&words).stdout(out).stderr(Stdio::null()).spawn().expect("it starts")
}

/// The messages of a stream.
pub(crate) fn parts(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text).into_iter().map(|part| part.expect("JSON")).collect()
}

/// What a session came to: its price, what was charged, and what the nodes were paid.
struct Settled {
    price: u64,
    charged: u64,
    paid: u64,
}

/// Closes the renter's sessions, the oldest first.
fn settle(server: &Server<'_>, key: &str) -> Vec<Settled> {
    let list = server.with_key(key, "Market/ListSessions", &json!({}));
    let mut settled = Vec::new();
    let mut sessions = list["sessions"].as_array().expect("sessions").clone();
    sessions.sort_by_key(|session| number(&session["openedAtUs"]));
    for session in &sessions {
        let request = json!({ "session_id": session["sessionId"] });
        server.with_key(key, "Market/CloseSession", &request);
        let invoice = until("a session's close", || {
            let invoice = server.with_key(key, "Market/GetInvoice", &request);
            (invoice["session"]["state"] == "SESSION_STATE_CLOSED").then_some(invoice)
        });
        let lines = invoice["lines"].as_array().expect("lines");
        let paid = lines.iter().map(|line| number(&line["paidUnits"])).sum();
        let (price, charged) =
            (number(&invoice["priceMicroUsd"]), number(&invoice["session"]["chargedUnits"]));
        // E-9.1: to the micro-dollar.
        assert_eq!(charged, price + (price * 2).div_ceil(100) + (price * 25).div_ceil(1_000), "{invoice}");
        assert!(paid <= price && price - paid <= (price * 3).div_ceil(100) + lines.len() as u64, "{invoice}");
        settled.push(Settled { price, charged, paid });
    }
    settled
}

/// What tokens read and written come to, micro-dollars, as the demo's network prices them.
fn price(read: u64, written: u64) -> u64 {
    5 * read + 20 * written
}

/// What a whole answer comes to, by its own words.
fn price_of(said: &[Value]) -> u64 {
    let usage = &said.last().expect("an end")["ended"]["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a number");
    price(count("inputTokens"), count("outputTokens"))
}

fn balance(server: &Server<'_>, account: &str) -> u64 {
    let found = server.staff("Ledger/GetAccount", &json!({ "account_id": account }));
    number(&found["account"]["balanceUnits"])
}

pub(crate) fn chat(server: &Server<'_>, key: &str) -> String {
    let body = json!({
        "model": MODEL, "max_tokens": 8,
        "messages": [{ "role": "user", "content": "Sort these numbers: 3 1 2" }],
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    ask(&server.http(), head.as_bytes())
}

#[test]
fn balances_move_by_the_invoice_and_a_killed_node_or_server_costs_nobody_anything() {
    let place = network();
    let server = place.serve(&["--role", "all"]);
    let mut nodes = nodes(&place, &server);
    let (key, account) = payer(&server, 25_000_000);

    // By gRPC and by HTTP.
    let called = server.call(&["Inference/Generate", &generate(16).to_string(), "--key", &key]);
    assert_eq!(called.code, 0, "{}", called.err);
    let said = parts(&called.out);
    let ended = &said.last().expect("an end")["ended"];
    assert!(ended["receipts"][0].as_str().is_some_and(|name| name.starts_with("receipts/")), "{ended}");
    let mut owed = price_of(&said);
    let answer = chat(&server, &key);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = answer.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).expect("JSON").0;
    let usage = &serde_json::from_str::<Value>(&format!("{{{body}}}")).expect("JSON")["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a number");
    owed += price(count("prompt_tokens"), count("completion_tokens"));

    // The node dies in the middle: the call finishes elsewhere.
    // None computes until one of them is dead, so that the call is still in progress then.
    nodes.iter().for_each(|node| node.signal("-STOP"));
    let mut child = calling(&place, &server, &key, Stdio::piped());
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let mut text = String::new();
    let victim = lines.by_ref().find_map(|line| {
        text.push_str(&line);
        nodes.iter().position(|node| line.contains("\"nodeId\"") && line.contains(&node.id))
    });
    nodes.remove(victim.expect("a node began")).die();
    nodes.iter().for_each(|node| node.signal("-CONT"));
    text.extend(lines);
    assert!(child.wait().expect("it ends").success(), "{text}");
    let said = parts(&text);
    assert!(said.last().expect("an end")["ended"].is_object(), "{text}");
    assert!(said.iter().any(|part| part["moved"].is_object()), "{text}");
    assert!(server.metrics().contains("\nholmes_gateway_calls_moved_total 1\n"));
    owed += price_of(&said);

    // The server dies while calls run; its nodes come back by themselves.
    let child = calling(&place, &server, &key, Stdio::piped());
    std::thread::sleep(Duration::from_millis(300));
    let listen = server.address.trim_start_matches("http://").to_owned();
    server.kill();
    let got = child.wait_with_output().expect("it ends").stdout;
    let got = parts(&String::from_utf8(got).expect("UTF-8"));
    let written: usize = got.iter().filter_map(|part| Some(part["tokens"]["ids"].as_array()?.len())).sum();
    let read = said[said.len() - 1]["ended"]["usage"]["inputTokens"].as_u64().expect("the same prompt's");
    let server = place.serve(&["--role", "all", "--listen", &listen]);
    for node in &nodes {
        attached(&server, &node.id);
    }
    let again = server.call(&["Inference/Generate", &generate(8).to_string(), "--key", &key]);
    assert_eq!(again.code, 0, "{}", again.err);

    let [before, after] = &settle(&server, &key)[..] else { panic!("a gateway's sessions are its own") };
    assert_eq!(after.price, price_of(&parts(&again.out)));
    // Of the call that died with the server what was checkpointed: no more than the renter has.
    let most = owed + price(read, written as u64);
    assert!((owed..=most).contains(&before.price), "{} of {owed} to {most}", before.price);
    let (charged, paid) = (before.charged + after.charged, before.paid + after.paid);
    until("the rest of the hold", || (balance(&server, &account) == 25_000_000 - charged).then_some(()));

    // Without money.
    let (poor, _) = payer(&server, 0);
    let refused = server.call(&["Inference/Generate", &generate(8).to_string(), "--key", &poor]);
    refused.fails(1, &["reason: INSUFFICIENT_FUNDS", "at least 1.000000 USD", "in account"]);
    let words = ["ask", "Sort 3 1", "--model", MODEL, "--server", &server.address, "--key", &poor];
    let told = ["at least 1.000000 USD", "available are 0.000000 USD in account", "INSUFFICIENT_FUNDS"];
    place.run(&words).fails(1, &told);
    let earned: u64 = nodes.iter().map(|node| balance(&server, &node.dollars)).sum();
    assert!(earned <= paid);
    let question = "Sort these numbers: 3 1 2";
    let asked = place.run(&["ask", question, "--model", MODEL, "--server", &server.address, "--key", &key]);
    let (told, account) = (asked.err, format!("account {account}: 23."));
    assert!(told.contains(&account) && told.contains(" USD available, 1.000000 USD held; 24."), "{told}");
    let (status, said) = server.terminate();
    assert!(status.success(), "{said:#?}");
    assert!(place.verified() > 0);
    place.audit();
}
