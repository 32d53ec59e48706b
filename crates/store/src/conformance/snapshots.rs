//! Snapshots: the newest that fits, never another's.

use holmes_kernel::canon;
use holmes_kernel::ports::{Journal, Snapshot};
use holmes_kernel::{LogId, Tail, Time};

use super::{Storage, first, log};

fn snapshot(log: LogId, state_version: u32, seq: u64) -> Snapshot {
    let bytes = format!("{log} as version {state_version} at {seq}").into_bytes();
    let at = Tail { seq, chain: [seq as u8; 32], ts: Time::from_micros(seq), term: 1 };
    Snapshot { log, state_version, at, digest: canon::hash(&bytes), bytes }
}

async fn journal<S: Storage>(storage: &S) -> S::Journal {
    let journal = storage.handle().await;
    for svc in 1..=2 {
        journal.provision(&first(log(svc))).await.expect("provisioned");
    }
    journal
}

async fn keep<J: Journal>(journal: &J, snapshot: &Snapshot) {
    journal.keep_snapshot(snapshot).await.expect("kept");
}

async fn found<J: Journal>(journal: &J, log: LogId, state_version: u32, at_most: u64) -> Option<u64> {
    let found = journal.snapshot(log, state_version, at_most).await.expect("looked for")?;
    assert_eq!(found, snapshot(log, state_version, found.at.seq), "it comes back as it was");
    Some(found.at.seq)
}

/// Also when they were kept in another order, or twice.
pub async fn the_newest_snapshot_at_or_before_a_place_is_found<S: Storage>() {
    let storage = S::fresh().await;
    let journal = journal(&storage).await;
    assert_eq!(found(&journal, log(1), 1, u64::MAX).await, None);
    for seq in [20, 10, 20] {
        keep(&journal, &snapshot(log(1), 1, seq)).await;
    }
    assert_eq!(found(&journal, log(1), 1, 9).await, None);
    assert_eq!(found(&journal, log(1), 1, 10).await, Some(10));
    assert_eq!(found(&journal, log(1), 1, 19).await, Some(10));
    assert_eq!(found(&journal, log(1), 1, 20).await, Some(20));
    assert_eq!(found(&journal, log(1), 1, u64::MAX).await, Some(20));
}

/// Versions and logs are apart, and do not push each other out.
pub async fn a_snapshot_of_another_state_version_or_log_is_never_given<S: Storage>() {
    let storage = S::fresh().await;
    let journal = journal(&storage).await;
    keep(&journal, &snapshot(log(1), 1, 5)).await;
    for seq in [10, 20, 30, 40, 50] {
        keep(&journal, &snapshot(log(1), 2, seq)).await;
        keep(&journal, &snapshot(log(2), 1, seq + 1)).await;
    }
    assert_eq!(found(&journal, log(1), 1, u64::MAX).await, Some(5));
    assert_eq!(found(&journal, log(1), 2, u64::MAX).await, Some(50));
    assert_eq!(found(&journal, log(2), 1, u64::MAX).await, Some(51));
    assert_eq!(found(&journal, log(2), 2, u64::MAX).await, None);
}

/// If the newest turns out to be of no use, there is one before it.
pub async fn the_snapshot_before_the_newest_stays<S: Storage>() {
    let storage = S::fresh().await;
    let journal = journal(&storage).await;
    for seq in (10..=100).step_by(10) {
        keep(&journal, &snapshot(log(1), 1, seq)).await;
        if seq > 10 {
            assert_eq!(found(&journal, log(1), 1, seq - 1).await, Some(seq - 10));
        }
    }
    keep(&journal, &snapshot(log(1), 1, 15)).await;
    assert_eq!(found(&journal, log(1), 1, 15).await, Some(15), "one that was just kept is there");
    assert_eq!(found(&journal, log(1), 1, u64::MAX).await, Some(100));
}

/// They are what makes a restart fast.
pub async fn snapshots_outlive_a_restart<S: Storage>() {
    let storage = S::fresh().await;
    let handle = journal(&storage).await;
    keep(&handle, &snapshot(log(1), 1, 10)).await;
    keep(&handle, &snapshot(log(1), 1, 20)).await;
    drop(handle);
    let storage = storage.reopen().await;
    let handle = storage.handle().await;
    assert_eq!(found(&handle, log(1), 1, u64::MAX).await, Some(20));
    assert_eq!(found(&handle, log(1), 1, 19).await, Some(10));
}
