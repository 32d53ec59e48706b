//! What can be asked of emission, what it answers, and why it refuses.

use holmes_kernel::Principal;
use holmes_kernel::machine::{Code, Rejection as Refuses};
use serde::Serialize;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Begins.
    Begin,
}

/// It is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not the caller's to do.
    #[error("{0} may not do this: only staff may")]
    Forbidden(Principal),
    /// As often as it may.
    #[error("it has begun {0} times, as often as it may: raise most_beginnings")]
    BegunTooOften(u64),
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        match self {
            Rejection::Forbidden(_) => Code::Forbidden,
            Rejection::BegunTooOften(_) => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Rejection::Forbidden(_) => "FORBIDDEN",
            Rejection::BegunTooOften(_) => "BEGUN_TOO_OFTEN",
        }
    }
}
