//! The directory: one process, one layout, whole files.

use std::fs;
use std::path::Path;

use holmes_kernel::canon;
use holmes_kernel::ports::{Journal as _, JournalError, Snapshot};
use holmes_kernel::{Frame, Tail};
use holmes_store::conformance::{first, frame, log};
use holmes_store::journal::embedded::{Journal, Options};

fn open(dir: &Path) -> Result<Journal, JournalError> {
    Journal::open(dir, Options::default())
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_directory_and_gets_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    let JournalError::Locked { path, holder } = &refused else { panic!("{refused}") };
    assert_eq!(path, &dir.path().display().to_string());
    assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
    let other_handle = journal.clone();
    journal.close().await;
    assert!(matches!(open(dir.path()), Err(JournalError::Locked { .. })), "a handle is still there");
    drop(other_handle);
    open(dir.path()).expect("the last handle is gone");
}

#[tokio::test]
async fn a_directory_of_another_layout_is_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().close().await;
    fs::write(dir.path().join("layout"), "holmes journal, layout 2\n").unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(
        refused.contains("layout 2") && refused.contains("knows \"holmes journal, layout 1\""),
        "{refused}"
    );
}

#[tokio::test]
async fn a_directory_whose_engine_is_gone_is_refused_instead_of_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    journal.provision(&first(log(1))).await.unwrap();
    journal.close().await;
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    for _ in 0..2 {
        let refused = open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("Restore the directory from a copy"), "{refused}");
    }
    assert!(!dir.path().join("db").exists(), "nothing was begun in its place");
    fs::remove_file(dir.path().join("layout")).unwrap();
    open(dir.path()).expect_err("the note of what was acknowledged says that there was one");
}

#[tokio::test]
async fn a_set_up_that_was_killed_on_its_way_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("db/keyspaces")).unwrap();
    fs::write(dir.path().join("db/lock"), "").unwrap();
    fs::write(dir.path().join("db/0.jnl"), [0; 4_096]).unwrap();
    let journal = open(dir.path()).unwrap();
    journal.provision(&first(log(1))).await.unwrap();
    journal.close().await;
    fs::remove_file(dir.path().join("layout")).unwrap();
    let journal = open(dir.path()).unwrap();
    assert_eq!(
        journal.read(log(1), 0, 1).await,
        Ok(vec![first(log(1))]),
        "what was set up is never begun again"
    );
}

#[tokio::test]
async fn a_read_that_begins_inside_a_frame_gives_that_whole_frame() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    journal.provision(&first(log(1))).await.unwrap();
    let claim = journal.claim(log(1)).await.unwrap();
    let wide = frame(log(1), claim.term, &claim.tail, 10, 20);
    let next = frame(log(1), claim.term, &wide.tail(), 1, 20);
    journal.append(&claim, &wide).await.unwrap();
    journal.append(&claim, &next).await.unwrap();
    for after in 1..11 {
        assert_eq!(journal.read(log(1), after, usize::MAX).await, Ok(vec![wide.clone(), next.clone()]));
    }
    assert_eq!(journal.read(log(1), 11, usize::MAX).await, Ok(vec![next]));
}

#[tokio::test]
async fn appends_that_wait_together_are_forced_to_disk_together() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    let mut tails: Vec<Tail> = Vec::new();
    let mut claims = Vec::new();
    for svc in 1..=64 {
        journal.provision(&first(log(svc))).await.unwrap();
        claims.push(journal.claim(log(svc)).await.unwrap());
        tails.push(first(log(svc)).tail());
    }
    let before = journal.commits();
    let rounds = 20;
    for _ in 0..rounds {
        let frames: Vec<Frame> = claims
            .iter()
            .zip(&tails)
            .map(|(claim, tail)| frame(claim.log, claim.term, tail, 1, 64))
            .collect();
        let waiting: Vec<_> = claims
            .iter()
            .zip(&frames)
            .map(|(claim, frame)| {
                let (journal, claim, frame) = (journal.clone(), claim.clone(), frame.clone());
                tokio::spawn(async move { journal.append(&claim, &frame).await })
            })
            .collect();
        for appended in waiting {
            appended.await.unwrap().unwrap();
        }
        tails = frames.iter().map(Frame::tail).collect();
    }
    let commits = journal.commits() - before;
    assert!(commits < rounds * 16, "{commits} commits for {rounds} rounds of 64 appends");
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_for_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    journal.provision(&first(log(1))).await.unwrap();
    let snapshot = |seq: u64| {
        let bytes = vec![seq as u8; 5_000];
        let at = Tail { seq, ..first(log(1)).tail() };
        Snapshot { log: log(1), state_version: 3, at, digest: canon::hash(&bytes), bytes }
    };
    for seq in 1..=2 {
        journal.keep_snapshot(&snapshot(seq)).await.unwrap();
    }
    let path = |seq| dir.path().join(format!("snapshots/1-1-0/3-{seq}"));
    let whole = fs::read(path(2)).unwrap();
    assert_eq!(journal.damaged_snapshots(log(1), 3, 0).await, Ok(Vec::new()));
    for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(path(2), damaged).unwrap();
        assert_eq!(journal.snapshot(log(1), 3, 9).await, Ok(Some(snapshot(1))), "byte {at}");
        fs::write(path(2), &whole[..at]).unwrap();
        assert_eq!(journal.snapshot(log(1), 3, 9).await, Ok(Some(snapshot(1))), "cut at {at}");
    }
    fs::write(path(1), b"").unwrap();
    assert_eq!(journal.snapshot(log(1), 3, 9).await, Ok(None));
    // Whoever passes them over can say which, and why.
    let damaged = journal.damaged_snapshots(log(1), 3, 0).await.unwrap();
    let named: Vec<_> = damaged.iter().map(|of| (of.seq, Path::new(&of.path).to_owned())).collect();
    assert_eq!(named, [(2, path(2)), (1, path(1))]);
    assert!(damaged.iter().all(|of| !of.why.is_empty()), "{damaged:?}");
    assert_eq!(journal.damaged_snapshots(log(1), 3, 1).await.unwrap().len(), 1, "those behind a place");
    assert_eq!(journal.damaged_snapshots(log(1), 4, 0).await, Ok(Vec::new()), "another build's are not ours");
}
