//! Receipts that no gateway has accepted yet: one file each, so that none is lost with the process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use holmes_kernel::Id;
use holmes_proto::gateway::v1::{Receipt, ReceiptAccepted};
use prost::Message as _;

use crate::pinned::{hex, replace};

/// Most receipts that wait: a node that has so many takes no more calls.
pub(crate) const MOST_WAITING: usize = 65_536;

/// Ending of a receipt's file.
const ENDING: &str = "receipt";

/// A call, and the lease under which this node worked on it: a call can come back to a node under another lease.
type Key = (Vec<u8>, Vec<u8>);

/// The receipts that wait, oldest call first.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    dir: PathBuf,
    waiting: Arc<Mutex<BTreeMap<Key, Receipt>>>,
}

impl Receipts {
    /// Reads what waits. A file that is no receipt is reported and left alone.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(crate) fn open(dir: &Path) -> Result<Receipts> {
        let dir = dir.join("receipts");
        let whole = || format!("{} cannot be used", dir.display());
        fs::create_dir_all(&dir).with_context(whole)?;
        let mut waiting = BTreeMap::new();
        for entry in fs::read_dir(&dir).with_context(whole)? {
            let path = entry.with_context(whole)?.path();
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue; // one that was being written when the process ended
            }
            let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            match Receipt::decode(bytes.as_slice()).ok().and_then(|receipt| Some((key(&receipt)?, receipt))) {
                Some((key, receipt)) => drop(waiting.insert(key, receipt)),
                None => tracing::error!(file = %path.display(), "this is no receipt; it is left where it is"),
            }
        }
        Ok(Receipts { dir, waiting: Arc::new(Mutex::new(waiting)) })
    }

    /// All that wait, oldest call first.
    pub(crate) fn waiting(&self) -> Vec<Receipt> {
        self.lock().values().cloned().collect()
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Keeps a receipt; it is on disk when this returns.
    ///
    /// # Errors
    /// It cannot be written. It is then kept in memory all the same.
    pub(crate) async fn keep(&self, receipt: Receipt) -> io::Result<()> {
        let Some(key) = key(&receipt) else { return Ok(()) };
        let (file, bytes) = (self.file(&key), receipt.encode_to_vec());
        self.lock().insert(key, receipt);
        tokio::task::spawn_blocking(move || replace(&file, &bytes)).await.map_err(io::Error::other)?
    }

    /// What a gateway says of receipts: they need not be sent again.
    pub(crate) fn accepted(&self, accepted: &ReceiptAccepted) {
        for bytes in accepted.calls.chunks_exact(16) {
            if let Some(call) = Id::from_slice(bytes).filter(|_| !accepted.refused.is_empty()) {
                let reason = &accepted.refused;
                tracing::warn!(%call, reason, "a receipt will never be paid: {}", why_refused(reason));
            }
            self.forget(bytes);
        }
    }

    /// Forgets the receipts of a call: they are accepted, or refused for ever.
    pub(crate) fn forget(&self, call: &[u8]) {
        let keys: Vec<Key> = {
            let waiting = self.lock();
            let of_call = waiting.range((call.to_vec(), Vec::new())..);
            of_call.map(|(key, _)| key.clone()).take_while(|key| key.0 == call).collect()
        };
        for key in keys {
            // one that comes back after a crash is sent again, and accepted again
            if let Err(why) = fs::remove_file(self.file(&key)) {
                tracing::warn!(%why, "an accepted receipt could not be removed");
            }
            self.lock().remove(&key);
        }
    }

    fn file(&self, (call, lease): &Key) -> PathBuf {
        self.dir.join(format!("{}-{}.{ENDING}", hex(call), hex(lease)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Receipt>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a gateway's reason means for who operates the node.
fn why_refused(reason: &str) -> &'static str {
    match reason {
        "NOT_DELIVERED_HERE" => {
            "nobody knows any more what was recorded of it: its gateway crashed at once, or the receipt comes very late"
        }
        "ALLOWANCE_EXCEEDED" => "it counts more than the call's lease allows",
        "SESSION_BUDGET_EXCEEDED" => "the renter's session had too little left when it came",
        "LEASE_FULL" => "its lease has as many calls as one may have",
        "SESSION_CLOSED" | "SESSION_NOT_FOUND" | "LEASE_NOT_FOUND" => {
            "it came too late: its session or lease was over for longer than lines are taken"
        }
        "ABOVE_DELIVERED"
        | "CALL_OTHER"
        | "COMMITMENT_WRONG"
        | "FINISH_WRONG"
        | "INPUT_ABOVE_BOUND"
        | "SIGNATURE_MALFORMED"
        | "SIGNATURE_WRONG" => {
            "the gateway holds what this node has signed for untrue; the last true checkpoint counts"
        }
        _ => "the network does not take it",
    }
}

fn key(receipt: &Receipt) -> Option<Key> {
    Some((receipt.line.as_ref()?.call.to_vec(), receipt.lease.to_vec()))
}

#[cfg(test)]
mod tests {
    use holmes_proto::scheduling::v1::CallLine;

    use super::*;

    fn receipt(call: u8, lease: u8) -> Receipt {
        let line = CallLine { call: vec![call; 16].into(), output_tokens: 3, ..CallLine::default() };
        Receipt { lease: vec![lease; 20].into(), line: Some(line) }
    }

    #[tokio::test]
    async fn receipts_wait_over_a_restart_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let receipts = Receipts::open(dir.path()).unwrap();
        for (call, lease) in [(2, 1), (1, 1), (1, 2), (3, 1)] {
            receipts.keep(receipt(call, lease)).await.unwrap();
        }
        let again = Receipts::open(dir.path()).unwrap();
        assert_eq!(again.waiting(), [receipt(1, 1), receipt(1, 2), receipt(2, 1), receipt(3, 1)]);
        again.forget(&[1; 16]);
        again.forget(&[9; 16]);
        assert_eq!(Receipts::open(dir.path()).unwrap().waiting(), [receipt(2, 1), receipt(3, 1)]);
        assert_eq!(again.count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_was_not_finished_and_one_that_is_damaged_stop_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Receipts::open(dir.path()).unwrap().keep(receipt(1, 1)).await.unwrap();
        fs::write(dir.path().join("receipts/half.new"), b"x").unwrap();
        fs::write(dir.path().join("receipts/bad.receipt"), [0xff; 9]).unwrap();
        assert_eq!(Receipts::open(dir.path()).unwrap().waiting(), [receipt(1, 1)]);
    }
}
