//! What a turned bit belongs to: a frame of some log, a snapshot, the note of what was acknowledged, a kept file, or what
//! the engine has around its frames.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use holmes_kernel::ServiceId;
use holmes_kernel::frame::{FORMAT, FRAME_BYTES, HEADER_BYTES};

use crate::logs::Logs;

/// The sorts of files.
pub(crate) const KINDS: [&str; 7] = [
    "engine's journal",
    "table",
    "snapshot",
    "engine's other files",
    "key",
    "note of what was acknowledged",
    "other kept file",
];

pub(crate) fn kind_of(name: &Path) -> &'static str {
    let text = name.to_string_lossy();
    match () {
        () if text.ends_with(".jnl") => "engine's journal",
        () if text.contains("/tables/") => "table",
        () if text.contains("snapshots/") => "snapshot",
        () if text.contains("/db/") => "engine's other files",
        () if text.ends_with(".key") => "key",
        () if text.ends_with("acknowledged") => "note of what was acknowledged",
        () => "other kept file",
    }
}

/// What was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Harmed {
    /// A frame in the engine's journal, all of which is read in every start.
    JournalFrame { service: String, first: u64 },
    /// A frame in one of the engine's tables, which are read in blocks of some frames, perhaps of two logs.
    TableFrame { first: u64, service: String, beside: BTreeSet<String> },
    /// What the engine has around its frames.
    Engine,
    /// A snapshot. Who starts reads the newest alone.
    Snapshot { service: String, seq: u64, is_newest: bool },
    /// The note of what was acknowledged.
    Note,
    /// A file that is kept beside the logs.
    Kept(String),
    /// What was half written, or written and not yet acknowledged, when a process died: nobody may miss it.
    Unfinished,
}

/// Every frame that a network has, to be found again in its files, and how far its logs were acknowledged.
pub(crate) struct Frames {
    known: HashMap<[u8; HEADER_BYTES], Known>,
    acknowledged: BTreeMap<String, u64>,
}

struct Known {
    service: String,
    first: u64,
    len: usize,
}

/// How far before and behind a frame of a table the block reaches at most that the engine reads as one.
const BLOCK_BYTES: usize = 32 << 10;

impl Frames {
    /// Those of logs, as far as the note beside them says that they were acknowledged.
    pub(crate) fn of(logs: &Logs, note: &[u8]) -> Frames {
        let mut known = HashMap::new();
        for (service, frames) in logs.all() {
            for frame in frames {
                let Some((header, _)) = frame.bytes().split_first_chunk() else { continue };
                let (first, len) = (frame.header().first, frame.bytes().len());
                known.insert(*header, Known { service: service.clone(), first, len });
            }
        }
        Frames { known, acknowledged: acknowledged(note) }
    }

    fn is_acknowledged(&self, frame: &Known) -> bool {
        self.acknowledged.get(&frame.service).is_some_and(|seq| frame.first <= *seq)
    }

    /// The frames that begin in a part of a file, with where they do.
    fn within<'a>(&'a self, file: &'a [u8], part: Range<usize>) -> impl Iterator<Item = (usize, &'a Known)> {
        let end = part.end.min(file.len().saturating_sub(HEADER_BYTES) + 1);
        (part.start..end.max(part.start)).filter_map(|at| {
            let header: &[u8; HEADER_BYTES] = file.get(at..)?.first_chunk()?;
            // Most places are none: only where the format stands is a header looked up.
            let may_be = header[6..8] == FORMAT.to_le_bytes();
            Some((at, may_be.then(|| self.known.get(header)).flatten()?))
        })
    }

    /// The frame that a byte of a file belongs to, and where it begins.
    fn around<'a>(&'a self, file: &'a [u8], at: usize) -> Option<(usize, &'a Known)> {
        let from = at.saturating_sub(FRAME_BYTES + HEADER_BYTES);
        self.within(file, from..at + 1).filter(|(begin, known)| begin + known.len > at).last()
    }

    /// What a byte belongs to, in a file as it was before.
    pub(crate) fn harmed(&self, name: &Path, file: &[u8], at: usize, siblings: &[u64]) -> Harmed {
        match kind_of(name) {
            "snapshot" => snapshot(name, siblings),
            "note of what was acknowledged" => Harmed::Note,
            "engine's journal" => match self.around(file, at) {
                // A death between the disk's answer and ours: whole or not, it looks as if it were never finished.
                Some((_, known)) if !self.is_acknowledged(known) => Harmed::Unfinished,
                Some((_, known)) => {
                    Harmed::JournalFrame { service: known.service.clone(), first: known.first }
                }
                None => Harmed::Engine,
            },
            "table" => match self.around(file, at) {
                Some((begin, known)) => {
                    let block = begin.saturating_sub(BLOCK_BYTES)..begin + known.len + BLOCK_BYTES;
                    let near = self.within(file, block);
                    let near = near.map(|(_, known)| &known.service);
                    let beside = near.chain([&known.service]).cloned().collect();
                    Harmed::TableFrame { first: known.first, service: known.service.clone(), beside }
                }
                None => Harmed::Engine,
            },
            "engine's other files" => Harmed::Engine,
            _ => Harmed::Kept(name.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        }
    }
}

/// What the note says of each service's log, in slots of 64 bytes: service, cell, shard (big-endian: 2, 2, 4 bytes), term and
/// last acknowledged number (little-endian: 8, 8), chain and checksum. The first slot is of no service.
fn acknowledged(note: &[u8]) -> BTreeMap<String, u64> {
    let of = |slot: &[u8]| {
        let service = u16::from_be_bytes(*slot.first_chunk()?);
        let seq = u64::from_le_bytes(*slot.get(16..)?.first_chunk()?);
        Some((holmes_proto::service_name(ServiceId(service))?.to_owned(), seq))
    };
    note.chunks(64).filter_map(of).collect()
}

/// Service and place of a snapshot stand in its name: `snapshots/<service>-<cell>-<shard>/<version>-<seq>`.
fn snapshot(name: &Path, siblings: &[u64]) -> Harmed {
    let folder = name.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let number = folder.split('-').next().and_then(|number| number.parse().ok()).map(ServiceId);
    match (number.and_then(holmes_proto::service_name), place_of(name)) {
        (Some(service), Some(seq)) => {
            let is_newest = siblings.iter().all(|other| *other <= seq);
            Harmed::Snapshot { service: service.to_owned(), seq, is_newest }
        }
        _ => Harmed::Unfinished,
    }
}

/// The sequence number in a snapshot's name; `None` of one that was never finished.
pub(crate) fn place_of(name: &Path) -> Option<u64> {
    name.file_name()?.to_str()?.split_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `flip --seed 63`, trials 231 and 84: a frame on disk whose writer died before it noted that.
    #[test]
    fn a_frame_behind_what_was_acknowledged_is_taken_for_one_that_was_never_finished() {
        let mut note = [0; 128];
        note[64..72].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
        note[80..88].copy_from_slice(&41_u64.to_le_bytes());
        let mut header = [7; HEADER_BYTES];
        header[6..8].copy_from_slice(&FORMAT.to_le_bytes());
        let frames = |first: u64| {
            let known =
                HashMap::from([(header, Known { service: "ledger".into(), first, len: HEADER_BYTES })]);
            Frames { known, acknowledged: acknowledged(&note) }
        };
        let file = [&[0; 40][..], &header].concat();
        let harmed = |first: u64| frames(first).harmed(Path::new("db/0.jnl"), &file, 45, &[]);
        assert_eq!(harmed(41), Harmed::JournalFrame { service: "ledger".into(), first: 41 });
        assert_eq!(harmed(42), Harmed::Unfinished);
    }

    #[test]
    fn a_snapshot_tells_its_service_and_place_and_a_half_written_one_is_none() {
        let of = |name: &str| snapshot(Path::new(name), &[40, 60]);
        let newest = Harmed::Snapshot { service: "ledger".into(), seq: 60, is_newest: true };
        assert_eq!(of("journal/snapshots/1-1-0/3-60"), newest);
        let older = Harmed::Snapshot { service: "ledger".into(), seq: 40, is_newest: false };
        assert_eq!(of("journal/snapshots/1-1-0/3-40"), older);
        assert_eq!(of("journal/snapshots/1-1-0/3-60.tmp"), Harmed::Unfinished);
    }
}
