//! What the logs say, read beside the machines: one chain each, nothing twice, and every event held to the rules.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holmes_kernel::canon::Digest;
use holmes_kernel::entry::SourceOrigin;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Entry, Event, Frame, Id, LogId, Origin, Principal, ServiceId, Tail, Way};
use holmes_proto::{accounts, emission, ledger, market, scheduling, staking, treasury};
use holmes_store::journal::memory;
use holmes_testing::now;
use prost::DecodeError;
use prost::bytes::Bytes;

use crate::audit::{Audit, Seen};
use crate::deed::SERVICES;
use crate::world::log;

/// What names a command for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Whom it was said to.
    pub service: ServiceId,
    /// By whom.
    pub who: Principal,
    /// Under which id or number.
    pub way: Number,
}

/// A request's id or a submitter's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Of a request.
    Id(Id),
    /// Of a submission.
    Number(u64),
}

impl From<Way> for Number {
    fn from(way: Way) -> Number {
        match way {
            Way::Request(id) => Number::Id(id),
            Way::Submission(number) => Number::Number(number),
        }
    }
}

/// A command's entry.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its first sequence number.
    pub first: u64,
    /// Its last.
    pub last: u64,
    /// Of the command.
    pub digest: Digest,
    /// The reason, where it was refused on record.
    pub refused: Option<String>,
}

/// A frame, and what is in it.
type Read = (Frame, Vec<(u64, Entry)>);

fn sources(entries: &[(u64, Entry)]) -> impl Iterator<Item = &SourceOrigin> {
    entries.iter().filter_map(|(_, entry)| match &entry.origin {
        Some(Origin::Source(source)) => Some(source),
        _ => None,
    })
}

/// What the logs have said so far.
#[derive(Debug, Default)]
pub struct Watch {
    tails: BTreeMap<LogId, Tail>,
    commands: BTreeMap<Key, Found>,
    /// The last number of each submitter.
    numbers: BTreeMap<(ServiceId, Principal), u64>,
    /// Up to where each log has taken in each other.
    taken: BTreeMap<(LogId, LogId), u64>,
    /// Sends that their target has not taken in: target, source, place.
    pub sent: BTreeSet<(ServiceId, ServiceId, u64)>,
    /// What their events come to.
    pub audit: Audit,
    wrong: Vec<String>,
    /// Frames read.
    pub frames: u64,
}

impl Watch {
    /// Reads what has been written since it last looked; everything that must not be.
    pub fn look(&mut self, kept: &memory::Journal) -> Vec<String> {
        let unread = SERVICES.map(|service| {
            let tail = self.tails.get(&log(service)).copied().unwrap_or_default();
            now(kept.read(log(service), tail.seq, usize::MAX)).unwrap_or_default()
        });
        self.read(unread)
    }

    /// Reads the next frames of every log; everything that must not be.
    ///
    /// An entry is read behind what it has taken in of other logs, so that who judges it knows what its service knew.
    pub fn read(&mut self, frames: [Vec<Frame>; SERVICES.len()]) -> Vec<String> {
        let mut unread = frames.map(|frames| self.entries(frames));
        while let Some(next) = self.next(&unread) {
            if let Some((frame, entries)) = unread[next].pop_front() {
                self.frame(&frame, entries);
            }
        }
        std::mem::take(&mut self.wrong)
    }

    /// Which log is read on, by its place among them.
    fn next(&mut self, unread: &[VecDeque<Read>]) -> Option<usize> {
        let heard = |source: &SourceOrigin| {
            let Some((from, at)) = source.place() else { return true };
            self.tails.get(&from).is_some_and(|tail| tail.seq >= at.seq)
        };
        let knows =
            |frames: &VecDeque<Read>| frames.front().is_some_and(|(_, entries)| sources(entries).all(heard));
        let first = || unread.iter().position(|frames| !frames.is_empty());
        unread.iter().position(knows).or_else(first)
    }

    fn entries(&mut self, frames: Vec<Frame>) -> VecDeque<Read> {
        let read = |frame: Frame| match frame.entries() {
            Ok(entries) => Some((frame, entries)),
            Err(why) => {
                self.wrong.push(format!("a frame of {} cannot be read: {why}", frame.header().log));
                None
            }
        };
        frames.into_iter().filter_map(read).collect()
    }

    /// A command's entry, if there is one.
    pub fn found(&self, key: &Key) -> Option<&Found> {
        self.commands.get(key)
    }

    /// The end of every log.
    pub fn tails(&self) -> impl Iterator<Item = (&LogId, &Tail)> {
        self.tails.iter()
    }

    fn frame(&mut self, frame: &Frame, entries: Vec<(u64, Entry)>) {
        let header = frame.header();
        let log = header.log;
        let tail = self.tails.get(&log).copied().unwrap_or_default();
        if let Err(why) = frame.follows(log, &tail) {
            self.wrong.push(format!("the log of {log} is no chain behind {}: {why}", tail.seq));
        }
        self.frames += 1;
        for (first, entry) in entries {
            self.came(log, first, &entry);
            let seen = Seen { first, at: header.ts, who: entry.asked_by() };
            for (seq, bytes) in (first..).zip(entry.events) {
                if self.happened(log.svc, &seen, seq, bytes).is_err() {
                    self.wrong.push(format!("the event at {seq} of {log} cannot be read"));
                }
            }
        }
        self.tails.insert(log, frame.tail());
    }

    fn happened(
        &mut self,
        service: ServiceId,
        seen: &Seen,
        seq: u64,
        bytes: Bytes,
    ) -> Result<(), DecodeError> {
        match service {
            ledger::v1::Event::SERVICE => self.event(seen, seq, bytes, Audit::ledger),
            staking::v1::Event::SERVICE => self.event(seen, seq, bytes, Audit::staking),
            scheduling::v1::Event::SERVICE => self.event(seen, seq, bytes, Audit::scheduling),
            market::v1::Event::SERVICE => self.event(seen, seq, bytes, Audit::market),
            emission::v1::Event::SERVICE => self.event(seen, seq, bytes, Audit::emission),
            treasury::v1::Event::SERVICE => self.event::<treasury::v1::Event>(seen, seq, bytes, nothing),
            _ => self.event::<accounts::v1::Event>(seen, seq, bytes, nothing),
        }
    }

    fn event<E: Event>(
        &mut self,
        seen: &Seen,
        seq: u64,
        bytes: Bytes,
        judge: fn(&mut Audit, &Seen, E) -> Vec<String>,
    ) -> Result<(), DecodeError> {
        let event = E::decode(bytes)?;
        if let Some(send) = event.send() {
            self.sent.insert((send.to, E::SERVICE, seq));
            self.audit.sent(&send);
        }
        self.wrong.extend(judge(&mut self.audit, seen, event));
        Ok(())
    }

    /// Nothing comes in twice, by whatever way.
    fn came(&mut self, log: LogId, first: u64, entry: &Entry) {
        let (service, who) = (log.svc, entry.asked_by());
        let (way, digest) = match &entry.origin {
            Some(Origin::Request(request)) => (Number::Id(request.id().unwrap_or_default()), &request.digest),
            Some(Origin::Submitter(submitter)) => {
                let last = self.numbers.entry((service, who)).or_default();
                if submitter.number != *last + 1 {
                    let what = format!("number {} of {who} at {service:?} follows {last}", submitter.number);
                    self.wrong.push(what);
                }
                *last = submitter.number;
                (Number::Number(submitter.number), &submitter.digest)
            }
            Some(Origin::Source(source)) => {
                let Some((from, at)) = source.place() else {
                    return self.wrong.push(format!("the entry at {first} of {log} comes from nowhere"));
                };
                let before = self.taken.entry((log, from)).or_default();
                if at.seq <= *before {
                    self.wrong
                        .push(format!("{log} has taken in {from} at {} again, behind {before}", at.seq));
                }
                *before = (*before).max(at.seq);
                self.sent.remove(&(service, from.svc, at.seq));
                if self.tails.get(&from).is_none_or(|tail| tail.seq < at.seq) {
                    self.wrong.push(format!("{log} has taken in {from} at {}, which is not written", at.seq));
                }
                self.audit.heard(service, from.svc, at.seq);
                return;
            }
            _ => return,
        };
        let found = Found {
            first,
            last: first + entry.span() - 1,
            digest: digest.as_ref().try_into().unwrap_or_default(),
            refused: entry.refused.as_ref().map(|refused| refused.reason.clone()),
        };
        let key = Key { service, who, way };
        if let Some(before) = self.commands.insert(key.clone(), found) {
            self.wrong.push(format!("{key:?} ran twice, at {} and at {first}", before.first));
        }
    }
}

/// What the rules say of an event that none of them speaks of.
fn nothing<E>(_: &mut Audit, _: &Seen, _: E) -> Vec<String> {
    Vec::new()
}
