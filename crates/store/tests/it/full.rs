//! A disk that is really full: a file system of a few megabytes, mounted for the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use holmes_kernel::ports::{Journal as _, JournalError};
use holmes_kernel::{Frame, Tail};
use holmes_store::conformance::{assert_chain, first, frame, log};
use holmes_store::journal::embedded::{Journal, Options};
use tempfile::TempDir;

/// A file system in memory; gone when dropped.
struct Small {
    at: PathBuf,
    _dir: TempDir,
}

impl Small {
    /// `None`, loudly, where mounting is not allowed.
    fn mount(megabytes: u64) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Small { at: dir.path().to_owned(), _dir: dir }),
            _ => {
                eprintln!(
                    "SKIPPED: a full disk is not tested, because this user may not mount a file system"
                );
                None
            }
        }
    }

    fn grow(&self, megabytes: u64) {
        let size = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.at).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.at.display());
    }
}

/// Appends until the journal refuses; answers what was acknowledged, and the refusal.
async fn fill(journal: &Journal) -> (Vec<Frame>, JournalError) {
    let claim = journal.claim(log(1)).await.unwrap();
    let mut tail: Tail = claim.tail;
    let mut acknowledged = Vec::new();
    loop {
        let next = frame(log(1), claim.term, &tail, 100, 700);
        if let Err(why) = journal.append(&claim, &next).await {
            assert_eq!(journal.append(&claim, &next).await, Err(why.clone()), "it stays refused");
            assert_eq!(journal.claim(log(1)).await, Err(why.clone()), "and so does a claim");
            return (acknowledged, why);
        }
        tail = next.tail();
        acknowledged.push(next);
        assert!(acknowledged.len() < 10_000, "the disk never fills");
    }
}

async fn assert_there(journal: &Journal, acknowledged: &[Frame]) {
    let frames = journal.read(log(1), 0, usize::MAX).await.unwrap();
    assert_chain(log(1), &frames);
    assert_eq!(frames.get(1..=acknowledged.len()), Some(acknowledged));
}

fn open(dir: &Path, reserve_bytes: u64) -> Journal {
    Journal::open(dir, Options { reserve_bytes, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_keeps_what_was_acknowledged() {
    // Full inside the engine's journal, before it has written a table; and full later, among its tables.
    for megabytes in [6, 40, 90] {
        let Some(disk) = Small::mount(megabytes) else { return };
        let journal = open(&disk.at, 0);
        journal.provision(&first(log(1))).await.unwrap();
        let (acknowledged, why) = fill(&journal).await;
        assert!(matches!(why, JournalError::Full(_)), "{megabytes} MiB: {why}");
        assert!(!acknowledged.is_empty());
        assert_there(&journal, &acknowledged).await;
        journal.close().await;
        disk.grow(megabytes + 200);
        let journal = open(&disk.at, 0);
        assert_there(&journal, &acknowledged).await;
        let claim = journal.claim(log(1)).await.unwrap();
        let next = frame(log(1), claim.term, &claim.tail, 1, 64);
        journal.append(&claim, &next).await.expect("there is room again");
        journal.close().await;
    }
}

#[tokio::test]
async fn the_last_free_space_is_kept_for_what_is_written_already() {
    let Some(disk) = Small::mount(64) else { return };
    let journal = open(&disk.at, 32 << 20);
    journal.provision(&first(log(1))).await.unwrap();
    let (acknowledged, why) = fill(&journal).await;
    assert!(why.to_string().contains("are kept for what is written already"), "{why}");
    journal.close().await;
    let journal = open(&disk.at, 32 << 20);
    assert_there(&journal, &acknowledged).await;
    journal.close().await;
}
