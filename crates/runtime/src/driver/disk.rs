//! What a driver wants of its journal beside single calls.

use std::time::{Duration, Instant};

use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::{Code, Entry, Frame, LogId, Refusal};

/// Shows how far a service's log is.
pub(super) fn show_head(service: &'static str, seq: u64) {
    metrics::gauge!("holmes_log_head", "service" => service).set(seq as f64);
}

/// Sends the byte-identical frame until the answer is definite: never another frame in its place.
pub(super) async fn append_until_known<J: Journal>(
    service: &'static str,
    journal: J,
    claim: Claim,
    frame: Frame,
) -> Result<(), JournalError> {
    let (began, mut attempt) = (Instant::now(), 0);
    loop {
        match journal.append(&claim, &frame).await {
            Err(JournalError::Unknown(why)) => {
                tracing::warn!(log = %claim.log, attempt, why, "outcome of an append not known: sending it again");
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            definite => {
                metrics::histogram!("holmes_append_seconds", "service" => service).record(began.elapsed());
                if definite.is_ok() {
                    show_head(service, frame.header().last);
                }
                return definite;
            }
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
