//! What a node delivered is billed to the last token, over real processes: when the renter closes the session in the middle
//! of a call, when the session expires, when the server is killed; and a request id does not run again after that.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Place, Server, until};
use crate::paid::{MODEL, Node, attached, network_with, nodes, parts, payer};

/// Micro-dollars of a token read and written, as the demo's network has them.
const PRICES: (u64, u64) = (5, 20);

/// A call whose answer is being written.
struct Streaming {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Streaming {
    fn begin(place: &Place, server: &Server<'_>, key: &str, request_id: &str) -> Streaming {
        let request = request(request_id).to_string();
        let words = ["call", "--server", &server.address, "Inference/Generate", &request, "--key", key];
        let mut command = place.command(&words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let (mut from, text) = (child.stdout.take().expect("a pipe"), Arc::new(Mutex::new(String::new())));
        let to = text.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().expect("whole").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Streaming { child, text }
    }

    fn has(&self, words: &str) -> bool {
        self.text.lock().expect("whole").contains(words)
    }

    /// The session that pays, once it has started.
    fn session(&self) -> String {
        let text = self.text.lock().expect("whole");
        let id = text.split_once("\"sessionId\"").and_then(|(_, rest)| rest.split('"').nth(1));
        id.expect("the session's id").to_owned()
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// What came, when it is over.
    fn whole(mut self) -> Vec<Value> {
        self.child.wait().expect("it ends");
        std::thread::sleep(Duration::from_millis(100)); // the pipe is read to its end
        let text = self.text.lock().expect("whole").clone();
        parts(&text)
    }
}

/// A request for much text: hot enough that it does not end by itself soon.
fn request(request_id: &str) -> Value {
    let message = json!({ "role": "user", "content": "Sort these numbers: 41, 7, 93, 18" });
    json!({
        "request_id": request_id, "model": MODEL,
        "work": { "chat": { "messages": [message] }, "max_tokens": 200, "sampling": { "seed": "7", "temperature": 2 } },
    })
}

/// Tokens that the renter has.
fn written(parts: &[Value]) -> u64 {
    parts.iter().filter_map(|part| part["tokens"]["ids"].as_array()).map(|ids| ids.len() as u64).sum()
}

/// Tokens read and written that a whole answer says.
fn usage(parts: &[Value]) -> (u64, u64) {
    let usage = &parts.last().expect("an end")["ended"]["usage"];
    (usage["inputTokens"].as_u64().expect("a number"), usage["outputTokens"].as_u64().expect("a number"))
}

/// One node's renter. His sessions last too short for a second call: each has the one whose tokens it must come to.
struct Renter<'a> {
    place: &'a Place,
    node: &'a Node,
    key: &'a str,
    /// Tokens of the prompt, which every call has.
    read: u64,
}

impl Renter<'_> {
    /// A call that stands still in the middle: the process that computes is let go for moments only, until something was
    /// written.
    fn freeze(&self, server: &Server<'_>) -> (Streaming, String) {
        for _ in 0..20 {
            let id = server.new_id();
            self.node.signal("-STOP");
            let mut call = Streaming::begin(self.place, server, self.key, &id);
            until("a start", || (call.has("\"started\"") || call.is_over()).then_some(()));
            until("tokens", || {
                self.node.signal("-CONT");
                self.node.signal("-STOP");
                std::thread::sleep(Duration::from_millis(200));
                (call.has("\"tokens\"") || call.is_over()).then_some(())
            });
            std::thread::sleep(Duration::from_millis(300));
            if !call.is_over() && !call.has("\"ended\"") {
                return (call, id);
            }
            self.node.signal("-CONT");
        }
        panic!("every call was whole before its worker could be stopped");
    }

    /// A call that was cut short with its session: what the renter has is said to him, and billed.
    fn cut_short(&self, server: &Server<'_>, call: Streaming) {
        let session = call.session();
        let parts = call.whole();
        self.node.signal("-CONT");
        let ended = &parts.last().expect("an end")["ended"];
        assert_eq!(ended["reason"], "FINISH_REASON_SESSION_OVER", "{ended}");
        assert_eq!(usage(&parts), (self.read, written(&parts)), "{ended}");
        assert_eq!(ended["receipts"].as_array().map(Vec::len), Some(1), "{ended}");
        self.billed(server, &session, written(&parts));
    }

    /// A session's invoice, once it is closed, is exactly that of one call with so many tokens written.
    fn billed(&self, server: &Server<'_>, session: &str, written: u64) {
        let request = json!({ "session_id": session });
        let invoice = until("a session's close", || {
            let invoice = server.with_key(self.key, "Market/GetInvoice", &request);
            (invoice["session"]["state"] == "SESSION_STATE_CLOSED").then_some(invoice)
        });
        let price = self.read * PRICES.0 + written * PRICES.1;
        assert_eq!(number(&invoice["priceMicroUsd"]), price, "{written} tokens: {invoice}");
        let charged = price + (price * 2).div_ceil(100) + (price * 25).div_ceil(1_000); // E-9.1
        assert_eq!(number(&invoice["session"]["chargedUnits"]), charged, "{invoice}");
        let paid: u64 =
            invoice["lines"].as_array().expect("lines").iter().map(|line| number(&line["paidUnits"])).sum();
        assert_eq!(paid, price - (price * 3).div_ceil(100), "{invoice}");
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// No node was told that what it did is not paid, and none has a receipt left that nobody has accepted.
fn none_refused(place: &Place) {
    let files =
        |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().map(|file| file.expect("a file").path());
    let ending = |path: &Path, ending| path.extension().is_some_and(|found| found == ending);
    until("every receipt to be accepted", || {
        let mut states = files(&place.path("")).filter(|path| ending(path, "state"));
        states.all(|state| !files(&state.join("receipts")).any(|file| ending(&file, "receipt"))).then_some(())
    });
    for log in files(&place.path("")).filter(|path| ending(path, "log")) {
        let log = std::fs::read_to_string(log).expect("text");
        assert!(log.contains("attached") && !log.contains("never be paid"), "{log}");
    }
}

#[test]
fn a_drain_under_load_and_a_restart_leave_no_node_with_a_receipt_that_is_refused() {
    let place = network_with("");
    let server = place.serve(&["--role", "all"]);
    let all = nodes(&place, &server);
    let (key, _) = payer(&server, 25_000_000);
    let mut calls: Vec<_> =
        (0..6).map(|_| Streaming::begin(&place, &server, &key, &server.new_id())).collect();
    until("all calls to write", || {
        calls.iter_mut().all(|call| call.has("\"tokens\"") || call.is_over()).then_some(())
    });
    let listen = server.address.trim_start_matches("http://").to_owned();
    let (status, said) = server.terminate();
    assert!(status.success(), "{said:#?}");
    let told = |words: &str| said.iter().any(|line| line.contains(words));
    assert!(told("no call begins any more") && told("have ended, or were cut"), "{said:#?}");
    for call in calls {
        let parts = call.whole();
        assert!(parts.last().is_some_and(|part| part["ended"].is_object()), "{parts:?}");
    }
    let server = place.serve(&["--role", "all", "--listen", &listen]);
    all.iter().for_each(|node| attached(&server, &node.id));
    none_refused(&place);
    assert!(server.terminate().0.success());
}

#[test]
fn what_was_delivered_is_billed_though_the_session_closes_or_expires_or_the_server_is_killed() {
    let place = network_with("longest_session_ms = 14000\n");
    let server = place.serve(&["--role", "all"]);
    let mut all = nodes(&place, &server);
    all.truncate(1); // the others would take calls that are looked for here
    let node = &all[0];
    let (key, account) = payer(&server, 25_000_000);
    let whole = Streaming::begin(&place, &server, &key, &server.new_id()).whole();
    let renter = Renter { place: &place, node, key: &key, read: usage(&whole).0 };

    // The renter closes the session in the middle.
    let (call, _) = renter.freeze(&server);
    let close = json!({ "session_id": call.session() });
    server.with_key(&key, "Market/CloseSession", &close);
    renter.cut_short(&server, call);

    // It expires in the middle.
    let (call, _) = renter.freeze(&server);
    renter.cut_short(&server, call);

    // The server is killed in the middle: what it had countersigned and reported counts.
    let (call, id) = renter.freeze(&server);
    std::thread::sleep(Duration::from_secs(4)); // the node signs after a second, the gateway reports every second
    let listen = server.address.trim_start_matches("http://").to_owned();
    server.kill();
    let session = call.session();
    let written = written(&call.whole());
    assert!(written > 0);
    node.signal("-CONT");
    let server = place.serve(&["--role", "all", "--listen", &listen]);
    attached(&server, &node.id);
    let again = server.call(&["Inference/Generate", &request(&id).to_string(), "--key", &key]);
    again.fails(1, &["reason: CALL_EXISTS"]);
    renter.billed(&server, &session, written);
    let again = server.call(&["Inference/Generate", &request(&id).to_string(), "--key", &key]);
    again.fails(1, &["reason: CALL_EXISTS", "receipts/"]);
    let receipt = server.with_key(&key, "Inference/GetReceipt", &json!({ "call_id": id }));
    assert_eq!((&receipt["callId"], &receipt["finish"]), (&json!(id), &json!("NODE_LOST")), "{receipt}");
    none_refused(&place);

    let charged = || {
        let list = server.with_key(&key, "Market/ListSessions", &json!({}));
        let sessions = list["sessions"].as_array().expect("sessions").clone();
        sessions.iter().map(|session| number(&session["chargedUnits"])).sum::<u64>()
    };
    let left = || server.balance(&key, &account);
    until("the rest of the holds", || (left() == 25_000_000 - charged()).then_some(()));
    let (status, said) = server.terminate();
    assert!(status.success(), "{said:#?}");
    let verified = place.run(&["verify", "-o", "json"]).json();
    assert!(verified.as_array().is_some_and(|rows| rows.iter().all(|row| row["ok"] == true)), "{verified}");
    place.audit();
}
