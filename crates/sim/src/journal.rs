//! The journal in memory, with what can befall one: outcomes that are not known, appends that apply late, a disk that is
//! full or fails, and logs that somebody has changed. The logs themselves, and who may append to them, are the product's own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holmes_kernel::ports::{self, Claim, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId};
use holmes_store::journal::memory;
use serde::{Deserialize, Serialize};

/// What befalls an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Append {
    /// Its outcome is not known; it did not apply.
    LostBefore,
    /// Its outcome is not known; it did apply.
    LostAfter,
    /// Its outcome is not known; it applies later, if it still may.
    Late,
    /// The disk fails before it applies.
    FailsBefore,
    /// The disk fails after it has applied.
    FailsAfter,
    /// The disk is full.
    Full,
}

/// A journal whose clones are one storage with one fate.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    kept: memory::Journal,
    fate: Arc<Mutex<Fate>>,
}

#[derive(Debug, Default)]
struct Fate {
    appends: BTreeMap<LogId, VecDeque<Append>>,
    reads: BTreeMap<LogId, u32>,
    late: Vec<(Claim, Frame)>,
    /// Snapshots whose bytes come back changed.
    rotten: BTreeMap<LogId, u32>,
    /// Logs as somebody has changed them: what readers are shown instead.
    changed: BTreeMap<LogId, Vec<Frame>>,
}

impl Journal {
    /// The journal without its fate: what is really there.
    pub fn kept(&self) -> &memory::Journal {
        &self.kept
    }

    /// The next appends to a log end like this.
    pub fn will(&self, log: LogId, append: Append, times: u32) {
        self.lock().appends.entry(log).or_default().extend((0..times).map(|_| append));
    }

    /// A log cannot be read, so many times.
    pub fn will_not_read(&self, log: LogId, times: u32) {
        *self.lock().reads.entry(log).or_default() += times;
    }

    /// Snapshots of a log come back changed, so many times.
    pub fn will_rot(&self, log: LogId, times: u32) {
        *self.lock().rotten.entry(log).or_default() += times;
    }

    /// Shows a log as somebody has changed it, or as it is again.
    pub fn show(&self, log: LogId, changed: Option<Vec<Frame>>) {
        match changed {
            Some(frames) => self.lock().changed.insert(log, frames),
            None => self.lock().changed.remove(&log),
        };
    }

    /// Appends that were under way arrive; how many applied.
    pub fn arrive(&self) -> usize {
        let late = std::mem::take(&mut self.lock().late);
        let applies = |(claim, frame): &(Claim, Frame)| {
            holmes_testing::now(ports::Journal::append(&self.kept, claim, frame)).is_ok()
        };
        late.iter().filter(|append| applies(append)).count()
    }

    /// Nothing befalls it any more.
    pub fn mend(&self) {
        *self.lock() = Fate::default();
    }

    fn lock(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown() -> JournalError {
    JournalError::Unknown("the answer was lost".into())
}

fn fails() -> JournalError {
    JournalError::Io("the disk does not answer".into())
}

/// Whether a counter still had one to take.
fn take(counters: &mut BTreeMap<LogId, u32>, log: LogId) -> bool {
    match counters.get_mut(&log) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

impl ports::Journal for Journal {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        self.kept.provision(first).await
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        let claim = self.kept.claim(log).await?;
        let fate = self.lock();
        let shown = fate.changed.get(&log).and_then(|frames| frames.last());
        Ok(shown.map_or(claim.clone(), |last| Claim { tail: last.tail(), ..claim }))
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        let fate = self.lock().appends.get_mut(&claim.log).and_then(VecDeque::pop_front);
        match fate {
            None => self.kept.append(claim, frame).await,
            Some(Append::LostBefore) => Err(unknown()),
            Some(Append::LostAfter) => self.kept.append(claim, frame).await.and(Err(unknown())),
            Some(Append::Late) => {
                self.lock().late.push((claim.clone(), frame.clone()));
                Err(unknown())
            }
            Some(Append::FailsBefore) => Err(fails()),
            Some(Append::FailsAfter) => self.kept.append(claim, frame).await.and(Err(fails())),
            Some(Append::Full) => Err(JournalError::Full("no byte is left".into())),
        }
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        self.kept.confirm(claim).await
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        if take(&mut self.lock().reads, log) {
            return Err(fails());
        }
        if let Some(frames) = self.lock().changed.get(&log) {
            return Ok(frames.iter().filter(|frame| frame.header().last > after).cloned().collect());
        }
        self.kept.read(log, after, max_bytes).await
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        self.kept.logs().await
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.kept.keep_snapshot(snapshot).await
    }

    async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        let mut found = self.kept.snapshot(log, state_version, at_most).await?;
        if let Some(snapshot) = &mut found
            && take(&mut self.lock().rotten, log)
        {
            let middle = snapshot.bytes.len() / 2;
            snapshot.bytes[middle] ^= 1;
        }
        Ok(found)
    }
}
