//! Where the outside begins: what a storage engine and a broker must offer. `store` implements it, `runtime` drives it,
//! neither knows the other.

use std::future::Future;

use crate::canon::Digest;
use crate::frame::{Damage, Frame, Tail};
use crate::id::LogId;

mod bus;

pub use bus::{Bus, BusError, Carried, Ear, Message};

/// The system of record: logs of frames, each with one owner at a time.
///
/// What every implementation keeps, and the conformance suite of `store` checks: an append that was answered `Ok` is
/// there after any crash; frames of a log form one chain; after a newer [`Journal::claim`] no append of an older
/// claim ever applies; the same frame appended again is answered as it was before.
pub trait Journal: Clone + Send + Sync + 'static {
    /// Opens a log with its first frame. The same frame again is no error; another first frame is.
    fn provision(&self, first: &Frame) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Takes a log over: raises its term, so that no earlier owner can append any more, then reads its end.
    fn claim(&self, log: LogId) -> impl Future<Output = Result<Claim, JournalError>> + Send;

    /// Makes one frame durable. Only the owner may, one frame at a time, each behind the one before.
    fn append(&self, claim: &Claim, frame: &Frame) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Answers `Ok` only if the claim still held after this call began: the barrier of a linearizable read.
    fn confirm(&self, claim: &Claim) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// The frames behind `after`, in order, until about `max_bytes` are gathered; at least one if there is one.
    /// Their chain is not verified here: whoever replays does that.
    fn read(
        &self,
        log: LogId,
        after: u64,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<Frame>, JournalError>> + Send;

    /// The logs that there are.
    fn logs(&self) -> impl Future<Output = Result<Vec<LogId>, JournalError>> + Send;

    /// Keeps a snapshot; older ones of the same log may go, but the newest before it stays.
    fn keep_snapshot(&self, snapshot: &Snapshot) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// The newest snapshot of a log at or before a sequence number with this state version.
    fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> impl Future<Output = Result<Option<Snapshot>, JournalError>> + Send;

    /// The snapshots of a log with this state version, of places behind `above`, that are not what was kept: those that
    /// [`Journal::snapshot`] passes over. A journal whose snapshots cannot rot has none.
    fn damaged_snapshots(
        &self,
        _log: LogId,
        _state_version: u32,
        _above: u64,
    ) -> impl Future<Output = Result<Vec<DamagedSnapshot>, JournalError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// The right to append to a log, until somebody claims it with a higher term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which log.
    pub log: LogId,
    /// Higher than that of every frame in the log.
    pub term: u64,
    /// Tells two claims with one term apart.
    pub nonce: [u8; 16],
    /// Where the log ended when it was claimed; final for all older terms.
    pub tail: Tail,
}

/// A state at a place of its log: disposable, since the log gives the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which log.
    pub log: LogId,
    /// [`crate::Replica::VERSION`] of the build that wrote it.
    pub state_version: u32,
    /// The place.
    pub at: Tail,
    /// Digest of the bytes.
    pub digest: Digest,
    /// [`crate::Replica`] in canonical form.
    pub bytes: Vec<u8>,
}

/// A snapshot that is not what was kept. The log is as it was: it gives the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Its place in the log.
    pub seq: u64,
    /// Where it lies.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

/// Why a journal did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The log was never provisioned, or its files are gone: never silently a new one.
    #[error(
        "there is no log of {0}: provision it first, or restore it; a new log is never begun in its place"
    )]
    Missing(LogId),
    /// Provisioning met another log.
    #[error("{0} exists already, with another first frame")]
    Exists(LogId),
    /// Somebody claimed the log with a higher term.
    #[error("the log of {log} has another owner (term {by})")]
    Fenced {
        /// Which log.
        log: LogId,
        /// The owner's term.
        by: u64,
    },
    /// The servers are set up so that two could own a log at once: nothing is claimed meanwhile.
    #[error("the log of {log} is not claimed, since its servers are not safe: {why}")]
    Unsafe {
        /// Which log.
        log: LogId,
        /// Each fault, with what mends it.
        why: String,
    },
    /// Not known whether the append applied: send the same bytes again.
    #[error("the outcome is not known yet: {0}")]
    Unknown(String),
    /// The append does not follow, though the claim holds: an invariant is broken, and the log must halt.
    #[error("the frame does not follow the log of {log}: {why}")]
    Broken {
        /// Which log.
        log: LogId,
        /// How it differs.
        why: Damage,
    },
    /// Stored bytes are not what was written.
    #[error("the log of {log} is damaged behind {after}: {why}. Restore it from a copy; nothing is skipped")]
    Damaged {
        /// Which log.
        log: LogId,
        /// The last sequence number that is whole.
        after: u64,
        /// What is wrong with the next frame.
        why: Damage,
    },
    /// No space left.
    #[error("the disk is full ({0}): free some space, then start again; nothing acknowledged is lost")]
    Full(String),
    /// Another process has the directory.
    #[error("{path} is in use by another process{holder}: stop that one, or choose another directory")]
    Locked {
        /// The directory.
        path: String,
        /// Who holds it, where known.
        holder: String,
    },
    /// The engine failed otherwise.
    #[error("the journal failed: {0}")]
    Io(String),
}
