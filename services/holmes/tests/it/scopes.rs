//! Who may call what: every RPC, called by every kind of caller with proofs that are good for much and for little, against
//! the rules that stand beside the RPCs in the `.proto` files. The methods are those that the server tells of, so that a
//! new one fails here until somebody has said who may call it.

use std::collections::BTreeSet;

use base64::Engine as _;
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId};
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use serde_json::json;
use tonic::{Code, Status};

use crate::bad_input::whole;
use crate::harness::{Place, Server, ask, until};
use crate::raw::{
    Fields, Signing, bearer, call, connect, described, genesis, methods, now_ms, reason, secret,
};
use crate::rules::{self, Caller, Proof, Rule, rules};

/// A service that there is not, whose key staff registers.
const SERVICE: u16 = 999;

/// What a proof is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Good {
    renter: bool,
    operator: bool,
    verifier: bool,
    admin: bool,
}

const NOTHING: Good = Good { renter: false, operator: false, verifier: false, admin: false };
const ALL: Good = Good { renter: true, operator: true, verifier: true, admin: true };

/// Who calls, and how it proves that.
pub(crate) struct Who {
    name: &'static str,
    kind: Caller,
    good: Good,
    by: By,
}

pub(crate) enum By {
    Key(String),
    Signature(Box<SigningKey>, Principal),
}

impl Who {
    fn keyed(name: &'static str, kind: Caller, good: Good, key: String) -> Who {
        Who { name, kind, good, by: By::Key(key) }
    }

    fn signing(name: &'static str, kind: Caller, good: Good, key: SigningKey) -> Who {
        let id = Id::of_key(&key.verifying_key().to_bytes());
        let principal = match kind {
            Caller::Account => Principal::new(PrincipalKind::Account, id),
            Caller::Staff => Principal::new(PrincipalKind::Staff, id),
            Caller::Gateway => Principal::new(PrincipalKind::Gateway, id),
            Caller::Node => Principal::new(PrincipalKind::Node, id),
            Caller::Service => Principal::service(ServiceId(SERVICE)),
        };
        Who { name, kind, good, by: By::Signature(Box::new(key), principal) }
    }

    /// The metadata that proves a message.
    pub(crate) fn proof(&self, method: &str, message: &[u8], id: Id) -> Fields {
        match &self.by {
            By::Key(key) => bearer(key),
            By::Signature(key, principal) => {
                let genesis = genesis(include_bytes!("../../../../deploy/profiles/demo.toml"));
                let signing = Signing { key, principal: *principal, genesis };
                signing.fields(method, message, id, now_ms() + 60_000)
            }
        }
    }

    /// Why its proof is not good enough; empty where it is.
    fn lacks(&self, proof: Proof) -> &'static str {
        let Good { renter, operator, verifier, admin } = self.good;
        let met = match proof {
            Proof::Any => true,
            Proof::Renter => renter,
            Proof::Operator => operator,
            Proof::Nodes => operator || verifier,
            Proof::Party => renter || operator || verifier || admin,
            Proof::Admin => admin,
        };
        match (&self.by, proof) {
            _ if met => "",
            (_, Proof::Admin) => "ADMIN_NEEDED",
            (By::Key(_), _) => "KEY_SCOPE",
            (By::Signature(..), _) => "ROLE_NEEDED",
        }
    }

    /// Why a rule refuses it; empty where it may call.
    fn refusal(&self, rule: &Rule) -> &'static str {
        match self.lacks(rule.proof) {
            "" if rule.allows(self.kind) => "",
            "" => "FORBIDDEN",
            lacks => lacks,
        }
    }
}

/// A request whose fields can be read and that names nothing of others, so that what refuses it is who asks.
fn asked(rule: &Rule, who: &Who) -> DynamicMessage {
    let mut message = whole(&described(&rule.method).expect("a method of ours").input(), 0);
    if let Some(Value::Message(model)) = message.get_field_by_name_mut("model") {
        model.set_field_by_name("name", Value::String("a-model".into()));
    }
    // Whoever names no owner means himself; only an account can rent.
    let own = ["owner", "owner_account_id"].into_iter();
    let own = own.chain((who.kind == Caller::Account).then_some("renter"));
    let keys = rule.method.contains(".Accounts/") && rule.once && rule.allows(Caller::Account);
    let own = own.chain(keys.then_some("account_id"));
    let own: Vec<_> = own.filter(|field| described_field(&message, field)).collect();
    for field in own {
        message.set_field_by_name(field, Value::String(String::new()));
    }
    if described_field(&message, "submitter") {
        message.set_field_by_name("submitter", Value::String(format!("account/{}", fresh_id())));
    }
    if let (By::Signature(key, _), true) = (&who.by, rule.method.ends_with("/StartGateway")) {
        let own = key.verifying_key().to_bytes().to_vec();
        message.set_field_by_name("public_key", Value::Bytes(own.into()));
    }
    message
}

fn described_field(message: &DynamicMessage, name: &str) -> bool {
    message.descriptor().get_field_by_name(name).is_some()
}

/// The request id of a message; a read has none, and may be signed with any.
pub(crate) fn id_of(message: &DynamicMessage) -> Id {
    let id = message.get_field_by_name("request_id");
    id.and_then(|id| id.as_str()?.parse().ok()).unwrap_or_else(fresh_id)
}

/// A wallet's account with roles, and its key.
pub(crate) fn wallet(place: &Place, server: &Server<'_>, name: &str, roles: &[&str]) -> (String, SigningKey) {
    let file = format!("{name}.key");
    assert_eq!(place.run(&["keys", "new", &file]).code, 0);
    let shown = place.run(&["keys", "show", &file, "-o", "json"]).json();
    let id = shown[0]["id"].as_str().expect("a text").to_owned();
    let key = place.run(&["keys", "offer", &file]).json();
    let account = json!({ "account_id": id, "name": name, "roles": roles, "key": key });
    server.staff("Accounts/CreateAccount", &account);
    (id, secret(place, &file))
}

/// A machine's key, registered by staff.
pub(crate) fn machine(place: &Place, server: &Server<'_>, kind: &str, owner: &str) -> SigningKey {
    let file = format!("{kind}.key");
    assert_eq!(place.run(&["keys", "new", &file]).code, 0);
    let offer = ["keys", "offer", &file, "--as", kind];
    let key = place.run(&[&offer[..], &["--owner", owner]].concat()).json();
    let method = if kind == "node" { "Accounts/RegisterNodeKey" } else { "Accounts/RegisterGatewayKey" };
    server.staff(method, &json!({ "owner_account_id": owner, "key": key }));
    secret(place, &file)
}

/// A service's key, registered by staff.
fn service(place: &Place, server: &Server<'_>) -> SigningKey {
    assert_eq!(place.run(&["keys", "new", "service.key"]).code, 0);
    let key = secret(place, "service.key");
    let genesis = genesis(include_bytes!("../../../../deploy/profiles/demo.toml"));
    server.staff("Accounts/RegisterServiceKey", &service_offer(&key, genesis));
    key
}

/// A service's key with its proof: `holmes keys offer` makes none, services are the platform's.
pub(crate) fn service_offer(key: &SigningKey, genesis: [u8; 16]) -> serde_json::Value {
    let public = key.verifying_key().to_bytes();
    let network = holmes_accounts::possession::Network { genesis, cell: 1 };
    let holder = Principal::service(ServiceId(SERVICE));
    let said = holmes_accounts::possession::statement(&network, holder, None, &public);
    let base64 = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    let offered = json!({ "public_key": base64(&public), "possession": base64(&key.sign(&said).to_bytes()) });
    json!({ "service_number": SERVICE, "key": offered })
}

const ROLES: [&str; 3] = ["ROLE_RENTER", "ROLE_OPERATOR", "ROLE_VERIFIER"];

/// Every kind of caller.
pub(crate) fn callers(place: &Place, server: &Server<'_>) -> Vec<Who> {
    let (id, owner) = wallet(place, server, "owner", &ROLES);
    let (_, bare) = wallet(place, server, "bare", &[]);
    let (boss, _) = wallet(place, server, "boss", &["ROLE_STAFF"]);
    let key = |name, good: Good| {
        let held = [good.renter, good.operator, good.verifier];
        let roles: Vec<&str> =
            ROLES.into_iter().zip(held).filter_map(|(role, held)| held.then_some(role)).collect();
        Who::keyed(name, Caller::Account, good, server.api_key(&id, &roles, good.admin))
    };
    let staff = |name, admin| {
        // Whoever acts as staff lacks no role.
        let key = server.api_key(&boss, &["ROLE_STAFF"], admin);
        Who::keyed(name, Caller::Staff, Good { admin, ..ALL }, key)
    };
    let machine = |kind| machine(place, server, kind, &id);
    vec![
        key("an account's key without a role", NOTHING),
        key("a renter's key", Good { renter: true, ..NOTHING }),
        key("an operator's key", Good { operator: true, ..NOTHING }),
        key("a verifier's key", Good { verifier: true, ..NOTHING }),
        key("an account's key with admin alone", Good { admin: true, ..NOTHING }),
        Who::signing("the wallet of all roles", Caller::Account, ALL, owner),
        Who::signing("a wallet of no role", Caller::Account, Good { admin: true, ..NOTHING }, bare),
        Who::signing("staff", Caller::Staff, ALL, secret(place, "holmes-data/staff.key")),
        staff("staff's key without admin", false),
        staff("staff's key with admin", true),
        Who::signing("a gateway", Caller::Gateway, ALL, machine("gateway")),
        Who::signing("a node", Caller::Node, ALL, machine("node")),
        Who::signing("a service", Caller::Service, ALL, service(place, server)),
    ]
}

/// What is wrong with an answer, where something is.
fn objection(rule: &Rule, who: &Who, told: Option<&Status>) -> Option<String> {
    let (expected, why) = (who.refusal(rule), told.map(reason).unwrap_or_default());
    let refusals = ["KEY_SCOPE", "ROLE_NEEDED", "ADMIN_NEEDED", "FORBIDDEN", "UNAUTHENTICATED"];
    let right = match expected {
        "" => !refusals.contains(&why.as_str()),
        _ => why == expected && told.is_some_and(|status| status.code() == Code::PermissionDenied),
    };
    let said =
        told.map(|status| format!("{:?} {why}: {}", status.code(), status.message())).unwrap_or_default();
    (!right).then(|| format!("{} by {}: {expected:?} was expected, not {said}", rule.method, who.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_for_those_whom_its_rule_names_and_asks_for_the_proof_that_it_needs() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let served: BTreeSet<String> = methods(&server).into_iter().collect();
    let known = rules().iter().map(|rule| rule.method.clone());
    let known: BTreeSet<String> = known.chain(rules::OPEN.map(|(method, _)| method.to_owned())).collect();
    assert_eq!(served, known, "every method that is served has a rule");
    let callers = callers(&place, &server);
    let channel = connect(&server).await;
    let mut wrong = Vec::new();
    for rule in rules() {
        for who in &callers {
            let message = asked(rule, who);
            let id = id_of(&message);
            let message = message.encode_to_vec();
            let proof = who.proof(&rule.method, &message, id);
            let told = call(&channel, &rule.method, message, &proof).await;
            wrong.extend(objection(rule, who, told.as_ref()));
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The status and code that the HTTP port answers with.
fn asks(server: &Server<'_>, call: &str, proof: &str) -> (u16, String) {
    let (method, path) = call.split_once(' ').expect("a method and a path");
    let body = if method == "GET" { "" } else { "{" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{proof}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(&server.http(), head.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let said: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    (status, said["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn the_http_of_openais_clients_asks_for_a_key_and_for_a_renter_before_it_reads_a_body() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let (id, _) = wallet(&place, &server, "owner", &ROLES);
    let (boss, _) = wallet(&place, &server, "boss", &["ROLE_STAFF"]);
    let (renter, operator) =
        (server.api_key(&id, &ROLES[..1], false), server.api_key(&id, &ROLES[1..2], true));
    let staff = server.api_key(&boss, &["ROLE_STAFF"], true);
    let gone = server.api_key(&id, &ROLES[..1], false);
    let keys = server.staff("Accounts/GetAccount", &json!({ "account_id": id }))["apiKeys"].clone();
    let last = keys.as_array().and_then(|keys| keys.last()).expect("its keys");
    server.staff("Accounts/RevokeApiKey", &json!({ "key_id": last["keyId"] }));
    let soon_us = (now_ms() + 1_500) * 1_000;
    let expired = server.api_key_until(&id, &ROLES[..1], false, soon_us);
    let bearer = |key: &str| format!("authorization: Bearer {key}\r\n");
    let in_time = asks(&server, "GET /v1/models", &bearer(&expired)).0;
    assert!(in_time == 200 || now_ms() * 1_000 > soon_us, "it counts until then: {in_time}");
    until("its expiry", || (now_ms() * 1_000 > soon_us).then_some(()));
    let unknown = (401, "invalid_api_key".to_owned());
    for (call, works) in [
        ("GET /v1/models", false),
        ("GET /v1/models/holmes-tiny", false),
        ("POST /v1/chat/completions", true),
        ("POST /v1/completions", true),
        ("POST /v1/embeddings", true),
    ] {
        let signed = "holmes-signature: 00\r\n".to_owned();
        let basic = "authorization: Basic aG9sbWVz\r\n".to_owned();
        for proof in
            [String::new(), bearer(""), bearer("hk_0"), bearer(&gone), bearer(&expired), basic, signed]
        {
            assert_eq!(asks(&server, call, &proof), unknown, "{call} with {proof:?}");
        }
        let others = [(&operator, "key_scope"), (&staff, "forbidden")];
        for (key, code) in others {
            let (status, told) = asks(&server, call, &bearer(key));
            assert_eq!((status == 403, told == code), (works, works), "{call}: {status} {told}");
        }
        let (status, told) = asks(&server, call, &bearer(&renter));
        assert!(![401, 403].contains(&status), "{call}: {status} {told}");
        assert!(!works || (status, told.as_str()) == (400, "field_invalid"), "{call}: {status} {told}");
    }
}
