//! Commits in the engine's journal, as fjall 3 writes them: a start (tag 1, items u32, number u64), items (tag 2, kind
//! u8, compression u8, keyspace u64, key length u16, value length u32, stored length u32, key, value), an end (tag 3,
//! XXH3 of the items u64, four fixed bytes). Little-endian.

use std::ops::Range;

use holmes_kernel::LogId;

use super::acknowledged::Noted;
use super::keys::{FRAME_KEY_BYTES, LOG_BYTES, array, frame_of, log_of, noted_of};

/// What every whole commit ends with.
pub(super) const LAST_BYTES: &[u8] = b"FJL\x03";

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const ITEM_HEAD_BYTES: usize = 21;

/// What is at a place of a journal.
#[derive(Debug)]
pub(super) enum Found {
    /// A commit.
    Whole(Commit),
    /// A commit in form, but its checksum does not match.
    Changed(Commit),
    /// No commit: the end, a half-written one, or a damaged one.
    Broken,
}

/// A commit in a journal.
#[derive(Debug, Default)]
pub(super) struct Commit {
    /// Behind its last byte.
    pub(super) end: usize,
    /// The frames in it.
    pub(super) frames: Vec<Place>,
    /// Where the logs end behind it: of every log that it changes.
    pub(super) heads: Vec<(LogId, Noted)>,
}

/// A frame in a journal.
#[derive(Debug)]
pub(super) struct Place {
    /// By its key.
    pub(super) log: LogId,
    /// By its key.
    pub(super) first: u64,
    pub(super) bytes: Range<usize>,
}

/// Reads the commit that begins at a place.
pub(super) fn find(journal: &[u8], at: usize) -> Found {
    let mut reader = Reader { journal, at };
    match reader.commit() {
        Some((commit, true)) => Found::Whole(commit),
        Some((commit, false)) => Found::Changed(commit),
        None => Found::Broken,
    }
}

struct Reader<'a> {
    journal: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.journal.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    /// The commit, and whether its checksum matches.
    fn commit(&mut self) -> Option<(Commit, bool)> {
        let start = self.take(13)?;
        if start[0] != START {
            return None;
        }
        let items = u32::from_le_bytes(array(start, 1));
        let begin = self.at;
        let mut commit = Commit::default();
        for _ in 0..items {
            match *self.journal.get(self.at)? {
                ITEM => self.item(&mut commit)?,
                CLEAR => drop(self.take(9)?),
                _ => return None,
            }
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&self.journal[begin..self.at]);
        let end = self.take(9 + LAST_BYTES.len())?;
        if end[0] != END || !end.ends_with(LAST_BYTES) {
            return None;
        }
        commit.end = self.at;
        Some((commit, end[1..9] == checksum.to_le_bytes()))
    }

    /// An item; a frame or a head goes to the commit's, other records of the engine are passed over.
    fn item(&mut self, commit: &mut Commit) -> Option<()> {
        let head = self.take(ITEM_HEAD_BYTES)?;
        let key_len = usize::from(u16::from_le_bytes(array(head, 11)));
        let stored_len = u32::from_le_bytes(array(head, 17)) as usize;
        let key = self.take(key_len)?;
        let begin = self.at;
        let value = self.take(stored_len)?;
        match key_len {
            FRAME_KEY_BYTES => {
                let bytes = begin..self.at;
                commit.frames.extend(frame_of(key).map(|(log, first)| Place { log, first, bytes }));
            }
            LOG_BYTES => commit.heads.extend(log_of(key).zip(noted_of(value))),
            _ => {}
        }
        Some(())
    }
}
