//! What is another's, and what comes again: every request that changes something is tried first by a stranger of the same
//! kind, who names the other's thing, and then made by the one whose it is; at the end all of them come again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine as _;
use holmes_kernel::PrincipalKind;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::asker::{Asker, Sent, Told, why_not};
use crate::harness::{PATIENCE, Place, Server};
use crate::paid::{self, PEOPLE};
use crate::raw::{connect, genesis, secret};
use crate::rules::{Caller, rules};
use crate::scopes::{service_offer, wallet};
use crate::traces::{self, Heads};
use crate::{gateways, parties};

/// What cannot be prepared over the wire in a test's time, and where it is tested instead.
pub(crate) const UNPREPARED: [(&str, &str); 3] = [
    (
        "Emission/CloseEpochWithout",
        "a source would have to be silent for hours; emission's own tests do that",
    ),
    ("Inference/Embed", "no model that embeds is in the repository; it goes the way that Generate goes"),
    ("Treasury/RetryGenesis", "genesis would have to stall; treasury's own tests do that"),
];

/// What a stranger may name though it is another's, and why: he gives to it, or serves it.
pub(crate) const OPEN_TO_STRANGERS: [(&str, &str, &str); 4] = [
    ("Inference/Embed", "terms.node_id", "nodes are there to be named: Generate names another's"),
    ("Market/CloseSession", "session_id", "by a second gateway: gateways serve every renter"),
    ("Scheduling/Place", "session_id", "gateways serve every renter"),
    ("Scheduling/Place", "avoid_node_ids", "gateways serve every renter"),
];

/// Who takes part: a renter, an operator, a stranger who is everything that they are, two gateways.
pub(crate) struct People {
    pub staff: Asker,
    pub dora: Asker,
    pub ada: Asker,
    pub eve: Asker,
    pub first: Asker,
    pub second: Asker,
    /// Ada's account in tokens.
    pub grant: String,
    /// Each operator with the node that serves; ada is the first.
    pub operators: Vec<(Asker, String)>,
}

/// What has been asked so far.
pub(crate) struct Play<'a> {
    pub place: &'a Place,
    pub channel: Channel,
    done: Vec<(&'a Asker, Sent, Told)>,
    /// Methods and fields in which a stranger has named another's thing.
    tried: BTreeSet<(String, String)>,
    wrong: Vec<String>,
}

pub(crate) fn fresh() -> String {
    holmes_runtime::fresh_id().to_string()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

impl<'a> Play<'a> {
    /// What shall be done; asked again while another service has not heard yet what it needs. The last message of the
    /// answer.
    pub(crate) async fn done(&mut self, who: &'a Asker, call: &str, wanted: &Value) -> Value {
        let began = Instant::now();
        loop {
            let sent = who.request(call, wanted);
            let told = sent.send(&self.channel).await;
            if why_not(&told).is_empty() {
                let last = told.iter().flatten().last().cloned().unwrap_or_default();
                self.done.push((who, sent, told));
                return last;
            }
            // A stranger who did it before may be why.
            let before = self.wrong.join("\n");
            assert!(began.elapsed() < PATIENCE, "{call}, {wanted}: {told:?}\n{before}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What somebody does with a field that names another's thing, because he gives or serves.
    pub(crate) async fn given(&mut self, who: &'a Asker, call: &str, field: &str, wanted: &Value) -> Value {
        self.tried.insert((call.to_owned(), field.to_owned()));
        self.done(who, call, wanted).await
    }

    /// What a stranger tries: `field` names another's thing, and he is refused for that.
    pub(crate) async fn refused(&mut self, who: &Asker, call: &str, field: &str, why: &str, wanted: &Value) {
        self.tried.insert((call.to_owned(), field.to_owned()));
        let told = who.ask(&self.channel, call, wanted).await;
        if why_not(&told) != why {
            self.wrong.push(format!("{call}, {field}, by {}: {why} was expected, not {told:?}", who.name()));
        }
    }

    /// What a stranger is answered though `field` names another's thing: the log must show that it has changed nothing.
    pub(crate) async fn answered(&mut self, who: &Asker, call: &str, field: &str, wanted: &Value) -> Value {
        self.tried.insert((call.to_owned(), field.to_owned()));
        let told = who.ask(&self.channel, call, wanted).await;
        told.map(|said| said.last().cloned().unwrap_or_default())
            .unwrap_or_else(|why| panic!("{call}: {why:?}"))
    }

    /// What a stranger is told of the last request's id when he uses it himself: why not, and never so much.
    pub(crate) async fn under_the_last_id(&mut self, who: &Asker, why: &str, never: &str) {
        let (_, sent, _) = self.done.last().expect("a request");
        let told = who.prove_again(sent).send(&self.channel).await;
        if why_not(&told) != why || format!("{told:?}").contains(never) {
            self.wrong.push(format!("{} under another's id: {told:?}", sent.method));
        }
    }

    /// What is read until it is so.
    pub(crate) async fn until<T>(
        &self,
        who: &Asker,
        call: &str,
        wanted: &Value,
        so: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            let told = who.ask(&self.channel, call, wanted).await;
            if let Some(found) = told.as_ref().ok().and_then(|said| so(said.last()?)) {
                return found;
            }
            assert!(began.elapsed() < 2 * PATIENCE, "{call}, {wanted}: {told:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// A key that somebody has made just now, offered for a holder.
    pub(crate) fn offer(&self, file: &str, holder: &str, owner: &str) -> Value {
        if !self.place.path(file).exists() {
            assert_eq!(self.place.run(&["keys", "new", file]).code, 0);
        }
        self.place.run(&["keys", "offer", file, "--as", holder, "--owner", owner]).json()
    }

    /// Everything that was done comes again, to the byte and then with a proof of now.
    async fn again(&mut self) {
        for (who, sent, first) in &self.done {
            for again in [None, Some(who.prove_again(sent))] {
                let told = again.as_ref().unwrap_or(sent).send(&self.channel).await;
                if !is_same(&sent.method, first, &told) {
                    self.wrong.push(format!("{}: {first:?}, then {told:?}", sent.method));
                }
            }
        }
    }
}

/// Whether an answer is the first one again. Sessions, and what becomes of leases, are shown as they stand; a call is
/// named by its id for ever, and refused.
fn is_same(method: &str, first: &Told, again: &Told) -> bool {
    let live = ["/OpenSession", "/CloseSession", "/ReportRunning"].iter().any(|end| method.ends_with(end));
    match again {
        Err(refused) if method.ends_with("/Generate") => refused.reason == "CALL_EXISTS",
        again => first == again || live && again.is_ok(),
    }
}

fn people(place: &Place, server: &Server<'_>) -> (People, Vec<paid::Node>) {
    let network = genesis(&std::fs::read(place.path("net.toml")).expect("a profile"));
    let nodes = paid::nodes(place, server);
    let account = |key| Asker::signing(key, PrincipalKind::Account, network);
    let ada = account(secret(place, "ada.key"));
    let dora = account(wallet(place, server, "dora", &["ROLE_RENTER"]).1);
    let all = ["ROLE_RENTER", "ROLE_OPERATOR", "ROLE_VERIFIER"];
    let eve = account(wallet(place, server, "eve", &all).1);
    let staff = Asker::signing(secret(place, "holmes-data/staff.key"), PrincipalKind::Staff, network);
    let [first, second] = ["first", "second"].map(|name| {
        let file = format!("{name}.key");
        assert_eq!(place.run(&["keys", "new", &file]).code, 0);
        Asker::signing(secret(place, &file), PrincipalKind::Gateway, network)
    });
    let grant = paid::grant(server, PEOPLE[0]);
    let operator = |name: &str| account(secret(place, &format!("{name}.key")));
    let operators = PEOPLE.iter().zip(&nodes).map(|(name, node)| (operator(name), node.id.clone())).collect();
    (People { staff, dora, ada, eve, first, second, grant, operators }, nodes)
}

/// A service's key, as staff registers it.
pub(crate) fn a_service(play: &Play<'_>) -> Value {
    let network = genesis(&std::fs::read(play.place.path("net.toml")).expect("a profile"));
    assert_eq!(play.place.run(&["keys", "new", "service.key"]).code, 0);
    service_offer(&secret(play.place, "service.key"), network)
}

/// Every RPC that happens once is in the play, or it is said why it cannot be.
fn unplayed(play: &Play<'_>) -> Vec<String> {
    let mut missing = Vec::new();
    for rule in rules().iter().filter(|rule| rule.once) {
        let played = play.done.iter().any(|(_, sent, _)| sent.method == rule.method);
        let named = UNPREPARED.iter().any(|(call, _)| rule.method.ends_with(call));
        if played == named {
            missing.push(format!(
                "{}: prepare it, or say in UNPREPARED why that cannot be; not both",
                rule.method
            ));
        }
        // What staff and services name is never another's; that accounts hear nothing of it, `strangers` shows.
        if !rule.allows(Caller::Account) && !rule.allows(Caller::Gateway) {
            continue;
        }
        for field in rule.names() {
            let tried = play.tried.iter().any(|(call, named)| rule.method.ends_with(call) && named == field);
            let open = OPEN_TO_STRANGERS
                .iter()
                .any(|(call, named, _)| rule.method.ends_with(call) && named == field);
            if !tried && !open {
                missing.push(format!("{}: no stranger has tried {field}", rule.method));
            }
        }
    }
    missing
}

/// What strangers have changed that they were not meant to, and what has happened twice.
fn undone(place: &Place, play: &Done, heads: [&Heads; 3]) -> Vec<String> {
    let [start, once, end] = heads;
    let mut wrong = Vec::new();
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for entry in traces::between(place, start, once) {
        let request = entry["origin"]["request"].as_str().unwrap_or_default();
        let strange = play.strangers.iter().any(|who| entry["principal"] == **who);
        if strange && traces::has_effect(&entry) && !play.done.contains_key(request) {
            wrong.push(format!("a stranger has changed something: {entry}"));
        }
        *counted.entry(request.to_owned()).or_default() += 1;
    }
    // A call's id is no request's: what its gateway asked for it, it asked under ids of its own.
    for (id, method) in play.done.iter().filter(|(_, method)| !method.ends_with("/Generate")) {
        if counted.get(id) != Some(&1) {
            wrong.push(format!("{method}, request {id}, stands {:?} times in the logs", counted.get(id)));
        }
    }
    let twice = traces::between(place, once, end);
    let twice = twice.into_iter().filter(|entry| traces::is_called_for(entry, &play.asking));
    wrong.extend(twice.map(|entry| format!("what came again has done something: {entry}")));
    wrong
}

/// What is known of a play once its server has stopped.
struct Done {
    /// Requests that were done, and what they were for.
    done: BTreeMap<String, String>,
    strangers: Vec<String>,
    asking: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_touches_what_is_anothers_and_nothing_that_comes_again_happens_twice() {
    let place = paid::quick_network();
    let server = place.serve(&["--role", "all"]);
    let (people, nodes) = people(&place, &server);
    let channel = connect(&server).await;
    let start = server.heads();
    let mut play =
        Play { place: &place, channel, done: Vec::new(), tried: BTreeSet::new(), wrong: Vec::new() };
    parties::accounts(&mut play, &people).await;
    let purses = parties::money(&mut play, &people).await;
    let session = parties::rents(&mut play, &people, &purses).await;
    let node = parties::bonds(&mut play, &people, &purses).await;
    gateways::serve(&mut play, &people, &session, &node).await;
    parties::leaves(&mut play, &people, &purses, (&session, &node)).await;
    let once = server.heads();
    play.again().await;
    let end = server.heads();
    let mut wrong = unplayed(&play);
    wrong.append(&mut play.wrong);
    let all = [&people.staff, &people.dora, &people.ada, &people.eve, &people.first, &people.second];
    let done = Done {
        done: play.done.iter().map(|(_, sent, _)| (sent.id.to_string(), sent.method.clone())).collect(),
        strangers: vec![people.eve.name(), people.second.name()],
        asking: all.map(Asker::name).into(),
    };
    println!("{} requests were done once, {} fields tried by strangers", play.done.len(), play.tried.len());
    drop(nodes);
    server.terminate();
    wrong.extend(undone(&place, &done, [&start, &once, &end]));
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(place.verified() > 0);
}

/// A transfer by itself.
pub(crate) fn transfer(kind: &str, more: Value) -> Value {
    let mut row = json!({ "transfer_id": fresh(), "kind": format!("TRANSFER_KIND_{kind}") });
    row.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({ "transfers": [row] })
}
