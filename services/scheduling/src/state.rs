//! All that scheduling knows, as a function of its log.

mod calls;
mod check;
mod epochs;
mod evolve;
mod leases;
mod node;
mod running;

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::Place;
use holmes_kernel::machine::BadParams;
use holmes_kernel::{Id, Opened, Principal, Table, Time};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_proto::statements::{LEASE_BYTES, lease_id};
use prost::Message;
use serde::{Deserialize, Serialize};

pub use calls::Calls;
pub use check::{check, check_step};
pub use evolve::evolve;
pub use node::{Attachment, Node};

use crate::command::Command;
use crate::matching::Pool;
use crate::params::{self, Params};

/// The state of scheduling.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// Where statements count.
    pub network: Network,
    /// Compute nodes that staking has made known; never removed.
    pub nodes: Table<Id, Node>,
    /// Of every model, the nodes that serve it and are attached: the index that placements are made of.
    pub pools: BTreeMap<String, Pool>,
    /// What the market offers.
    pub models: BTreeMap<String, Model>,
    /// Sessions that the market has funded and that still have something open.
    pub sessions: Table<Id, Session>,
    /// Leases that are open or ended a short while ago, by the sequence number of their grants.
    pub leases: Table<u64, Lease>,
    /// When open leases end by themselves; those that are ending already are not among them.
    pub expiries: BTreeSet<(Time, u64)>,
    /// When nothing more is metered on closing sessions.
    pub drains: BTreeSet<(Time, Id)>,
    /// Leases that end as soon as the job comes to them.
    pub ending: BTreeSet<u64>,
    /// When leases that have ended are forgotten.
    pub forget: BTreeSet<(Time, u64)>,
    /// Those of them with calls that were checkpointed and not reported: then they are metered.
    pub unsettled: BTreeSet<(Time, u64)>,
    /// Calls whose ids can come again.
    pub calls: Calls,
    /// Gateways that have ever started.
    pub gateways: Table<Id, Gateway>,
    /// When gateways that are not heard of lose their nodes.
    pub silences: BTreeSet<(Time, Id)>,
    /// Gateways whose older nodes the job is detaching.
    pub dropping: BTreeSet<Id>,
    /// Beats of the epochs that are not sealed, by node, in the order in which reports first named them.
    pub presence: BTreeMap<u64, Table<Id, Vec<u8>>>,
    /// The sealing that is under way.
    pub seal: Option<Seal>,
    /// The last epoch that was sealed, or the one before the log's first event; `None` before that event.
    pub sealed: Option<u64>,
    /// Who was Active in it (E-0.6).
    pub attendance: Attendance,
    /// Log time of the last event.
    pub at: Time,
}

/// Where statements count: nowhere else, so that a test network's nodes are nobody's in the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// BLAKE3-128 of the profile that opened the network; zeros where it names none.
    pub genesis: [u8; 16],
    /// The deployment.
    pub cell: u16,
}

/// A model as the market offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What leases of it cost.
    pub prices: Prices,
    /// It is no longer offered.
    pub withdrawn: bool,
}

/// Price and work of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// Pico-dollars for one token read.
    pub input_pico: u64,
    /// The same of a token written.
    pub output_pico: u64,
    /// Work of one token read, millionths of a unit.
    pub input_micro_units: u64,
    /// The same of a token written.
    pub output_micro_units: u64,
}

impl Prices {
    /// The price of a call, pico-dollars; `None` when it is beyond all measure.
    pub fn of(&self, input_tokens: u64, output_tokens: u64) -> Option<u64> {
        let product = |tokens: u64, pico: u64| u128::from(tokens) * u128::from(pico);
        let price =
            product(input_tokens, self.input_pico).checked_add(product(output_tokens, self.output_pico))?;
        u64::try_from(price).ok()
    }
}

/// A session that the market has funded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is.
    pub renter: Principal,
    /// Price that may be metered since its beginning, pico-dollars.
    pub cap: u128,
    /// Price that was metered.
    pub metered: u128,
    /// What its open leases may still meter, and the checkpoints of those that have ended.
    pub reserved: u128,
    /// No lease of it lasts longer. What they report is metered until it is drained.
    pub expires_at: Time,
    /// The market closes it: no new leases and no renewals; those that are open then end.
    pub drains_until: Option<Time>,
    /// When that is said, if nothing happens meanwhile.
    pub drained_at: Option<Time>,
    /// It takes no more calls; it is forgotten with its last open lease.
    pub closed: bool,
    /// Its open leases.
    pub leases: BTreeSet<u64>,
    /// When the last one ended that has.
    pub last_ended: Time,
    /// Its leases among [`State::unsettled`].
    pub unsettled: BTreeSet<u64>,
}

impl Session {
    /// What is neither metered nor reserved, pico-dollars.
    pub fn free(&self) -> u128 {
        self.cap.saturating_sub(self.metered).saturating_sub(self.reserved)
    }
}

/// A session's time on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Term of its grant: with cell, service and sequence number its id.
    pub term: u64,
    /// The session.
    pub session: Id,
    /// Whose session it is.
    pub renter: Principal,
    /// The node.
    pub node: Id,
    /// The node's owner.
    pub owner: Principal,
    /// The gateway that holds it.
    pub gateway: Id,
    /// The gateway that has asked for it.
    pub asked_by: Principal,
    /// The node's attachment.
    pub generation: u64,
    /// The model.
    pub model: String,
    /// What its calls cost.
    pub prices: Prices,
    /// How its work counts (E-3.2): a `WorkCredit`.
    pub credit: i32,
    /// Price that may be metered under it, pico-dollars.
    pub allowance: u64,
    /// Price that was metered under it.
    pub metered: u64,
    /// It ends by itself then.
    pub expires_at: Time,
    /// Where it stands.
    pub stand: Stand,
    /// Its calls, each with its receipt's sequence number and line.
    pub calls: BTreeMap<Id, (u64, u32)>,
    /// Calls that were not reported yet, as far as they were checkpointed.
    pub running: BTreeMap<Id, Running>,
    /// What those cost together, pico-dollars.
    pub pending: u64,
    /// Why it went to its node: the bytes of a `Placement`.
    pub placement: Vec<u8>,
}

/// What a call that runs has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it costs, pico-dollars.
    pub price: u64,
    /// The bytes of a `CallLine`: what is metered if nothing else is heard of the call.
    pub line: Vec<u8>,
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stand {
    /// Calls may be made.
    Open,
    /// It ends for a reason (a `LeaseEnd`) as soon as the job comes to it.
    Ending(i32),
    /// It has ended; late calls may be reported until it is forgotten.
    Ended {
        /// A `LeaseEnd`.
        reason: i32,
        /// Then it is forgotten.
        forget_at: Time,
    },
}

impl Lease {
    /// What may still be metered under it, pico-dollars.
    pub fn left(&self) -> u64 {
        self.allowance.saturating_sub(self.metered)
    }

    /// What a call that runs is known to cost, pico-dollars.
    pub fn checkpointed(&self, call: &Id) -> u64 {
        self.running.get(call).map_or(0, |running| running.price)
    }

    /// What is held for it in its session, pico-dollars.
    pub fn reserved(&self) -> u64 {
        if self.has_ended() { self.pending } else { self.left() }
    }

    /// Whether calls may be made.
    pub fn is_open(&self) -> bool {
        self.stand == Stand::Open
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.stand, Stand::Ended { .. })
    }

    /// Why it ended, or is ending.
    pub fn reason(&self) -> LeaseEnd {
        match self.stand {
            Stand::Open => LeaseEnd::Unspecified,
            Stand::Ending(reason) | Stand::Ended { reason, .. } => {
                LeaseEnd::try_from(reason).unwrap_or_default()
            }
        }
    }
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Ed25519: what it countersigns calls with.
    pub public_key: [u8; 32],
    /// When it was last heard of.
    pub heard_at: Time,
    /// It has started and was heard of since.
    pub live: bool,
    /// What is attached to it, by generation.
    pub nodes: BTreeMap<u64, Id>,
    /// Attachments older than this sequence number are being detached, for a reason (a `DetachReason`).
    pub drops: Option<(u64, i32)>,
}

/// An epoch that is being sealed: first its nodes are weighed, then they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The next node.
    pub next: Place,
    /// Of every beat, the required collateral of the nodes seen in it that were Active in the epoch before.
    pub weights: Vec<u128>,
    /// Which beats count, as soon as all nodes are weighed.
    pub counted: Option<Vec<u8>>,
    /// Who was Active, as far as they were told.
    pub attendance: Attendance,
}

/// Who was Active in an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attendance {
    /// Active nodes with their required collateral then, base units.
    pub active: BTreeMap<Id, u64>,
    /// All of it.
    pub total: u128,
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.scheduling.v1.Params: {why}")))?;
    let bad = || BadParams("profile_hash has 16 bytes, and cell is below 65,536".into());
    let genesis = match opened.profile_hash.as_slice() {
        [] => [0; 16],
        hash => hash.try_into().map_err(|_| bad())?,
    };
    let cell = u16::try_from(opened.cell).map_err(|_| bad())?;
    Ok(State {
        params: params::read(&wire)?,
        network: Network { genesis, cell },
        nodes: Table::new(),
        pools: BTreeMap::new(),
        models: BTreeMap::new(),
        sessions: Table::new(),
        leases: Table::new(),
        expiries: BTreeSet::new(),
        drains: BTreeSet::new(),
        ending: BTreeSet::new(),
        forget: BTreeSet::new(),
        unsettled: BTreeSet::new(),
        calls: Calls::default(),
        gateways: Table::new(),
        silences: BTreeSet::new(),
        dropping: BTreeSet::new(),
        presence: BTreeMap::new(),
        seal: None,
        sealed: None,
        attendance: Attendance::default(),
        at: Time::default(),
    })
}

impl State {
    /// A lease by its id; `None` when there is none, or it is over for too long.
    pub fn lease(&self, id: &LeaseId, now: Time) -> Option<&Lease> {
        let lease = self.leases.get(&id.seq).filter(|lease| lease.term == id.term)?;
        let forgotten = matches!(lease.stand, Stand::Ended { forget_at, .. } if forget_at <= now);
        (id.cell == self.network.cell && !forgotten).then_some(lease)
    }

    /// E-0.5: the epoch that is sealed next. The first is that of the log's first event: of those before it, nobody knows
    /// anything here.
    pub fn seals_next(&self) -> Option<u64> {
        Some(self.sealed?.saturating_add(1))
    }

    /// When the next step towards its seal is due.
    fn seals_at(&self) -> Option<Time> {
        let next = self.seals_next()?;
        Some(self.seal.as_ref().map_or_else(|| self.params.seals_at(next), |_| Time::default()))
    }

    /// How many leases are open.
    pub fn open_leases(&self) -> usize {
        self.leases.len().saturating_sub(self.forget.len())
    }
}

/// A lease's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseId {
    /// The deployment.
    pub cell: u16,
    /// Term of its grant.
    pub term: u64,
    /// Sequence number of its grant.
    pub seq: u64,
}

impl LeaseId {
    /// The bytes as others know it.
    pub fn to_bytes(self) -> [u8; LEASE_BYTES] {
        lease_id(self.cell, crate::US.0, self.term, self.seq)
    }

    /// Of such bytes; `None` when they are another service's, or none.
    pub fn from_slice(bytes: &[u8]) -> Option<LeaseId> {
        let number = |part: &[u8]| part.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        if bytes.len() != LEASE_BYTES || number(&bytes[2..4]) != u64::from(crate::US.0) {
            return None;
        }
        let cell = u16::from_be_bytes([bytes[0], bytes[1]]);
        Some(LeaseId { cell, term: number(&bytes[4..12]), seq: number(&bytes[12..]) })
    }
}

/// What time alone causes next. What must be cleared away comes before anything else.
pub fn due(state: &State) -> Option<(Time, Command)> {
    if !state.dropping.is_empty() {
        return Some((Time::default(), Command::DropNodes));
    }
    if !state.ending.is_empty() {
        return Some((Time::default(), Command::EndLeases));
    }
    let dues = [
        state.expiries.first().map(|(at, _)| (*at, Command::Expire)),
        state.drains.first().map(|(at, _)| (*at, Command::EndDrains)),
        state.unsettled.first().map(|(at, _)| (*at, Command::MeterRunning)),
        state.silences.first().map(|(at, _)| (*at, Command::LoseGateway)),
        state.seals_at().map(|at| (at, Command::Seal)),
    ];
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
