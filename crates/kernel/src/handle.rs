//! How everything outside reaches a machine: `submit` and `read`, nothing else.

use std::future::Future;

use crate::id::{Id, Principal, ServiceId};
use crate::machine::{Machine, Refusal};

/// A machine's only door. `api.rs` is written over it; `runtime` implements it.
pub trait Handle<M: Machine>: Clone + Send + Sync + 'static {
    /// Carries a command out, once per (principal, request id), and answers when its effect is durable.
    fn submit(
        &self,
        call: Call,
        command: M::Command,
    ) -> impl Future<Output = Result<Answer<M::Reply>, Refusal>> + Send;

    /// Looks at a state that is durable and at least as new as asked.
    fn read<T: Send + 'static>(
        &self,
        at: At,
        look: impl FnOnce(&M::State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<Answer<T>, Refusal>> + Send;
}

/// Who asks, and how.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub principal: Principal,
    /// The way in.
    pub way: Way,
    /// Wait until this log has taken in another one up to there.
    pub after: Option<After>,
    /// W3C trace context; empty when there is none.
    pub traceparent: String,
}

/// How a caller's command is kept from running twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By an id of the last hour.
    Request(Id),
    /// By a registered submitter's dense number.
    Submission(u64),
}

/// A place in another service's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Whose log.
    pub service: ServiceId,
    /// Up to this sequence number.
    pub seq: u64,
}

impl Call {
    /// A request.
    pub fn request(principal: Principal, request_id: Id) -> Call {
        Call { principal, way: Way::Request(request_id), after: None, traceparent: String::new() }
    }
}

/// How new a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// As new as anything that was acknowledged before the read arrived.
    #[default]
    Latest,
    /// At least up to a sequence number; 0 means whatever is there.
    Seq(u64),
    /// As [`At::Latest`], and having taken in another log up to there.
    After(After),
}

/// An answer and the place in the log that it speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// A later read with `min_seq` of this sees at least this.
    pub seq: u64,
}
