//! Requests, drawn from bytes: every field of a message by its name and type, mostly of what there is.

use arbitrary::Unstructured;
use ed25519_dalek::Signer as _;
use holmes_accounts::possession as keys;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_ledger::system_account;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_scheduling::Command;
use holmes_scheduling::wire as parse;
use holmes_sim::world::{
    GATEWAY, GENESIS, HOL, MODEL, OWNERS, STAFF, START, USD, World, account, key, node, node_key, offer,
    party, possession, public,
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use tonic::Status;

use super::people::{self, id, is_party};

type Drawn<T> = arbitrary::Result<T>;

/// What there is to name.
pub(super) struct Known {
    who: Principal,
    /// The request's own id.
    request: Id,
    parties: Vec<Id>,
    nodes: Vec<Id>,
    accounts: Vec<Id>,
    sessions: Vec<Id>,
    holds: Vec<Id>,
    /// Of what callers name themselves.
    fresh: Vec<Id>,
    leases: u64,
}

impl Known {
    pub(super) fn of(world: &World, who: Principal, request: Id) -> Known {
        let owned = people::all().flat_map(|n| [account(n, HOL), account(n, USD)]);
        let platforms = ["bonds/HOL", "fees/USD", "external/USD", "ecosystem/HOL"].map(system_account);
        let fresh: Vec<Id> = (0..6).map(|n| Id::v7(START.millis(), [7, 7, 7, 7, 7, 7, 7, 7, 7, n])).collect();
        let sessions = world.market.look(|state| state.sessions.iter().map(|(id, _)| *id).take(8).collect());
        let holds = world.ledger.look(|state| state.holds.iter().map(|(id, _)| *id).take(8).collect());
        let leases =
            world.scheduling.look(|state| state.leases.iter().map(|(seq, _)| *seq).max().unwrap_or(0));
        Known {
            who,
            request,
            parties: people::all().map(id).collect(),
            nodes: OWNERS.map(node).collect(),
            accounts: owned.chain(platforms).chain(fresh.iter().copied()).collect(),
            sessions,
            holds,
            fresh,
            leases,
        }
    }

    /// An id of the kind that a field names, mostly.
    fn id(&self, service: &str, name: &str, u: &mut Unstructured<'_>) -> Drawn<Id> {
        let kind = match (service, name) {
            (_, "node_id" | "avoid_node_ids" | "coordination_id") => &self.nodes,
            (_, "session_id") => &self.sessions,
            (_, "hold_id") => &self.holds,
            ("accounts", "account_id" | "owner_account_id") => &self.parties,
            (_, "transfer_id" | "key_id" | "call_id") => &self.fresh,
            _ => &self.accounts,
        };
        let kind = if kind.is_empty() || u.ratio(1u8, 12u8)? { &self.fresh } else { kind };
        u.choose(kind).copied()
    }
}

/// A message in which most fields say something.
pub(super) fn message(
    of: &MessageDescriptor,
    known: &Known,
    u: &mut Unstructured<'_>,
    depth: usize,
) -> Drawn<DynamicMessage> {
    let mut message = DynamicMessage::new(of.clone());
    if of.name() == "OfferedKey" {
        return offered(message, known, u);
    }
    if of.full_name() == "holmes.ledger.v1.Transfer" {
        return transfer(message, known, u);
    }
    for field in of.fields() {
        if field.name() == "request_id" {
            message.set_field(&field, Value::String(known.request.to_string()));
        } else if depth < 4 && !u.ratio(1u8, 8u8)? {
            let value = value(&field, known, u, depth)?;
            message.set_field(&field, value);
        }
    }
    Ok(message)
}

fn value(field: &FieldDescriptor, known: &Known, u: &mut Unstructured<'_>, depth: usize) -> Drawn<Value> {
    if !field.is_list() {
        return one(field, known, u, depth);
    }
    let most = if u.ratio(1u8, 64u8)? { 300 } else { 3 };
    let count = u.int_in_range(0..=most)?;
    let row: Drawn<Vec<Value>> = (0..count).map(|_| one(field, known, u, depth)).collect();
    row.map(Value::List)
}

fn one(field: &FieldDescriptor, known: &Known, u: &mut Unstructured<'_>, depth: usize) -> Drawn<Value> {
    Ok(match field.kind() {
        Kind::String => Value::String(text(field, known, u)?),
        Kind::Bytes => Value::Bytes(bytes(field.name(), u)?.into()),
        Kind::Bool => Value::Bool(u.arbitrary()?),
        Kind::Uint32 => Value::U32(number(field.name(), u)?.try_into().unwrap_or(u32::MAX)),
        Kind::Uint64 if field.name() == "submission_number" => Value::U64(u64::from(u.ratio(1u8, 32u8)?)),
        Kind::Uint64 => Value::U64(number(field.name(), u)?),
        Kind::Float => Value::F32(u.arbitrary()?),
        Kind::Enum(of) if u.ratio(1u8, 12u8)? => Value::EnumNumber(of.values().len() as i32),
        Kind::Enum(of) => Value::EnumNumber(u.int_in_range(1..=of.values().len() as i32 - 1)?),
        Kind::Message(inner) => Value::Message(message(&inner, known, u, depth + 1)?),
        other => panic!("{}: say here how {other:?} is drawn", field.full_name()),
    })
}

fn text(field: &FieldDescriptor, known: &Known, u: &mut Unstructured<'_>) -> Drawn<String> {
    let message = field.parent_message();
    let (name, service) = (field.name(), message.full_name().split('.').nth(1).unwrap_or_default());
    if u.ratio(1u8, 24u8)? {
        return Ok(u.arbitrary::<&str>()?.to_owned());
    }
    Ok(match name {
        "lease_id" => {
            format!("1.4.1.{}", if u.ratio(3u8, 4u8)? { known.leases } else { u.int_in_range(0..=99)? })
        }
        "submitter" => party(people::any(u)?).to_string(),
        "owner" | "renter" | "debit_owner" => match u.int_in_range(0..=5u8)? {
            0 => String::new(),
            1 => "*".into(),
            2 => known.who.to_string(),
            n => party(n).to_string(),
        },
        "page_token" => u.choose(&["", "0", "3", "99"])?.to_string(),
        "asset" => u.choose(&["USD", "HOL", ""])?.to_string(),
        "name" if message.name() == "OpenAccountRequest" => String::new(),
        "model" | "name" => u.choose(&[MODEL, MODEL, MODEL, "other", ""])?.to_string(),
        id if id.ends_with("_id") || id.ends_with("_ids") => {
            if u.ratio(1u8, 16u8)? {
                String::new()
            } else {
                known.id(service, id, u)?.to_string()
            }
        }
        _ => u.choose(&["x", "", "wire 1", "wire 2"])?.to_string(),
    })
}

fn bytes(name: &str, u: &mut Unstructured<'_>) -> Drawn<Vec<u8>> {
    if u.ratio(1u8, 24u8)? {
        return Ok(u.arbitrary::<&[u8]>()?.iter().copied().take(300).collect());
    }
    let n = people::any(u)?;
    Ok(match name {
        "public_key" | "old_public_key" => public(*u.choose(&[n, node_key(n), GATEWAY, STAFF])?).to_vec(),
        "possession" => possession(n).concat(),
        "capabilities" => offer(),
        "nonce" => vec![n; 16],
        "call" => Id::v7(START.millis(), [n; 10]).to_bytes().to_vec(),
        "bitmap" => vec![u.arbitrary()?; usize::from(n) * 2],
        name if name.ends_with("signature") => vec![n; 64],
        _ => vec![n; 32],
    })
}

/// Numbers that mean something, and those at the edges.
fn number(name: &str, u: &mut Unstructured<'_>) -> Drawn<u64> {
    let small = u.int_in_range(0..=4)?;
    Ok(match (name, u.int_in_range(0..=15u8)?) {
        ("asset" | "epoch" | "generation" | "page_size", 0..=11) => small,
        (_, 0..=4) => small,
        (_, 5..=8) => 10u64.pow(u.int_in_range(0..=13)?) * small,
        (_, 9..=12) => u.int_in_range(0..=1_000_000)?,
        (_, 13) => u64::MAX,
        (_, 14) => u64::from(u32::MAX),
        _ => u.arbitrary()?,
    })
}

/// A transfer whose fields are those of its kind.
fn transfer(mut message: DynamicMessage, known: &Known, u: &mut Unstructured<'_>) -> Drawn<DynamicMessage> {
    let kind = u.int_in_range(1..=4)?;
    let mut set = |name: &str, value: Value| message.set_field_by_name(name, value);
    let id = |name: &str, u: &mut Unstructured<'_>| -> Drawn<Value> {
        Ok(Value::String(known.id("ledger", name, u)?.to_string()))
    };
    let mine = u.ratio(3u8, 4u8)?;
    set("transfer_id", id("transfer_id", u)?);
    set("kind", Value::EnumNumber(kind));
    if kind <= 2 {
        let own = |n: u8| party(n) == known.who;
        let own = people::all().find(|n| own(*n)).filter(|_| mine);
        let asset = u.int_in_range(HOL..=USD)?;
        set(
            "debit_account_id",
            own.map_or(id("account_id", u)?, |n| Value::String(account(n, asset).to_string())),
        );
        set("credit_account_id", id("account_id", u)?);
        set("balancing", Value::Bool(u.ratio(1u8, 8u8)?));
    } else {
        set("hold_id", id("hold_id", u)?);
    }
    if kind == 2 && u.arbitrary()? {
        set("timeout_ms", Value::U64(number("timeout_ms", u)?));
    }
    if kind != 4 {
        set("amount_units", Value::U64(number("amount_units", u)?));
    }
    set("linked", Value::Bool(u.ratio(1u8, 8u8)?));
    Ok(message)
}

/// A key with a proof that holds for an account of its own, or for a machine of the caller's; or for somebody else.
fn offered(mut message: DynamicMessage, known: &Known, u: &mut Unstructured<'_>) -> Drawn<DynamicMessage> {
    let n = u.int_in_range(1..=40u8)?;
    let (of, own) = (key(n), id(n));
    let owner = if is_party(known.who) { known.who.id } else { *u.choose(&known.parties)? };
    let (holder, owner) = match u.int_in_range(0..=3u8)? {
        0 => (Principal::new(PrincipalKind::Account, own), own),
        1 => (Principal::new(PrincipalKind::Account, owner), owner),
        2 => (Principal::new(PrincipalKind::Node, own), owner),
        _ => (Principal::new(PrincipalKind::Gateway, own), owner),
    };
    let network = keys::Network { genesis: GENESIS, cell: 1 };
    let said = keys::statement(&network, holder, Some(owner), &public(n));
    message.set_field_by_name("public_key", Value::Bytes(public(n).to_vec().into()));
    message.set_field_by_name("possession", Value::Bytes(of.sign(&said).to_bytes().to_vec().into()));
    Ok(message)
}

/// Whether a method changes something.
pub(super) fn changes(method: &MethodDescriptor) -> bool {
    method.input().get_field_by_name("request_id").is_some()
}

/// The kinds of callers that a method is for, by its `(holmes.access)`; empty for all.
pub(super) fn meant_for(method: &MethodDescriptor) -> Vec<i32> {
    let access = method.parent_pool().get_extension_by_name("holmes.access").unwrap();
    let options = method.options();
    let said = options.get_extension(&access);
    let callers = said.as_message().and_then(|said| said.get_field_by_name("callers")).unwrap();
    let numbers: Vec<i32> =
        callers.as_list().unwrap_or_default().iter().filter_map(Value::as_enum_number).collect();
    if numbers == [1] { Vec::new() } else { numbers }
}

/// What carries signatures of nodes and gateways.
pub(super) fn is_signed(method: &MethodDescriptor) -> bool {
    let signed = ["Attach", "ReportCalls", "ReportRunning"];
    method.parent_service().name() == "Scheduling" && signed.contains(&method.name())
}

/// The command of such a request, as the edge makes it once it has looked at the signatures.
pub(super) fn without_signatures(name: &str, bytes: &[u8]) -> Result<Command, Status> {
    Ok(match name {
        "Attach" => Command::Attach(parse::attach(&read::<scheduling::AttachRequest>(bytes)?)?),
        "ReportCalls" => {
            let (lease, lines) = parse::report(&read::<scheduling::ReportCallsRequest>(bytes)?)?;
            Command::ReportCalls { lease, lines }
        }
        _ => {
            let leases = parse::running(&read::<scheduling::ReportRunningRequest>(bytes)?)?;
            let lines =
                leases.into_iter().flat_map(|(id, lines)| lines.into_iter().map(move |line| (id, line)));
            Command::Checkpoint(lines.collect())
        }
    })
}

fn read<T: prost_reflect::prost::Message + Default>(bytes: &[u8]) -> Result<T, Status> {
    T::decode(bytes).map_err(|why| Status::invalid_argument(why.to_string()))
}
