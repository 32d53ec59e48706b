//! Snapshots: one file each, put in place whole. They are disposable, so a damaged one is passed over, and named to
//! whoever asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holmes_kernel::canon;
use holmes_kernel::ports::{DamagedSnapshot, JournalError, Snapshot};
use holmes_kernel::{LogId, Tail, Time};

use super::engine::storage_error;
use super::keys::{array, log_key, log_of};
use super::layout::write_durably;
use crate::journal::memory::superfluous;

/// The first bytes of a snapshot's file, layout 1.
const MAGIC: &[u8; 8] = b"HOLSNAP1";
/// Magic, log, state version, place, digest, length, checksum of these.
const HEAD_BYTES: usize = 8 + 8 + 4 + 56 + 16 + 8 + 4;

/// The folder of snapshots, one folder inside for each log.
#[derive(Debug)]
pub(super) struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    pub(super) fn new(root: PathBuf) -> Snapshots {
        Snapshots { root }
    }

    fn folder(&self, log: LogId) -> PathBuf {
        self.root.join(format!("{}-{}-{}", log.svc.0, log.cell, log.shard))
    }

    /// Keeps one, then lets the oldest of its state version go.
    pub(super) fn keep(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let failed = |why: io::Error| storage_error(&format!("keeping a snapshot of {}", snapshot.log), &why);
        let folder = self.folder(snapshot.log);
        fs::create_dir_all(&folder).map_err(failed)?;
        write_durably(&folder, &file_name(snapshot.state_version, snapshot.at.seq), &encode(snapshot))
            .map_err(failed)?;
        let seqs = seqs(&folder, snapshot.state_version).map_err(failed)?;
        for seq in superfluous(&seqs, snapshot.at.seq) {
            fs::remove_file(folder.join(file_name(snapshot.state_version, *seq))).map_err(failed)?;
        }
        Ok(())
    }

    /// The newest readable one at or before a place.
    pub(super) fn newest(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        let seqs = self.seqs(log, state_version)?;
        let mut readable = seqs.into_iter().filter(|seq| *seq <= at_most);
        Ok(readable.find_map(|seq| self.read(log, state_version, seq).ok()))
    }

    /// Those behind a place that are not what was kept.
    pub(super) fn damaged(
        &self,
        log: LogId,
        state_version: u32,
        above: u64,
    ) -> Result<Vec<DamagedSnapshot>, JournalError> {
        let seqs = self.seqs(log, state_version)?;
        let damaged = |seq| {
            let why = self.read(log, state_version, seq).err()?;
            let path = self.path(log, state_version, seq);
            // One that a newer one has just replaced is not damaged.
            path.exists().then(|| DamagedSnapshot { seq, path: path.display().to_string(), why })
        };
        Ok(seqs.into_iter().filter(|seq| *seq > above).filter_map(damaged).collect())
    }

    fn path(&self, log: LogId, state_version: u32, seq: u64) -> PathBuf {
        self.folder(log).join(file_name(state_version, seq))
    }

    /// The one at a place, or what is wrong with it.
    fn read(&self, log: LogId, state_version: u32, seq: u64) -> Result<Snapshot, String> {
        let bytes = fs::read(self.path(log, state_version, seq)).map_err(|why| why.to_string())?;
        let found = decode(&bytes)?;
        let is_this = (found.log, found.state_version, found.at.seq) == (log, state_version, seq);
        if is_this { Ok(found) } else { Err("it is another log's or another place's".into()) }
    }

    /// The places of those with a state version, newest first.
    fn seqs(&self, log: LogId, state_version: u32) -> Result<Vec<u64>, JournalError> {
        match seqs(&self.folder(log), state_version) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(|why| storage_error(&format!("looking for snapshots of {log}"), &why)),
        }
    }
}

fn file_name(state_version: u32, seq: u64) -> String {
    format!("{state_version}-{seq}")
}

/// The places of the snapshots with a state version, newest first.
fn seqs(folder: &Path, state_version: u32) -> io::Result<Vec<u64>> {
    let mut seqs: Vec<u64> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let parsed = name.to_str().and_then(|name| {
            let (version, seq) = name.split_once('-')?;
            Some((version.parse::<u32>().ok()?, seq.parse::<u64>().ok()?))
        });
        seqs.extend(parsed.filter(|(version, _)| *version == state_version).map(|(_, seq)| seq));
    }
    seqs.sort_unstable_by(|a, b| b.cmp(a));
    Ok(seqs)
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + snapshot.bytes.len());
    bytes.extend(MAGIC);
    bytes.extend(log_key(snapshot.log));
    bytes.extend([0; 2]);
    bytes.extend(snapshot.state_version.to_le_bytes());
    bytes.extend(snapshot.at.seq.to_le_bytes());
    bytes.extend(snapshot.at.chain);
    bytes.extend(snapshot.at.ts.micros().to_le_bytes());
    bytes.extend(snapshot.at.term.to_le_bytes());
    bytes.extend(snapshot.digest);
    bytes.extend((snapshot.bytes.len() as u64).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(&snapshot.bytes);
    bytes
}

fn decode(file: &[u8]) -> Result<Snapshot, String> {
    let (head, bytes) = file.split_at_checked(HEAD_BYTES).ok_or("it is cut off")?;
    let (body, crc) = head.split_at(HEAD_BYTES - 4);
    if !body.starts_with(MAGIC) || crc != crc32c::crc32c(body).to_le_bytes() {
        return Err("its head is damaged".into());
    }
    let u64_at = |at: usize| u64::from_le_bytes(array(head, at));
    let at =
        Tail { seq: u64_at(20), chain: array(head, 28), ts: Time::from_micros(u64_at(60)), term: u64_at(68) };
    let digest = array(head, 76);
    if bytes.len() as u64 != u64_at(92) || canon::hash(bytes) != digest {
        return Err("its bytes do not have its digest".into());
    }
    Ok(Snapshot {
        log: log_of(&head[8..]).ok_or("it names no log")?,
        state_version: u32::from_le_bytes(array(head, 16)),
        at,
        digest,
        bytes: bytes.to_vec(),
    })
}
