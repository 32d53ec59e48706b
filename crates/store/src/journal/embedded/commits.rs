//! Commits in the engine's journal, as fjall 3 writes them: a start (tag 1, items u32, number u64), items (tag 2, kind
//! u8, compression u8, keyspace u64, key length u16, value length u32, stored length u32, key, value), an end (tag 3,
//! XXH3 of the items u64, four fixed bytes). Little-endian.

use std::ops::Range;

use holmes_kernel::LogId;

use super::keys::{FRAME_KEY_BYTES, array, frame_of};

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

impl Place {
    /// The frame's last sequence number, by its header.
    pub(super) fn last(&self, journal: &[u8]) -> u64 {
        const LAST_AT: usize = 24;
        let frame = &journal[self.bytes.clone()];
        if frame.len() < LAST_AT + 8 { self.first } else { u64::from_le_bytes(array(frame, LAST_AT)) }
    }
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
                ITEM => commit.frames.extend(self.item()?),
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

    /// The frame of an item; nothing inside when it is another record of ours.
    #[expect(clippy::option_option, reason = "whether there is an item, and whether it is a frame")]
    fn item(&mut self) -> Option<Option<Place>> {
        let head = self.take(ITEM_HEAD_BYTES)?;
        let key_len = usize::from(u16::from_le_bytes(array(head, 11)));
        let stored_len = u32::from_le_bytes(array(head, 17)) as usize;
        let key = self.take(key_len)?;
        let begin = self.at;
        self.take(stored_len)?;
        let is_frame = key_len == FRAME_KEY_BYTES;
        let place = frame_of(key).filter(|_| is_frame);
        Some(place.map(|(log, first)| Place { log, first, bytes: begin..self.at }))
    }
}
