//! All that the market knows, as a function of its log.

mod check;
mod evolve;
mod session;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Id, Opened, Principal, Table, Time, canon};
use holmes_proto::market::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

pub use check::{check, check_step};
pub use evolve::evolve;
pub use session::{Ended, EndedRow, Hold, Line, Row, RowKey, Sent, Session, Stage, Step, Totals, credit_of};

use crate::command::Command;
use crate::model::Model;
use crate::params::{self, Params};

/// The state of the market.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// E-0.5: the epoch that is sealed next; 0 before the first event.
    pub next_seal: u64,
    /// The market's own accounts, in the order in which they are opened.
    pub purses: Vec<SystemAccount>,
    /// Every model that was ever offered, by name.
    pub models: BTreeMap<String, Model>,
    /// Whose account is which, by asset.
    pub accounts: Table<(Principal, u32), Id>,
    /// Every session that is remembered.
    pub sessions: Table<Id, Session>,
    /// Their renters.
    pub renters: Table<Principal, Renter>,
    /// Every session that is remembered, by its opening.
    pub by_time: BTreeSet<(Time, Id)>,
    /// Sessions that are not closed.
    pub open_sessions: u64,
    /// When time alone does something with a session, the first one first.
    pub timers: BTreeSet<(Time, Id)>,
    /// What waits in `unclaimed/<asset>`, by owner and asset.
    #[serde(with = "holmes_kernel::pairs")]
    pub owed: BTreeMap<(Principal, u32), Owed>,
    /// When an owner is sent what waits for it.
    pub owed_queue: BTreeSet<(Time, Principal, u32)>,
    /// Sends that the ledger has not answered, by the sequence number of the event that carried each.
    pub awaited: BTreeMap<u64, Awaited>,
    /// What was metered and nobody pays.
    pub unbilled: Unbilled,
    /// Log time of the last event.
    pub at: Time,
}

/// What the market keeps money in, in the ledger: one account for each asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purse {
    /// What was posted and is on its way.
    Market,
    /// Buyer's and seller's fees (E-9.3).
    Fees,
    /// Surcharges (E-9.1).
    Surcharges,
    /// What conversion leaves (E-9.1).
    Rounding,
    /// What waits for owners who have named no account.
    Unclaimed,
}

impl Purse {
    /// Those that the market opens. `fees/<asset>` and `rounding/<asset>` are the ledger's own: they are there from the
    /// beginning.
    pub const OPENED: [Purse; 3] = [Purse::Market, Purse::Surcharges, Purse::Unclaimed];
    /// All of them.
    pub const ALL: [Purse; 5] =
        [Purse::Market, Purse::Fees, Purse::Surcharges, Purse::Rounding, Purse::Unclaimed];

    /// Its account's name.
    pub fn name(self, asset: &str) -> String {
        let purse = match self {
            Purse::Market => "market",
            Purse::Fees => "fees",
            Purse::Surcharges => "surcharges",
            Purse::Rounding => "rounding",
            Purse::Unclaimed => "unclaimed",
        };
        format!("{purse}/{asset}")
    }

    /// Its account, as the ledger makes ids of names: BLAKE3-128 of "account:" and the name.
    pub fn account(self, asset: &str) -> Id {
        Id::from_bytes(canon::hash(format!("account:{}", self.name(asset)).as_bytes()))
    }
}

/// One of the market's accounts, as the market believes it to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemAccount {
    /// Its name.
    pub name: String,
    /// Asset number.
    pub asset: u32,
    /// Whether the ledger has opened it.
    pub open: bool,
    /// When the ledger is asked; `None` while an answer is awaited, and afterwards.
    pub ask_at: Option<Time>,
    /// Sequence number of the event whose send the ledger has not answered.
    pub asked: Option<u64>,
    /// How often the ledger refused.
    pub refusals: u32,
}

/// A renter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renter {
    /// Sessions that are not closed.
    pub open: u64,
    /// Every session that is remembered, by its opening.
    pub sessions: BTreeSet<(Time, Id)>,
}

/// What waits for an owner in `unclaimed/<asset>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// Base units.
    pub units: u64,
    /// What the ledger was asked to move; 0 when it was not.
    pub sending: u64,
    /// Its place in the queue; `None` while no account is named, or an answer is awaited.
    pub queued_at: Option<Time>,
    /// Sequence number of the event whose send the ledger has not answered.
    pub asked: Option<u64>,
    /// How often the ledger refused since it last paid.
    pub refusals: u32,
}

/// A send without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// To open one of the market's accounts.
    Account(String),
    /// To make the first hold of a session.
    Hold(Id),
    /// To settle a session's window.
    Settlement(Id),
    /// To pay an owner what waits for it.
    Owed(Principal, u32),
}

/// What was metered and nobody pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbilled {
    /// Calls that no session took.
    pub calls: u64,
    /// Their price and what passed a cap, pico-dollars.
    pub pico: u128,
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.market.v1.Params: {why}")))?;
    let params = params::read(&wire)?;
    let purses = [&params.usd, &params.token].into_iter().flat_map(|asset| {
        Purse::OPENED.map(|purse| SystemAccount {
            name: purse.name(&asset.name),
            asset: asset.id,
            open: false,
            ask_at: Some(Time::default()),
            asked: None,
            refusals: 0,
        })
    });
    Ok(State {
        purses: purses.collect(),
        params,
        next_seal: 0,
        models: BTreeMap::new(),
        accounts: Table::new(),
        sessions: Table::new(),
        renters: Table::new(),
        by_time: BTreeSet::new(),
        open_sessions: 0,
        timers: BTreeSet::new(),
        owed: BTreeMap::new(),
        owed_queue: BTreeSet::new(),
        awaited: BTreeMap::new(),
        unbilled: Unbilled::default(),
        at: Time::default(),
    })
}

impl State {
    /// The account of a purse for an asset that pays.
    pub fn purse(&self, purse: Purse, asset: u32) -> Id {
        let name = self.params.asset(asset).map_or("", |asset| &asset.name);
        purse.account(name)
    }

    /// Whether an account is one that the market keeps money in.
    pub fn is_own(&self, account: Id) -> bool {
        let assets = [&self.params.usd, &self.params.token];
        assets.iter().any(|asset| Purse::ALL.iter().any(|purse| purse.account(&asset.name) == account))
    }

    /// Whether the market's accounts of an asset are open.
    pub fn is_ready(&self, asset: u32) -> bool {
        self.purses.iter().filter(|purse| purse.asset == asset).all(|purse| purse.open)
    }

    /// When the next epoch is sealed; `None` before the first event.
    pub fn seals_at(&self) -> Option<Time> {
        let end = self.params.calendar.ends(self.next_seal);
        (self.next_seal > 0).then(|| end.after_millis(self.params.seal_after_ms))
    }
}

/// What time alone causes next.
pub fn due(state: &State) -> Option<(Time, Command)> {
    let Some(seals_at) = state.seals_at() else { return Some((Time::default(), Command::Begin)) };
    let purse = state.purses.iter().filter_map(|purse| purse.ask_at).min();
    let dues = [
        state.timers.first().map(|(at, _)| (*at, Command::Attend)),
        purse.map(|at| (at, Command::OpenAccounts)),
        state.owed_queue.first().map(|(at, ..)| (*at, Command::PayOwed)),
        Some((seals_at, Command::Seal)),
    ];
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
