//! Why a call is refused or ends without an answer.

use std::borrow::Cow;
use std::fmt;

use holmes_proto::inference::v1::{Failed, output::Output};

/// A stable reason, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
    /// Whether another node would say the same.
    pub(crate) caller: bool,
}

impl Refusal {
    /// Another node may say otherwise.
    pub(crate) fn here(reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), message: message.into(), caller: false }
    }

    /// Every node would say so.
    pub(crate) fn everywhere(reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), message: message.into(), caller: true }
    }

    /// As the last output of its call.
    pub(crate) fn output(self) -> Output {
        Output::Failed(Failed {
            reason: self.reason.into_owned(),
            message: self.message,
            caller: self.caller,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}
