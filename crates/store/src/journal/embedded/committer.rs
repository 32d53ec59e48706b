//! The one thread that writes. It takes all that is waiting, of all logs, decides each in the order it came, writes
//! what was admitted as one commit, forces it to disk once, and answers all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use fjall::{OwnedWriteBatch, PersistMode};
use holmes_kernel::ports::{Claim, JournalError};
use holmes_kernel::{Frame, LogId};
use tokio::sync::oneshot;

use super::acknowledged::Acknowledged;
use super::engine::{engine_error, is_full};
use super::keys::{encode_head, frame_key, log_key};
use super::store::Store;
use crate::journal::head::{Admitted, Head};

/// Most bytes of frames in one commit: it bounds what a commit holds in memory and how long its first waiter waits.
const COMMIT_BYTES: usize = 8 << 20;

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, JournalError>>;

/// What the committer is asked to do.
pub(super) enum Job {
    Provision { first: Frame, answer: Answer<()> },
    Claim { log: LogId, nonce: [u8; 16], answer: Answer<Claim> },
    Append { claim: Claim, frame: Frame, answer: Answer<()> },
}

/// The thread's own.
pub(super) struct Committer {
    pub(super) store: Arc<Store>,
    pub(super) acknowledged: Acknowledged,
    /// Below this much free space nothing is written.
    pub(super) reserve_bytes: u64,
    /// Why nothing is written any more.
    pub(super) refusing: Option<JournalError>,
}

/// What is decided but not yet durable.
struct Group {
    batch: OwnedWriteBatch,
    bytes: usize,
    heads: BTreeMap<LogId, Head>,
    answers: Vec<Waiting>,
}

/// An answer that waits for the disk.
enum Waiting {
    Done(Answer<()>),
    Claimed(Answer<Claim>, Claim),
}

impl Waiting {
    /// Whoever stopped waiting needs no answer.
    fn give(self, outcome: &Result<(), JournalError>) {
        match self {
            Waiting::Done(answer) => drop(answer.send(outcome.clone())),
            Waiting::Claimed(answer, claim) => drop(answer.send(outcome.clone().map(|()| claim))),
        }
    }
}

impl Committer {
    /// Works until the last handle is gone and everything asked before is done.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let mut group = self.group();
            self.take(&mut group, job);
            while group.bytes < COMMIT_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                self.take(&mut group, job);
            }
            self.finish(group);
        }
        if let Err(why) = self.acknowledged.sync() {
            tracing::warn!(%why, "the note of what was acknowledged may lag behind after a power failure");
        }
    }

    fn group(&self) -> Group {
        let batch = self.store.engine.database.batch().durability(Some(PersistMode::Buffer));
        Group { batch, bytes: 0, heads: BTreeMap::new(), answers: Vec::new() }
    }

    /// Decides a job; what needs no disk is answered at once.
    fn take(&self, group: &mut Group, job: Job) {
        match job {
            Job::Provision { first, answer } => match self.provision(group, &first) {
                Ok(()) => group.answers.push(Waiting::Done(answer)),
                Err(why) => drop(answer.send(Err(why))),
            },
            Job::Claim { log, nonce, answer } => match self.claim(group, log, nonce) {
                Ok(claim) => group.answers.push(Waiting::Claimed(answer, claim)),
                Err(why) => drop(answer.send(Err(why))),
            },
            Job::Append { claim, frame, answer } => match self.append(group, &claim, &frame) {
                Ok(()) => group.answers.push(Waiting::Done(answer)),
                Err(why) => drop(answer.send(Err(why))),
            },
        }
    }

    fn head(&self, group: &Group, log: LogId) -> Option<Head> {
        group.heads.get(&log).copied().or_else(|| self.store.head(log))
    }

    fn provision(&self, group: &mut Group, first: &Frame) -> Result<(), JournalError> {
        let log = first.header().log;
        match self.head(group, log) {
            Some(head) => head.opened_again(first),
            None => {
                group.heads.insert(log, Head::opened(first)?);
                self.write(group, first);
                Ok(())
            }
        }
    }

    fn claim(&self, group: &mut Group, log: LogId, nonce: [u8; 16]) -> Result<Claim, JournalError> {
        let head = self.head(group, log).ok_or(JournalError::Missing(log))?.claimed(nonce);
        group.heads.insert(log, head);
        Ok(head.claim(log))
    }

    fn append(&self, group: &mut Group, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        let log = claim.log;
        let head = self.head(group, log).ok_or(JournalError::Missing(log))?;
        match head.admit(claim, frame)? {
            Admitted::Repeated => Ok(()),
            Admitted::Earlier(_) if self.store.holds(frame)? => Ok(()),
            Admitted::Earlier(why) => Err(JournalError::Broken { log, why }),
            Admitted::Next(head) => {
                group.heads.insert(log, head);
                self.write(group, frame);
                Ok(())
            }
        }
    }

    fn write(&self, group: &mut Group, frame: &Frame) {
        let key = frame_key(frame.header().log, frame.header().first);
        group.bytes += frame.bytes().len();
        group.batch.insert(&self.store.engine.frames, key, frame.bytes().as_ref());
    }

    /// Makes a group durable, then known, then answered: in this order.
    fn finish(&mut self, mut group: Group) {
        for (log, head) in &group.heads {
            group.batch.insert(&self.store.engine.heads, log_key(*log), encode_head(head));
        }
        let outcome = if group.heads.is_empty() { Ok(()) } else { self.commit(group.batch) };
        match &outcome {
            Ok(()) => self.publish(&group.heads),
            Err(why) => self.refusing = Some(why.clone()),
        }
        for waiting in group.answers {
            waiting.give(&outcome);
        }
    }

    fn commit(&self, batch: OwnedWriteBatch) -> Result<(), JournalError> {
        if let Some(why) = &self.refusing {
            return Err(why.clone());
        }
        self.check_reserve()?;
        if let Err(why) = batch.commit() {
            return Err(self.no_room("writing a commit", &why));
        }
        // fdatasync: the data and what is needed to find it again, the length too. The times of the file can wait.
        match self.store.engine.database.persist(PersistMode::SyncData) {
            Ok(()) => {}
            // The engine's own threads failed while the commit was written, and nothing was forced to disk: whoever waits
            // hears what he would have heard a moment later.
            Err(why @ fjall::Error::Poisoned) => return Err(self.no_room("forcing a commit to disk", &why)),
            Err(why) => abort(&format!("forcing a commit to disk failed: {why}")),
        }
        self.store.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What to answer where there was no room, for the commit or for what the engine's own threads do; anything else ends
    /// the process.
    fn no_room(&self, doing: &str, why: &fjall::Error) -> JournalError {
        if is_full(why) {
            return engine_error(doing, why);
        }
        if matches!(why, fjall::Error::Poisoned) && self.free_bytes().is_some_and(|free| free < NO_ROOM) {
            return JournalError::Full("the engine found no room for its tables".into());
        }
        abort(&format!("{doing} failed: {why}"))
    }

    fn publish(&mut self, heads: &BTreeMap<LogId, Head>) {
        self.store.publish(heads);
        for (log, head) in heads {
            if let Err(why) = self.acknowledged.note(*log, head) {
                tracing::warn!(%why, %log, "how far the log is acknowledged cannot be noted");
            }
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(self.store.directory.root()).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn check_reserve(&self) -> Result<(), JournalError> {
        match self.free_bytes() {
            Some(free) if free < self.reserve_bytes => Err(JournalError::Full(format!(
                "{free} bytes are free, and the last {} are kept for what is written already",
                self.reserve_bytes
            ))),
            _ => Ok(()),
        }
    }
}

/// Less than the engine needs for one table of frames.
const NO_ROOM: u64 = 32 << 20;

/// After a failed write to disk nobody knows what the disk holds: the system may have dropped the pages and called
/// them written. Only a new start that reads what is there can tell; a second try would lie.
pub(super) fn abort(why: &str) -> ! {
    eprintln!(
        "holmes: {why}. The process ends here; nothing acknowledged is lost, a new start reads what the disk holds"
    );
    std::process::abort()
}
