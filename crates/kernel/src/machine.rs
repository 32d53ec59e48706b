//! What a service is: a pure, synchronous machine over events. The shard runs it; nothing else calls it.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Entry, Origin};
use crate::id::{LogId, Principal, ServiceId, Time};

/// A service's rules. Every function is pure; what they need of the world stands in [`Ctx`] or in the state.
pub trait Machine: Sized + Send + 'static {
    /// The service's name: its table, subject and proto package.
    const NAME: &'static str;
    /// Version of the state's encoding, below 2^16. A snapshot of any other version is not read; the log is replayed
    /// instead.
    const STATE: u32;
    /// The services whose logs [`Machine::react`] reads.
    const LISTENS: &'static [ServiceId] = &[];

    /// All that the machine knows; a function of its log.
    type State: Serialize + DeserializeOwned + Send + 'static;
    /// What can be asked of it.
    type Command: Serialize + Send + 'static;
    /// What can happen; the storage format.
    type Event: Event;
    /// What a command answers.
    type Reply: Send + 'static;
    /// Why a command is refused.
    type Rejection: Rejection;

    /// The state before the first command. `opened` was written by provisioning; bad parameters are refused there.
    fn init(opened: &Opened) -> Result<Self::State, BadParams>;

    /// What would happen: pushes the events, at most [`crate::frame::ENTRY_EVENTS`] of at most
    /// [`crate::frame::ENTRY_BYTES`] together. `out` is empty when called, and ignored after an `Err`.
    fn decide(
        state: &Self::State,
        command: &Self::Command,
        ctx: &Ctx,
        out: &mut Vec<Self::Event>,
    ) -> Result<(), Self::Rejection>;

    /// Lets an event have happened. Total: it never fails and never panics on an event that `decide` has made.
    fn evolve(state: &mut Self::State, event: &Self::Event, meta: &Meta);

    /// The answer to a command whose events are known: also how a repeated request gets its answer.
    fn reply(command: &Self::Command, events: &[Self::Event]) -> Self::Reply;

    /// The invariants that one command's events can break. Cost: the number of events, not the size of the state.
    fn check_step(state: &Self::State, events: &[Self::Event]) -> Result<(), Broken>;

    /// Every invariant. Cost: the size of the state.
    fn check(state: &Self::State) -> Vec<Broken>;

    /// The next command that time alone will cause, and when.
    fn due(_state: &Self::State) -> Option<(Time, Self::Command)> {
        None
    }

    /// The command that an entry of another service's log causes here, if any. An event that this build does not
    /// know parks that source.
    fn react(_entry: &Sighted<'_>) -> Result<Option<Self::Command>, Unknown> {
        Ok(None)
    }

    /// Whether a principal is registered as a bulk submitter: its commands carry dense numbers instead of ids.
    fn may_submit(_state: &Self::State, _principal: &Principal) -> bool {
        false
    }
}

/// An event type: one protobuf message with one `oneof`, generated from the service's `events.proto` together with
/// what its options say.
pub trait Event: prost::Message + Default + Clone + Send + 'static {
    /// The service that writes it.
    const SERVICE: ServiceId;
    /// The services that its events can carry commands to: they read this log, and this service reads their answers.
    const SENDS_TO: &'static [ServiceId] = &[];

    /// The variant's name; `None` when this build does not know the variant.
    fn name(&self) -> Option<&'static str>;

    /// Whether the event may leave its service (`(holmes.public)`).
    fn is_public(&self) -> bool;

    /// The command to another service that the event carries (`(holmes.sends)`). It is the last event of its entry, so
    /// that its sequence number is the one that the answer names.
    fn send(&self) -> Option<SendTo<'_>>;
}

/// A command to another service, inside an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendTo<'a> {
    /// The service that shall carry it out.
    pub to: ServiceId,
    /// The command in that service's own encoding.
    pub command: &'a [u8],
}

/// The first fact of every log, written once by provisioning.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Opened {
    /// The deployment.
    #[prost(uint32, tag = "1")]
    pub cell: u32,
    /// Always 0.
    #[prost(uint32, tag = "2")]
    pub shard: u32,
    /// BLAKE3-128 of the profile that filled the parameters: equal in every log of a cell.
    #[prost(bytes = "vec", tag = "3")]
    pub profile_hash: Vec<u8>,
    /// The service's parameters, in its own encoding.
    #[prost(bytes = "vec", tag = "4")]
    pub params: Vec<u8>,
}

/// What a decision may know beside the state.
#[derive(Clone, Copy, Debug)]
pub struct Ctx {
    /// Log time of the frame that will hold the events.
    pub now: Time,
    /// Who asks.
    pub principal: Principal,
    /// The log that decides.
    pub log: LogId,
    /// The owner's term.
    pub term: u64,
    /// The sequence number that the first event will get. With cell, service and term it makes ids that never collide.
    pub seq: u64,
}

/// What an event knows beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Log time of its frame.
    pub ts: Time,
    /// Who asked.
    pub principal: Principal,
    /// Term of its frame.
    pub term: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// An entry of another service's log, as a reader sees it: public events, sends and refusals.
#[derive(Clone, Copy, Debug)]
pub struct Sighted<'a> {
    /// Whose log.
    pub log: LogId,
    /// Sequence number of the entry's first event.
    pub seq: u64,
    /// Log time of its frame.
    pub ts: Time,
    /// The command that it carries for the service that reads, in that service's own encoding.
    pub send: Option<&'a [u8]>,
    /// The entry.
    pub entry: &'a Entry,
}

impl<'a> Sighted<'a> {
    /// Whether the entry is the answer to a send of ours: the sequence number of the event that carried it. The
    /// entry's events, or its refusal, are the answer.
    pub fn answers(&self, us: ServiceId) -> Option<u64> {
        match &self.entry.origin {
            Some(Origin::Source(source))
                if source.svc == u32::from(us.0) && source.cell == u32::from(self.log.cell) =>
            {
                Some(source.seq)
            }
            _ => None,
        }
    }
}

/// Why a command is refused; each service has its own closed set.
pub trait Rejection: fmt::Display + Send + 'static {
    /// The class of the refusal: what the caller's program does about it.
    fn code(&self) -> Code;
    /// Stable, `UPPER_SNAKE`; what the caller's program matches on.
    fn reason(&self) -> &'static str;
    /// Whether the refusal depended on state while money would have moved: then it is recorded, so that a late copy
    /// of the request cannot succeed after the client paid otherwise.
    fn is_remembered(&self) -> bool {
        false
    }
}

/// A refusal as callers get it, from a machine or from the shard itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// The class.
    pub code: Code,
    /// Stable, `UPPER_SNAKE`.
    pub reason: Cow<'static, str>,
    /// What is wrong and what to do.
    pub message: String,
    /// Wait at least this long before the next try, where a try can help.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal of a class, with its stable reason and its message.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, reason: Cow::Borrowed(reason), message: message.into(), retry_after_ms: None }
    }

    /// The same with a time to wait.
    pub fn retry_after(self, ms: u64) -> Refusal {
        Refusal { retry_after_ms: Some(ms), ..self }
    }

    /// A machine's rejection as callers get it.
    pub fn of(rejection: &impl Rejection) -> Refusal {
        Refusal::new(rejection.code(), rejection.reason(), rejection.to_string())
    }
}

/// The class of a refusal, numbered as gRPC numbers its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The request itself is wrong, whatever the state.
    Invalid = 3,
    /// The caller's deadline passed.
    Deadline = 4,
    /// What it names is not there.
    NotFound = 5,
    /// What it would make is there already, and different.
    AlreadyExists = 6,
    /// Known, and not allowed.
    Forbidden = 7,
    /// A limit is reached.
    Exhausted = 8,
    /// The state does not allow it now.
    Precondition = 9,
    /// This build does not do it.
    Unimplemented = 12,
    /// A defect of ours.
    Internal = 13,
    /// Try again, with the same request id.
    Unavailable = 14,
    /// Stored bytes are damaged.
    DataLoss = 15,
    /// Not known.
    Unauthenticated = 16,
}

impl Code {
    /// The code of a gRPC number; `Internal` for one that we never send.
    pub fn from_number(number: i32) -> Code {
        use Code::*;
        let known = [
            Invalid,
            Deadline,
            NotFound,
            AlreadyExists,
            Forbidden,
            Exhausted,
            Precondition,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        known.into_iter().find(|code| *code as i32 == number).unwrap_or(Internal)
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant broken: {0}")]
pub struct Broken(pub String);

/// Parameters that a machine cannot start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameters refused: {0}")]
pub struct BadParams(pub String);

/// An event that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log of service {} holds an event that this build does not know: {what}", .service.0)]
pub struct Unknown {
    /// Whose event.
    pub service: ServiceId,
    /// What could be seen of it.
    pub what: String,
}
