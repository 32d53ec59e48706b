//! Requests, drawn from bytes: every field of a message by its name and type, mostly of what there is.

use arbitrary::Unstructured;
use ed25519_dalek::Signer as _;
use holmes_accounts::possession as keys;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_ledger::system_account;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_scheduling::Command;
use holmes_scheduling::wire as parse;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use tonic::Status;

use super::people::{self, GENESIS, id, node_of, offer, party, public};
use super::{Network, START, account, is_party};

type Drawn<T> = arbitrary::Result<T>;

/// What there is to name.
pub(super) struct Known {
    who: Principal,
    ids: Vec<Id>,
    leases: u64,
}

impl Known {
    pub(super) fn of(network: &Network, who: Principal) -> Known {
        let mut ids: Vec<Id> = (1..=people::PARTIES).map(id).collect();
        ids.extend((1..=people::OWNERS).map(|n| id(node_of(n))));
        ids.extend((1..=people::PARTIES).flat_map(|n| [account(n, 1), account(n, 2)]));
        ids.extend(["bonds/HOL", "fees/USD", "external/USD", "ecosystem/HOL"].map(system_account));
        ids.extend((0..6).map(|n| Id::v7(START.millis(), [7, 7, 7, 7, 7, 7, 7, 7, 7, n])));
        network.market.look(|state| ids.extend(state.sessions.iter().map(|(id, _)| *id).take(8)));
        network.ledger.look(|state| ids.extend(state.holds.iter().map(|(id, _)| *id).take(8)));
        let leases =
            network.scheduling.look(|state| state.leases.iter().map(|(seq, _)| *seq).max().unwrap_or(0));
        Known { who, ids, leases }
    }
}

/// A message in which most fields say something.
pub(super) fn message(
    of: &MessageDescriptor,
    known: &Known,
    request: Id,
    u: &mut Unstructured<'_>,
    depth: usize,
) -> Drawn<DynamicMessage> {
    let mut message = DynamicMessage::new(of.clone());
    if of.name() == "OfferedKey" {
        return offered(message, known, u);
    }
    for field in of.fields() {
        if field.name() == "request_id" {
            message.set_field(&field, Value::String(request.to_string()));
        } else if depth < 4 && u.ratio(7u8, 8u8)? {
            let value = value(&field, known, request, u, depth)?;
            message.set_field(&field, value);
        }
    }
    Ok(message)
}

fn value(
    field: &FieldDescriptor,
    known: &Known,
    request: Id,
    u: &mut Unstructured<'_>,
    depth: usize,
) -> Drawn<Value> {
    if !field.is_list() {
        return one(field, known, request, u, depth);
    }
    let most = if u.ratio(1u8, 64u8)? { 300 } else { 3 };
    let count = u.int_in_range(0..=most)?;
    let row: Drawn<Vec<Value>> = (0..count).map(|_| one(field, known, request, u, depth)).collect();
    row.map(Value::List)
}

fn one(
    field: &FieldDescriptor,
    known: &Known,
    request: Id,
    u: &mut Unstructured<'_>,
    depth: usize,
) -> Drawn<Value> {
    Ok(match field.kind() {
        Kind::String => Value::String(text(field.name(), known, u)?),
        Kind::Bytes => Value::Bytes(bytes(field.name(), u)?.into()),
        Kind::Bool => Value::Bool(u.arbitrary()?),
        Kind::Uint32 => Value::U32(number(field.name(), u)?.try_into().unwrap_or(u32::MAX)),
        Kind::Uint64 if field.name() == "submission_number" => Value::U64(u64::from(u.ratio(1u8, 32u8)?)),
        Kind::Uint64 => Value::U64(number(field.name(), u)?),
        Kind::Float => Value::F32(u.arbitrary()?),
        Kind::Enum(of) => Value::EnumNumber(u.int_in_range(0..=of.values().len() as i32)?),
        Kind::Message(inner) => Value::Message(message(&inner, known, request, u, depth + 1)?),
        other => panic!("{}: say here how {other:?} is drawn", field.full_name()),
    })
}

fn text(name: &str, known: &Known, u: &mut Unstructured<'_>) -> Drawn<String> {
    if u.ratio(1u8, 24u8)? {
        return Ok(u.arbitrary::<&str>()?.to_owned());
    }
    Ok(match name {
        "lease_id" => {
            format!("1.4.1.{}", if u.ratio(3u8, 4u8)? { known.leases } else { u.int_in_range(0..=99)? })
        }
        "owner" | "renter" | "submitter" | "debit_owner" => match u.int_in_range(0..=4u8)? {
            0 => String::new(),
            1 => "*".into(),
            2 => known.who.to_string(),
            n => party(n).to_string(),
        },
        "page_token" => u.choose(&["", "0", "3", "99"])?.to_string(),
        "asset" => u.choose(&["USD", "HOL", ""])?.to_string(),
        "model" | "name" => u.choose(&[people::MODEL, "", "other", "trr_pool/HOL"])?.to_string(),
        id if id.ends_with("_id") || id.ends_with("_ids") => {
            if u.ratio(1u8, 8u8)? {
                String::new()
            } else {
                u.choose(&known.ids)?.to_string()
            }
        }
        _ => u.choose(&["x", "", "wire 1", "wire 2"])?.to_string(),
    })
}

fn bytes(name: &str, u: &mut Unstructured<'_>) -> Drawn<Vec<u8>> {
    if u.ratio(1u8, 24u8)? {
        return Ok(u.arbitrary::<&[u8]>()?.iter().copied().take(300).collect());
    }
    let n = u.int_in_range(1..=4u8)?;
    Ok(match name {
        "public_key" | "old_public_key" => {
            public(*u.choose(&[n, node_of(n), people::GATEWAY, people::STAFF])?).to_vec()
        }
        "possession" => people::of_staking(n).concat(),
        "capabilities" => offer(),
        "nonce" => vec![n; 16],
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

/// A key with a proof that holds for an account of its own, or for a machine of the caller's; or for somebody else.
fn offered(mut message: DynamicMessage, known: &Known, u: &mut Unstructured<'_>) -> Drawn<DynamicMessage> {
    let n = u.int_in_range(1..=40u8)?;
    let (of, own) = (people::key(n), id(n));
    let owner = if is_party(known.who) { known.who.id } else { *u.choose(&known.ids)? };
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
