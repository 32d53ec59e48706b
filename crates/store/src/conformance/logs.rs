//! Logs: opened once, read as written, apart from each other, there after a restart.

use holmes_kernel::frame::FRAME_BYTES;
use holmes_kernel::ports::{Journal, JournalError};
use holmes_kernel::{Frame, Tail};

use super::{Storage, assert_chain, extend, first, frame, is_broken, log, owned, whole};

/// The same first frame again is no error and no change.
pub async fn provisioning_twice_is_once<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    journal.provision(&first(log(1))).await.expect("provisioned");
    journal.provision(&first(log(1))).await.expect("the same again");
    assert_eq!(whole(&journal, log(1)).await, [first(log(1))]);
    let claim = journal.claim(log(1)).await.expect("claimed");
    extend(&journal, &claim, 3).await;
    journal.provision(&first(log(1))).await.expect("the same again, later");
    assert_eq!(whole(&journal, log(1)).await.len(), 4);
}

/// Another first frame is [`JournalError::Exists`].
pub async fn provisioning_with_another_first_frame_is_refused_and_changes_nothing<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    journal.provision(&first(log(1))).await.expect("provisioned");
    let other = frame(log(1), 0, &Tail::default(), 1, 33);
    assert_eq!(journal.provision(&other).await, Err(JournalError::Exists(log(1))));
    assert_eq!(whole(&journal, log(1)).await, [first(log(1))]);
}

/// A log begins with sequence number 1 and a chain of zeros.
pub async fn a_first_frame_that_is_not_one_is_refused<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let second = frame(log(1), 0, &first(log(1)).tail(), 1, 32);
    assert!(is_broken(&journal.provision(&second).await));
    let chained = frame(log(1), 0, &Tail { chain: [7; 32], ..Tail::default() }, 1, 32);
    assert!(is_broken(&journal.provision(&chained).await));
    assert_eq!(journal.logs().await, Ok(vec![]));
}

/// No call makes a log except provisioning.
pub async fn a_log_that_was_never_provisioned_is_missing_and_stays_so<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    let missing = JournalError::Missing(log(2));
    assert_eq!(journal.claim(log(2)).await, Err(missing.clone()));
    assert_eq!(journal.read(log(2), 0, 1_000).await, Err(missing.clone()));
    assert_eq!(journal.snapshot(log(2), 1, u64::MAX).await, Err(missing.clone()));
    let forged = holmes_kernel::ports::Claim { log: log(2), ..claim };
    let next = frame(log(2), forged.term, &forged.tail, 1, 32);
    assert_eq!(journal.append(&forged, &next).await, Err(missing.clone()));
    assert_eq!(journal.confirm(&forged).await, Err(missing));
    assert_eq!(journal.logs().await, Ok(vec![log(1)]));
}

/// From the first frame, and from any frame's end.
pub async fn what_was_appended_is_read_back_byte_for_byte<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    let mut written = vec![first(log(1))];
    written.extend(extend(&journal, &claim, 20).await);
    for (count, frame) in (1..).zip(&written) {
        let after = journal.read(log(1), frame.header().last, usize::MAX).await.expect("readable");
        assert_eq!(after, written[count..], "behind frame {count}");
    }
    assert_eq!(journal.read(log(1), 0, usize::MAX).await, Ok(written));
    assert_eq!(
        journal.read(log(1), u64::MAX, usize::MAX).await,
        Ok(vec![]),
        "behind the end there is nothing"
    );
}

/// About `max_bytes`, at least one frame.
pub async fn a_page_ends_near_its_limit_and_holds_at_least_one_frame<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    let written = extend(&journal, &claim, 30).await;
    assert_eq!(journal.read(log(1), 0, 0).await.expect("readable").len(), 1);
    let largest = written.iter().map(|frame| frame.bytes().len()).max().unwrap_or(0);
    let page = journal.read(log(1), 0, 1_000).await.expect("readable");
    let bytes: usize = page.iter().map(|frame| frame.bytes().len()).sum();
    assert!(bytes <= 1_000 + largest, "{bytes} bytes are not about 1,000");
    assert_eq!(whole(&journal, log(1)).await.len(), 31);
}

/// What a frame may hold a journal can keep.
pub async fn a_frame_of_the_largest_size_is_kept<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    let large = frame(log(1), claim.term, &claim.tail, 1, FRAME_BYTES - 200);
    journal.append(&claim, &large).await.expect("appended");
    let many = frame(log(1), claim.term, &large.tail(), 256, 700);
    journal.append(&claim, &many).await.expect("appended");
    assert_eq!(whole(&journal, log(1)).await, [first(log(1)), large, many]);
}

/// Frames of one log are never read in another, however they were interleaved.
pub async fn logs_do_not_mix<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let mut owners = Vec::new();
    for svc in 1..=4 {
        let claim = owned(&journal, log(svc)).await;
        owners.push((claim.tail, claim, vec![first(log(svc))]));
    }
    for round in 0..12 {
        for (tail, claim, written) in &mut owners {
            let next = frame(claim.log, claim.term, tail, 1 + round % 2, 100);
            journal.append(claim, &next).await.expect("appended");
            *tail = next.tail();
            written.push(next);
        }
    }
    for (_, claim, written) in owners {
        assert_eq!(whole(&journal, claim.log).await, written);
    }
    let mut logs = journal.logs().await.expect("listed");
    logs.sort();
    assert_eq!(logs, [log(1), log(2), log(3), log(4)]);
}

/// Owners that write at once do not wait for each other for ever, and nothing of theirs is lost.
pub async fn appends_to_many_logs_at_once_are_all_kept<S: Storage>() {
    let storage = S::fresh().await;
    let mut owners = Vec::new();
    for svc in 1..=8 {
        let journal = storage.handle().await;
        owners.push(tokio::spawn(async move {
            let claim = owned(&journal, log(svc)).await;
            extend(&journal, &claim, 25).await.last().map(Frame::tail)
        }));
    }
    let journal = storage.handle().await;
    for (svc, owner) in (1..).zip(owners) {
        let end = owner.await.expect("the owner wrote");
        assert_eq!(Some(assert_chain(log(svc), &whole(&journal, log(svc)).await)), end);
    }
}

/// Frames, and what may follow them.
pub async fn a_restart_keeps_everything<S: Storage>() {
    let mut storage = S::fresh().await;
    let mut written = vec![first(log(1))];
    for round in 0..4 {
        let journal = storage.handle().await;
        let claim = if round == 0 {
            owned(&journal, log(1)).await
        } else {
            journal.claim(log(1)).await.expect("claimed")
        };
        assert_eq!(whole(&journal, log(1)).await, written, "after restart {round}");
        assert_eq!(Some(claim.tail), written.last().map(Frame::tail));
        written.extend(extend(&journal, &claim, 10).await);
        drop(journal);
        storage = storage.reopen().await;
    }
    let journal = storage.handle().await;
    assert_eq!(whole(&journal, log(1)).await, written);
}
