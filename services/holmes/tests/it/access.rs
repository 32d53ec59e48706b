//! Every method there is refuses who proves nothing, and who proves it wrongly. The methods are those that the server
//! tells of by reflection, so a new one is tested on the day it is born.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use holmes_kernel::PrincipalKind;
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use serde_json::json;
use tonic::Code;

use crate::bad_input::whole;
use crate::harness::{Place, Server, until};
use crate::raw::{
    Fields, Signing, bearer, call, connect, described, genesis, methods, now_ms, of_key, reason, secret,
};
use crate::rules::{OPEN, rules};

/// A request whose fields can be read, so that what refuses it is who asks. Empty where the method is not ours.
fn message(method: &str) -> Vec<u8> {
    described(method).map(|method| whole(&method.input(), 0).encode_to_vec()).unwrap_or_default()
}

/// The metadata of a request that staff sign.
fn signed(key: &SigningKey, method: &str, expires_ms: u64) -> Fields {
    let genesis = genesis(include_bytes!("../../../../deploy/profiles/demo.toml"));
    let signing = Signing { key, principal: of_key(key, PrincipalKind::Staff), genesis };
    signing.fields(method, &message(method), fresh_id(), expires_ms)
}

/// API keys that have counted: one until its time had come, one until it was revoked.
fn past_keys(server: &Server<'_>) -> [String; 2] {
    let (account, gone) = server.renter("past");
    let soon_us = (now_ms() + 1_500) * 1_000;
    let ends = server.api_key_until(&account, &["ROLE_RENTER"], true, soon_us);
    let keys = server.staff("Accounts/GetAccount", &json!({ "account_id": account }))["apiKeys"].clone();
    let told = server.call(&["Ledger/GetSupply", "{}", "--key", &ends]);
    assert!(told.code == 0 || now_ms() * 1_000 > soon_us, "it counts until then: {}", told.err);
    server.staff("Accounts/RevokeApiKey", &json!({ "key_id": keys[0]["keyId"] }));
    until("its expiry", || (now_ms() * 1_000 > soon_us).then_some(()));
    [ends, gone]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_refuses_a_caller_without_a_proof_or_with_a_wrong_one() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let methods = methods(&server);
    assert!(methods.len() > 25, "{methods:?}");
    let channel = connect(&server).await;
    let (key, soon) = (secret(&place, "holmes-data/staff.key"), now_ms() + 60_000);
    let [ended, revoked] = past_keys(&server);
    let mut open = BTreeSet::new();
    for method in &methods {
        match call(&channel, method, message(method), &Vec::new()).await {
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
            (bearer(&ended), "KEY_EXPIRED"),
            (bearer(&revoked), "KEY_REVOKED"),
            (vec![("authorization", "Basic aG9sbWVz".to_owned())], "KEY_MALFORMED"),
            (other, "SIGNATURE_WRONG"),
            (expired, "SIGNATURE_EXPIRED"),
            (long, "SIGNATURE_TOO_LONG"),
            (unknown, "KEY_UNKNOWN"),
            (incomplete, "SIGNATURE_INCOMPLETE"),
            (two, "TWO_PROOFS"),
        ] {
            let status = call(&channel, method, message(method), &proof).await;
            let status = status.unwrap_or_else(|| panic!("{method} lets in what should be {expected}"));
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::Unauthenticated, expected),
                "{method}"
            );
        }
    }
    let unproven = rules().iter().filter(|rule| rule.unproven.is_some()).map(|rule| rule.method.as_str());
    let may: BTreeSet<&str> = unproven.chain(OPEN.map(|(method, _)| method)).collect();
    assert_eq!(open, may, "methods that ask for no proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_a_senseless_request_with_a_reason_and_changes_nothing() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let (_, key) = server.renter("alice");
    let supply = server.staff("Ledger/GetSupply", &serde_json::json!({}));
    let channel = connect(&server).await;
    for method in methods(&server).iter().filter(|method| method.starts_with("holmes.")) {
        let Some(status) = call(&channel, method, message(method), &bearer(&key)).await else { continue };
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
