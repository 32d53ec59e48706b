//! What can be asked of emission, what it answers, and why it refuses.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Amount, Id, Principal, ServiceId, Time};
use holmes_proto::emission::v1::Event;
use holmes_proto::emission::v1::event::Event as Kind;
use serde::Serialize;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Another service's log says something that counts.
    Note {
        /// Whose log.
        source: ServiceId,
        /// When it was recorded there.
        at: Time,
        /// What it says; one event each.
        facts: Vec<Fact>,
    },
    /// The ledger's answer to a send.
    Answered {
        /// Sequence number of the event that carried the send.
        seq: u64,
        /// What the ledger says.
        outcome: Outcome,
    },
    /// Takes what is locked of a grant at once (E-5.2).
    ExitGrant {
        /// The node.
        node: Id,
        /// The grant's epoch.
        epoch: u64,
    },
    /// Lets an epoch close without a source.
    CloseWithout {
        /// The epoch.
        epoch: u64,
        /// The source.
        source: ServiceId,
    },
    /// Begins the close of the next epoch; only time itself asks for it.
    Close,
    /// The next step of a close; only time itself asks for it.
    Continue,
    /// Burns what is locked of tombstoned nodes; only time itself asks for it.
    Burn,
    /// Asks the ledger for an account; only time itself asks for it.
    OpenAccount,
    /// Sends the next movement between accounts; only time itself asks for it.
    Move,
    /// Sends the next payments; only time itself asks for it.
    Pay,
}

/// What another service's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Fact {
    /// How a node stands.
    Node {
        /// Which.
        node: Id,
        /// Whose.
        owner: Principal,
        /// What it bonds for, as its number.
        kind: u8,
        /// Bond and what unbonds, base units.
        slashable: Amount,
        /// Required collateral, base units.
        required: Amount,
        /// Rating.
        rating_milli_cu: u32,
        /// Its owner is tombstoned.
        barred: bool,
        /// It was registered just now.
        registered: bool,
    },
    /// What is required of nodes.
    Required(Vec<(Id, u64)>),
    /// Where a node is paid.
    Payout {
        /// Which.
        node: Id,
        /// Where.
        account: Id,
        /// A bond came from there: it counts only while no account was named (E-6.5).
        posted: bool,
    },
    /// Nodes of an owner that never returns.
    Barred(Vec<Id>),
    /// Work that was paid for.
    Work {
        /// The epoch that it names.
        epoch: u64,
        /// What counts of it.
        rows: Vec<WorkRow>,
    },
    /// How long nodes were there.
    Attendance {
        /// The epoch that it names.
        epoch: u64,
        /// Node, beats seen, Active.
        rows: Vec<(Id, u32, bool)>,
    },
    /// What the token cost, micro-dollars for a whole one.
    Price {
        /// The epoch that it names.
        epoch: u64,
        /// Micro-dollars.
        micro_usd: u64,
    },
    /// The source has sealed an epoch.
    Sealed(u64),
}

/// Work of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkRow {
    /// The node.
    pub node: Id,
    /// Its owner.
    pub owner: Principal,
    /// Whether it counts in full; otherwise a quarter.
    pub full: bool,
    /// Units before the factor.
    pub units: u64,
    /// Fees of both sides, micro-dollars.
    pub fees_micro_usd: u64,
}

/// What the ledger says to a send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// It is so; of transfers, what became of each: empty, or the stable reason for its refusal.
    Done(Vec<String>),
    /// It refused all of it, for a stable reason.
    Refused(String),
}

/// What emission answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// A grant is over.
    Exited {
        /// What is paid.
        paid: Amount,
        /// What is burnt.
        burned: Amount,
    },
}

/// The answer to a command whose events are known.
pub fn reply(events: &[Event]) -> Reply {
    let told = |event: &Event| match &event.event {
        Some(Kind::GrantExited(e)) => {
            Some(Reply::Exited { paid: Amount::new(e.paid_units), burned: Amount::new(e.burned_units) })
        }
        _ => None,
    };
    events.iter().find_map(told).unwrap_or(Reply::Done)
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not the caller's to do.
    #[error("{who} may not do this: {needs}")]
    Forbidden {
        /// The caller.
        who: Principal,
        /// Who may.
        needs: &'static str,
    },
    /// Nothing is known of it.
    #[error("nothing is known of node {0}: check the id; a node that never bonded has no rewards")]
    NodeNotFound(Id),
    /// Nothing is locked there.
    #[error(
        "node {node} has no grant of epoch {epoch} with anything locked: ListGrants shows those that it has"
    )]
    GrantNotFound {
        /// The node.
        node: Id,
        /// The epoch.
        epoch: u64,
    },
    /// E-5.2.
    #[error("the owner of node {0} is tombstoned: what is locked is burnt")]
    Tombstoned(Id),
    /// It is not closed, or too long ago.
    #[error(
        "epoch {0} is not closed, or is no longer kept: ListEpochs shows those that are; the log has them all"
    )]
    EpochNotFound(u64),
    /// Another one is next.
    #[error("epoch {asked} is not the next to close, {next} is: name that one")]
    NotNext {
        /// As asked.
        asked: u64,
        /// The next.
        next: u64,
    },
    /// No such source.
    #[error("service {0} is no source that a close waits for: GetPools names them")]
    SourceUnknown(u32),
    /// Too early.
    #[error("epoch {epoch} may be closed without a source from {at_us} µs since 1970 on: wait until then")]
    TooEarly {
        /// The epoch.
        epoch: u64,
        /// From when on.
        at_us: u64,
    },
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            Forbidden { .. } | Tombstoned(_) => Code::Forbidden,
            NodeNotFound(_) | GrantNotFound { .. } | EpochNotFound(_) => Code::NotFound,
            SourceUnknown(_) => Code::Invalid,
            NotNext { .. } | TooEarly { .. } => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            Forbidden { .. } => "FORBIDDEN",
            NodeNotFound(_) => "NODE_NOT_FOUND",
            GrantNotFound { .. } => "GRANT_NOT_FOUND",
            Tombstoned(_) => "OWNER_TOMBSTONED",
            EpochNotFound(_) => "EPOCH_NOT_FOUND",
            NotNext { .. } => "NOT_NEXT_EPOCH",
            SourceUnknown(_) => "SOURCE_UNKNOWN",
            TooEarly { .. } => "TOO_EARLY",
        }
    }

    /// An exit that was refused for want of a grant: a late copy must not take a grant that came later.
    fn is_remembered(&self) -> bool {
        matches!(self, Rejection::GrantNotFound { .. })
    }
}
