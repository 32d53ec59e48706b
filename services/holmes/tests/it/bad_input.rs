//! Bad input: every field of every RPC that the server tells of, made wrong in every way of its type. Each is answered
//! with a code that blames its sender, a stable reason and a message, and nothing changes.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use holmes_kernel::{Id, PrincipalKind};
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Place, Server, ask};
use crate::raw::{
    Fields, Signing, bearer, call, connect, described, genesis, methods, now_ms, of_key, reason, secret,
};
use crate::traces::nothing_asked;

/// Longer than any text, list or blob may be.
const LONG: usize = 70_000;
/// Calls at the same time.
const AT_ONCE: usize = 16;
/// What may answer 0, nothing, or a name of no use: requests that only read.
const READS: [&str; 5] = ["Get", "List", "Explain", "Quote", "Embed"];

/// A request that is wrong.
struct Bad {
    method: String,
    /// The field and what is wrong with it.
    what: String,
    bytes: Vec<u8>,
    /// The request id that it carries, where that is an id at all.
    id: Option<Id>,
}

/// Who sends it.
enum Caller {
    Key(Box<SigningKey>, PrincipalKind),
    ApiKey(String),
}

impl Caller {
    fn proof(&self, bad: &Bad) -> Fields {
        match self {
            Caller::ApiKey(key) => bearer(key),
            Caller::Key(key, kind) => {
                let genesis = genesis(include_bytes!("../../../../deploy/profiles/hol.toml"));
                let signing = Signing { key, principal: of_key(key, *kind), genesis };
                let id = bad.id.unwrap_or_else(fresh_id);
                signing.fields(&bad.method, &bad.bytes, id, now_ms() + 60_000)
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Caller::ApiKey(_) => "renter".to_owned(),
            Caller::Key(_, kind) => format!("{kind:?}").to_lowercase(),
        }
    }
}

/// Whose requests of a method are looked at most closely: another caller is refused before its fields are read.
fn who(method: &str) -> &'static str {
    match method.split('.').nth(1) {
        Some("scheduling" | "gateway") => "gateway",
        Some("inference") => "renter",
        Some("market") if !method.ends_with("/SetModel") => "renter",
        _ => "staff",
    }
}

/// A value for a field that says nothing wrong and means nothing that there is.
fn harmless(field: &FieldDescriptor, depth: usize) -> Value {
    let name = field.name();
    let one = match field.kind() {
        Kind::String if is_id(field) => Value::String(fresh_id().to_string()),
        Kind::String => Value::String(text(field)),
        Kind::Bytes if ["signature", "possession"].iter().any(|end| name.ends_with(end)) => {
            Value::Bytes(vec![1; 64].into())
        }
        Kind::Bytes if name == "bitmap" => Value::Bytes(vec![0; 2].into()), // of 9 beats
        Kind::Bytes if name == "capabilities" => Value::Bytes(Vec::new().into()),
        Kind::Bytes => Value::Bytes(vec![1; if name == "nonce" { 16 } else { 32 }].into()),
        Kind::Bool => Value::Bool(false),
        Kind::Uint32 => Value::U32(9),
        Kind::Uint64 if name == "submission_number" => Value::U64(0),
        Kind::Uint64 => Value::U64(9),
        Kind::Float => Value::F32(0.5),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(message) => Value::Message(whole(&message, depth + 1)),
        other => panic!("{}: say here what is harmless for {other:?}", field.full_name()),
    };
    if field.is_list() { Value::List(vec![one]) } else { one }
}

/// A text that says nothing wrong. Three requests would be done as they are: those have a name that cannot be.
fn text(field: &FieldDescriptor) -> String {
    match (field.parent_message().name(), field.name()) {
        ("CreateAccountRequest" | "Model", "name") => "\u{7}".into(),
        ("OpenAccountRequest", "name") | (_, "page_token") => String::new(),
        (_, "lease_id") => "1.4.1.999999".into(),
        (_, "asset") => "USD".into(),
        (_, "role") => "user".into(),
        ("RegisterSubmitterRequest", "submitter") => "nobody".into(),
        (_, "owner" | "renter") => format!("account/{}", fresh_id()),
        _ => "x".into(),
    }
}

/// A message in which every field says something.
pub(crate) fn whole(of: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    if depth < 4 {
        for field in of.fields() {
            message.set_field(&field, harmless(&field, depth));
        }
    }
    message
}

/// Ids are UUIDs in text, but for those of leases.
fn is_id(field: &FieldDescriptor) -> bool {
    let name = field.name();
    matches!(field.kind(), Kind::String)
        && (name.ends_with("_id") || name.ends_with("_ids"))
        && name != "lease_id"
}

/// A UUIDv7 of another time.
fn id_of(ms: u64) -> String {
    let mut bytes = fresh_id().to_bytes();
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    Id::from_bytes(bytes).to_string()
}

/// Everything that is wrong for a field.
fn wrong(field: &FieldDescriptor) -> Vec<(String, Option<Value>)> {
    let mut bad: Vec<(String, Option<Value>)> = vec![("missing".into(), None)];
    let mut add = |what: &str, value: Value| {
        bad.push((what.to_owned(), Some(if field.is_list() { Value::List(vec![value]) } else { value })));
    };
    match field.kind() {
        Kind::String => {
            let ids = [
                ("no id", "0192f3a0-7c1d-7b43-9b0e".to_owned()),
                ("an id of 0", Id::default().to_string()),
                ("an id of 1970", id_of(1_000)),
                ("an id of next year", id_of(now_ms() + 31_000_000_000)),
            ];
            for (what, id) in ids.into_iter().filter(|_| is_id(field)) {
                add(what, Value::String(id));
            }
            add("text with a zero", Value::String("\0".into()));
            add("a long text", Value::String("a".repeat(LONG)));
        }
        Kind::Bytes => {
            add("one byte", Value::Bytes(vec![0].into()));
            add("many bytes", Value::Bytes(vec![0; LONG].into()));
        }
        Kind::Uint32 => add("2^32-1", Value::U32(u32::MAX)),
        Kind::Uint64 => add("2^64-1", Value::U64(u64::MAX)),
        Kind::Float => {
            for number in [f32::NAN, f32::INFINITY, -1.0] {
                add(&number.to_string(), Value::F32(number));
            }
        }
        Kind::Enum(_) => {
            add("an unknown value", Value::EnumNumber(9_999));
            add("a negative value", Value::EnumNumber(-1));
        }
        _ => {}
    }
    if field.is_list() {
        let Value::List(one) = harmless(field, 3) else { panic!("a list is a list") };
        bad.push(("a long list".into(), Some(Value::List(vec![one[0].clone(); 10_000]))));
    }
    bad
}

/// Every message with one wrong field in it, by what is wrong.
fn variants(of: &MessageDescriptor, depth: usize) -> Vec<(String, DynamicMessage)> {
    let mut found = Vec::new();
    for field in of.fields() {
        for (what, value) in wrong(&field) {
            let mut message = whole(of, depth);
            match value {
                Some(value) => message.set_field(&field, value),
                None => message.clear_field(&field),
            }
            found.push((format!("{}: {what}", field.name()), message));
        }
        // What a node says beside its hello is not heard before that.
        let heard = of.name() != "FromNode" || field.name() == "hello";
        if let (Kind::Message(inner), true) = (field.kind(), heard && depth < 3) {
            for (what, inner) in variants(&inner, depth + 1) {
                let mut message = whole(of, depth);
                let inner = Value::Message(inner);
                message.set_field(&field, if field.is_list() { Value::List(vec![inner]) } else { inner });
                found.push((format!("{}.{what}", field.name()), message));
            }
        }
    }
    found
}

/// Every bad request of a method.
fn requests(method: &str) -> Vec<Bad> {
    let input = described(method).expect("a method of ours").input();
    let bad = |what: String, bytes: Vec<u8>, id: Option<Id>| Bad { method: method.into(), what, bytes, id };
    let id_in = |message: &DynamicMessage| {
        let field = message.descriptor().get_field_by_name("request_id")?;
        message.get_field(&field).as_str()?.parse().ok()
    };
    let mut found: Vec<Bad> = variants(&input, 0)
        .into_iter()
        .map(|(what, message)| bad(what, message.encode_to_vec(), id_in(&message)))
        .collect();
    let good = whole(&input, 0);
    let (bytes, id) = (good.encode_to_vec(), id_in(&good));
    for (what, garbage) in
        [("garbage", vec![0xff; 32]), ("a field that never ends", vec![0x0a, 0xff, 0xff, 0x7f])]
    {
        found.push(bad(what.into(), garbage, id));
    }
    if !bytes.is_empty() {
        found.push(bad("broken off".into(), bytes[..bytes.len() - 1].to_vec(), id));
    }
    for field in input.fields().filter(|field| matches!(field.kind(), Kind::String)) {
        let tag = u8::try_from(field.number() << 3 | 2).expect("a small number");
        let bytes = [&bytes[..], &[tag, 2, 0xff, 0xfe]].concat();
        found.push(bad(format!("{}: not UTF-8", field.name()), bytes, id));
    }
    found
}

/// What is wrong with an answer.
fn objection(bad: &Bad, caller: &Caller, answer: Option<&Status>) -> Option<String> {
    let method = bad.method.rsplit('/').next().unwrap_or_default();
    let Some(status) = answer else {
        let may = READS.iter().any(|read| method.starts_with(read));
        return (!may).then(|| format!("{}, {} ({}): was done", bad.method, bad.what, caller.name()));
    };
    let reason = reason(status);
    let stable = !reason.is_empty()
        && reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let ours = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss, Code::DeadlineExceeded];
    let fine = stable && !ours.contains(&status.code()) && status.message().split(' ').count() > 2;
    (!fine).then(|| {
        let (code, text) = (status.code(), status.message());
        format!("{}, {} ({}): {code:?} {reason:?} {text:?}", bad.method, bad.what, caller.name())
    })
}

/// Calls for every bad request, some at a time; what is wrong with the answers.
async fn objections(channel: &Channel, callers: Vec<Caller>, all: Vec<Bad>) -> Vec<String> {
    let (callers, all) = (Arc::new(callers), Arc::new(all));
    let mut asking = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let (channel, callers, all) = (channel.clone(), callers.clone(), all.clone());
        asking.spawn(async move {
            let mut found = Vec::new();
            for bad in all.iter().skip(first).step_by(AT_ONCE) {
                let caller = callers.iter().find(|caller| caller.name() == who(&bad.method));
                let caller = caller.expect("one of the callers");
                let answer = call(&channel, &bad.method, bad.bytes.clone(), &caller.proof(bad)).await;
                found.extend(objection(bad, caller, answer.as_ref()));
            }
            found
        });
    }
    asking.join_all().await.into_iter().flatten().collect()
}

/// The heads of all logs, once nothing moves any more; without that of scheduling, which hears of the gateway by itself: who
/// has put what there, the log says when the server has stopped.
pub(crate) fn settled(server: &Server<'_>) -> std::collections::BTreeMap<String, u64> {
    let heads_now = || {
        let mut heads = server.heads();
        heads.remove("scheduling").expect("its head");
        heads
    };
    let mut heads = heads_now();
    loop {
        std::thread::sleep(Duration::from_millis(700));
        let now = heads_now();
        if now == heads {
            return now;
        }
        heads = now;
    }
}

/// A renter, staff and a gateway of a network with long epochs, in which nothing happens by itself.
fn callers(place: &Place, server: &Server<'_>) -> Vec<Caller> {
    let staff = secret(place, "holmes-data/staff.key");
    assert_eq!(place.run(&["keys", "new", "gateway.key"]).code, 0);
    let (account, key) = server.renter("alice");
    let offered = place.run(&["keys", "offer", "gateway.key", "--as", "gateway", "--owner", &account]).json();
    let request = serde_json::json!({ "owner_account_id": account, "key": offered });
    server.staff("Accounts/RegisterGatewayKey", &request);
    let gateway = secret(place, "gateway.key");
    vec![
        Caller::Key(Box::new(staff), PrincipalKind::Staff),
        Caller::ApiKey(key),
        Caller::Key(Box::new(gateway), PrincipalKind::Gateway),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_every_method_made_wrong_is_refused_with_a_reason_and_changes_nothing() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let callers = callers(&place, &server);
    let methods: Vec<String> =
        methods(&server).into_iter().filter(|method| method.starts_with("holmes.")).collect();
    let all: Vec<Bad> = methods.iter().flat_map(|method| requests(method)).collect();
    assert!(all.len() > 1_000, "{} requests are no table", all.len());
    let channel = connect(&server).await;
    let before = settled(&server);
    let found = objections(&channel, callers, all).await;
    let after = settled(&server);
    assert!(found.is_empty(), "{} answers are wrong:\n{}", found.len(), found.join("\n"));
    assert_eq!(after, before, "bad requests have changed something");
    server.terminate();
    let log = place.run(&["replay", "--role", "scheduling"]).out;
    let touched = log.lines().find(|line| {
        !["opened", "gatewayStarted", "gatewayHeard", "presenceRecorded", "\"source\":"]
            .iter()
            .any(|known| line.contains(known))
    });
    assert_eq!(touched, None, "bad requests have changed something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_sizes_and_signatures_are_looked_at_before_anything_else() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let staff = secret(&place, "holmes-data/staff.key");
    let genesis = genesis(include_bytes!("../../../../deploy/profiles/hol.toml"));
    let signing = Signing { key: &staff, principal: of_key(&staff, PrincipalKind::Staff), genesis };
    let channel = connect(&server).await;
    let key = server.payer("large");
    let before = settled(&server);
    let start = server.heads();
    for method in methods(&server).iter().filter(|method| method.starts_with("holmes.")) {
        let message = whole(&described(method).expect("a method of ours").input(), 0).encode_to_vec();
        let right = signing.fields(method, &message, fresh_id(), now_ms() + 60_000);
        let mut late = right.clone();
        late.push(("grpc-timeout", "1n".into()));
        let status = call(&channel, method, message.clone(), &late).await.expect("a refusal");
        // tonic's client knows the deadline too, and may be first to give up.
        assert!(
            reason(&status) == "DEADLINE_EXCEEDED" || status.code() == Code::Cancelled,
            "{method}: {status:?}"
        );
        let other = [&message[..], &[0xf8, 0x07, 0x01]].concat();
        let status = call(&channel, method, other, &right).await.expect("a refusal");
        assert_eq!(reason(&status), "SIGNATURE_WRONG", "{method}: another message than was signed");
        let expired = signing.fields(method, &message, fresh_id(), now_ms() - 1);
        let status = call(&channel, method, message.clone(), &expired).await.expect("a refusal");
        assert_eq!(reason(&status), "SIGNATURE_EXPIRED", "{method}");
    }
    for method in ["holmes.ledger.v1.Ledger/CreateTransfers", "holmes.inference.v1.Inference/Generate"] {
        let large = vec![0; 40 << 20];
        let proof = signing.fields(method, &large, fresh_id(), now_ms() + 60_000);
        let status = call(&channel, method, large, &proof).await.expect("a refusal");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    }
    for (method, bytes) in [
        ("holmes.ledger.v1.Ledger/CreateTransfers", 5 << 20),
        ("holmes.inference.v1.Inference/Generate", 3 << 20),
    ] {
        let status = call(&channel, method, vec![0; bytes], &bearer(&key)).await.expect("a refusal");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    }
    assert_eq!(settled(&server), before);
    let end = server.heads();
    server.terminate();
    nothing_asked(&place, &[], &start, &end);
}

#[test]
fn numbers_in_json_that_are_none_are_refused_before_they_are_sent() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let heads = server.heads();
    for method in methods(&server).iter().filter(|method| method.starts_with("holmes.")) {
        let input = described(method).expect("a method of ours").input();
        let number = input
            .fields()
            .find(|field| matches!(field.kind(), Kind::Uint32 | Kind::Uint64) && !field.is_list());
        let Some(number) = number else { continue };
        let name = number.name();
        for value in ["\"-1\"", "-1", "1.5", "\"18446744073709551616\"", "\"ten\""] {
            let ran = server.call(&[method, &format!("{{\"{name}\": {value}}}")]);
            ran.fails(1, &["the JSON is not a", "its fields: "]);
        }
    }
    assert_eq!(server.heads().keys().collect::<Vec<_>>(), heads.keys().collect::<Vec<_>>());
}

#[test]
fn the_http_port_answers_nonsense_in_the_form_of_its_clients() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let (_, key) = server.renter("alice");
    let before = settled(&server);
    let start = server.heads();
    let post = |path: &str, key: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        ask(&server.http(), &[head.as_bytes(), body].concat())
    };
    let chat = "/v1/chat/completions";
    let asks = |more: &str| {
        format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}}]{more}}}")
    };
    let large = asks(&format!(",\"user\":\"{}\"", "a".repeat(20 << 20)));
    let plain = asks("");
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        (chat, "hk_0", plain.clone().into(), "401"),
        (chat, &key, plain.into(), "404"),
        (chat, &key, b"".to_vec(), "400"),
        (chat, &key, b"{".to_vec(), "400"),
        (chat, &key, b"[]".to_vec(), "400"),
        (chat, &key, vec![0xff; 40], "400"),
        (chat, &key, asks(",\"max_tokens\":-1").into(), "400"),
        (chat, &key, asks(",\"max_tokens\":18446744073709551615").into(), "400"),
        (chat, &key, asks(",\"temperature\":-1").into(), "400"),
        (chat, &key, asks(",\"temperature\":1e39").into(), "400"),
        (chat, &key, asks(",\"n\":3").into(), "400"),
        (chat, &key, b"{\"model\":\"m\",\"messages\":[]}".to_vec(), "400"),
        (
            chat,
            &key,
            b"{\"model\":\"m\",\"messages\":[{\"role\":\"king\",\"content\":\"a\"}]}".to_vec(),
            "400",
        ),
        (chat, &key, large.into(), "413"),
        ("/v1/embeddings", &key, b"{\"model\":\"m\",\"input\":[]}".to_vec(), "400"),
        ("/v1/completions", &key, b"{\"model\":\"m\",\"prompt\":7}".to_vec(), "400"),
        ("/v1/nothing", &key, b"{}".to_vec(), "404"),
    ];
    let mut wrong = Vec::new();
    for (path, key, body, status) in &cases {
        let answer = post(path, key, body);
        let start: String = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let json = answer
            .split("\r\n\r\n")
            .nth(1)
            .and_then(|body| serde_json::from_str::<serde_json::Value>(body.trim()).ok());
        let message = json.as_ref().and_then(|json| json["error"]["message"].as_str()).unwrap_or_default();
        if !answer.starts_with(&format!("HTTP/1.1 {status}")) || message.split(' ').count() < 3 {
            let said: String = answer.chars().take(600).collect();
            wrong.push(format!("{path} {start}: {status} was expected: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(settled(&server), before);
    let end = server.heads();
    server.terminate();
    nothing_asked(&place, &[], &start, &end);
}
