//! How far appends were acknowledged, noted beside the engine: one slot per log, rewritten in place after every
//! commit and before its answers. At the start the logs must reach at least as far.
//!
//! The engine cuts its journal where it stops making sense, as after a crash in mid-write. Only this note tells such a
//! half-written end from an acknowledged one that was lost since. The slots are not forced to disk with each commit,
//! which would double its cost: they survive every end of the process, and after a power failure they lag by what the
//! system had not written back. They never run ahead of the journal.
//!
//! So a note that is not whole leaves a half-written end without a witness, and then nothing is cut. No honest crash
//! comes to that: the first slot says how many there are, a log's own is forced to disk before its first answer, while
//! nothing else is being written; and one that is rewritten lies within a sector, which a disk writes whole or not at
//! all. With a whole journal a note that is not is only made anew, as it is at every start.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use holmes_kernel::frame::Damage;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Chain, LogId, ServiceId};

use super::keys::{LOG_BYTES, array, log_key, log_of};
use super::layout::{Directory, write_durably};
use crate::journal::head::Head;

/// Divides a disk's sector, so that no slot is ever half old and half new.
const SLOT_BYTES: usize = 64;

/// What the first slot is of: no log, and its sequence number is the count of the slots behind it.
const COUNT: LogId = LogId { cell: 0, svc: ServiceId(0), shard: 0 };

/// The slots' file.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
    places: BTreeMap<LogId, u64>,
}

/// What the file says of the logs' ends.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) noted: BTreeMap<LogId, Noted>,
    /// Why it does not speak of every log; `None` when it does.
    pub(super) lacks: Option<String>,
}

/// What a slot, or the engine, says of a log's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) term: u64,
    pub(super) seq: u64,
    pub(super) chain: Chain,
}

impl Witness {
    /// Reads the file. Without one, nothing was ever acknowledged in a directory that was never set up.
    pub(super) fn read(directory: &Directory) -> io::Result<Witness> {
        let bytes = match fs::read(directory.acknowledged()) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let lacks = directory.is_set_up().then(|| "it is missing".to_owned());
                return Ok(Witness { lacks, ..Witness::default() });
            }
            Err(why) => return Err(why),
        };
        let mut witness = Witness::default();
        let (mut count, mut found) = (None, 0);
        for (place, slot) in bytes.chunks(SLOT_BYTES).enumerate() {
            match decode(slot) {
                Some((log, note)) if log == COUNT => count = count.or(Some(note.seq)),
                Some((log, note)) => {
                    witness.noted.insert(log, note);
                    found += 1;
                }
                None => witness.lacks = Some(format!("its slot {place} cannot be read")),
            }
        }
        if witness.lacks.is_none() && count.is_none_or(|count| found < count) {
            witness.lacks = Some(format!("it has {found} slots and once had more"));
        }
        Ok(witness)
    }
}

impl Acknowledged {
    /// Writes the file anew, of logs that were checked: what could not be read in it is whole again.
    pub(super) fn renew(directory: &Directory, heads: &BTreeMap<LogId, Head>) -> io::Result<Acknowledged> {
        let slots = heads.iter().map(|(log, head)| encode(*log, Noted::from(head)));
        let bytes: Vec<u8> = [count(heads.len() as u64)].into_iter().chain(slots).flatten().collect();
        write_durably(directory.root(), Directory::ACKNOWLEDGED, &bytes)?;
        let file = OpenOptions::new().write(true).open(directory.acknowledged())?;
        Ok(Acknowledged { file, places: heads.keys().copied().zip(1..).collect() })
    }

    /// Notes a log's head.
    pub(super) fn note(&mut self, log: LogId, head: &Head) -> io::Result<()> {
        let slot = encode(log, Noted::from(head));
        if let Some(place) = self.places.get(&log) {
            return self.write(*place, &slot);
        }
        let place = self.places.len() as u64 + 1;
        self.write(place, &slot)?;
        self.write(0, &count(place))?;
        self.sync()?;
        self.places.insert(log, place);
        Ok(())
    }

    fn write(&self, place: u64, slot: &[u8; SLOT_BYTES]) -> io::Result<()> {
        self.file.write_all_at(slot, place * SLOT_BYTES as u64)
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
            Err(JournalError::Damaged { log, after: after.min(self.seq), why: Damage::Kept(what) })
        };
        let gone =
            |after| damaged(after, format!("frames up to {} were acknowledged and are gone", self.seq));
        let Some(found) = found else { return gone(0) };
        let end = found.seq;
        if end < self.seq {
            return gone(end);
        }
        if end == self.seq && found.chain != self.chain {
            return damaged(end, "another frame than the one that is there was acknowledged".into());
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

/// The first slot, where so many are behind it.
fn count(slots: u64) -> [u8; SLOT_BYTES] {
    encode(COUNT, Noted { seq: slots, ..Noted::default() })
}

fn encode(log: LogId, noted: Noted) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..LOG_BYTES].copy_from_slice(&log_key(log));
    slot[8..16].copy_from_slice(&noted.term.to_le_bytes());
    slot[16..24].copy_from_slice(&noted.seq.to_le_bytes());
    slot[24..56].copy_from_slice(&noted.chain);
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
