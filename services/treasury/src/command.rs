//! What can be asked of the treasury, what it answers, and why it refuses.

use holmes_kernel::Principal;
use holmes_kernel::machine::{Code, Rejection as Refuses};
use serde::Serialize;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Fixes the moment of token generation; only time itself asks for it.
    Begin,
    /// Sends the next step of genesis; only time itself asks for it.
    Continue,
    /// Sends what has newly vested; only time itself asks for it.
    Release {
        /// Place of the allocation.
        allocation: u32,
    },
    /// The ledger has answered what an event of ours sent.
    Answered {
        /// Sequence number of that event.
        sent: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Has the step of genesis that was refused tried again at once.
    RetryGenesis,
}

/// What the ledger answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// It is so: now, or since before.
    Done,
    /// Nothing happened, with the ledger's reason.
    Refused(String),
}

/// What the treasury answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
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
    /// There is nothing to try again any more.
    #[error("genesis is complete: there is nothing to try again")]
    GenesisCompleted,
    /// There is nothing to try again now.
    #[error(
        "genesis waits for no retry: the ledger's answer is under way, GetGenesis tells when it is there"
    )]
    GenesisUnderWay,
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        match self {
            Rejection::Forbidden { .. } => Code::Forbidden,
            Rejection::GenesisCompleted | Rejection::GenesisUnderWay => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Rejection::Forbidden { .. } => "FORBIDDEN",
            Rejection::GenesisCompleted => "GENESIS_COMPLETED",
            Rejection::GenesisUnderWay => "GENESIS_UNDER_WAY",
        }
    }
}
