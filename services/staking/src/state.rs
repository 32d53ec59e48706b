//! All that staking knows, as a function of its log.

mod check;
mod evolve;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::Place;
use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Id, Opened, Principal, Table, Time, canon};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::NodeKind;
use prost::Message;
use serde::{Deserialize, Serialize};

pub use check::{check, check_step};
pub use evolve::evolve;
pub use node::{Node, Offer};

use crate::collateral::{self, Inputs};
use crate::command::Command;
use crate::params::{self, Params};
use crate::possession::Network;

/// The state of staking.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// Where a node's proof counts.
    pub network: Network,
    /// `bonds/<asset>` in the ledger.
    pub vault: Vault,
    /// Every node there ever was; never removed, so a place names a node for ever.
    pub nodes: Table<Id, Node>,
    /// Owners of nodes.
    pub owners: Table<Principal, Owner>,
    /// Compute nodes and verifiers (E-6.1: they bond separately).
    pub classes: [Class; 2],
    /// Unbondings that are not paid, by number.
    pub unbondings: BTreeMap<u64, Unbonding>,
    /// The number of the last unbonding.
    pub last_unbonding: u64,
    /// Sends that the ledger has not answered, by the sequence number of the event that carried each.
    pub awaited: BTreeMap<u64, Awaited>,
    /// When qualified nodes will no longer be so by time alone, the first one first.
    pub lapses: BTreeSet<(Time, Id)>,
    /// Collateral per CU (E-6.2).
    pub base: Base,
    /// What emission has published last; `None` before the first time.
    pub emission: Option<Published>,
    /// Leases that nodes hold: sequence numbers of their grants in scheduling's log, and until when they were granted.
    /// A node without a lease is not in it; scheduling's own limit of open leases bounds it.
    pub leases: BTreeMap<Id, BTreeMap<u64, Time>>,
    /// The epoch that is sealed next; 0 before the log's first event.
    pub seals_next: u64,
    /// Log time of the last event.
    pub at: Time,
}

/// `bonds/<asset>` as staking believes it to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vault {
    /// Its id.
    pub account: Id,
    /// Whether the ledger has opened it.
    pub open: bool,
    /// When the ledger is asked to open it; `None` while an answer is awaited, and afterwards.
    pub ask_at: Option<Time>,
    /// How often the ledger refused.
    pub refusals: u32,
    /// Posted to it less paid from it, base units.
    pub units: u64,
}

/// An owner of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its nodes, in the order of their registration.
    pub nodes: Vec<Place>,
    /// E-6.1: never returns.
    pub tombstoned: bool,
}

/// A class of bonds together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// All bonds, base units; what unbonds is not in it (E-6.2: S).
    pub bonds: u64,
    /// All that unbonds and is not paid.
    pub unbonding: u64,
    /// Active, qualified nodes (E-6.2: N).
    pub active: u64,
    /// Their ratings together.
    pub active_milli_cu: u64,
    /// The day that the next two are of.
    pub day: u64,
    /// All stake of the class when the day began, unbonding included.
    pub stake_at_midnight: u64,
    /// What was sent out since, refused payouts of the same day not counted.
    pub sent_today: u64,
    /// Unbondings by the moment at which a part may be paid; what waits longest first.
    pub queue: BTreeSet<(Time, u64)>,
}

/// A bond, or a part of one, on its way back (E-6.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbonding {
    /// The node.
    pub node: Id,
    /// As asked for, base units.
    pub amount: u64,
    /// Not yet paid.
    pub left: u64,
    /// Nothing of it is paid before.
    pub ready_at: Time,
    /// Its place in the queue; `None` while a part is being paid.
    pub queued_at: Option<Time>,
    /// What the ledger was asked to move.
    pub paying: u64,
    /// How often the ledger refused since it last paid.
    pub refusals: u32,
    /// The ledger's last reason; empty when it paid.
    pub refused: String,
}

/// A send without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// To open `bonds/<asset>`.
    Vault,
    /// To post a hold.
    Bond {
        /// For which node.
        node: Id,
        /// The hold.
        offer: Offer,
    },
    /// To pay a part of an unbonding.
    Payout {
        /// Its number.
        unbonding: u64,
        /// The day that it counts for.
        day: u64,
    },
}

/// The base and how the nodes follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What new nodes are held to, base units per CU.
    pub units: Amount,
    /// How it was computed; `None` before the first time.
    pub computed: Option<Computed>,
    /// The nodes that still follow.
    pub job: Option<Job>,
}

/// What emission publishes with every epoch that it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// E_next.
    pub next_emission: Amount,
    /// C.
    pub circulating: Amount,
}

/// A computation of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// What went in.
    pub inputs: Inputs,
    /// What came out.
    pub formula: Amount,
    /// When.
    pub at: Time,
    /// Number of the period since TGE.
    pub period: u64,
}

/// Nodes that follow a new base, in the order of their registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The next node.
    pub next: Place,
    /// Behind the last one: what registers later is held to the new base anyway.
    pub end: Place,
    /// When a rise comes into force.
    pub rise_at: Time,
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.staking.v1.Params: {why}")))?;
    let params = params::read(&wire)?;
    let bad = || BadParams("profile_hash has 16 bytes, and cell is below 65,536".into());
    let genesis = match opened.profile_hash.as_slice() {
        [] => [0; 16],
        hash => hash.try_into().map_err(|_| bad())?,
    };
    let cell = u16::try_from(opened.cell).map_err(|_| bad())?;
    Ok(State {
        vault: Vault {
            account: vault_account(&params.asset_name),
            open: false,
            ask_at: Some(Time::default()),
            refusals: 0,
            units: 0,
        },
        base: Base { units: collateral::base(&params.inputs), computed: None, job: None },
        params,
        network: Network { genesis, cell },
        nodes: Table::new(),
        owners: Table::new(),
        classes: Default::default(),
        unbondings: BTreeMap::new(),
        last_unbonding: 0,
        awaited: BTreeMap::new(),
        lapses: BTreeSet::new(),
        emission: None,
        leases: BTreeMap::new(),
        seals_next: 0,
        at: Time::default(),
    })
}

/// The name of the account that bonds lie in.
pub fn vault_name(asset: &str) -> String {
    format!("bonds/{asset}")
}

/// Its id, as the ledger makes ids of names: BLAKE3-128 of "account:" and the name.
pub fn vault_account(asset: &str) -> Id {
    Id::from_bytes(canon::hash(format!("account:{}", vault_name(asset)).as_bytes()))
}

/// The index of a class.
pub fn class_of(kind: NodeKind) -> usize {
    usize::from(kind == NodeKind::Verifier)
}

impl State {
    /// E-6.2: what the base follows from now.
    pub fn inputs(&self) -> Inputs {
        let compute = &self.classes[class_of(NodeKind::Compute)];
        let of_params = &self.params.inputs;
        let told = Published { next_emission: of_params.next_emission, circulating: of_params.circulating };
        let Published { next_emission, circulating } = self.emission.unwrap_or(told);
        Inputs {
            next_emission,
            circulating,
            bonded: Amount::new(compute.bonds),
            nodes: compute.active,
            network_milli_cu: compute.active_milli_cu,
            ..self.params.inputs
        }
    }

    /// Whether an owner never returns.
    pub fn is_tombstoned(&self, owner: &Principal) -> bool {
        self.owners.get(owner).is_some_and(|owner| owner.tombstoned)
    }

    /// E-6.2: the period of a moment: the base is computed once in each.
    pub fn period(&self, at: Time) -> u64 {
        self.params.calendar.day(at) / self.params.recompute_days
    }

    /// E-6.5: what may still leave a class today.
    pub fn may_leave(&self, class: &Class, now: Time) -> Amount {
        let throttle = &self.params.throttle;
        if self.params.calendar.day(now) > class.day {
            return throttle.most(Amount::new(class.stake())); // nothing has happened since midnight
        }
        throttle.most(Amount::new(class.stake_at_midnight)).saturating_sub(Amount::new(class.sent_today))
    }

    /// E-6.5: when the next part of a class may be paid.
    fn pays_at(&self, class: &Class) -> Option<Time> {
        let (ready, _) = *class.queue.first()?;
        let calendar = &self.params.calendar;
        let most = self.params.throttle.most(Amount::new(class.stake_at_midnight));
        if calendar.day(ready) > class.day || class.sent_today < most.units() {
            Some(ready)
        } else {
            Some(calendar.day_begins(class.day.saturating_add(1)))
        }
    }

    /// The class that pays next, and when.
    pub fn next_payout(&self) -> Option<(Time, &Class)> {
        let payouts = self.classes.iter().filter_map(|class| Some((self.pays_at(class)?, class)));
        payouts.min_by_key(|(at, _)| *at)
    }

    /// When the next epoch is sealed; missed ones come one by one. Epochs before the log's first event have no facts.
    pub(crate) fn seals_at(&self) -> Option<Time> {
        let end = self.params.calendar.ends(self.seals_next);
        (self.seals_next > 0).then(|| end.after_millis(self.params.seal_after_ms))
    }

    /// When the base is to be computed next: at once the first time, then when a period begins. Periods that passed
    /// while nothing ran are not made up for.
    fn recomputes_at(&self) -> Time {
        self.base.computed.map_or(Time::default(), |last| {
            let days = last.period.saturating_add(1).saturating_mul(self.params.recompute_days);
            self.params.calendar.day_begins(days)
        })
    }
}

impl Class {
    /// All stake of the class, unbonding included.
    pub fn stake(&self) -> u64 {
        self.bonds.saturating_add(self.unbonding)
    }
}

/// What time alone causes next. A job goes on before anything else, so that no two bases are on their way at once.
pub fn due(state: &State) -> Option<(Time, Command)> {
    if state.base.job.is_some() {
        return Some((Time::default(), Command::Continue));
    }
    let dues = [
        state.vault.ask_at.map(|at| (at, Command::OpenVault)),
        Some((state.recomputes_at(), Command::Recompute)),
        state.lapses.first().map(|(at, _)| (*at, Command::Lapse)),
        state.next_payout().map(|(at, _)| (at, Command::Pay)),
        state.seals_at().map(|at| (at, Command::Seal)),
    ];
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
