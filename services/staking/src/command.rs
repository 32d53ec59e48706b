//! What can be asked of staking, what it answers, and why it refuses.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Amount, Id, Principal, Time};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{Event, NodeKind, NodeState};
use serde::Serialize;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Makes a node known, or brings it back after its exit.
    RegisterNode(RegisterNode),
    /// Attests what a node's hardware can do (E-0.6).
    SetRating {
        /// Which.
        node: Id,
        /// Thousandths of a CU.
        rating_milli_cu: u32,
    },
    /// Adds a hold to a node's bond.
    Bond {
        /// Which.
        node: Id,
        /// The hold's transfer id.
        hold: Id,
    },
    /// Asks for a bond back (E-6.5).
    Unbond {
        /// Which.
        node: Id,
        /// How much; `None` for all of it.
        amount: Option<Amount>,
        /// Where to; `None` for where payouts go already.
        account: Option<Id>,
    },
    /// Names another account for payouts.
    SetPayoutAccount {
        /// Which.
        node: Id,
        /// The account.
        account: Id,
    },
    /// Takes a node out of service.
    Jail {
        /// Which.
        node: Id,
        /// Why.
        cause: String,
    },
    /// Lets a jailed node serve again.
    Unjail {
        /// Which.
        node: Id,
    },
    /// Bars a node's owner for ever.
    Tombstone {
        /// Which.
        node: Id,
        /// Why.
        cause: String,
    },
    /// The ledger has holds of which staking is the coordinator.
    NoteHolds {
        /// Who opened them.
        opener: Principal,
        /// The holds.
        holds: Vec<SeenHold>,
    },
    /// The ledger's answer to a send.
    Answered {
        /// Sequence number of the event that carried the send.
        seq: u64,
        /// `None` when it was carried out; otherwise the ledger's stable reason.
        refused: Option<String>,
    },
    /// Emission has closed an epoch (E-6.2).
    NoteEmission {
        /// E_next.
        next_emission: Amount,
        /// C; `None` when emission does not say.
        circulating: Option<Amount>,
    },
    /// Scheduling has granted leases, or they have ended (E-6.5).
    NoteLeases(Vec<LeaseFact>),
    /// Seals an epoch that is over; only time itself asks for it.
    Seal,
    /// Asks the ledger for `bonds/<asset>`; only time itself asks for it.
    OpenVault,
    /// Computes the base anew (E-6.2); only time itself asks for it.
    Recompute,
    /// Lets the next nodes follow a new base (E-6.2); only time itself asks for it.
    Continue,
    /// Looks again at nodes that time disqualifies; only time itself asks for it.
    Lapse,
    /// Sends the next payout (E-6.5); only time itself asks for it.
    Pay,
}

/// A node to make known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegisterNode {
    /// Ed25519.
    pub public_key: [u8; 32],
    /// What it bonds for.
    pub kind: u8,
    /// What its owner says of its power, thousandths of a CU.
    pub claim_milli_cu: u32,
    /// Both halves of the node's signature over [`crate::possession::statement`].
    pub possession: [[u8; 32]; 2],
}

impl RegisterNode {
    /// What it bonds for.
    pub fn kind(&self) -> NodeKind {
        NodeKind::try_from(i32::from(self.kind)).unwrap_or(NodeKind::Unspecified)
    }
}

/// A hold in the ledger of which staking is the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SeenHold {
    /// The hold's transfer id.
    pub hold: Id,
    /// Account debited by a post.
    pub debit: Id,
    /// Account credited by a post.
    pub credit: Id,
    /// Base units.
    pub amount: Amount,
    /// What it is for.
    pub coordination: Id,
}

/// A lease that began, or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseFact {
    /// Sequence number of its grant in scheduling's log.
    pub grant: u64,
    /// The node that holds it.
    pub node: Id,
    /// Until when it was granted; `None` when it has ended.
    pub until: Option<Time>,
}

/// What staking answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// The node is known.
    Registered {
        /// Its id.
        node: Id,
    },
    /// The ledger was asked to post a hold.
    Bonding {
        /// How much it holds.
        amount: Amount,
    },
    /// An unbonding was accepted.
    Unbonding {
        /// Its number.
        unbonding: u64,
        /// How much.
        amount: Amount,
        /// Nothing of it is paid before.
        ready_at: Time,
    },
}

/// The answer to a command whose events are known.
pub fn reply(command: &Command, events: &[Event]) -> Reply {
    if let Command::RegisterNode(register) = command {
        return Reply::Registered { node: Id::of_key(&register.public_key) };
    }
    let told = |event: &Event| match &event.event {
        Some(Kind::BondRequested(e)) => Some(Reply::Bonding { amount: Amount::new(e.amount_units) }),
        Some(Kind::UnbondingStarted(e)) => Some(Reply::Unbonding {
            unbonding: e.unbonding,
            amount: Amount::new(e.amount_units),
            ready_at: Time::from_micros(e.ready_at_us),
        }),
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
    /// No such node.
    #[error("there is no node {0}: check the id, or register it first")]
    NodeNotFound(Id),
    /// It is registered otherwise.
    #[error(
        "node {0} is registered with another owner, kind or rating: use the node's own key, or GetNode to compare"
    )]
    NodeExists(Id),
    /// Not a key.
    #[error("public_key is no Ed25519 key under which a signature proves anything: send the node's own")]
    KeyInvalid,
    /// The node's signature does not fit.
    #[error(
        "possession does not prove that the node's key is the caller's: sign the statement for this network, cell and owner"
    )]
    PossessionInvalid,
    /// E-6.1: never returns.
    #[error("{0} is tombstoned and never returns; what it has bonded can still be unbonded")]
    OwnerTombstoned(Principal),
    /// Too many of an owner.
    #[error("{0} owns as many nodes as one owner may: take another account")]
    TooManyNodesOfOwner(Principal),
    /// Too many in all.
    #[error("as many nodes are registered as may be")]
    TooManyNodes,
    /// E-6.2.
    #[error("a rating of {found} milli-CU: a compute node has {least} to {most}, a verifier none")]
    RatingOutOfRange {
        /// Asked for.
        found: u32,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// The ledger has not shown such a hold.
    #[error(
        "hold {hold} is not known as an offer for node {node}: its owner opens it in the ledger in favour of the bonds \
         account with coordinator {{service 3, the node's id}}; send holmes-after: ledger@<seq of the hold>. A hold that was bonded, or ended, is no offer any more"
    )]
    HoldNotOffered {
        /// The hold.
        hold: Id,
        /// The node.
        node: Id,
    },
    /// E-6.1.
    #[error("node {node} is {state}: {needs}")]
    WrongState {
        /// The node.
        node: Id,
        /// Where it stands.
        state: &'static str,
        /// From where it could be done.
        needs: &'static str,
    },
    /// Nothing.
    #[error("an amount has at least 1 base unit")]
    AmountZero,
    /// More than is bonded.
    #[error("node {node} has {bond} base units bonded: ask for at most that")]
    ExceedsBond {
        /// The node.
        node: Id,
        /// Its bond.
        bond: Amount,
    },
    /// E-6.2.
    #[error(
        "node {node} would keep {left} base units and {required} are required: keep that, or unbond all of it"
    )]
    BelowRequired {
        /// The node.
        node: Id,
        /// What would stay.
        left: Amount,
        /// What must.
        required: Amount,
    },
    /// The ledger has not answered yet.
    #[error("a hold is on its way into the bond of node {0}: try again when GetNode shows no pending bond")]
    BondPending(Id),
    /// A pool, or another account that a service keeps books of.
    #[error("account {0} is one of the platform's, not of a party: name an account of yours to be paid to")]
    AccountReserved(Id),
    /// E-6.5.
    #[error(
        "node {node} holds {leases} leases: end its executor with SIGTERM, which ends them, and ask again; or wait: \
         they end within {ends_in_s} s, or when the sessions do that renew them"
    )]
    NodeHoldsLease {
        /// The node.
        node: Id,
        /// How many.
        leases: usize,
        /// When the last of them ends that is not renewed.
        ends_in_s: u64,
    },
    /// Too many at once.
    #[error("node {0} has as many unbondings as one node may: wait until one is paid, or unbond all of it")]
    TooManyUnbondings(Id),
    /// E-6.1: back into service only as qualified.
    #[error("node {0} is not bonded as required or its hardware has not passed: see to that first")]
    NotQualified(Id),
    /// A cause that is none.
    #[error("a cause has 1 to 128 bytes")]
    CauseInvalid,
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            KeyInvalid | PossessionInvalid | RatingOutOfRange { .. } | AmountZero | CauseInvalid => {
                Code::Invalid
            }
            Forbidden { .. } | OwnerTombstoned(_) => Code::Forbidden,
            NodeNotFound(_) => Code::NotFound,
            NodeExists(_) => Code::AlreadyExists,
            TooManyNodesOfOwner(_) | TooManyNodes | TooManyUnbondings(_) => Code::Exhausted,
            HoldNotOffered { .. } | WrongState { .. } | ExceedsBond { .. } => Code::Precondition,
            BelowRequired { .. }
            | BondPending(_)
            | NodeHoldsLease { .. }
            | NotQualified(_)
            | AccountReserved(_) => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            Forbidden { .. } => "FORBIDDEN",
            NodeNotFound(_) => "NODE_NOT_FOUND",
            NodeExists(_) => "NODE_EXISTS",
            KeyInvalid => "KEY_INVALID",
            PossessionInvalid => "POSSESSION_INVALID",
            OwnerTombstoned(_) => "OWNER_TOMBSTONED",
            TooManyNodesOfOwner(_) => "TOO_MANY_NODES_OF_OWNER",
            TooManyNodes => "TOO_MANY_NODES",
            RatingOutOfRange { .. } => "RATING_OUT_OF_RANGE",
            HoldNotOffered { .. } => "HOLD_NOT_OFFERED",
            WrongState { .. } => "WRONG_STATE",
            AmountZero => "AMOUNT_ZERO",
            ExceedsBond { .. } => "EXCEEDS_BOND",
            BelowRequired { .. } => "BELOW_REQUIRED",
            BondPending(_) => "BOND_PENDING",
            NodeHoldsLease { .. } => "NODE_HOLDS_LEASE",
            TooManyUnbondings(_) => "TOO_MANY_UNBONDINGS",
            AccountReserved(_) => "ACCOUNT_RESERVED",
            NotQualified(_) => "NOT_QUALIFIED",
            CauseInvalid => "CAUSE_INVALID",
        }
    }

    /// What refuses a movement of money for the state's sake. A hold that is not known yet is left out: the same
    /// request shall succeed as soon as it is, and its owner's consent stands as long as the hold does. So is a lease: it
    /// is over soon.
    fn is_remembered(&self) -> bool {
        use Rejection::*;
        matches!(self, ExceedsBond { .. } | BelowRequired { .. } | TooManyUnbondings(_))
    }
}

/// A state as people read it.
pub fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "nowhere",
        NodeState::Registered => "registered",
        NodeState::Active => "active",
        NodeState::Jailed => "jailed",
        NodeState::Unbonding => "unbonding",
        NodeState::Exited => "exited",
        NodeState::Tombstoned => "tombstoned",
    }
}
