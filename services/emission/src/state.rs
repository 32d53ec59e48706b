//! All that emission knows, as a function of its log.

mod check;
mod closing;
mod evolve;
mod facts;
mod money;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::Place;
use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Id, Opened, Principal, ServiceId, Table, Time, canon};
use holmes_proto::emission::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

pub use check::{check, check_step};
pub use closing::{ACCOUNTS, Account, BR, Closing, Legs, Median, Phase, TRR};
pub use evolve::evolve;
pub use facts::{Facts, OwnerRow, Row};
pub use node::{Grant, Node, Stand, Totals};

use crate::command::Command;
use crate::decay;
use crate::params::{self, Params};

/// The state of emission.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// R of TRR, BR and verifiers, base units.
    pub remaining: [u64; 3],
    /// Where the rest of what the pools held is.
    pub books: Books,
    /// What lies in the ledger's accounts, in the order of [`ACCOUNTS`], base units; of the last what was sent there.
    pub held: [u64; 6],
    /// The accounts that emission opens: what is locked, and the pot.
    pub openings: [Opening; 2],
    /// Every node that staking has named; never removed, so a place names a node for ever.
    pub nodes: Table<Id, Node>,
    /// Owners and their nodes, in the order in which they were named.
    pub owners: Table<Principal, Vec<Place>>,
    /// Whose facts a close waits for.
    pub sources: Vec<Source>,
    /// The epoch that closes next; 0 before the log's first event.
    pub next: u64,
    /// The facts of epochs whose close has not begun.
    pub open: BTreeMap<u64, Facts>,
    /// The close that is under way.
    pub closing: Option<Box<Closing>>,
    /// Closed epochs, the last ones.
    pub closed: BTreeMap<u64, Closed>,
    /// The price that the last close used, micro-dollars for a whole token; 0 for none.
    pub price: u64,
    /// E-4.7: scheduled of the last close, base units; `None` before the first.
    pub scheduled: Option<u64>,
    /// Nodes of tombstoned owners with anything locked: it is to be burnt.
    pub barred: BTreeSet<Id>,
    /// What is to be moved between accounts, by number; the first one first.
    pub moves: BTreeMap<u64, Move>,
    /// The number of the last one.
    pub last_move: u64,
    /// All legs of moves, and of the close that is under way.
    pub pending: Legs,
    /// Nodes that can be paid, and when.
    pub payable: BTreeSet<(Time, Id)>,
    /// Sends that the ledger has not answered, by the sequence number of the event that carried each.
    pub awaited: BTreeMap<u64, Awaited>,
    /// Log time of the last event.
    pub at: Time,
}

/// Where what the pools have paid is, base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Taken from R and not yet granted, of TRR and BR: a close is between the two.
    pub granting: [u64; 2],
    /// Owed to nodes.
    pub owed: u64,
    /// Locked in grants.
    pub locked: u64,
    /// Paid to accounts.
    pub paid: u64,
    /// Burnt.
    pub burned: u64,
}

/// An account that emission opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Its name.
    pub name: String,
    /// Whether the ledger has opened it.
    pub open: bool,
    /// When the ledger is asked; `None` while an answer is awaited, and afterwards.
    pub ask_at: Option<Time>,
    /// How often the ledger refused.
    pub refusals: u32,
}

/// A service that seals epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its number.
    pub service: ServiceId,
    /// The first epoch that waits for it.
    pub first_epoch: u64,
    /// The last epoch that it has sealed, or that closes without it.
    pub sealed: u64,
}

/// A closed epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct Closed {
    /// Its `EpochClosed`, as it was published.
    pub published: Vec<u8>,
    /// When.
    pub at: Time,
    /// Its nodes, while they are kept.
    pub rows: Option<Table<Id, Row>>,
}

/// What is to be moved between accounts: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// What.
    pub legs: Legs,
    /// When the ledger is asked; `None` while an answer is awaited.
    pub ask_at: Option<Time>,
    /// How often the ledger refused.
    pub refusals: u32,
    /// The ledger's last reason.
    pub refused: String,
}

/// A send without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// To open an account: its place among the openings.
    Opening(usize),
    /// To move amounts between accounts: its number.
    Move(u64),
    /// To pay nodes, each so much.
    Payments(Vec<(Id, u64)>),
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.emission.v1.Params: {why}")))?;
    let params = params::read(&wire)?;
    let remaining = [0, 1, 2].map(|at: usize| params.pools[at].initial.units());
    let opening = |name: &str| Opening {
        name: format!("{name}/{}", params.asset_name),
        open: false,
        ask_at: Some(Time::default()),
        refusals: 0,
    };
    let source = |(service, first_epoch): &(ServiceId, u64)| Source {
        service: *service,
        first_epoch: *first_epoch,
        sealed: 0,
    };
    let [trr, br, verifier] = remaining;
    Ok(State {
        remaining,
        books: Books::default(),
        held: [trr, br, verifier, 0, 0, 0],
        openings: [opening("vesting_work"), opening("emission_pot")],
        nodes: Table::new(),
        owners: Table::new(),
        sources: params.sources.iter().map(source).collect(),
        next: 0,
        open: BTreeMap::new(),
        closing: None,
        closed: BTreeMap::new(),
        price: 0,
        scheduled: None,
        barred: BTreeSet::new(),
        moves: BTreeMap::new(),
        last_move: 0,
        pending: Legs::default(),
        payable: BTreeSet::new(),
        awaited: BTreeMap::new(),
        at: Time::default(),
        params,
    })
}

impl State {
    /// E-4.1: what each pool is to pay next, base units.
    pub fn targets(&self) -> [u64; 3] {
        [0, 1, 2].map(|at: usize| {
            decay::target(Amount::new(self.remaining[at]), self.params.pools[at].decay).units()
        })
    }

    /// The name of an account in the ledger.
    pub fn account_name(&self, account: Account) -> String {
        match account {
            Account::Trr => self.params.pools[0].account.clone(),
            Account::Br => self.params.pools[1].account.clone(),
            Account::Verifier => self.params.pools[2].account.clone(),
            Account::Vesting => self.openings[0].name.clone(),
            Account::Pot => self.openings[1].name.clone(),
            Account::Burn => format!("burn_inbox/{}", self.params.asset_name),
        }
    }

    /// Its id, as the ledger makes ids of names: BLAKE3-128 of "account:" and the name.
    pub fn account_id(&self, account: Account) -> Id {
        Id::from_bytes(canon::hash(format!("account:{}", self.account_name(account)).as_bytes()))
    }

    /// The epoch in which a fact counts: its own, or the first whose close has not begun.
    pub fn counts_in(&self, epoch: u64, now: Time) -> u64 {
        epoch.max(if self.next == 0 { self.params.calendar.epoch(now) } else { self.next })
    }

    /// E-0.6, as far as emission knows it, base units.
    pub fn circulating(&self) -> Amount {
        Amount::new(self.params.circulating.units().saturating_add(self.books.paid))
    }

    /// E-0.5: whether every source has sealed the next epoch.
    fn can_close(&self) -> bool {
        let sealed = |source: &Source| source.first_epoch > self.next || source.sealed >= self.next;
        self.next > 0 && self.closing.is_none() && self.sources.iter().all(sealed)
    }

    /// When nodes are paid next. What they are owed must lie in the pot first.
    fn pays_at(&self) -> Option<Time> {
        let (at, _) = self.payable.first()?;
        self.pending.is_empty().then_some(*at)
    }
}

/// What time alone causes next.
pub fn due(state: &State) -> Option<(Time, Command)> {
    if !state.barred.is_empty() {
        return Some((Time::default(), Command::Burn));
    }
    if state.closing.is_some() {
        return Some((Time::default(), Command::Continue));
    }
    if state.can_close() {
        return Some((Time::default(), Command::Close));
    }
    let dues = [
        state.openings.iter().filter_map(|opening| opening.ask_at).min().map(|at| (at, Command::OpenAccount)),
        state.moves.values().next().and_then(|first| Some((first.ask_at?, Command::Move))),
        state.pays_at().map(|at| (at, Command::Pay)),
    ];
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
