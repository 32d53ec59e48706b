//! How far appends were acknowledged, noted beside the engine: one slot per log, rewritten in place after every
//! commit and before its answers. At the start the logs must reach at least as far.
//!
//! The engine cuts its journal where it stops making sense, as after a crash in mid-write. Only this note tells such a
//! half-written end from an acknowledged one that was lost since. The slots are not forced to disk with each commit,
//! which would double its cost: they survive every end of the process, and after a power failure they lag by what the
//! system had not written back. They never run ahead of the journal.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use holmes_kernel::frame::Damage;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Chain, LogId};

use super::keys::{LOG_BYTES, array, log_key, log_of};
use crate::journal::head::Head;

/// Divides a disk's sector, so that no slot is ever half old and half new.
const SLOT_BYTES: usize = 64;

/// The slots' file.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
    places: BTreeMap<LogId, u64>,
    next: u64,
}

/// What a slot, or the engine, says of a log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) term: u64,
    pub(super) seq: u64,
    pub(super) chain: Chain,
}

impl Acknowledged {
    /// Opens the file, and says what it knows.
    pub(super) fn open(path: &Path) -> io::Result<(Acknowledged, BTreeMap<LogId, Noted>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        let mut noted = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (place, slot) in (0..).zip(bytes.chunks(SLOT_BYTES)) {
            match decode(slot) {
                Some((log, note)) => {
                    noted.insert(log, note);
                    places.insert(log, place);
                }
                // Nothing is lost with a slot: it is only a witness.
                None => {
                    tracing::warn!(path = %path.display(), place, "a slot cannot be read and is passed over")
                }
            }
        }
        let next = len.div_ceil(SLOT_BYTES) as u64;
        Ok((Acknowledged { file, places, next }, noted))
    }

    /// Notes a log's head.
    pub(super) fn note(&mut self, log: LogId, head: &Head) -> io::Result<()> {
        let place = *self.places.entry(log).or_insert(self.next);
        self.next = self.next.max(place + 1);
        self.file.write_all_at(&encode(log, head), place * SLOT_BYTES as u64)
    }

    /// Forces the slots to disk: done when closing, so that they are exact after every orderly end.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl From<&Head> for Noted {
    fn from(head: &Head) -> Noted {
        Noted { term: head.term, seq: head.tail.seq, chain: head.tail.chain }
    }
}

impl Noted {
    /// Whether a log that the engine found reaches as far as was acknowledged.
    pub(super) fn check(&self, log: LogId, found: Option<Noted>) -> Result<(), JournalError> {
        let damaged = |after: u64, what: String| {
            Err(JournalError::Damaged { log, after: after.min(self.seq), why: Damage::Body(what) })
        };
        let gone =
            |after| damaged(after, format!("frames up to {} were acknowledged and are gone", self.seq));
        let Some(found) = found else { return gone(0) };
        let end = found.seq;
        if end < self.seq {
            return gone(end);
        }
        if end == self.seq && found.chain != self.chain {
            return damaged(end, "another frame was acknowledged there".into());
        }
        if found.term < self.term {
            return damaged(
                end,
                format!("term {} was given out, and the log knows only {}", self.term, found.term),
            );
        }
        Ok(())
    }
}

fn encode(log: LogId, head: &Head) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..LOG_BYTES].copy_from_slice(&log_key(log));
    slot[8..16].copy_from_slice(&head.term.to_le_bytes());
    slot[16..24].copy_from_slice(&head.tail.seq.to_le_bytes());
    slot[24..56].copy_from_slice(&head.tail.chain);
    let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
    slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(LogId, Noted)> {
    let slot: &[u8; SLOT_BYTES] = slot.try_into().ok()?;
    let (body, crc) = slot.split_at(SLOT_BYTES - 4);
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return None;
    }
    let u64_at = |at: usize| u64::from_le_bytes(array(slot, at));
    Some((log_of(slot)?, Noted { term: u64_at(8), seq: u64_at(16), chain: array(slot, 24) }))
}
