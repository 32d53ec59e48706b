//! The ways into a machine and what is remembered of each, so that nothing enters twice: the window of requests, the
//! inbox of sources, the numbers of bulk submitters. All of it is rebuilt from the log's entries alone.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::canon::Digest;
use crate::entry::{Entry, Origin};
use crate::weak::{Guard, is_off};
use crate::window::{Window, WindowLimits};
use crate::{LogId, Position, Principal, Table, Time};

/// How many of a bulk submitter's answers can still be asked for.
pub const SUBMITTER_REPLIES: usize = 1_024;

/// What is remembered of everything that came in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ways {
    /// Requests of the last hour.
    pub window: Window<Remembered, true>,
    inbox: Table<LogId, Position>,
    submitters: Table<Principal, Submitter>,
}

/// A command of a caller that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Digest of its command.
    pub digest: Digest,
    /// Sequence number of its entry: the answer is there.
    pub seq: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Submitter {
    /// The last number; they are dense from 1.
    last: u64,
    /// The last numbers, the newest at the back.
    recent: VecDeque<Remembered>,
}

/// What a submitter's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The next one.
    Next,
    /// Carried out before.
    Done(Remembered),
    /// Carried out so long ago that its answer is no longer kept.
    Forgotten,
    /// Not the next one.
    Gap {
        /// The next one.
        expected: u64,
    },
}

impl Ways {
    /// Nothing came in yet.
    pub fn new(limits: WindowLimits) -> Ways {
        Ways { window: Window::new(limits), inbox: Table::new(), submitters: Table::new() }
    }

    /// Up to where a source's log was taken in; the place before its first entry when nothing was.
    pub fn position(&self, source: LogId) -> Position {
        self.inbox.get(&source).copied().unwrap_or_default()
    }

    /// Every source with its position.
    pub fn positions(&self) -> impl Iterator<Item = (&LogId, &Position)> {
        self.inbox.iter()
    }

    /// What a submitter's number is.
    pub fn number(&self, submitter: &Principal, number: u64) -> Number {
        let (last, recent) = match self.submitters.get(submitter) {
            Some(known) => (known.last, &known.recent),
            None => (0, &VecDeque::new()),
        };
        if number == last + 1 || is_off(Guard::Numbers) {
            return Number::Next;
        }
        if number > last || number == 0 {
            return Number::Gap { expected: last + 1 };
        }
        let back = (last - number) as usize;
        match recent.len().checked_sub(back + 1).and_then(|at| recent.get(at)) {
            Some(known) => Number::Done(*known),
            None => Number::Forgotten,
        }
    }

    /// Takes note of an entry at a sequence number.
    pub fn record(&mut self, entry: &Entry, seq: u64) -> Result<(), &'static str> {
        match &entry.origin {
            Some(Origin::Request(request)) => {
                let id = request.id().ok_or("a request id has not 16 bytes")?;
                let digest = digest_of(&request.digest)?;
                self.window.insert(entry.asked_by(), id, Remembered { digest, seq });
            }
            Some(Origin::Source(source)) => {
                let (log, at) = source.place().ok_or("a source is no place in a log")?;
                self.inbox.insert(log, at);
            }
            Some(Origin::Submitter(origin)) => {
                let known = self.submitters.get_or_insert_with(entry.asked_by(), Submitter::default);
                if origin.number != known.last + 1 && !is_off(Guard::Numbers) {
                    return Err("a submitter's numbers are not dense");
                }
                known.last = origin.number;
                known.recent.push_back(Remembered { digest: digest_of(&origin.digest)?, seq });
                if known.recent.len() > SUBMITTER_REPLIES {
                    known.recent.pop_front();
                }
            }
            Some(Origin::Due(_) | Origin::Opened(_)) => {}
            None => return Err("an entry has no origin"),
        }
        Ok(())
    }

    /// Forgets what log time has made too old.
    pub fn advance(&mut self, now: Time) {
        self.window.advance(now);
    }
}

fn digest_of(bytes: &[u8]) -> Result<Digest, &'static str> {
    bytes.try_into().map_err(|_| "a digest has not 16 bytes")
}
