//! What carries logs to readers in other processes.

use std::future::Future;
use std::time::Duration;

use prost::bytes::Bytes;

use crate::id::LogId;

/// Streams with one message for each durable frame of a log, in order: a cache of the journal that can be made anew from
/// it, never the record. What tells messages apart is the log's own numbers; a place in a stream is only where to look.
///
/// What every implementation keeps, and the conformance suite of `store` checks: a message is put only where its
/// publisher has seen the end; listeners get the messages of a log in their order, each perhaps more than once.
pub trait Bus: Clone + Send + Sync + 'static {
    /// Where one listens.
    type Ear: Ear;

    /// How long a message stays in a log's stream; `None`: for ever.
    fn keeps(&self, log: LogId) -> impl Future<Output = Result<Option<Duration>, BusError>> + Send;

    /// The last message of a log's stream, as its leader has it: never what a replica behind it has.
    fn last(&self, log: LogId) -> impl Future<Output = Result<Option<Carried>, BusError>> + Send;

    /// Puts a message at the end of a log's stream if that is still at the place `behind` (0: no message is there);
    /// answers the new end.
    fn publish(&self, behind: u64, message: &Message) -> impl Future<Output = Result<u64, BusError>> + Send;

    /// Listens to a log behind a sequence number: to what the stream still has of it, then to what comes.
    fn listen(&self, log: LogId, after: u64) -> impl Future<Output = Result<Self::Ear, BusError>> + Send;
}

/// An open ear for one log.
pub trait Ear: Send + 'static {
    /// The next message; waits for one. After an error the ear is deaf: listen anew.
    fn next(&mut self) -> impl Future<Output = Result<Carried, BusError>> + Send;
}

/// What leaves of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose log.
    pub log: LogId,
    /// The frame's first sequence number.
    pub first: u64,
    /// Its last.
    pub last: u64,
    /// `holmes.log.v1.PublicFrame`.
    pub body: Bytes,
}

/// A message in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Where it lies. Places rise, and not by one.
    pub place: u64,
    /// What lies there.
    pub message: Message,
}

/// Why a bus did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The stream's end is not where the publisher thinks: look again.
    #[error("the stream of {0} ends elsewhere by now")]
    Moved(LogId),
    /// There is no stream of the log: its name.
    #[error("there is no stream {0}: run `holmes migrate`")]
    Missing(String),
    /// It may or may not have been done, and nobody says which: look again, later.
    #[error("{0}")]
    Away(String),
    /// It will never be done like this.
    #[error("{0}")]
    Refused(String),
}
