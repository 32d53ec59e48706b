//! What comes again, and what was signed for something else: every RPC with a signature that covers another network, cell,
//! method, message or caller, and every RPC that changes something sent twice, to the byte.

use ed25519_dalek::SigningKey;
use holmes_kernel::{Principal, PrincipalKind};
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use crate::bad_input::{settled, whole};
use crate::harness::{Place, Server};
use crate::raw::{
    Fields, Signing, answer, call, connect, described, genesis, now_ms, of_key, reason, secret,
};
use crate::rules::{ATTACH, Rule, rules};
use crate::scopes::{id_of, machine, wallet};
use crate::traces::nothing_asked;

const PROFILE: &[u8] = include_bytes!("../../../../deploy/profiles/hol.toml");

/// Whose signature a method is asked with, so that something comes of it.
fn signer<'a>(rule: &Rule, people: &'a People) -> Signing<'a> {
    let (key, kind) = match rule.method.split('.').nth(1) {
        Some("scheduling") => (&people.gateway, PrincipalKind::Gateway),
        Some("inference") => (&people.owner, PrincipalKind::Account),
        _ => (&people.staff, PrincipalKind::Staff),
    };
    Signing { key, principal: of_key(key, kind), genesis: genesis(PROFILE) }
}

struct People {
    staff: SigningKey,
    gateway: SigningKey,
    owner: SigningKey,
    /// The owner's account.
    id: String,
}

impl People {
    fn of(place: &Place, server: &Server<'_>) -> People {
        let (id, owner) = wallet(place, server, "owner", &["ROLE_RENTER", "ROLE_OPERATOR"]);
        let gateway = machine(place, server, "gateway", &id);
        People { staff: secret(place, "holmes-data/staff.key"), gateway, owner, id }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_counts_for_the_one_request_that_it_covers() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let people = People::of(&place, &server);
    let channel = connect(&server).await;
    let soon = now_ms() + 60_000;
    let before = settled(&server);
    let start = server.heads();
    let mut wrong = Vec::new();
    for rule in rules() {
        let method = rule.method.as_str();
        let message = whole(&described(method).expect("a method of ours").input(), 0);
        let (id, message) = (id_of(&message), message.encode_to_vec());
        let signing = signer(rule, &people);
        let fields = |signing: &Signing<'_>, of: &str, said: &[u8]| signing.fields(of, said, id, soon);
        let Signing { key, principal, genesis } = signing;
        let right = || Signing { key, principal, genesis };
        let other_kind = Principal::new(PrincipalKind::Node, principal.id);
        let mut later = fields(&right(), method, &message);
        later[2].1 = (soon + 1).to_string();
        let mut renamed = fields(&right(), method, &message);
        renamed[1].1 = holmes_runtime::fresh_id().to_string();
        let mut impostor = fields(&Signing { key: &people.owner, ..right() }, method, &message);
        impostor[0].1 = fields(&right(), method, &message)[0].1.clone();
        let somebody = if people.owner.to_bytes() == key.to_bytes() { &people.staff } else { &people.owner };
        let other = if method.ends_with("Ledger/GetSupply") { "GetAccount" } else { "GetSupply" };
        let cases: [(&str, Fields, &str); 8] = [
            (
                "another network",
                fields(&Signing { genesis: [7; 16], ..right() }, method, &message),
                "SIGNATURE_WRONG",
            ),
            (
                "another method",
                fields(&right(), &format!("holmes.ledger.v1.Ledger/{other}"), &message),
                "SIGNATURE_WRONG",
            ),
            (
                "another message",
                fields(&right(), method, &[&message[..], &[0xf8, 0x07, 0x01]].concat()),
                "SIGNATURE_WRONG",
            ),
            ("another expiry", later, "SIGNATURE_WRONG"),
            ("another request id", renamed, "SIGNATURE_WRONG"),
            (
                "another's key",
                fields(&Signing { key: somebody, ..right() }, method, &message),
                "SIGNATURE_WRONG",
            ),
            (
                "a kind that the key is not of",
                fields(&Signing { principal: other_kind, ..right() }, method, &message),
                "KEY_UNKNOWN",
            ),
            (
                "a time that has passed",
                right().fields(method, &message, id, now_ms() - 1),
                "SIGNATURE_EXPIRED",
            ),
        ];
        for (what, proof, expected) in cases {
            let told = call(&channel, method, message.clone(), &proof).await;
            let told = told.map(|status| (status.code(), reason(&status)));
            if told.as_ref() != Some(&(Code::Unauthenticated, expected.to_owned())) {
                wrong.push(format!("{method}, signed for {what}: {told:?}"));
            }
        }
        if rule.once {
            let proof = right().fields(method, &message, holmes_runtime::fresh_id(), soon);
            let told = call(&channel, method, message.clone(), &proof).await.map(|status| reason(&status));
            // Three read what they are told before they look who signed it.
            if !["SIGNATURE_OF_OTHER_REQUEST", "FORBIDDEN", "FIELD_INVALID"]
                .contains(&told.as_deref().unwrap_or_default())
            {
                wrong
                    .push(format!("{method}, whose message names another request than was signed: {told:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(settled(&server), before, "nothing of this was done");
    let end = server.heads();
    server.terminate();
    nothing_asked(&place, &people.names(), &start, &end);
}

/// What reads is known by its name alone, and so by what it leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_leaves_nothing_in_any_log() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let people = People::of(&place, &server);
    let channel = connect(&server).await;
    settled(&server);
    let (start, mut answered) = (server.heads(), Vec::new());
    for rule in rules().iter().filter(|rule| !rule.once && rule.method != ATTACH) {
        let input = described(&rule.method).expect("a method of ours").input();
        for message in [Vec::new(), whole(&input, 0).encode_to_vec()] {
            let id = holmes_runtime::fresh_id();
            let proof = signer(rule, &people).fields(&rule.method, &message, id, now_ms() + 60_000);
            if call(&channel, &rule.method, message, &proof).await.is_none() {
                answered.push(&rule.method);
            }
        }
    }
    assert!(answered.len() >= 15, "few are answered, so that this says little: {answered:?}");
    let end = server.heads();
    server.terminate();
    nothing_asked(&place, &people.names(), &start, &end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_somebody_stands_is_told_to_nobody_but_the_one_who_has_the_key() {
    let place = Place::of("hol");
    let server = place.serve(&[]);
    let channel = connect(&server).await;
    let method = "holmes.ledger.v1.Ledger/GetSupply";
    let [well, away, gone] =
        ["well", "away", "gone"].map(|name| wallet(&place, &server, name, &["ROLE_RENTER"]));
    server.staff("Accounts/SuspendAccount", &json!({ "account_id": away.0, "cause": "case 7" }));
    let key = server.staff("Accounts/GetAccount", &json!({ "account_id": gone.0 }))["publicKeys"][0].clone();
    server.staff("Accounts/RevokePublicKey", &json!({ "public_key": key["publicKey"] }));
    let asks = async |of: &SigningKey, kind: PrincipalKind, key: &SigningKey| {
        let signing = Signing { key, principal: of_key(of, kind), genesis: genesis(PROFILE) };
        let proof = signing.fields(method, &[], holmes_runtime::fresh_id(), now_ms() + 60_000);
        let told = call(&channel, method, Vec::new(), &proof).await;
        told.map(|status| reason(&status)).unwrap_or_default()
    };
    let stranger = SigningKey::from_bytes(&[7; 32]);
    for ((_, of), kind, own) in [
        (&well, PrincipalKind::Account, ""),
        (&well, PrincipalKind::Staff, "NOT_STAFF"),
        (&away, PrincipalKind::Account, "ACCOUNT_SUSPENDED"),
        (&gone, PrincipalKind::Account, "KEY_REVOKED"),
    ] {
        assert_eq!(asks(of, kind, of).await, own);
        assert_eq!(asks(of, kind, &stranger).await, "SIGNATURE_WRONG", "somebody else about {own:?}");
    }
}

impl People {
    /// As the logs name them.
    fn names(&self) -> [String; 3] {
        let of = [
            of_key(&self.staff, PrincipalKind::Staff),
            of_key(&self.gateway, PrincipalKind::Gateway),
            of_key(&self.owner, PrincipalKind::Account),
        ];
        of.map(|who| who.to_string())
    }
}

/// Requests that are done, and by whom: as JSON, without their request ids.
fn done(server: &Server<'_>, people: &People) -> Vec<(&'static str, PrincipalKind, serde_json::Value)> {
    let id = || server.new_id();
    let (owner, staff, gateway) = (PrincipalKind::Account, PrincipalKind::Staff, PrincipalKind::Gateway);
    let [first, second, third, other] = [id(), id(), id(), id()];
    let account = people.id.as_str();
    let single = |from: &str, to: &str, units: u64| {
        json!({ "transfers": [{
            "transfer_id": id(), "kind": "TRANSFER_KIND_SINGLE", "debit_account_id": from, "credit_account_id": to,
            "amount_units": units.to_string(),
        }] })
    };
    let hash = |text: &str| {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(blake3::hash(text.as_bytes()).as_bytes())
    };
    let key_id = id();
    let submitter = format!("account/{account}");
    let public = {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(people.gateway.verifying_key().to_bytes())
    };
    vec![
        ("accounts.v1.Accounts/CreateAccount", staff, json!({ "account_id": other, "name": "other" })),
        ("accounts.v1.Accounts/SetRoles", staff, json!({ "account_id": other, "roles": ["ROLE_RENTER"] })),
        ("accounts.v1.Accounts/SuspendAccount", staff, json!({ "account_id": other, "cause": "case 7" })),
        ("accounts.v1.Accounts/ReinstateAccount", staff, json!({ "account_id": other })),
        (
            "accounts.v1.Accounts/CreateApiKey",
            owner,
            json!({ "key_id": key_id, "hash": hash("a"), "roles": ["ROLE_RENTER"] }),
        ),
        ("accounts.v1.Accounts/RevokeApiKey", owner, json!({ "key_id": key_id })),
        ("ledger.v1.Ledger/OpenAccount", owner, json!({ "account_id": first, "asset": 2 })),
        ("ledger.v1.Ledger/OpenAccount", owner, json!({ "account_id": second, "asset": 2 })),
        ("ledger.v1.Ledger/OpenAccount", owner, json!({ "account_id": third, "asset": 2 })),
        (
            "ledger.v1.Ledger/RecordDeposit",
            staff,
            json!({ "account_id": first, "amount_units": "9000000", "reference": "wire 1" }),
        ),
        ("ledger.v1.Ledger/CreateTransfers", owner, single(&first, &second, 5)),
        (
            "ledger.v1.Ledger/RecordWithdrawal",
            staff,
            json!({ "account_id": first, "amount_units": "3", "reference": "wire 2" }),
        ),
        ("ledger.v1.Ledger/SetLimits", staff, json!({ "account_id": second, "credit_limit_units": "7" })),
        ("ledger.v1.Ledger/SetFrozen", staff, json!({ "account_id": second, "frozen_out": true })),
        ("ledger.v1.Ledger/RegisterSubmitter", staff, json!({ "submitter": submitter, "registered": true })),
        ("ledger.v1.Ledger/CloseAccount", owner, json!({ "account_id": third })),
        ("market.v1.Market/SetAccount", owner, json!({ "asset": 2, "account_id": first })),
        (
            "market.v1.Market/SetModel",
            staff,
            json!({ "model": {
                "name": "a-model", "kind": "MODEL_KIND_GENERATE", "input_pico_usd": "5", "output_pico_usd": "20",
                "input_micro_units": "1", "output_micro_units": "1",
            } }),
        ),
        ("market.v1.Market/OpenSession", owner, json!({ "asset": 2, "budget_micro_usd": "1000000" })),
        ("scheduling.v1.Scheduling/StartGateway", gateway, json!({ "public_key": public })),
    ]
}

/// A request with its proof, to the byte.
struct Sent {
    method: String,
    message: Vec<u8>,
    proof: Fields,
}

type Told = Result<Vec<Vec<u8>>, (Code, String)>;

impl Sent {
    fn new(signing: &Signing<'_>, method: String, message: &DynamicMessage) -> Sent {
        let (id, message) = (id_of(message), message.encode_to_vec());
        let proof = signing.fields(&method, &message, id, now_ms() + 240_000);
        Sent { method, message, proof }
    }

    async fn send(&self, channel: &Channel) -> Told {
        let told = answer(channel, &self.method, self.message.clone(), &self.proof).await;
        told.map_err(|status| (status.code(), format!("{}: {}", reason(&status), status.message())))
    }

    /// Whether the second answer is the first one again. A session is shown as it stands, and its hold has been made since.
    fn is_same(&self, first: &Told, again: &Told) -> bool {
        first == again || self.method.ends_with("/OpenSession") && first.is_ok() && again.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_gets_its_answer_again_and_nothing_happens_twice() {
    let place = Place::of("hol");
    let server = place.serve(&["--role", "all"]);
    let people = People::of(&place, &server);
    let channel = connect(&server).await;
    let before = settled(&server);
    let (mut sent, mut wrong) = (Vec::new(), Vec::new());
    for (method, kind, request) in done(&server, &people) {
        let method = format!("holmes.{method}");
        let input = described(&method).expect("a method of ours").input();
        let mut message = DynamicMessage::deserialize(input, request).expect("its fields");
        message.set_field_by_name("request_id", Value::String(holmes_runtime::fresh_id().to_string()));
        let key = match kind {
            PrincipalKind::Staff => &people.staff,
            PrincipalKind::Gateway => &people.gateway,
            _ => &people.owner,
        };
        let signing = Signing { key, principal: of_key(key, kind), genesis: genesis(PROFILE) };
        let request = Sent::new(&signing, method, &message);
        let told = request.send(&channel).await;
        assert!(told.is_ok(), "{}: {told:?}", request.method);
        sent.push((request, told));
    }
    let once = settled(&server);
    let wrote: u64 = once.iter().map(|(name, head)| head - before[name]).sum();
    assert!(wrote as usize >= sent.len() - 1, "{before:?} {once:?}"); // what scheduling wrote is not counted
    // Whatever else there is, with fields that say nothing: a refusal comes again too.
    for rule in rules().iter().filter(|rule| rule.once) {
        let message = whole(&described(&rule.method).expect("a method of ours").input(), 0);
        let request = Sent::new(&signer(rule, &people), rule.method.clone(), &message);
        let told = request.send(&channel).await;
        sent.push((request, told));
    }
    let once = settled(&server);
    let start = server.heads();
    for (request, first) in &sent {
        let again = request.send(&channel).await;
        if !request.is_same(first, &again) {
            wrong.push(format!("{}: {first:?}, then {again:?}", request.method));
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(settled(&server), once, "something has happened twice");
    let end = server.heads();
    server.terminate();
    nothing_asked(&place, &people.names(), &start, &end);
}
