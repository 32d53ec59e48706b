//! From a journal to a machine: the newest snapshot that can be used, then every frame behind it. Also the writer of
//! snapshots, which is such a replay and nothing else.

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::frame::Damage;
use holmes_kernel::ports::{Journal, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId, Machine, ReplayError, Replica};

/// How much is read from the journal at once.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why a machine could not be brought up from its log.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal did not answer.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The log cannot be replayed.
    #[error("the log of {service} cannot be replayed {why}")]
    Replay {
        /// The service's name.
        service: &'static str,
        /// Where and why.
        why: ReplayError,
    },
    /// Either the clock has jumped ahead, or nobody has used the log for long.
    #[error(
        "the clock is more than 30 days past the last frame of {service}: set the clock right, or, if the network \
         really slept that long, start with --accept-clock"
    )]
    ClockAhead {
        /// The service's name.
        service: &'static str,
    },
    /// The log is whole and replays, and what it says cannot be: somebody has made it anew, or the machine is wrong.
    #[error(
        "the state of {service} at {seq} breaks {count} of its invariants, first: {first}. It is not served, and \
         nothing was changed: restore the directory from a copy that `holmes verify` passes; if none does, please \
         report it"
    )]
    Broken {
        /// The service's name.
        service: &'static str,
        /// The last sequence number of the log.
        seq: u64,
        /// How many do not hold.
        count: usize,
        /// The first of them, in words.
        first: String,
    },
    /// Two replays of one log differ: the machine is not a function of its log.
    #[error(
        "two replays of {service} up to {seq} differ: no snapshot was kept; this is a defect, please report it"
    )]
    Differ {
        /// The service's name.
        service: &'static str,
        /// The place.
        seq: u64,
    },
}

/// How far a replay shall go, and whether it may start from a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Up to the frame that holds this sequence number.
    pub upto: u64,
    /// Whether a snapshot may stand for the log's beginning.
    pub snapshots: bool,
}

impl Extent {
    /// The whole log, behind its newest snapshot.
    pub const ALL: Extent = Extent { upto: u64::MAX, snapshots: true };
    /// The whole log from its first frame: what `verify` does.
    pub const FROM_FIRST: Extent = Extent { upto: u64::MAX, snapshots: false };
}

/// Brings a machine up from its log. `each` sees every frame that is applied.
pub async fn recover<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    extent: Extent,
    mut each: impl FnMut(&Frame),
) -> Result<Replica<M>, RecoverError> {
    let replay = |why| RecoverError::Replay { service: M::NAME, why };
    let mut replica =
        if extent.snapshots { from_snapshot::<M, J>(journal, log, extent.upto).await? } else { None };
    loop {
        let after = replica.as_ref().map_or(0, |replica| replica.tail().seq);
        if after >= extent.upto {
            break;
        }
        let page = journal.read(log, after, PAGE_BYTES).await?;
        if page.is_empty() {
            break;
        }
        for frame in page.iter().take_while(|frame| frame.header().first <= extent.upto) {
            match &mut replica {
                None => replica = Some(Replica::open(log, frame).map_err(replay)?),
                Some(replica) => replica.apply(frame).map_err(replay)?,
            }
            each(frame);
        }
        if page.iter().any(|frame| frame.header().first > extent.upto) {
            break;
        }
        tokio::task::yield_now().await; // a long replay shares its thread
    }
    replica.ok_or(RecoverError::Journal(JournalError::Missing(log)))
}

/// Holds a state to every invariant of its machine, also to those that cost as much as it is large: replay holds each step to
/// `check_step` alone, and a snapshot to its digest.
pub(crate) fn sound<M: Machine>(replica: &Replica<M>) -> Result<(), RecoverError> {
    let broken = replica.check();
    let Some(first) = broken.first().map(|broken| broken.0.clone()) else { return Ok(()) };
    Err(RecoverError::Broken { service: M::NAME, seq: replica.tail().seq, count: broken.len(), first })
}

/// A snapshot is a convenience: one that cannot be read is passed over, and the log is replayed instead.
async fn from_snapshot<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    at_most: u64,
) -> Result<Option<Replica<M>>, RecoverError> {
    let found = journal.snapshot(log, Replica::<M>::VERSION, at_most).await?;
    let newest = found.as_ref().map_or(0, |found| found.at.seq);
    for damaged in journal.damaged_snapshots(log, Replica::<M>::VERSION, newest).await? {
        if damaged.seq <= at_most {
            passed_over::<M>(damaged.seq, &format!("{}: {}", damaged.path, damaged.why));
        }
    }
    let Some(snapshot) = found else { return Ok(None) };
    match usable(&snapshot, log) {
        Ok(replica) => Ok(Some(replica)),
        Err(why) => {
            passed_over::<M>(snapshot.at.seq, &why);
            Ok(None)
        }
    }
}

fn usable<M: Machine>(snapshot: &Snapshot, log: LogId) -> Result<Replica<M>, String> {
    if canon::hash(&snapshot.bytes) != snapshot.digest {
        return Err("its bytes do not have its digest".into());
    }
    let replica = Replica::<M>::decode(&snapshot.bytes).map_err(|why| why.to_string())?;
    let is_this = *replica.tail() == snapshot.at && replica.log() == log;
    if is_this { Ok(replica) } else { Err("it is of another place".into()) }
}

/// What a person shall do about a log that is not what was written.
pub const LOG_REMEDY: &str = "Restore the directory from a copy; nothing is skipped";

/// A log that is damaged, by its service, which the journal knows only as a number.
#[derive(Debug, thiserror::Error)]
#[error("the log of {service} is damaged behind {after}: {why}. {}", LOG_REMEDY)]
pub struct DamagedLog {
    /// The service's name.
    pub service: &'static str,
    /// The last sequence number that is whole.
    pub after: u64,
    /// What is wrong with the next frame.
    pub why: Damage,
}

impl DamagedLog {
    /// The stable name of it, for scripts.
    pub const REASON: &str = "LOG_DAMAGED";

    /// Where the first frame begins that is not what was written.
    pub fn seq(&self) -> u64 {
        self.after.saturating_add(1)
    }
}

/// What a damaged snapshot means, and what a person shall do.
pub const SNAPSHOT_REMEDY: &str =
    "nothing is lost: the log gives the same state, and the next snapshot takes its place; look at the disk";

fn passed_over<M: Machine>(seq: u64, why: &str) {
    tracing::warn!(
        service = M::NAME,
        seq,
        why,
        "a snapshot is damaged and is passed over: {SNAPSHOT_REMEDY}"
    );
}

/// Writes a snapshot at a place that is durable. It replays twice, independently of the owner and of each other, and
/// keeps the result only if both agree.
pub async fn write_snapshot<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    upto: u64,
) -> Result<Digest, RecoverError> {
    let extent = Extent { upto, snapshots: true };
    let first = recover::<M, J>(journal, log, extent, |_| {}).await?;
    let (at, bytes) = (*first.tail(), first.encode());
    drop(first); // two states of ten million accounts need not be held at once
    let digest = canon::hash(&bytes);
    if recover::<M, J>(journal, log, extent, |_| {}).await?.digest() != digest {
        return Err(RecoverError::Differ { service: M::NAME, seq: at.seq });
    }
    journal.keep_snapshot(&Snapshot { log, state_version: Replica::<M>::VERSION, at, digest, bytes }).await?;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_a_log_is_told_by_its_service_its_place_and_what_to_do() {
        let damaged = DamagedLog { service: "ledger", after: 197, why: Damage::Chain };
        let told = format!("the log of ledger is damaged behind 197: {}. {LOG_REMEDY}", Damage::Chain);
        assert_eq!((damaged.to_string(), damaged.seq()), (told, 198));
    }
}
