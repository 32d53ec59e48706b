//! Between the wire's messages and the types of scheduling.

use std::collections::BTreeSet;

use holmes_kernel::Id;
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Parsed, malformed};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::{DetachReason, Finish, LeaseEnd};
use holmes_proto::statements::lease_bytes;

use crate::attendance::{bytes_of, overflows};
use crate::command::{Attach, Command, Line, Place, Presence};
use crate::offer::{Offer, is_name};
use crate::params::{
    MOST_AVOIDED, MOST_BEATS_PER_REPORT, MOST_LEASES_PER_REPORT, MOST_LINES, MOST_NODES_PER_REPORT,
};
use crate::state::{LeaseId, Node, State};

/// Most nodes that one page looks at, so that a rare model does not make a page long.
const MOST_LOOKED_AT: usize = 10_000;

/// A lease's id in a text field.
pub fn lease_id(field: &str, text: &str) -> Parsed<LeaseId> {
    let id = lease_bytes(text).and_then(|bytes| LeaseId::from_slice(&bytes));
    id.map_or_else(|| malformed(field, "a lease's id: <cell>.4.<term>.<seq>"), Ok)
}

fn fixed<const N: usize>(field: &str, bytes: &[u8], expected: &'static str) -> Parsed<[u8; N]> {
    bytes.try_into().or_else(|_| malformed(field, expected))
}

fn key(bytes: &[u8]) -> Parsed<[u8; 32]> {
    fixed("public_key", bytes, "an Ed25519 public key of 32 bytes")
}

/// An Ed25519 signature in two halves.
fn signature(field: &str, bytes: &[u8]) -> Parsed<[[u8; 32]; 2]> {
    let whole: [u8; 64] = fixed(field, bytes, "an Ed25519 signature of 64 bytes")?;
    let (mut r, mut s) = ([0; 32], [0; 32]);
    r.copy_from_slice(&whole[..32]);
    s.copy_from_slice(&whole[32..]);
    Ok([r, s])
}

/// A gateway that starts.
pub fn start(wanted: &wire::StartGatewayRequest) -> Parsed<[u8; 32]> {
    key(&wanted.public_key)
}

/// A node that attaches.
pub fn attach(wanted: &wire::AttachRequest) -> Parsed<Attach> {
    Ok(Attach {
        node: id("node_id", &wanted.node_id)?,
        offer: Offer::read(&wanted.capabilities)?,
        nonce: fixed("nonce", &wanted.nonce, "16 random bytes")?,
        signature: signature("signature", &wanted.signature)?,
    })
}

/// A node whose stream is gone.
pub fn detach(wanted: &wire::DetachRequest) -> Parsed<Command> {
    let said = [DetachReason::StreamLost, DetachReason::Silent, DetachReason::Left].map(i32::from);
    if !said.contains(&wanted.reason) {
        return malformed("reason", "STREAM_LOST, SILENT or LEFT");
    }
    let node = id("node_id", &wanted.node_id)?;
    Ok(Command::Detach { node, generation: wanted.generation, reason: wanted.reason })
}

/// Beats that were seen.
pub fn presence(wanted: &wire::ReportPresenceRequest) -> Parsed<Command> {
    if wanted.nodes.len() > MOST_NODES_PER_REPORT {
        return malformed("nodes", "at most 256 nodes");
    }
    if wanted.beats > MOST_BEATS_PER_REPORT {
        return malformed("beats", "at most 1,024: report more often");
    }
    if wanted.beats == 0 && !wanted.nodes.is_empty() {
        return malformed("beats", "at least 1 where nodes are named");
    }
    let mut names = BTreeSet::new();
    let mut nodes = Vec::with_capacity(wanted.nodes.len());
    for (at, node) in wanted.nodes.iter().enumerate() {
        let field = format!("nodes[{at}].node_id");
        let id = id(&field, &node.node_id)?;
        if !names.insert(id) {
            return malformed(field, "each node once");
        }
        if node.bitmap.len() != bytes_of(wanted.beats) || overflows(&node.bitmap, wanted.beats) {
            return malformed(
                format!("nodes[{at}].bitmap"),
                "ceil(beats / 8) bytes, no bit behind the last beat",
            );
        }
        nodes.push((id, node.bitmap.to_vec()));
    }
    let (epoch, first_beat, beats) = (wanted.epoch, wanted.first_beat, wanted.beats);
    Ok(Command::ReportPresence(Presence { epoch, first_beat, beats, nodes }))
}

/// A wish for a node.
pub fn place(wanted: &wire::PlaceRequest) -> Parsed<Command> {
    if !is_name(&wanted.model) {
        return malformed("model", "a model's name of 1 to 128 printable ASCII characters");
    }
    if wanted.avoid_node_ids.len() > MOST_AVOIDED {
        return malformed("avoid_node_ids", "at most 8 nodes");
    }
    let avoid = wanted.avoid_node_ids.iter().enumerate();
    let avoid = avoid.map(|(at, text)| id(&format!("avoid_node_ids[{at}]"), text));
    let avoid: BTreeSet<Id> = avoid.collect::<Parsed<_>>()?; // each once: its capacity is excluded once
    let named = (!wanted.node_id.is_empty()).then(|| id("node_id", &wanted.node_id));
    Ok(Command::Place(Place {
        session: id("session_id", &wanted.session_id)?,
        model: wanted.model.clone(),
        allowance: wanted.allowance_pico_usd,
        duration_ms: wanted.duration_ms,
        avoid: avoid.into_iter().collect(),
        named: named.transpose()?,
        context: wanted.context,
    }))
}

/// A lease to keep.
pub fn renew(wanted: &wire::RenewLeaseRequest) -> Parsed<Command> {
    let lease = lease_id("lease_id", &wanted.lease_id)?;
    let (allowance, duration_ms) = (wanted.allowance_pico_usd, wanted.duration_ms);
    Ok(Command::RenewLease { lease, allowance, duration_ms })
}

/// A lease to end.
pub fn end(wanted: &wire::EndLeaseRequest) -> Parsed<Command> {
    if matches!(LeaseEnd::try_from(wanted.reason), Err(_) | Ok(LeaseEnd::Unspecified)) {
        return malformed("reason", "why the lease ends");
    }
    Ok(Command::EndLease { lease: lease_id("lease_id", &wanted.lease_id)?, reason: wanted.reason })
}

/// Calls that are finished.
pub fn report(wanted: &wire::ReportCallsRequest) -> Parsed<(LeaseId, Vec<Line>)> {
    let lease = lease_id("lease_id", &wanted.lease_id)?;
    if wanted.lines.is_empty() || wanted.lines.len() > MOST_LINES {
        return malformed("lines", "1 to 256 calls");
    }
    Ok((lease, lines("lines", &wanted.lines)?))
}

/// What a gateway holds, and what runs under it.
pub fn running(wanted: &wire::ReportRunningRequest) -> Parsed<Vec<(LeaseId, Vec<Line>)>> {
    if wanted.leases.len() > MOST_LEASES_PER_REPORT {
        return malformed("leases", "at most 1,024 leases");
    }
    if wanted.leases.iter().map(|lease| lease.lines.len()).sum::<usize>() > MOST_LINES {
        return malformed("leases", "at most 256 lines in all");
    }
    let mut seen = BTreeSet::new();
    let mut leases = Vec::with_capacity(wanted.leases.len());
    for (at, running) in wanted.leases.iter().enumerate() {
        let id = lease_id(&format!("leases[{at}].lease_id"), &running.lease_id)?;
        if !seen.insert(id.to_bytes()) {
            return malformed(format!("leases[{at}].lease_id"), "each lease once");
        }
        let lines = lines(&format!("leases[{at}].lines"), &running.lines)?;
        if lines.iter().any(|line| line.finish != i32::from(Finish::NodeLost)) {
            return malformed(format!("leases[{at}].lines"), "checkpoints: their finish is NODE_LOST");
        }
        leases.push((id, lines));
    }
    Ok(leases)
}

fn lines(of: &str, wanted: &[wire::CallLine]) -> Parsed<Vec<Line>> {
    let mut calls = BTreeSet::new();
    let mut lines = Vec::with_capacity(wanted.len());
    for (at, wanted) in wanted.iter().enumerate() {
        let line = line(&format!("{of}[{at}]"), wanted)?;
        if !calls.insert(line.call) {
            return malformed(format!("{of}[{at}].call"), "each call once");
        }
        lines.push(line);
    }
    Ok(lines)
}

fn line(of: &str, wanted: &wire::CallLine) -> Parsed<Line> {
    let field = |name: &str| format!("{of}.{name}");
    let call = Id::from_slice(&wanted.call).filter(|call| call.moment().is_some());
    let Some(call) = call else { return malformed(field("call"), "the 16 bytes of a UUIDv7") };
    if matches!(Finish::try_from(wanted.finish), Err(_) | Ok(Finish::Unspecified)) {
        return malformed(field("finish"), "how the call ended");
    }
    let hash = |name: &str, bytes: &[u8]| fixed(&field(name), bytes, "a keyed BLAKE3-256 of 32 bytes");
    Ok(Line {
        call,
        input_tokens: wanted.input_tokens,
        output_tokens: wanted.output_tokens,
        finish: wanted.finish,
        prompt_commitment: hash("prompt_commitment", &wanted.prompt_commitment)?,
        output_commitment: hash("output_commitment", &wanted.output_commitment)?,
        node_signature: signature(&field("node_signature"), &wanted.node_signature)?,
        gateway_signature: signature(&field("gateway_signature"), &wanted.gateway_signature)?,
    })
}

/// A node as it stands.
pub fn node(state: &State, id: Id, node: &Node) -> wire::Node {
    wire::Node {
        node_id: id.to_string(),
        owner: node.owner.to_string(),
        qualified: node.qualified,
        rating_milli_cu: node.rating_milli_cu,
        required_units: node.required,
        score: state.params.score,
        attached: node.attached.is_some(),
        gateway_id: node.attached.map(|attached| attached.gateway.to_string()).unwrap_or_default(),
        generation: node.attached.map(|attached| attached.generation).unwrap_or_default(),
        capabilities: node.offer.as_ref().map(Offer::message),
        used: node.used(),
        beats_seen: state.beats_seen(&id),
        active: state.attendance.active.contains_key(&id),
    }
}

/// A page of nodes from a place on, in the order in which they became known; and where the next page begins.
pub fn page(
    state: &State,
    attached: bool,
    model: &str,
    from: u32,
    size: usize,
) -> (Vec<wire::Node>, Option<u32>) {
    let total = state.nodes.len() as u32;
    let mut nodes = Vec::new();
    let mut at = from;
    while at < total && nodes.len() < size && ((at - from) as usize) < MOST_LOOKED_AT {
        let row = state.nodes.at(at).filter(|(_, node)| {
            let serves =
                model.is_empty() || node.offer.as_ref().is_some_and(|offer| offer.serves(model).is_some());
            serves && (!attached || node.attached.is_some())
        });
        nodes.extend(row.map(|(id, row)| node(state, *id, row)));
        at += 1;
    }
    (nodes, (at < total).then_some(at))
}
