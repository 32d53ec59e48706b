//! What the committer and the readers share: the engine, and what is known of every log.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use fjall::Guard;
use holmes_kernel::frame::Damage;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Frame, LogId};

use super::acknowledged::Noted;
use super::engine::{Engine, caught, engine_error, guarded};
use super::keys::{LOG_BYTES, decode_head, frame_key, frame_of, log_key, log_of, noted_of};
use super::layout::Directory;
use super::snapshots::Snapshots;
use crate::journal::head::Head;

/// The engine and the durable heads. The directory is last: it is let go when all else is closed.
pub(super) struct Store {
    heads: RwLock<BTreeMap<LogId, Head>>,
    pub(super) engine: Engine,
    pub(super) snapshots: Snapshots,
    /// How often something was forced to disk.
    pub(super) commits: AtomicU64,
    pub(super) directory: Directory,
}

impl Store {
    /// Reads every log's head and checks it against the log's last frame and against what was acknowledged.
    pub(super) fn new(
        engine: Engine,
        directory: Directory,
        noted: &BTreeMap<LogId, Noted>,
    ) -> Result<Store, JournalError> {
        let heads = guarded(|| heads(&engine))?;
        for (log, noted) in noted {
            noted.check(*log, heads.get(log).map(Noted::from))?;
        }
        let snapshots = Snapshots::new(directory.snapshots());
        let (heads, commits) = (RwLock::new(heads), AtomicU64::new(0));
        Ok(Store { heads, engine, snapshots, commits, directory })
    }

    /// What is durable of a log.
    pub(super) fn head(&self, log: LogId) -> Option<Head> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).get(&log).copied()
    }

    /// Itself, if there is such a log.
    pub(super) fn known(&self, log: LogId) -> Result<&Store, JournalError> {
        self.head(log).map(|_| self).ok_or(JournalError::Missing(log))
    }

    /// What is durable of every log.
    pub(super) fn heads(&self) -> BTreeMap<LogId, Head> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn logs(&self) -> Vec<LogId> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// New heads are durable.
    pub(super) fn publish(&self, heads: &BTreeMap<LogId, Head>) {
        let mut known = self.heads.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(heads);
    }

    /// Whether this very frame is in its log.
    pub(super) fn holds(&self, frame: &Frame) -> Result<bool, JournalError> {
        guarded(|| {
            let key = frame_key(frame.header().log, frame.header().first);
            let found = self.engine.frames.get(key).map_err(|why| engine_error("reading a frame", &why))?;
            Ok(found.is_some_and(|found| *found == **frame.bytes()))
        })
    }

    /// The durable frames behind `after`. When `after` lies inside a frame, that frame is the first.
    pub(super) fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        let end = self.head(log).ok_or(JournalError::Missing(log))?.tail.seq;
        if after >= end {
            return Ok(Vec::new());
        }
        let reading = Reading { log, end, whole: after, frames: Vec::new(), bytes: 0 };
        let refined = |why| match why {
            JournalError::Damaged { after, .. } => first_damage(&self.engine, log, after, end, why),
            other => other,
        };
        caught(|| reading.run(&self.engine, max_bytes).map_err(refined)).unwrap_or_else(|why| {
            let why = Damage::Kept(format!("the engine gave up reading its table: {why}"));
            Err(JournalError::Damaged { log, after, why })
        })
    }
}

/// A read under way: everything up to `whole` is in hand or was not asked for.
struct Reading {
    log: LogId,
    end: u64,
    whole: u64,
    frames: Vec<Frame>,
    bytes: usize,
}

impl Reading {
    fn run(mut self, engine: &Engine, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        let begin = self.begin(engine)?;
        for found in engine.frames.range(frame_key(self.log, begin)..=frame_key(self.log, self.end)) {
            let frame = self.frame(found)?;
            self.whole = frame.header().last;
            self.bytes += frame.bytes().len();
            self.frames.push(frame);
            if self.whole >= self.end || self.bytes >= max_bytes {
                return Ok(self.frames);
            }
        }
        Err(self.damaged(Damage::Kept(format!("the frames behind it, up to {}, are gone", self.end))))
    }

    /// Where the frame that holds the first number asked for begins.
    fn begin(&self, engine: &Engine) -> Result<u64, JournalError> {
        let wanted = frame_key(self.log, self.whole + 1);
        let Some(found) = engine.frames.range(frame_key(self.log, 0)..=wanted).next_back() else {
            let why = Damage::Sequence { found: self.end, expected: 1 };
            return Err(JournalError::Damaged { log: self.log, after: 0, why });
        };
        let key = found.key().map_err(|why| self.unreadable(&why))?;
        Ok(frame_of(&key).map_or(self.whole + 1, |(_, first)| first))
    }

    fn frame(&self, found: Guard) -> Result<Frame, JournalError> {
        let (key, value) = found.into_inner().map_err(|why| self.unreadable(&why))?;
        let frame = Frame::decode(Bytes::copy_from_slice(&value)).map_err(|why| self.damaged(why))?;
        let header = frame.header();
        if header.log != self.log {
            return Err(self.damaged(Damage::Foreign { found: header.log, expected: self.log }));
        }
        let expected = self.whole + 1;
        let goes_on = header.first == expected || (self.frames.is_empty() && header.last >= expected);
        let is_in_its_place = frame_of(&key) == Some((self.log, header.first));
        if !goes_on || !is_in_its_place || header.last > self.end {
            return Err(self.damaged(Damage::Sequence { found: header.first, expected }));
        }
        Ok(frame)
    }

    fn damaged(&self, why: Damage) -> JournalError {
        JournalError::Damaged { log: self.log, after: self.whole, why }
    }

    fn unreadable(&self, why: &fjall::Error) -> JournalError {
        self.damaged(Damage::Kept(format!("the engine cannot read its table: {why}")))
    }
}

/// Every log's stored head, completed from its last frame.
fn heads(engine: &Engine) -> Result<BTreeMap<LogId, Head>, JournalError> {
    let failed = |why| engine_error("reading the heads of the logs", &why);
    let mut heads = BTreeMap::new();
    for found in engine.heads.iter() {
        let (key, value) = found.into_inner().map_err(failed)?;
        let log =
            log_of(&key).ok_or_else(|| JournalError::Io("a head is stored under no log's name".into()))?;
        let last = last_frame(engine, log).map_err(|why| {
            let end = noted_of(&value).map_or(0, |noted| noted.seq);
            first_damage(engine, log, 0, end, why)
        })?;
        heads.insert(log, decode_head(log, &value, &last)?);
    }
    check_no_headless(engine, &heads)?;
    Ok(heads)
}

fn last_frame(engine: &Engine, log: LogId) -> Result<Frame, JournalError> {
    let damaged = |why| JournalError::Damaged { log, after: 0, why };
    let gone = || damaged(Damage::Kept("it has a head and no frames".into()));
    let range = frame_key(log, 0)..=frame_key(log, u64::MAX);
    let (key, value) = engine
        .frames
        .range(range)
        .next_back()
        .ok_or_else(gone)?
        .into_inner()
        .map_err(|why| engine_error(&format!("reading the last frame of the log of {log}"), &why))?;
    let first = frame_of(&key).map_or(1, |(_, first)| first.max(1));
    Frame::decode(Bytes::copy_from_slice(&value)).map_err(|why| JournalError::Damaged {
        log,
        after: first - 1,
        why,
    })
}

/// The engine refuses a table's block, also where it only has to pass it on the way to another, and blocks hold several
/// frames: the place of the damage is where the log, read frame by frame behind `whole`, breaks off.
fn first_damage(engine: &Engine, log: LogId, mut whole: u64, end: u64, why: JournalError) -> JournalError {
    let why = match why {
        JournalError::Damaged { why, .. } => why,
        JournalError::Io(text) => Damage::Kept(text),
        other => return other,
    };
    while let Some(last) = frame_at(engine, log, whole + 1).filter(|last| (whole + 1..end).contains(last)) {
        whole = last;
    }
    JournalError::Damaged { log, after: whole, why }
}

/// Where the frame ends that begins at a place, if it is whole.
fn frame_at(engine: &Engine, log: LogId, first: u64) -> Option<u64> {
    let bytes = engine.frames.get(frame_key(log, first)).ok()??;
    let frame = Frame::decode(Bytes::copy_from_slice(&bytes)).ok()?;
    (frame.header().log == log).then(|| frame.header().last)
}

/// Frames of a log without a head show that the heads were lost.
fn check_no_headless(engine: &Engine, heads: &BTreeMap<LogId, Head>) -> Result<(), JournalError> {
    let failed = |why| engine_error("looking for logs", &why);
    let mut from = Bound::Unbounded;
    while let Some(found) = engine.frames.range((from.clone(), Bound::<Vec<u8>>::Unbounded)).next() {
        let key = found.key().map_err(failed).map_err(|why| unreadable_behind(engine, &from, heads, why))?;
        let log =
            log_of(&key).ok_or_else(|| JournalError::Io("a frame is stored under no log's name".into()))?;
        if !heads.contains_key(&log) {
            let why = Damage::Kept("it has frames and no head".into());
            return Err(JournalError::Damaged { log, after: 0, why });
        }
        let mut last = key[..LOG_BYTES].to_vec();
        last.extend([u8::MAX; 8]);
        from = Bound::Excluded(last);
    }
    Ok(())
}

/// Where the engine cannot even say whose frames come next, they are those of the next log that has a head.
fn unreadable_behind(
    engine: &Engine,
    from: &Bound<Vec<u8>>,
    heads: &BTreeMap<LogId, Head>,
    why: JournalError,
) -> JournalError {
    let is_behind = |log: &LogId| match from {
        Bound::Excluded(last) => log_key(*log).as_slice() > last.as_slice(),
        _ => true,
    };
    let next = heads.iter().filter(|(log, _)| is_behind(log)).min_by_key(|(log, _)| log_key(**log));
    match next {
        Some((log, head)) => first_damage(engine, *log, 0, head.tail.seq, why),
        None => why,
    }
}
