//! What a driver brings to a shard, and what the shard says is to be done.

use crate::canon::Digest;
use crate::frame::Frame;
use crate::id::{Id, LogId, Position, Principal, Time};
use crate::machine::{Machine, Refusal};
#[cfg(doc)]
use crate::shard::recall;

/// A caller's place in a driver's list of those who wait; the shard only passes it back.
pub type Ticket = u64;

/// What a driver brings.
#[derive(Debug)]
pub enum Input<C> {
    /// A caller's request.
    Request(Request<C>),
    /// A registered bulk submitter's next command.
    Submission(Submission<C>),
    /// What a reader of another service's log found.
    Delivery(Delivery<C>),
    /// Let due commands happen.
    Tick,
    /// Hold a ticket until all that is decided now is durable.
    Gate(Ticket),
    /// The frame handed out last is durable.
    Appended,
    /// Nothing more is waiting: what is gathered may leave.
    Idle,
}

/// A caller's request.
#[derive(Debug)]
pub struct Request<C> {
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// Who asks.
    pub principal: Principal,
    /// UUIDv7.
    pub request_id: Id,
    /// Digest of the command's canonical bytes.
    pub digest: Digest,
    /// W3C trace context.
    pub traceparent: String,
    /// What is asked.
    pub command: C,
}

/// A bulk submitter's command.
#[derive(Debug)]
pub struct Submission<C> {
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// The submitter.
    pub principal: Principal,
    /// Dense from 1.
    pub number: u64,
    /// Digest of the command's canonical bytes.
    pub digest: Digest,
    /// W3C trace context.
    pub traceparent: String,
    /// What is asked.
    pub command: C,
}

/// A range of another service's log, and what it causes here.
#[derive(Debug)]
pub struct Delivery<C> {
    /// Who waits to hear the position.
    pub ticket: Ticket,
    /// Whose log.
    pub source: LogId,
    /// The range begins behind this sequence number.
    pub from: u64,
    /// The range's end: the last entry read.
    pub to: Position,
    /// Log time of the frame that holds the range's end.
    pub ts: Time,
    /// In whose name the command is carried out.
    pub principal: Principal,
    /// W3C trace context.
    pub traceparent: String,
    /// What it causes; nothing when only the position moves.
    pub command: Option<C>,
}

/// What a driver is to do.
#[derive(Debug)]
pub enum Output<M: Machine> {
    /// Make this frame durable, then say [`Input::Appended`]. One at a time.
    Append(Frame),
    /// Answer a caller.
    Reply {
        /// Who waits.
        ticket: Ticket,
        /// The answer.
        answer: Result<M::Reply, Refusal>,
        /// The place it speaks of.
        seq: u64,
    },
    /// The command was carried out before: its entry is at `seq`; [`recall`] makes the answer of it.
    Recall {
        /// Who waits.
        ticket: Ticket,
        /// Where the entry is.
        seq: u64,
        /// The command.
        command: M::Command,
    },
    /// A gate opens.
    Release {
        /// Who waits.
        ticket: Ticket,
        /// The place up to which everything is durable.
        seq: u64,
    },
    /// A delivery was taken, or had been taken before: the source stands here now.
    Delivered {
        /// Who waits.
        ticket: Ticket,
        /// The position after it.
        position: Position,
    },
    /// A delivery comes from the future: bring it again when log time can have passed this.
    Early {
        /// Who waits.
        ticket: Ticket,
        /// Just behind its source's time. When the clock is there already, frames stand in line: bring it again
        /// after the next [`Output::Append`], not at once.
        until: Time,
    },
    /// The speculative state is broken and was not made durable: drop the shard, claim again, replay.
    Reclaim(String),
    /// Nothing more is decided: a person must look.
    Halt(String),
}
