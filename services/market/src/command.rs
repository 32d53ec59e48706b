//! What can be asked of the market, what it answers, and why it refuses.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Id, Principal, Time};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::Event;
use serde::Serialize;

use crate::model::Model;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Offers a model, changes it, or withdraws it.
    SetModel {
        /// Its name.
        name: String,
        /// As it shall be.
        model: Model,
    },
    /// Names the caller's account for an asset.
    SetAccount {
        /// Asset number.
        asset: u32,
        /// In the ledger.
        account: Id,
    },
    /// Opens a session.
    OpenSession(OpenSession),
    /// Ends a session.
    CloseSession {
        /// Which.
        session: Id,
    },
    /// Scheduling has metered calls, or meters no more of a session; or it has leases of sessions.
    NoteCalls {
        /// What was metered, a lease at a time.
        metered: Vec<Metered>,
        /// Closing sessions on which nothing more is metered.
        drained: Vec<Id>,
        /// Sessions with a lease, and when that ends.
        leased: Vec<(Id, Time)>,
    },
    /// The ledger's answer to a send.
    Answered {
        /// Sequence number of the event that carried the send.
        seq: u64,
        /// `None` when it was carried out.
        refused: Option<Refused>,
    },
    /// Publishes the models of genesis; only time itself asks for it.
    Begin,
    /// Asks the ledger for the next of the market's accounts; only time itself asks for it.
    OpenAccounts,
    /// Does what a session's time has come for; only time itself asks for it.
    Attend,
    /// Sends an owner what waits for it; only time itself asks for it.
    PayOwed,
    /// Seals the next epoch; only time itself asks for it.
    Seal,
}

/// A session to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OpenSession {
    /// Its id: that of the request.
    pub session: Id,
    /// Whose it shall be; `None` for the caller's own.
    pub renter: Option<Principal>,
    /// Asset that pays; `None` for the dollar.
    pub asset: Option<u32>,
    /// What a hold covers at once, micro-dollars; `None` for the least.
    pub budget: Option<u64>,
}

/// Calls of one lease that were metered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metered {
    /// The session.
    pub session: Id,
    /// The node.
    pub node: Id,
    /// The node's owner.
    pub owner: Principal,
    /// How the work counts: [`holmes_proto::market::v1::WorkCredit`] as a number.
    pub credit: u8,
    /// How many.
    pub calls: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// What they cost, pico-dollars.
    pub pico: u128,
    /// Their work, millionths of a unit.
    pub micro_units: u128,
}

/// What the market answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// The session that was opened or is closing.
    Session(Id),
}

/// The answer to a command whose events are known.
pub fn reply(command: &Command, _: &[Event]) -> Reply {
    match command {
        Command::OpenSession(open) => Reply::Session(open.session),
        Command::CloseSession { session } => Reply::Session(*session),
        _ => Reply::Done,
    }
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
    /// No such model.
    #[error("there is no model {0:?} on offer: ListModels tells which there are")]
    ModelNotFound(String),
    /// Not a model.
    #[error("the model cannot be: {0}")]
    ModelInvalid(&'static str),
    /// Too many.
    #[error("as many models are offered as may be, {0}: withdrawn ones count, so change one of them")]
    TooManyModels(u64),
    /// Nobody pays in it.
    #[error("nobody pays in asset {asset}: take {token} or {usd}")]
    AssetNotFound {
        /// Asked for.
        asset: u32,
        /// The token.
        token: u32,
        /// The dollar.
        usd: u32,
    },
    /// The ledger was not yet asked, or has not answered.
    #[error("the market's own accounts are not open in the ledger yet: try again in a minute")]
    NotReady,
    /// What lies there is on its way to others, or another service keeps books of it.
    #[error("account {0} is one of the platform's, not of a party: name an account of yours")]
    AccountReserved(Id),
    /// The renter has named no account.
    #[error(
        "{renter} has named no account for asset {asset}: open one in the ledger, then call SetAccount with it as {renter}"
    )]
    SessionNoAccount {
        /// Who.
        renter: Principal,
        /// Asset number.
        asset: u32,
    },
    /// Not within bounds.
    #[error("a budget of {found} micro-dollars: it is {least} to {most}")]
    BudgetOutOfRange {
        /// Asked for.
        found: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// The budget in base units does not fit.
    #[error("a budget of {0} micro-dollars does not fit 64 bits in base units of the token: ask for less")]
    BudgetTooLarge(u64),
    /// Too many of a renter.
    #[error("{0} has as many sessions as one renter may: close one")]
    TooManySessionsOfRenter(Principal),
    /// Too many in all.
    #[error("as many sessions are open as may be: try again later")]
    TooManySessions,
    /// The id is taken.
    #[error("the session {0} exists: take a new UUIDv7 as request_id")]
    SessionExists(Id),
    /// No such session, or not the caller's.
    #[error("there is no session {0} of yours: check the id, ListSessions tells which there are")]
    SessionNotFound(Id),
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            Forbidden { .. } => Code::Forbidden,
            ModelNotFound(_) | SessionNotFound(_) => Code::NotFound,
            ModelInvalid(_)
            | AccountReserved(_)
            | AssetNotFound { .. }
            | BudgetOutOfRange { .. }
            | BudgetTooLarge(_) => Code::Invalid,
            TooManyModels(_) | TooManySessionsOfRenter(_) | TooManySessions => Code::Exhausted,
            NotReady | SessionNoAccount { .. } => Code::Precondition,
            SessionExists(_) => Code::AlreadyExists,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            Forbidden { .. } => "FORBIDDEN",
            ModelNotFound(_) => "MODEL_NOT_FOUND",
            ModelInvalid(_) => "MODEL_INVALID",
            TooManyModels(_) => "TOO_MANY_MODELS",
            AssetNotFound { .. } => "ASSET_NOT_FOUND",
            NotReady => "NOT_READY",
            AccountReserved(_) => "ACCOUNT_RESERVED",
            SessionNoAccount { .. } => "SESSION_NO_ACCOUNT",
            BudgetOutOfRange { .. } => "BUDGET_OUT_OF_RANGE",
            BudgetTooLarge(_) => "BUDGET_TOO_LARGE",
            TooManySessionsOfRenter(_) => "TOO_MANY_SESSIONS_OF_RENTER",
            TooManySessions => "TOO_MANY_SESSIONS",
            SessionExists(_) => "SESSION_EXISTS",
            SessionNotFound(_) => "SESSION_NOT_FOUND",
        }
    }
}
