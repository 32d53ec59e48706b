//! The journals, and the one enum that picks among them, so that nothing above is generic over engines.

pub mod embedded;
mod head;
pub mod memory;
#[cfg(feature = "scylla")]
pub mod scylla;

#[cfg(feature = "scylla")]
use std::time::Duration;

#[cfg(feature = "scylla")]
use holmes_kernel::Id;
use holmes_kernel::ports::{self, Claim, DamagedSnapshot, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId};

/// A journal on whichever engine was configured.
#[derive(Clone, Debug)]
pub enum Journal {
    /// Gone with the process.
    Memory(memory::Journal),
    /// A directory of this machine.
    Embedded(embedded::Journal),
    /// Tables of a ScyllaDB or Cassandra.
    #[cfg(feature = "scylla")]
    Scylla(scylla::Journal),
}

impl Journal {
    /// Waits until everything is on disk and the engine has let go of its files. Dropping the last handle does the
    /// same, but blocks the thread that drops it.
    pub async fn close(self) {
        match self {
            Journal::Memory(_) => {}
            Journal::Embedded(journal) => journal.close().await,
            #[cfg(feature = "scylla")]
            Journal::Scylla(_) => {}
        }
    }
}

/// A process that runs a service, as it says itself: who owns the log is decided by claiming it, never by this.
#[cfg(feature = "scylla")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub process: Id,
    /// Of its claim, while it owns the log; otherwise 0.
    pub term: u64,
}

/// Who runs a service, where several processes can reach its log. A log of memory or of a directory is its one process's.
#[cfg(feature = "scylla")]
impl Journal {
    /// Says how a process stands; it counts for so long.
    ///
    /// # Errors
    /// When the servers do not take it.
    pub async fn stand(&self, log: LogId, standing: &Standing, lasts: Duration) -> Result<(), JournalError> {
        match self {
            Journal::Memory(_) | Journal::Embedded(_) => Ok(()),
            Journal::Scylla(journal) => journal.stand(log, standing, lasts).await,
        }
    }

    /// Takes back what a process has said.
    ///
    /// # Errors
    /// When the servers do not take it.
    pub async fn leave(&self, log: LogId, process: Id) -> Result<(), JournalError> {
        match self {
            Journal::Memory(_) | Journal::Embedded(_) => Ok(()),
            Journal::Scylla(journal) => journal.leave(log, process).await,
        }
    }

    /// What processes say of themselves, in no order.
    ///
    /// # Errors
    /// When the servers do not tell.
    pub async fn standing(&self, log: LogId) -> Result<Vec<Standing>, JournalError> {
        match self {
            Journal::Memory(_) | Journal::Embedded(_) => Ok(Vec::new()),
            Journal::Scylla(journal) => journal.standing(log).await,
        }
    }
}

impl From<memory::Journal> for Journal {
    fn from(journal: memory::Journal) -> Journal {
        Journal::Memory(journal)
    }
}

impl From<embedded::Journal> for Journal {
    fn from(journal: embedded::Journal) -> Journal {
        Journal::Embedded(journal)
    }
}

#[cfg(feature = "scylla")]
impl From<scylla::Journal> for Journal {
    fn from(journal: scylla::Journal) -> Journal {
        Journal::Scylla(journal)
    }
}

/// The same call on whichever engine it is.
macro_rules! on {
    ($self:ident, $journal:ident => $call:expr) => {
        match $self {
            Journal::Memory($journal) => $call,
            Journal::Embedded($journal) => $call,
            #[cfg(feature = "scylla")]
            Journal::Scylla($journal) => $call,
        }
    };
}

impl ports::Journal for Journal {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        on!(self, journal => journal.provision(first).await)
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        on!(self, journal => journal.claim(log).await)
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        on!(self, journal => journal.append(claim, frame).await)
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        on!(self, journal => journal.confirm(claim).await)
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        on!(self, journal => journal.read(log, after, max_bytes).await)
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        on!(self, journal => journal.logs().await)
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        on!(self, journal => journal.keep_snapshot(snapshot).await)
    }

    async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        on!(self, journal => journal.snapshot(log, state_version, at_most).await)
    }

    async fn damaged_snapshots(
        &self,
        log: LogId,
        state_version: u32,
        above: u64,
    ) -> Result<Vec<DamagedSnapshot>, JournalError> {
        on!(self, journal => journal.damaged_snapshots(log, state_version, above).await)
    }
}
