//! A look at the engine's files before the engine touches them.
//!
//! At its start the engine reads its journals (`<n>.jnl`) and cuts each off where it stops making sense, so that a
//! damaged byte would silently take every later commit with it; and it deletes a keyspace whose `current` file is
//! lost. We look first, without changing anything, and refuse. What a crash in mid-write leaves is told from damage
//! by what follows: commits go one at a time, so behind a half-written one there is never a whole one. Behind the last
//! one nothing follows: it was whole if what was acknowledged lies in no commit before it. Of a log that no journal
//! tells of, only the engine knows the end; that one is checked once the engine is open, and what cannot be read is
//! cut by then.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holmes_kernel::LogId;
use holmes_kernel::frame::{Damage, Frame};
use holmes_kernel::ports::JournalError;

use super::acknowledged::{Noted, Witness};
use super::commits::{Commit, Found, LAST_BYTES, Place, find};
use super::engine::storage_error;
use super::manifest;

/// The first bytes of the engine's `version` file in the format whose journals we can read.
const ENGINE_FORMAT: &[u8] = b"FJL\x03";

/// Where nothing was ever acknowledged: takes away what is left of a set-up that was killed on its way, which the
/// engine could neither use nor begin again. False when there are keyspaces: those are looked at all the same.
pub(super) fn clear_unfinished(engine: &Path) -> Result<bool, JournalError> {
    let keyspaces = engine.join("keyspaces");
    if keyspaces.join("0").join("current").exists() || keyspaces.join("1").exists() {
        return Ok(false);
    }
    match fs::remove_dir_all(engine) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(storage_error(&engine.display().to_string(), &why))
        }
        _ => Ok(true),
    }
}

/// Refuses files that the engine would mend by losing something, and takes away a half-written end; where nobody knows
/// of every log what was acknowledged, refuses that, too.
pub(super) fn inspect(engine: &Path, witness: &Witness) -> Result<(), JournalError> {
    let noted = &witness.noted;
    let failed = |why: io::Error| storage_error(&engine.display().to_string(), &why);
    let version = fs::read(engine.join("version"))
        .map_err(|why| lost(engine, &format!("its file \"version\" cannot be read ({why})")))?;
    if !version.starts_with(ENGINE_FORMAT) {
        return Err(lost(engine, "its file \"version\" is not that of this build's engine"));
    }
    check_keyspaces(&engine.join("keyspaces"))?;
    let journals = journals(engine).map_err(failed)?;
    if journals.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0) {
        return Err(lost(engine, "one of its journals (*.jnl) is missing"));
    }
    let mut ends = BTreeMap::new();
    for (place, (_, path)) in journals.iter().enumerate() {
        let bytes = fs::read(path).map_err(failed)?;
        let journal = Journal { path, bytes: Bytes::from(bytes), noted };
        if let Some(half_written) = journal.inspect(&mut ends)? {
            // A commit in a later journal shows as much as one in this.
            if !journals[place + 1..].iter().all(|(_, path)| is_unused(path)) {
                return Err(lost(path, &format!("it breaks off at byte {half_written}")));
            }
            for (log, end) in &ends {
                noted.get(log).map_or(Ok(()), |noted| noted.check(*log, Some(*end)))?;
            }
            if let Some(lacks) = &witness.lacks {
                return Err(unwitnessed(path, half_written, lacks, noted, &ends));
            }
            tracing::warn!(path = %path.display(), at = half_written, "a commit that was never finished is taken away");
            cut(path, half_written).map_err(failed)?;
        }
    }
    Ok(())
}

/// What breaks off may have been acknowledged, and the note that would tell does not. The log is named that the note
/// lacks, where a whole commit of this journal tells which.
fn unwitnessed(
    path: &Path,
    at: usize,
    lacks: &str,
    noted: &BTreeMap<LogId, Noted>,
    ends: &BTreeMap<LogId, Noted>,
) -> JournalError {
    let what = format!(
        "the engine's journal {} breaks off at byte {at}, and without a whole file \"acknowledged\" ({lacks}) a half-written \
         end looks like a damaged one; nothing was changed",
        path.display()
    );
    match ends.iter().find(|(log, _)| !noted.contains_key(log)) {
        Some((log, end)) => JournalError::Damaged { log: *log, after: end.seq, why: Damage::Kept(what) },
        None => JournalError::Io(format!("{what}. Restore the directory from a copy")),
    }
}

pub(super) fn lost(engine: &Path, what: &str) -> JournalError {
    JournalError::Io(format!(
        "the engine's files in {} are damaged: {what}. Restore the directory from a copy; nothing was changed",
        engine.display()
    ))
}

/// A keyspace with tables but without `current` would be taken for one that was never finished, and deleted; and
/// without keyspace 0, which names the others, all would be.
fn check_keyspaces(keyspaces: &Path) -> Result<(), JournalError> {
    let names = keyspaces.join("0");
    if !names.join("current").exists() {
        return Err(lost(&names, "its file \"current\" is missing"));
    }
    let failed = |why: io::Error| storage_error(&keyspaces.display().to_string(), &why);
    for entry in fs::read_dir(keyspaces).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let tables = path.join("tables");
        let has_tables = tables.exists() && fs::read_dir(&tables).map_err(failed)?.next().is_some();
        if has_tables && !path.join("current").exists() {
            return Err(lost(&path, "its file \"current\" is missing"));
        }
        manifest::check(&path)?;
    }
    Ok(())
}

/// The engine's journals in the order of their numbers.
fn journals(engine: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(engine)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (true, Some(number)) = (is_journal, number) {
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals)
}

/// Whether no commit was ever written into a journal, as far as its first byte tells.
fn is_unused(path: &Path) -> bool {
    let mut first = [0];
    File::open(path).and_then(|mut file| file.read(&mut first)).is_ok_and(|_| first == [0])
}

fn cut(path: &Path, len: usize) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).open(path)?;
    file.set_len(len as u64)?;
    file.sync_all()
}

/// Compared a page at a time: up to 64 MiB are laid out ahead, and looked at in every start.
const PAGE: [u8; 4096] = [0; 4096];

fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE.len()).all(|chunk| *chunk == PAGE[..chunk.len()])
}

/// Without the blank pages at the end.
fn written(bytes: &[u8]) -> &[u8] {
    let blank = bytes.rchunks(PAGE.len()).take_while(|chunk| **chunk == PAGE[..chunk.len()]);
    &bytes[..bytes.len() - blank.map(<[u8]>::len).sum::<usize>()]
}

struct Journal<'a> {
    path: &'a Path,
    bytes: Bytes,
    noted: &'a BTreeMap<LogId, Noted>,
}

impl Journal<'_> {
    /// Reads all commits. `Some` is where a half-written one begins that may be taken away.
    fn inspect(&self, ends: &mut BTreeMap<LogId, Noted>) -> Result<Option<usize>, JournalError> {
        let mut at = 0;
        loop {
            match find(&self.bytes, at) {
                Found::Whole(commit) => {
                    ends.extend(commit.heads);
                    at = commit.end;
                }
                // What was laid out ahead of time and never written.
                Found::Broken if is_blank(&self.bytes[at..]) => return Ok(None),
                Found::Changed(commit) => {
                    self.check_changed(&commit, at)?;
                    self.check_last(at, ends)?;
                    return Ok(Some(at));
                }
                Found::Broken => {
                    self.check_last(at, ends)?;
                    return Ok(Some(at));
                }
            }
        }
    }

    /// A commit whose checksum does not match: damage if one of its frames was acknowledged, or is behind it.
    fn check_changed(&self, commit: &Commit, at: usize) -> Result<(), JournalError> {
        let is_acknowledged =
            |place: &&Place| self.noted.get(&place.log).is_some_and(|noted| noted.seq >= place.first);
        let mut whole = None;
        for place in commit.frames.iter().filter(is_acknowledged) {
            let damaged = |why| {
                let after = place.first.saturating_sub(1);
                JournalError::Damaged { log: place.log, after, why }
            };
            match Frame::decode(self.bytes.slice(place.bytes.clone())) {
                Err(why) => return Err(damaged(why)),
                // Unless only its key is changed, the engine would cut it off with the rest of the commit.
                Ok(frame) if frame.header().first == place.first => {
                    whole = whole.or_else(|| Some(damaged(self.broken(at))));
                }
                Ok(_) => {}
            }
        }
        whole.map_or(Ok(()), Err)
    }

    /// Behind a half-written commit there is nothing. A whole one shows that this one was whole, too.
    fn check_last(&self, at: usize, ends: &BTreeMap<LogId, Noted>) -> Result<(), JournalError> {
        let behind = written(&self.bytes[at..]);
        let later = behind.windows(LAST_BYTES.len()).enumerate().filter(|(_, bytes)| *bytes == LAST_BYTES);
        for (behind, _) in later {
            let Found::Whole(commit) = find(&self.bytes, at + behind + LAST_BYTES.len()) else { continue };
            let Some(next) = commit.frames.first() else { return Err(lost(self.path, &self.place(at))) };
            let after = ends.get(&next.log).map_or(next.first - 1, |end| end.seq);
            return Err(JournalError::Damaged { log: next.log, after, why: self.broken(at) });
        }
        Ok(())
    }

    fn broken(&self, at: usize) -> Damage {
        Damage::Kept(format!("the engine's journal is damaged: {}", self.place(at)))
    }

    fn place(&self, at: usize) -> String {
        format!("{} at byte {at}", self.path.display())
    }
}
