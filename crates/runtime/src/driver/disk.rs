//! What a driver wants of its journal beside single calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::{Code, Entry, Frame, LogId, Machine, Refusal};

use super::meters::Meters;

/// Sends the byte-identical frame until the answer is definite: never another frame in its place.
pub(super) async fn append_until_known<J: Journal>(
    meters: Arc<Meters>,
    journal: J,
    claim: Claim,
    frame: Frame,
) -> Result<(), JournalError> {
    let (began, mut attempt) = (Instant::now(), 0);
    meters.handed(&frame);
    loop {
        match journal.append(&claim, &frame).await {
            Err(JournalError::Unknown(why)) => {
                tracing::warn!(log = %claim.log, attempt, why, "outcome of an append not known: sending it again");
                meters.repeated.increment(1);
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            definite => {
                meters.appended(&frame, began, definite.is_ok());
                return definite;
            }
        }
    }
}

/// Writes a snapshot at a place that is durable. The service goes on without one.
pub(super) async fn keep_snapshot<M: Machine, J: Journal>(
    meters: &Meters,
    journal: &J,
    log: LogId,
    upto: u64,
) {
    match crate::recover::write_snapshot::<M, J>(journal, log, upto).await {
        Ok(_) => {
            meters.kept(upto);
            tracing::info!(service = M::NAME, seq = upto, "snapshot kept");
        }
        Err(why) => {
            meters.snapshot_failed.increment(1);
            tracing::error!(service = M::NAME, %why, "no snapshot was kept");
        }
    }
}

/// The entry that begins at a sequence number.
pub(super) async fn entry_at<J: Journal>(journal: &J, log: LogId, seq: u64) -> Result<Entry, Refusal> {
    let failed = |why: String| Refusal::new(Code::Unavailable, "RECALL_FAILED", why).retry_after(200);
    let page = journal.read(log, seq - 1, 1).await.map_err(|why| failed(why.to_string()))?;
    let frame = page.first().ok_or_else(|| failed(format!("no frame of {log} holds {seq}")))?;
    let entries = frame.entries().map_err(|why| failed(why.to_string()))?;
    let found = entries.into_iter().find(|(first, _)| *first == seq);
    found.map(|(_, entry)| entry).ok_or_else(|| failed(format!("no entry of {log} begins at {seq}")))
}

/// The pause before the same frame is sent again, when its outcome is not known.
fn pause(attempt: u32) -> Duration {
    Duration::from_millis(10u64 << attempt.min(7))
}
