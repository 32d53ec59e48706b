//! The journal in memory: for tests, `Rig` and scenarios. Every clone is the same storage, so dropping one and going
//! on with another is its restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holmes_kernel::ports::{self, Claim, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId};

use super::head::{Admitted, Head, nonce};

/// Snapshots of one state version that are kept: the newest, and two to fall back on.
const KEPT_SNAPSHOTS: usize = 3;

/// Logs in memory.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    logs: Arc<Mutex<BTreeMap<LogId, Log>>>,
}

#[derive(Debug)]
struct Log {
    head: Head,
    frames: Vec<Frame>,
    snapshots: BTreeMap<(u32, u64), Snapshot>,
}

impl Journal {
    /// A journal without logs.
    pub fn new() -> Journal {
        Journal::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LogId, Log>> {
        // Every change below is whole before anything can panic.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        log: LogId,
        then: impl FnOnce(&mut Log) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        then(self.lock().get_mut(&log).ok_or(JournalError::Missing(log))?)
    }
}

impl Log {
    fn append(&mut self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        match self.head.admit(claim, frame)? {
            Admitted::Repeated => Ok(()),
            Admitted::Earlier(_) if self.frames.contains(frame) => Ok(()),
            Admitted::Earlier(why) => Err(JournalError::Broken { log: claim.log, why }),
            Admitted::Next(head) => {
                self.frames.push(frame.clone());
                self.head = head;
                Ok(())
            }
        }
    }

    fn read(&self, after: u64, max_bytes: usize) -> Vec<Frame> {
        let begin = self.frames.partition_point(|frame| frame.header().last <= after);
        let mut gathered = 0;
        let fits = |frame: &&Frame| {
            let goes_on = gathered == 0 || gathered < max_bytes;
            gathered += frame.bytes().len();
            goes_on
        };
        self.frames[begin..].iter().take_while(fits).cloned().collect()
    }
}

impl ports::Journal for Journal {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        let head = Head::opened(first)?;
        let mut logs = self.lock();
        match logs.get(&first.header().log) {
            Some(log) => log.head.opened_again(first),
            None => {
                let log = Log { head, frames: vec![first.clone()], snapshots: BTreeMap::new() };
                logs.insert(first.header().log, log);
                Ok(())
            }
        }
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        let nonce = nonce()?;
        self.with(log, |kept| {
            kept.head = kept.head.claimed(nonce);
            Ok(kept.head.claim(log))
        })
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        self.with(claim.log, |log| log.append(claim, frame))
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        self.with(claim.log, |log| log.head.confirm(claim))
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        self.with(log, |log| Ok(log.read(after, max_bytes)))
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        Ok(self.lock().keys().copied().collect())
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.with(snapshot.log, |log| {
            let version = snapshot.state_version;
            log.snapshots.insert((version, snapshot.at.seq), snapshot.clone());
            let seqs: Vec<u64> =
                log.snapshots.range((version, 0)..=(version, u64::MAX)).map(|(key, _)| key.1).rev().collect();
            for seq in superfluous(&seqs, snapshot.at.seq) {
                log.snapshots.remove(&(version, *seq));
            }
            Ok(())
        })
    }

    async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.with(log, |log| {
            let newest = log.snapshots.range((state_version, 0)..=(state_version, at_most)).next_back();
            Ok(newest.map(|(_, snapshot)| snapshot.clone()))
        })
    }
}

/// Which of the snapshots at `newest_first` may go once the one at `kept` is there: never it, nor the one before it.
pub(super) fn superfluous(newest_first: &[u64], kept: u64) -> &[u64] {
    let place = newest_first.iter().position(|seq| *seq == kept).unwrap_or(0);
    newest_first.get(KEPT_SNAPSHOTS.max(place + 2)..).unwrap_or(&[])
}
