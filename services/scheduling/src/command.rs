//! What can be asked of scheduling and what it answers; why it refuses stands in [`rejection`].

mod rejection;

use holmes_kernel::{Id, Principal, Time};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{CallLine, Event, Lease, LeaseGranted};
use holmes_proto::statements::receipt_name;
use serde::Serialize;

pub use rejection::Rejection;

use crate::offer::Offer;
use crate::state::{LeaseId, Prices};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// A gateway (re)starts: the caller, whose key this is.
    StartGateway {
        /// Ed25519.
        public_key: [u8; 32],
    },
    /// A node has opened its stream to the caller. The edge has checked its signature.
    Attach(Attach),
    /// A node's stream to the caller is gone.
    Detach {
        /// The node.
        node: Id,
        /// Which attachment.
        generation: u64,
        /// A `DetachReason`.
        reason: i32,
    },
    /// Beats that the caller has seen.
    ReportPresence(Presence),
    /// Gives a session a node.
    Place(Place),
    /// Keeps a lease for longer, or with more.
    RenewLease {
        /// The lease.
        lease: LeaseId,
        /// Price that shall be allowed from its beginning, pico-dollars.
        allowance: u64,
        /// From now, ms; 0 for the longest.
        duration_ms: u64,
    },
    /// Ends a lease.
    EndLease {
        /// The lease.
        lease: LeaseId,
        /// A `LeaseEnd`.
        reason: i32,
    },
    /// Calls that are finished. The edge has checked both signatures of each.
    ReportCalls {
        /// The lease.
        lease: LeaseId,
        /// The calls.
        lines: Vec<Line>,
    },
    /// Calls that still run, each with its lease: their last checkpoints. The edge has checked both signatures of each.
    Checkpoint(Vec<(LeaseId, Line)>),
    /// From staking: what it says of compute nodes.
    NoteNodes(Vec<NodeFact>),
    /// From the market: what it says of models and sessions.
    NoteMarket(Vec<MarketFact>),
    /// Time: a gateway's older attachments go, some of them.
    DropNodes,
    /// Time: leases whose node or session is gone end, some of them.
    EndLeases,
    /// Time: leases whose time is over end, some of them.
    Expire,
    /// Time: what was checkpointed under leases that are forgotten now is metered, some of it.
    MeterRunning,
    /// Time: a gateway was not heard of for too long.
    LoseGateway,
    /// Time: nothing more is metered on closing sessions, some of them.
    EndDrains,
    /// Time: an epoch is sealed, or the next step towards it.
    Seal,
}

/// A node that attaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attach {
    /// The node.
    pub node: Id,
    /// What it offers.
    pub offer: Offer,
    /// The gateway's question.
    pub nonce: [u8; 16],
    /// The node's signature, in two halves.
    pub signature: [[u8; 32]; 2],
}

/// Beats of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// The epoch.
    pub epoch: u64,
    /// The first beat of the bitmaps.
    pub first_beat: u32,
    /// How many; 0 says only that the gateway is there.
    pub beats: u32,
    /// Each node with its bitmap of ceil(beats / 8) bytes.
    pub nodes: Vec<(Id, Vec<u8>)>,
}

/// A wish for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The session.
    pub session: Id,
    /// The model.
    pub model: String,
    /// Price that shall be allowed, pico-dollars.
    pub allowance: u64,
    /// For how long, ms; 0 for the longest.
    pub duration_ms: u64,
    /// Nodes that shall not be taken.
    pub avoid: Vec<Id>,
    /// The node that the renter names.
    pub named: Option<Id>,
    /// Tokens that the call needs in all; 0 for any.
    pub context: u32,
}

/// A call that is finished or was checkpointed, its form checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The renter's request id.
    pub call: Id,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// A `Finish`.
    pub finish: i32,
    /// Keyed BLAKE3-256 of the prompt.
    pub prompt_commitment: [u8; 32],
    /// The same of the answer.
    pub output_commitment: [u8; 32],
    /// The node's signature, in two halves.
    pub node_signature: [[u8; 32]; 2],
    /// The gateway's signature, in two halves.
    pub gateway_signature: [[u8; 32]; 2],
}

impl Line {
    /// The line as it is signed and recorded.
    pub fn message(&self) -> CallLine {
        CallLine {
            call: self.call.to_bytes().to_vec().into(),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            finish: self.finish,
            prompt_commitment: self.prompt_commitment.to_vec().into(),
            output_commitment: self.output_commitment.to_vec().into(),
            node_signature: self.node_signature.concat().into(),
            gateway_signature: self.gateway_signature.concat().into(),
        }
    }
}

/// What staking says of a compute node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum NodeFact {
    /// It is known, or has come back.
    Registered {
        /// The node.
        node: Id,
        /// Whose it is.
        owner: Principal,
        /// Ed25519.
        public_key: [u8; 32],
    },
    /// Where it stands.
    Stands {
        /// The node.
        node: Id,
        /// Whose it is.
        owner: Principal,
        /// Whether it may serve.
        qualified: bool,
        /// Its rating, milli-CU.
        rating_milli_cu: u32,
        /// Required collateral, base units.
        required: u64,
    },
    /// Its required collateral has changed.
    Required {
        /// The node.
        node: Id,
        /// Base units.
        required: u64,
    },
    /// Its owner never returns.
    Tombstoned {
        /// The node.
        node: Id,
    },
}

/// What the market says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum MarketFact {
    /// A model's prices.
    Model {
        /// Its name.
        name: String,
        /// Price and work of a token.
        prices: Prices,
        /// It is no longer offered.
        withdrawn: bool,
    },
    /// A session may spend so much.
    Funded {
        /// The session.
        session: Id,
        /// Whose it is.
        renter: Principal,
        /// Since its beginning, pico-dollars.
        cap: u128,
        /// No lease of it lasts longer.
        expires_at: Time,
    },
    /// A session takes no new leases.
    Closing {
        /// The session.
        session: Id,
        /// Leases that are still open then end.
        drains_until: Time,
    },
    /// A session takes no more calls.
    Closed {
        /// The session.
        session: Id,
    },
}

/// What scheduling answers. A number that it does not hold is that of the answer's only event.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is so.
    Done,
    /// What was not taken in of a report of presence.
    Present {
        /// Nodes that are not attached to the gateway.
        not_attached: Vec<Id>,
    },
    /// A node is attached.
    Attached {
        /// The attachment's number.
        generation: u64,
    },
    /// A lease.
    Placed(Box<LeaseGranted>),
    /// A lease as it is now.
    Renewed(Box<Lease>),
    /// Where the lines of a report stand.
    Reported(Reported),
}

/// Where the lines of a report stand, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Sequence number of the event that meters the new lines, where it is not the only one.
    pub metered_seq: Option<u64>,
    /// The lines.
    pub lines: Vec<Told>,
}

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is metered now, as this line of the event.
    Metered(u32),
    /// It was metered before: sequence number and line.
    Before(u64, u32),
    /// It is not metered, and why.
    Refused(String),
}

impl Reported {
    /// The name of a line's receipt; empty of one that is refused. `seq` is that of the answer.
    pub fn receipt(&self, told: &Told, seq: u64) -> String {
        match told {
            Told::Metered(line) => receipt_name(self.metered_seq.unwrap_or(seq), *line),
            Told::Before(seq, line) => receipt_name(*seq, *line),
            Told::Refused(_) => String::new(),
        }
    }
}

/// The answer to a command whose events are known.
pub fn reply(command: &Command, events: &[Event]) -> Reply {
    let first = events.first().and_then(|event| event.event.as_ref());
    match (command, first) {
        (Command::Place(_), Some(Kind::LeaseGranted(granted))) => Reply::Placed(Box::new(granted.clone())),
        (Command::RenewLease { .. }, Some(Kind::LeaseRenewed(renewed))) => {
            Reply::Renewed(Box::new(renewed.renewed.clone().unwrap_or_default()))
        }
        (Command::ReportPresence(presence), first) => {
            let taken: Vec<Id> = match first {
                Some(Kind::PresenceRecorded(e)) => ids(&e.nodes).collect(),
                _ => Vec::new(),
            };
            let nodes = presence.nodes.iter().map(|(node, _)| *node);
            Reply::Present { not_attached: nodes.filter(|node| !taken.contains(node)).collect() }
        }
        (Command::Attach(_), _) => {
            let attached = events.iter().find_map(|event| match &event.event {
                Some(Kind::NodeAttached(attached)) => Some(attached.generation),
                _ => None,
            });
            attached.map_or(Reply::Done, |generation| Reply::Attached { generation })
        }
        (Command::ReportCalls { lines, .. }, _) => Reply::Reported(reported(lines.len(), events)),
        _ => Reply::Done,
    }
}

fn reported(lines: usize, events: &[Event]) -> Reported {
    let answered = events.iter().find_map(|event| match &event.event {
        Some(Kind::LinesAnswered(answered)) => Some(answered),
        _ => None,
    });
    let mut told = vec![None; lines];
    for (at, position) in answered.iter().flat_map(|answered| &answered.positions).enumerate() {
        let Some((answered, slot)) = answered.zip(told.get_mut(*position as usize)) else { continue };
        *slot = Some(match answered.reasons.get(at).map(String::as_str) {
            None | Some("") => {
                let number = answered.receipt_seqs.get(at).copied().unwrap_or_default();
                Told::Before(number, answered.receipt_lines.get(at).copied().unwrap_or_default())
            }
            Some(reason) => Told::Refused(reason.to_owned()),
        });
    }
    let mut next = 0..;
    let lines = told.into_iter().map(|told| told.unwrap_or_else(|| Told::Metered(next.next().unwrap_or(0))));
    Reported { metered_seq: answered.map(|answered| answered.metered_seq), lines: lines.collect() }
}
