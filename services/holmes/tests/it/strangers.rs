//! What is somebody else's: every field that hides what it names, filled with a thing of another tenant and with one that
//! there is not. Whoever it does not concern hears the same of both, word for word, and whom it concerns hears otherwise.

use std::collections::BTreeMap;

use holmes_kernel::PrincipalKind;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::asker::Asker;
use crate::harness::{Place, Server};
use crate::paid::{self, PEOPLE};
use crate::raw::{connect, described, genesis, of_key, secret};
use crate::rules::{Caller, Rule, rules};

/// Something that a field names, and one like it that there is not.
struct Thing {
    real: Value,
    unreal: Value,
}

fn text(real: &str, unreal: impl Into<String>) -> Thing {
    Thing { real: Value::String(real.to_owned()), unreal: Value::String(unreal.into()) }
}

/// An answer in words, with what was asked for under one name.
fn told(answer: &Result<Vec<Vec<u8>>, Status>, asked: &Value) -> String {
    let told = match answer {
        Ok(said) => format!("{said:?}"),
        Err(status) => {
            let why = status.get_details_error_info();
            format!("{:?} {} {why:?}", status.code(), status.message())
        }
    };
    match asked {
        Value::String(asked) => told.replace(asked.as_str(), "THING"),
        _ => told,
    }
}

/// A renter with a session, a lease, a call, a hold; an operator with a node; a stranger who is everything too.
struct World {
    renter: Asker,
    operator: Asker,
    stranger: Asker,
    /// By service and field.
    things: BTreeMap<(&'static str, &'static str), Thing>,
    /// Of the stranger: what a request needs beside the thing that it names.
    node: String,
    /// Of the renter: two accounts between which she may move.
    purses: [String; 2],
}

fn wallet(place: &Place, name: &str, genesis: [u8; 16]) -> Asker {
    Asker::signing(secret(place, &format!("{name}.key")), PrincipalKind::Account, genesis)
}

fn world(place: &Place, server: &Server<'_>) -> World {
    let genesis = genesis(&std::fs::read(place.path("net.toml")).expect("a profile"));
    let nodes = paid::nodes(place, server);
    let (account, _) = server.renter("dora");
    let key = server.api_key(&account, &["ROLE_RENTER"], true);
    let dollars = server.dollars(&key, 25_000_000);
    server.with_key(&key, "Market/SetAccount", &json!({ "asset": 2, "account_id": dollars }));
    let call = server.new_id();
    let mut request = paid::generate(8);
    request["request_id"] = call.clone().into();
    let ran = server.call(&["Inference/Generate", &request.to_string(), "--key", &key]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let said = paid::parts(&ran.out);
    let started = &said[0]["started"];
    let of = |name: &str| started[name].as_str().expect("a text").to_owned();
    let (lease, session, node) = (of("leaseId"), of("sessionId"), of("nodeId"));
    let receipt = said[said.len() - 1]["ended"]["receipts"][0].as_str().expect("a receipt").to_owned();
    // The operator is the one whose node served, the stranger another one.
    let at = nodes.iter().position(|other| other.id == node).expect("one of them");
    let (operator, other) = (PEOPLE[at], (at + 1) % PEOPLE.len());
    let spare = server.dollars(&key, 0);
    let [hold, to_end, ended] = std::array::from_fn(|_| {
        let hold = server.new_id();
        let transfer = json!({
            "transfer_id": hold, "kind": "TRANSFER_KIND_HOLD", "debit_account_id": dollars, "credit_account_id": spare,
            "amount_units": "5",
        });
        let held = server.with_key(&key, "Ledger/CreateTransfers", &json!({ "transfers": [transfer] }));
        assert_eq!(held["results"][0]["code"], "TRANSFER_CODE_OK", "{held}");
        hold
    });
    let void = json!({ "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_VOID", "hold_id": ended });
    server.with_key(&key, "Ledger/CreateTransfers", &json!({ "transfers": [void] }));
    let found = server.staff("Accounts/GetAccount", &json!({ "account_id": account }));
    let key_id = found["apiKeys"][1]["keyId"].as_str().unwrap_or_else(|| panic!("{found}")).to_owned();
    let shown = secret(place, &format!("{operator}.key"));
    let public_key = shown.verifying_key().to_bytes().to_vec();
    let other_key = vec![7; 32];
    let stranger = of_key(&secret(place, &format!("{}.key", PEOPLE[other])), PrincipalKind::Account);
    let roles = json!({ "account_id": stranger.id.to_string(), "roles": ["ROLE_RENTER", "ROLE_OPERATOR", "ROLE_VERIFIER"] });
    server.staff("Accounts/SetRoles", &roles);
    let next = |name: &str, dot: char| {
        let (head, last) = name.rsplit_once(dot).expect("a number behind it");
        format!("{head}{dot}{}", last.parse::<u64>().expect("a number") + 900)
    };
    let id = || server.new_id();
    let things = [
        (("accounts", "account_id"), text(&account, id())),
        (("accounts", "owner_account_id"), text(&account, id())),
        (("accounts", "key_id"), text(&key_id, id())),
        (
            ("accounts", "public_key"),
            Thing { real: Value::Bytes(public_key.into()), unreal: Value::Bytes(other_key.into()) },
        ),
        (("ledger", "account_id"), text(&dollars, id())),
        (("ledger", "owner"), text(&format!("account/{account}"), format!("account/{}", id()))),
        (("ledger", "transfer_id"), text(&hold, id())),
        (("ledger", "hold_id"), text(&hold, id())),
        (("ledger", "transfers.hold_id"), text(&to_end, id())),
        (("ledger", "an ended transfers.hold_id"), text(&ended, id())),
        (
            ("ledger", "transfers.debit_owner"),
            text(&format!("account/{account}"), format!("account/{}", id())),
        ),
        (("ledger", "submitter"), text(&format!("account/{account}"), format!("account/{}", id()))),
        (("staking", "hold_id"), text(&hold, id())),
        (("staking", "node_id"), text(&node, id())),
        (("market", "session_id"), text(&session, id())),
        (("market", "renter"), text(&format!("account/{account}"), format!("account/{}", id()))),
        (("scheduling", "lease_id"), text(&lease, next(&lease, '.'))),
        (("scheduling", "leases.lease_id"), text(&lease, next(&lease, '.'))),
        (("scheduling", "session_id"), text(&session, id())),
        (("scheduling", "call_id"), text(&call, id())),
        (("inference", "name"), text(&receipt, "receipts/1.0")),
        (("inference", "call_id"), text(&call, id())),
    ];
    let nodes_of = ["node_id", "nodes.node_id", "avoid_node_ids"];
    let things = things.into_iter().chain(nodes_of.map(|field| (("scheduling", field), text(&node, id()))));
    World {
        renter: Asker::Key(key),
        operator: wallet(place, operator, genesis),
        stranger: wallet(place, PEOPLE[other], genesis),
        things: things.collect(),
        node: nodes[other].id.clone(),
        purses: [dollars, spare],
    }
}

/// A request that names a thing, and beside it nothing or what is the stranger's.
fn naming(rule: &Rule, field: &str, thing: &Value, world: &World, ids: &[String; 4]) -> DynamicMessage {
    let method = described(&rule.method).expect("a method of ours");
    let mut message = DynamicMessage::new(method.input());
    let mut set = |name: &str, value: Value| {
        if method.input().get_field_by_name(name).is_some() {
            message.set_field_by_name(name, value);
        }
    };
    set("request_id", Value::String(ids[0].clone()));
    // What the owner's request needs to get so far that the thing is looked at.
    match rule.method.rsplit('/').next().expect("a name") {
        "CreateApiKey" => {
            set("key_id", Value::String(ids[1].clone()));
            set("hash", Value::Bytes(blake3::hash(ids[2].as_bytes()).as_bytes().to_vec().into()));
        }
        "AddPublicKey" | "RotateKey" | "RegisterNodeKey" => {
            let offered = method.input().get_field_by_name("key").expect("a key");
            let kind = offered.kind();
            let mut key = DynamicMessage::new(kind.as_message().expect("a message").clone());
            key.set_field_by_name("public_key", Value::Bytes(vec![9; 32].into()));
            key.set_field_by_name("possession", Value::Bytes(vec![9; 64].into()));
            set("key", Value::Message(key));
            set("old_public_key", Value::Bytes(vec![8; 32].into()));
        }
        "Bond" => set("node_id", Value::String(world.node.clone())),
        "OpenSession" => set("budget_micro_usd", Value::U64(1_000_000)),
        "OpenAccount" => {
            set("account_id", Value::String(ids[1].clone()));
            set("asset", Value::U32(2));
        }
        _ => {}
    }
    put(&mut message, field, thing);
    // A row of a batch needs more to be looked at.
    if let Some(Value::List(rows)) = message.get_field_by_name_mut("transfers")
        && let Some(Value::Message(row)) = rows.first_mut()
    {
        row.set_field_by_name("transfer_id", Value::String(ids[3].clone()));
        row.set_field_by_name("kind", Value::EnumNumber(if field.ends_with("hold_id") { 4 } else { 1 }));
        if field.ends_with("debit_owner") {
            let [from, to] = &world.purses;
            row.set_field_by_name("debit_account_id", Value::String(from.clone()));
            row.set_field_by_name("credit_account_id", Value::String(to.clone()));
            row.set_field_by_name("amount_units", Value::U64(1));
        }
    }
    message
}

/// Sets a field by its path, in a list as its one row.
fn put(message: &mut DynamicMessage, path: &str, value: &Value) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = field_of(&message.descriptor(), name);
    let value = match (rest, field.kind()) {
        (Some(rest), Kind::Message(of)) => {
            let mut inner = DynamicMessage::new(of);
            put(&mut inner, rest, value);
            Value::Message(inner)
        }
        _ => value.clone(),
    };
    message.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
}

fn field_of(of: &MessageDescriptor, name: &str) -> prost_reflect::FieldDescriptor {
    of.get_field_by_name(name).unwrap_or_else(|| panic!("{} has no {name}", of.full_name()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_hears_of_what_is_anothers_what_he_hears_of_what_is_not_there() {
    let place = paid::network();
    let server = place.serve(&["--role", "all"]);
    let world = world(&place, &server);
    let channel = connect(&server).await;
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for rule in rules() {
        let service = rule.method.split('.').nth(1).expect("a service");
        // Whom an RPC is not for hears of nothing that it names.
        let for_accounts = rule.allows(Caller::Account);
        let told_to_others = rule.tells.iter().filter(|_| !for_accounts);
        for field in rule.hides.iter().chain(told_to_others) {
            let things: Vec<_> = world
                .things
                .iter()
                .filter(|((of, name), _)| *of == service && name.split(' ').next_back() == Some(field))
                .map(|(_, thing)| thing)
                .collect();
            assert!(!things.is_empty(), "{}: say what {field} can name", rule.method);
            for Thing { real, unreal } in things {
                let mut hears = async |tenant: &Asker, thing: &Value| {
                    let ids = std::array::from_fn(|_| holmes_runtime::fresh_id().to_string());
                    let message = naming(rule, field, thing, &world, &ids);
                    let answer = tenant.ask_as_it_is(&channel, &rule.method, &message).await;
                    asked += 1;
                    told(&answer, thing)
                };
                let there = hears(&world.stranger, real).await;
                let missing = hears(&world.stranger, unreal).await;
                if there != missing {
                    wrong.push(format!(
                        "{}, {field}: {there}\n  but of what is not there: {missing}",
                        rule.method
                    ));
                }
                if !for_accounts {
                    continue;
                }
                let owner = if field == "public_key" { &world.operator } else { &world.renter };
                let owners = hears(owner, real).await;
                if owners == there {
                    wrong.push(format!("{}, {field}: its owner hears no more: {owners}", rule.method));
                }
            }
        }
    }
    assert!(asked > 120, "{asked} answers are no table");
    assert!(wrong.is_empty(), "{} of {asked} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
