//! Every method there is refuses who proves nothing, and who proves it wrongly. The methods are those that the server
//! tells of by reflection, so a new one is tested on the day it is born.

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_runtime::auth::{Network, signing_input};
use holmes_runtime::fresh_id;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::{PATIENCE, Place, Server};

/// What answers a caller who proves nothing, and why.
const OPEN: [(&str, &str); 4] = [
    ("grpc.health.v1.Health/Check", "load balancers ask it"),
    ("grpc.health.v1.Health/Watch", "load balancers ask it"),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "tells only what the .proto files tell"),
    (
        "holmes.accounts.v1.Accounts/CreateAccount",
        "a wallet comes for the first time: its offered key is the proof",
    ),
];

/// Every method, as `holmes call` lists them.
fn methods(server: &Server<'_>) -> Vec<String> {
    let listed = server.call(&[]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    listed.out.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Calls a method with as good as nothing, and answers its refusal.
async fn call(channel: &Channel, method: &str, fields: &[(&'static str, String)]) -> Option<Status> {
    let mut request = Request::new(message(method));
    for (name, value) in fields {
        request.metadata_mut().insert(*name, value.parse().expect("printable"));
    }
    request.set_timeout(PATIENCE);
    let path = format!("/{method}").parse().expect("a path");
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("connected");
    let mut answers = match grpc.server_streaming(request, path, Bytes).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Some(status),
    };
    // A stream that says nothing yet has let us in.
    tokio::time::timeout(Duration::from_millis(200), answers.message()).await.ok()?.err()
}

/// The smallest request of a method: a request id where it takes one.
fn message(method: &str) -> Vec<u8> {
    let id = "01a1fdee-3e7d-7380-98fb-48d06d6be078";
    let pool = prost_reflect::DescriptorPool::decode(holmes_proto::DESCRIPTORS).expect("descriptors");
    let service = method.split_once('/').and_then(|(service, _)| pool.get_service_by_name(service));
    let found = service
        .and_then(|service| service.methods().find(|known| method.ends_with(&format!("/{}", known.name()))));
    let field = found.and_then(|method| method.input().get_field_by_name("request_id"));
    match field.map(|field| u8::try_from(field.number() << 3 | 2).expect("a small number")) {
        Some(tag) => [&[tag, id.len() as u8], id.as_bytes()].concat(),
        None => Vec::new(),
    }
}

/// The metadata of a signed request.
fn signed(key: &SigningKey, method: &str, expires_ms: u64) -> Vec<(&'static str, String)> {
    let genesis = *blake3::hash(include_bytes!("../../../../deploy/profiles/demo.toml")).as_bytes();
    let network = Network { genesis: genesis[..16].try_into().expect("16 bytes"), cell: 1 };
    let principal = Principal::new(PrincipalKind::Staff, Id::of_key(&key.verifying_key().to_bytes()));
    let id = fresh_id();
    let input = signing_input(&network, &format!("/{method}"), &message(method), id, expires_ms, principal);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    vec![
        ("holmes-principal", hex(&principal.to_bytes())),
        ("holmes-request-id", id.to_string()),
        ("holmes-expires", expires_ms.to_string()),
        ("holmes-signature", hex(&key.sign(&input).to_bytes())),
    ]
}

fn staff_key(place: &Place) -> SigningKey {
    let text = std::fs::read_to_string(place.path("holmes-data/staff.key")).expect("the staff key");
    let digits = text.split_whitespace().last().expect("its digits").to_owned();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("a digit");
    SigningKey::from_bytes(&std::array::from_fn(byte))
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("not so far")
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_refuses_a_caller_without_a_proof_or_with_a_wrong_one() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let methods = methods(&server);
    assert!(methods.len() > 25, "{methods:?}");
    let channel =
        Endpoint::new(server.address.clone()).expect("an address").connect().await.expect("connected");
    let (key, soon) = (staff_key(&place), now_ms() + 60_000);
    let bearer = |key: &str| vec![("authorization", format!("Bearer {key}"))];
    let mut open = BTreeSet::new();
    for method in &methods {
        match call(&channel, method, &[]).await {
            Some(status) if status.code() == Code::Unauthenticated => {
                assert_eq!(reason(&status), "UNAUTHENTICATED", "{method}: {status}");
            }
            _ => drop(open.insert(method.as_str())),
        }
        let other = signed(&key, "holmes.ledger.v1.Ledger/Other", soon);
        let expired = signed(&key, method, now_ms() - 1);
        let long = signed(&key, method, soon + 3_600_000);
        let unknown = signed(&SigningKey::from_bytes(&[7; 32]), method, soon);
        let mut incomplete = signed(&key, method, soon);
        incomplete.remove(0);
        let mut two = signed(&key, method, soon);
        two.extend(bearer("hk_1"));
        for (proof, expected) in [
            (bearer("hk_0000"), "KEY_UNKNOWN"),
            (vec![("authorization", "Basic aG9sbWVz".to_owned())], "KEY_MALFORMED"),
            (other, "SIGNATURE_WRONG"),
            (expired, "SIGNATURE_EXPIRED"),
            (long, "SIGNATURE_TOO_LONG"),
            (unknown, "KEY_UNKNOWN"),
            (incomplete, "SIGNATURE_INCOMPLETE"),
            (two, "TWO_PROOFS"),
        ] {
            let status = call(&channel, method, &proof).await;
            let status = status.unwrap_or_else(|| panic!("{method} lets in what should be {expected}"));
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unauthenticated, expected),
                "{method}"
            );
        }
    }
    assert_eq!(open, OPEN.iter().map(|(method, _)| *method).collect(), "methods that ask for no proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_a_senseless_request_with_a_reason_and_changes_nothing() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let (_, key) = server.renter("alice");
    let supply = server.staff("Ledger/GetSupply", &serde_json::json!({}));
    let channel =
        Endpoint::new(server.address.clone()).expect("an address").connect().await.expect("connected");
    let bearer = vec![("authorization", format!("Bearer {key}"))];
    for method in methods(&server).iter().filter(|method| method.starts_with("holmes.")) {
        let Some(status) = call(&channel, method, &bearer).await else { continue };
        assert!(!reason(&status).is_empty(), "{method}: {status:?}");
        let ours = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss, Code::DeadlineExceeded];
        assert!(!ours.contains(&status.code()), "{method}: {status:?}");
    }
    assert_eq!(server.staff("Ledger/GetSupply", &serde_json::json!({})), supply);
}

#[test]
fn a_batch_that_makes_sense_is_refused_without_a_proof_too() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (from, to) = (server.new_id(), server.new_id());
    let transfer = serde_json::json!({
        "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_SINGLE",
        "debit_account_id": from, "credit_account_id": to, "amount_units": "1",
    });
    let request = serde_json::json!({ "transfers": [transfer] }).to_string();
    server
        .call(&["Ledger/CreateTransfers", &request])
        .fails(1, &["Unauthenticated", "reason: UNAUTHENTICATED"]);
}

#[test]
fn a_process_without_the_role_accounts_says_that_it_knows_no_keys() {
    let place = Place::new();
    let server = place.serve(&["--role", "ledger"]);
    let proof = ["--sign-with", "holmes-data/staff.key", "--as", "staff"];
    let ran = server.call(&[&["Ledger/GetSupply"], &proof[..]].concat());
    ran.fails(1, &["KEYS_ELSEWHERE", "accounts"]);
    server.terminate();
    let verified = place.run(&["verify", "-o", "json"]).json();
    let names: Vec<_> =
        verified.as_array().expect("rows").iter().map(|row| row["service"].as_str()).collect();
    assert_eq!(names, [Some("ledger")], "a role that never ran here has no log to verify");
}

#[test]
fn every_service_of_the_proto_files_is_served() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let served: BTreeSet<String> =
        methods(&server).iter().filter_map(|method| Some(method.split_once('/')?.0.to_owned())).collect();
    let pool = prost_reflect::DescriptorPool::decode(holmes_proto::DESCRIPTORS).expect("descriptors");
    for service in pool.services() {
        assert!(served.contains(service.full_name()), "{} is not served", service.full_name());
    }
}

/// Messages as bytes.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost_reflect::prost::bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        prost_reflect::prost::bytes::Buf::advance(
            buffer,
            prost_reflect::prost::bytes::Buf::remaining(buffer),
        );
        Ok(Some(()))
    }
}
