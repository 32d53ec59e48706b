//! What services say of each other's logs: every log remembers up to where it has heard each other one, with the chain
//! there. A log that was cut, or made anew with other contents, no longer has that chain at that place.

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{LogId, Position};
use holmes_store::Journal;

/// Bytes of a page that holds the frame at a place.
const PAGE_BYTES: usize = 1 << 20;

/// What helps: the two logs are of different moments, or one was made anew.
const REMEDY: &str = "Restore the directory from a copy, all logs of one moment";

/// What is wrong with a log that another one has heard up to `at`, and what helps; `None` where it has that chain there.
pub(super) async fn disagreement(journal: &Journal, cited: LogId, at: &Position) -> Option<String> {
    Some(format!("{}. {REMEDY}", differs(journal, cited, at).await?))
}

async fn differs(journal: &Journal, cited: LogId, at: &Position) -> Option<String> {
    if at.seq == 0 {
        return None; // nothing was heard of it yet
    }
    let page = match journal.read(cited, at.seq - 1, PAGE_BYTES).await {
        Ok(page) => page,
        Err(why) => return Some(format!("its place {} was heard, and cannot be read: {why}", at.seq)),
    };
    let frame = page.into_iter().find(|frame| frame.header().last >= at.seq);
    match frame {
        None => Some(format!("its place {} was heard, and it ends before", at.seq)),
        Some(frame) if *frame.chain() != at.chain => {
            Some(format!("another history was heard than what stands there at {}", at.seq))
        }
        Some(_) => None,
    }
}
