//! Owners: one at a time, each fenced for ever by the next.

use holmes_kernel::frame::Damage;
use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::{Frame, Tail};

use super::{Storage, assert_chain, extend, first, frame, is_broken, is_fenced, log, owned, whole};

/// Above every frame's term; the tail is the last frame's.
pub async fn a_claim_raises_the_term_and_shows_the_tail<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let one = owned(&journal, log(1)).await;
    assert_eq!(one.tail, first(log(1)).tail());
    let frames = extend(&journal, &one, 2).await;
    let two = journal.claim(log(1)).await.expect("claimed");
    let three = journal.claim(log(1)).await.expect("claimed");
    assert!(0 < one.term && one.term < two.term && two.term < three.term);
    assert!(one.nonce != two.nonce && two.nonce != three.nonce);
    assert_eq!(Some(three.tail), frames.last().map(Frame::tail));
}

/// The answer may have been lost: the same bytes again are answered `Ok`, and are there once.
pub async fn the_same_frame_again_is_answered_as_before<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    let next = frame(log(1), claim.term, &claim.tail, 2, 64);
    for _ in 0..3 {
        journal.append(&claim, &next).await.expect("appended");
    }
    let (again, once_more) = (journal.clone(), next.clone());
    let owner = claim.clone();
    let other = tokio::spawn(async move { again.append(&owner, &once_more).await });
    journal.append(&claim, &next).await.expect("appended");
    other.await.expect("ran").expect("appended");
    assert_eq!(whole(&journal, log(1)).await, [first(log(1)), next]);
}

/// Wrong number, wrong chain, wrong log, time going back.
pub async fn a_frame_that_does_not_follow_is_refused_and_changes_nothing<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    let claim = owned(&journal, log(1)).await;
    journal.provision(&first(log(2))).await.expect("provisioned");
    let tail = extend(&journal, &claim, 3).await.last().map(Frame::tail).expect("three frames");
    let before = whole(&journal, log(1)).await;
    let strangers = [
        ("a gap", Tail { seq: tail.seq + 1, ..tail }),
        ("a repetition", Tail { seq: tail.seq - 1, ..tail }),
        ("another history", Tail { chain: [1; 32], ..tail }),
        ("time going back", Tail { ts: holmes_kernel::Time::from_micros(0), ..tail }),
    ];
    for (what, behind) in strangers {
        let stranger = frame(log(1), claim.term, &behind, 1, 64);
        assert!(is_broken(&journal.append(&claim, &stranger).await), "{what}");
    }
    let of_another = frame(log(2), claim.term, &tail, 1, 64);
    assert!(is_broken(&journal.append(&claim, &of_another).await), "another log's frame");
    assert_eq!(whole(&journal, log(1)).await, before);
    assert_eq!(whole(&journal, log(2)).await, [first(log(2))]);
    journal
        .append(&claim, &frame(log(1), claim.term, &tail, 1, 64))
        .await
        .expect("the right one still follows");
}

/// A frame carries its owner's term: a lower one goes back, a higher one would meet a later claim's.
pub async fn a_frame_of_another_term_is_refused_and_changes_nothing<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    owned(&journal, log(1)).await;
    let claim = journal.claim(log(1)).await.expect("claimed");
    for term in [0, claim.term - 1, claim.term + 1] {
        let stranger = frame(log(1), term, &claim.tail, 1, 64);
        assert!(is_broken(&journal.append(&claim, &stranger).await), "term {term}");
    }
    assert_eq!(whole(&journal, log(1)).await, [first(log(1))]);
    extend(&journal, &claim, 1).await;
    let older = Claim { term: claim.term - 1, ..claim.clone() };
    assert!(is_fenced(&journal.confirm(&older).await), "a claim is its term");
    let other = Claim { nonce: [9; 16], ..claim.clone() };
    assert!(is_fenced(&journal.confirm(&other).await), "a claim is its nonce");
    assert_eq!(journal.confirm(&claim).await, Ok(()));
}

/// From the answer to a claim on, its tail is final for all before it.
pub async fn an_owner_is_fenced_by_the_next_claim<S: Storage>() {
    let storage = S::fresh().await;
    let (here, there) = (storage.handle().await, storage.handle().await);
    let old = owned(&here, log(1)).await;
    let tail = extend(&here, &old, 2).await.last().map(Frame::tail).expect("two frames");
    let new = there.claim(log(1)).await.expect("claimed");
    assert_eq!(new.tail, tail);
    let late = frame(log(1), old.term, &tail, 1, 64);
    assert_eq!(here.append(&old, &late).await, Err(JournalError::Fenced { log: log(1), by: new.term }));
    let next = frame(log(1), new.term, &tail, 1, 64);
    there.append(&new, &next).await.expect("appended");
    assert!(is_fenced(&here.append(&old, &late).await), "also behind the new owner's frames");
    assert_eq!(whole(&here, log(1)).await.last(), Some(&next));
}

/// Neither its own last frame, nor a frame of the new owner, nor a read barrier.
pub async fn a_fenced_owner_cannot_repeat_nor_confirm<S: Storage>() {
    let storage = S::fresh().await;
    let (here, there) = (storage.handle().await, storage.handle().await);
    let old = owned(&here, log(1)).await;
    let frames = extend(&here, &old, 1).await;
    assert_eq!(here.confirm(&old).await, Ok(()));
    let new = there.claim(log(1)).await.expect("claimed");
    assert!(is_fenced(&here.confirm(&old).await));
    assert!(is_fenced(&here.append(&old, &frames[0]).await));
    let next = frame(log(1), new.term, &new.tail, 1, 64);
    there.append(&new, &next).await.expect("appended");
    assert!(is_fenced(&here.append(&old, &next).await));
    assert_eq!(there.confirm(&new).await, Ok(()));
}

/// Owners append while others claim, again and again: what is in the log is one chain, every acknowledged frame is in
/// it, and behind the first frame of a term there is none of a lower one.
pub async fn whatever_the_interleaving_no_older_owner_appends_behind_a_newer_claim<S: Storage>() {
    let storage = S::fresh().await;
    storage.handle().await.provision(&first(log(1))).await.expect("provisioned");
    let mut owners = Vec::new();
    for _ in 0..4 {
        let journal = storage.handle().await;
        owners.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for _ in 0..6 {
                let claim = journal.claim(log(1)).await.expect("claimed");
                acknowledged.extend(append_until_fenced(&journal, &claim).await);
            }
            acknowledged
        }));
    }
    let mut acknowledged = Vec::new();
    for owner in owners {
        acknowledged.extend(owner.await.expect("ran"));
    }
    let frames = whole(&storage.handle().await, log(1)).await;
    assert_chain(log(1), &frames);
    for (claimed_at, frame) in acknowledged {
        assert!(
            frames.contains(&frame),
            "frame {} of term {} is gone",
            frame.header().first,
            frame.header().term
        );
        let between = frames
            .iter()
            .filter(|other| other.header().first > claimed_at && other.header().last < frame.header().first);
        let term = frame.header().term;
        assert!(between.clone().all(|other| other.header().term == term), "another's frame behind a claim");
    }
}

/// At most ten frames, each with the end that its claim showed; stops at the first that is fenced.
async fn append_until_fenced<J: Journal>(journal: &J, claim: &Claim) -> Vec<(u64, Frame)> {
    let mut tail = claim.tail;
    let mut acknowledged = Vec::new();
    for _ in 0..10 {
        let next = frame(claim.log, claim.term, &tail, 1, 64);
        match journal.append(claim, &next).await {
            Ok(()) => tail = next.tail(),
            Err(JournalError::Fenced { by, .. }) => {
                assert!(by > claim.term, "fenced by an older owner");
                return acknowledged;
            }
            Err(why) => panic!("neither appended nor fenced: {why}"),
        }
        acknowledged.push((claim.tail.seq, next));
        tokio::task::yield_now().await;
    }
    acknowledged
}

/// Two that claim at once are two claims.
pub async fn claims_at_once_get_different_terms_and_the_highest_holds<S: Storage>() {
    let storage = S::fresh().await;
    storage.handle().await.provision(&first(log(1))).await.expect("provisioned");
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let journal = storage.handle().await;
        waiting.push(tokio::spawn(async move { journal.claim(log(1)).await.expect("claimed") }));
    }
    let mut claims = Vec::new();
    for claim in waiting {
        claims.push(claim.await.expect("ran"));
    }
    claims.sort_by_key(|claim| claim.term);
    assert!(claims.windows(2).all(|pair| pair[0].term < pair[1].term), "a term was given twice");
    let journal = storage.handle().await;
    let (last, others) = claims.split_last().expect("eight claims");
    for other in others {
        assert!(is_fenced(&journal.confirm(other).await));
    }
    assert_eq!(journal.confirm(last).await, Ok(()));
}

/// The term is durable when it is given: no restart gives it again.
pub async fn a_claim_is_remembered_over_a_restart<S: Storage>() {
    let storage = S::fresh().await;
    let journal = storage.handle().await;
    owned(&journal, log(1)).await;
    let old = journal.claim(log(1)).await.expect("claimed");
    drop(journal);
    let storage = storage.reopen().await;
    let journal = storage.handle().await;
    let new = journal.claim(log(1)).await.expect("claimed");
    assert!(new.term > old.term, "{} after {}", new.term, old.term);
    let late = frame(log(1), old.term, &old.tail, 1, 64);
    assert!(is_fenced(&journal.append(&old, &late).await));
    let why = Damage::Sequence { found: 1, expected: 2 };
    let repeated = frame(log(1), new.term, &Tail::default(), 1, 64);
    assert_eq!(journal.append(&new, &repeated).await, Err(JournalError::Broken { log: log(1), why }));
}
