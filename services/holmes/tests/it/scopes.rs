//! What a proof may do: every RPC that changes something or makes somebody work, asked with keys that act as little, and
//! with signatures of accounts that may little. The methods are those that the server tells of, so a new one fails here
//! until somebody has said who may call it.

use std::collections::BTreeSet;

use holmes_kernel::{Id, PrincipalKind};
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use serde_json::json;

use crate::bad_input::whole;
use crate::harness::{Place, Server};
use crate::raw::{
    Fields, Signing, bearer, call, connect, described, genesis, methods, now_ms, reason, secret,
};

/// What a call asks of who calls.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Renter,
    Operator,
    Nodes,
    Party,
    /// Moves money or changes rights; whether an account may do it at all, the machine says.
    Admin,
    /// Only staff, or only gateways, whatever the key.
    Others,
}

use Needs::{Admin, Nodes, Operator, Others, Party, Renter};

const TABLE: [(&str, Needs); 48] = [
    ("accounts.v1.Accounts/AddPublicKey", Admin),
    ("accounts.v1.Accounts/CreateAccount", Admin),
    ("accounts.v1.Accounts/CreateApiKey", Admin),
    ("accounts.v1.Accounts/RegisterGatewayKey", Admin),
    ("accounts.v1.Accounts/RegisterNodeKey", Admin),
    ("accounts.v1.Accounts/RegisterServiceKey", Admin),
    ("accounts.v1.Accounts/ReinstateAccount", Admin),
    ("accounts.v1.Accounts/RevokeApiKey", Admin),
    ("accounts.v1.Accounts/RevokePublicKey", Admin),
    ("accounts.v1.Accounts/RotateKey", Admin),
    ("accounts.v1.Accounts/SetRoles", Admin),
    ("accounts.v1.Accounts/SuspendAccount", Admin),
    ("emission.v1.Emission/CloseEpochWithout", Others),
    ("emission.v1.Emission/ExitGrant", Admin),
    ("inference.v1.Inference/Embed", Renter),
    ("inference.v1.Inference/Generate", Renter),
    ("inference.v1.Inference/Quote", Renter),
    ("ledger.v1.Ledger/CloseAccount", Admin),
    ("ledger.v1.Ledger/CreateTransfers", Admin),
    ("ledger.v1.Ledger/OpenAccount", Party),
    ("ledger.v1.Ledger/RecordDeposit", Admin),
    ("ledger.v1.Ledger/RecordWithdrawal", Admin),
    ("ledger.v1.Ledger/RegisterSubmitter", Admin),
    ("ledger.v1.Ledger/SetFrozen", Admin),
    ("ledger.v1.Ledger/SetLimits", Admin),
    ("market.v1.Market/CloseSession", Renter),
    ("market.v1.Market/OpenSession", Renter),
    ("market.v1.Market/SetAccount", Party),
    ("market.v1.Market/SetModel", Others),
    ("scheduling.v1.Scheduling/Attach", Others),
    ("scheduling.v1.Scheduling/Detach", Others),
    ("scheduling.v1.Scheduling/EndLease", Others),
    ("scheduling.v1.Scheduling/FindCall", Others),
    ("scheduling.v1.Scheduling/Place", Others),
    ("scheduling.v1.Scheduling/RenewLease", Others),
    ("scheduling.v1.Scheduling/ReportCalls", Others),
    ("scheduling.v1.Scheduling/ReportPresence", Others),
    ("scheduling.v1.Scheduling/ReportRunning", Others),
    ("scheduling.v1.Scheduling/StartGateway", Others),
    ("staking.v1.Staking/Bond", Nodes),
    ("staking.v1.Staking/Jail", Others),
    ("staking.v1.Staking/RegisterNode", Operator),
    ("staking.v1.Staking/SetPayoutAccount", Admin),
    ("staking.v1.Staking/SetRating", Others),
    ("staking.v1.Staking/Tombstone", Others),
    ("staking.v1.Staking/Unbond", Admin),
    ("staking.v1.Staking/Unjail", Others),
    ("treasury.v1.Treasury/RetryGenesis", Others),
];

/// What changes nothing, or proves its caller by itself.
fn is_elsewhere(method: &str) -> bool {
    let (_, name) = method.split_once('/').expect("a method");
    let reads = ["Get", "List", "Explain"].iter().any(|verb| name.starts_with(verb));
    reads || ["market.v1.Market/Quote", "gateway.v1.Gateway/Attach"].contains(&method)
}

/// Who asks, in the order in which [`Needs::answers`] has them.
enum Caller {
    Key(String),
    Wallet(Box<ed25519_dalek::SigningKey>),
}

impl Needs {
    /// The reason for which each is refused: keys that act as nothing, renter, operator, verifier; a key that acts as
    /// nothing and has the scope admin; the signatures of an account that may all three, and of one that may nothing.
    /// Empty where whatever else may be wrong, the proof is enough.
    fn answers(self) -> [&'static str; 7] {
        let (key, role, admin) = ("KEY_SCOPE", "ROLE_NEEDED", "ADMIN_NEEDED");
        match self {
            Renter => [key, "", key, key, key, "", role],
            Operator => [key, key, "", key, key, "", role],
            Nodes => [key, key, "", "", key, "", role],
            Party => [key, "", "", "", "", "", ""],
            Admin => [admin, admin, admin, admin, "", "", ""],
            Others => ["FORBIDDEN"; 7],
        }
    }
}

/// A request whose fields can be read, so that what refuses it is who asks.
fn asked(method: &str) -> DynamicMessage {
    let mut message = whole(&described(method).expect("a method of ours").input(), 0);
    if let Some(Value::Message(model)) = message.get_field_by_name_mut("model") {
        model.set_field_by_name("name", Value::String("a-model".into()));
    }
    message
}

impl Caller {
    fn proof(&self, method: &str, message: &[u8], id: Id) -> Fields {
        match self {
            Caller::Key(key) => bearer(key),
            Caller::Wallet(key) => {
                let genesis = genesis(include_bytes!("../../../../deploy/profiles/demo.toml"));
                let signing = Signing { key, kind: PrincipalKind::Account, genesis };
                signing.fields(method, message, id, now_ms() + 60_000)
            }
        }
    }
}

/// A wallet's account with roles, and its key.
fn wallet(place: &Place, server: &Server<'_>, name: &str, roles: &[&str]) -> (String, Caller) {
    let file = format!("{name}.key");
    assert_eq!(place.run(&["keys", "new", &file]).code, 0);
    let shown = place.run(&["keys", "show", &file, "-o", "json"]).json();
    let id = shown[0]["id"].as_str().expect("a text").to_owned();
    let key = place.run(&["keys", "offer", &file]).json();
    let account = json!({ "account_id": id, "name": name, "roles": roles, "key": key });
    server.staff("Accounts/CreateAccount", &account);
    (id, Caller::Wallet(Box::new(secret(place, &file))))
}

fn callers(place: &Place, server: &Server<'_>) -> [Caller; 7] {
    let all = ["ROLE_RENTER", "ROLE_OPERATOR", "ROLE_VERIFIER"];
    let (id, owner) = wallet(place, server, "owner", &all);
    let (_, bare) = wallet(place, server, "bare", &[]);
    let key = |roles: &[&str], admin| Caller::Key(server.api_key(&id, roles, admin));
    [
        key(&[], false),
        key(&all[..1], false),
        key(&all[1..2], false),
        key(&all[2..], false),
        key(&[], true),
        owner,
        bare,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_asks_for_the_role_or_scope_that_it_needs() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let served: BTreeSet<String> = methods(&server)
        .into_iter()
        .filter_map(|method| Some(method.strip_prefix("holmes.")?.to_owned()))
        .filter(|method| !is_elsewhere(method))
        .collect();
    assert_eq!(served, TABLE.map(|(method, _)| method.to_owned()).into(), "say who may call a new method");
    let callers = callers(&place, &server);
    let channel = connect(&server).await;
    for (method, needs) in TABLE {
        let method = format!("holmes.{method}");
        for (at, (caller, expected)) in callers.iter().zip(needs.answers()).enumerate() {
            let message = asked(&method);
            // A quote has none, and may be signed with any.
            let id = message.get_field_by_name("request_id");
            let id = id.and_then(|id| id.as_str()?.parse().ok()).unwrap_or_else(fresh_id);
            let message = message.encode_to_vec();
            let proof = caller.proof(&method, &message, id);
            let told = call(&channel, &method, message, &proof).await;
            let why = told.as_ref().map(reason).unwrap_or_default();
            if expected.is_empty() {
                let scoped = ["KEY_SCOPE", "ROLE_NEEDED", "ADMIN_NEEDED"].contains(&why.as_str());
                assert!(!scoped, "{method} refuses caller {at}: {told:?}");
            } else {
                assert_eq!(why, expected, "{method}, caller {at}: {told:?}");
                let code = told.expect("refused").code();
                let denied = code == tonic::Code::PermissionDenied;
                assert!(denied, "{method}, caller {at}: {code:?}");
            }
        }
    }
}
