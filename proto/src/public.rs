//! What leaves a service: of each durable frame the public events, sends and refusals, a pure function of the frame,
//! made even when nothing in it is public, so that readers see every position move.

use holmes_kernel::frame::Damage;
use holmes_kernel::machine::SendTo;
use holmes_kernel::{Chain, Entry, Event, Frame, LogId, Origin, Position, ServiceId, Time};
use prost::bytes::Bytes;

mod wire;

pub use wire::WireError;

/// A frame as other services see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicFrame {
    /// Whose log.
    pub log: LogId,
    /// Term of the frame.
    pub term: u64,
    /// Its first sequence number.
    pub first: u64,
    /// Its last sequence number.
    pub last: u64,
    /// Its log time.
    pub ts: Time,
    /// Chain of the frame before it.
    pub prev_chain: Chain,
    /// Its own chain.
    pub chain: Chain,
    /// Entries with something that others may see.
    pub entries: Vec<PublicEntry>,
}

/// An entry as other services see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicEntry {
    /// Sequence number of the entry's first event.
    pub first: u64,
    /// Sequence number of its last event.
    pub last: u64,
    /// The service that the entry carries a command to, and the command.
    pub send: Option<(ServiceId, Vec<u8>)>,
    /// The entry with its public events only.
    pub entry: Entry,
    /// How far behind `first` each of them stands; empty where each follows the one before, from `first` on.
    pub offsets: Vec<u32>,
}

impl PublicEntry {
    /// The public events, each with its sequence number.
    pub fn events(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        let offset = |at: usize| self.offsets.get(at).map_or(at as u64, |offset| (*offset).into());
        self.entry.events.iter().enumerate().map(move |(at, event)| (self.first + offset(at), event))
    }
}

impl PublicFrame {
    /// What of a frame may leave, given the type of its events.
    pub fn of<E: Event>(frame: &Frame) -> Result<PublicFrame, Damage> {
        let header = frame.header();
        let mut entries = Vec::new();
        for (first, mut entry) in frame.entries()? {
            let last = first + entry.span() - 1;
            let mut events = Vec::with_capacity(entry.events.len());
            let (mut offsets, mut send) = (Vec::new(), None);
            for (bytes, offset) in std::mem::take(&mut entry.events).into_iter().zip(0..) {
                let event = E::decode(bytes.clone()).map_err(|why| Damage::Body(why.to_string()))?;
                if event.name().is_none() {
                    return Err(Damage::Body(format!(
                        "the entry at {first} holds an event that this build does not know"
                    )));
                }
                if let Some(SendTo { to, command }) = event.send() {
                    send = Some((to, command.to_vec()));
                }
                if event.is_public() {
                    events.push(bytes);
                    offsets.push(offset);
                }
            }
            if offsets.iter().zip(0..).all(|(offset, at)| *offset == at) {
                offsets.clear();
            }
            entry.events = events;
            let answers = matches!(entry.origin, Some(Origin::Source(_)));
            if !entry.events.is_empty() || send.is_some() || entry.refused.is_some() || answers {
                entries.push(PublicEntry { first, last, send, entry, offsets });
            }
        }
        Ok(PublicFrame {
            log: header.log,
            term: header.term,
            first: header.first,
            last: header.last,
            ts: header.ts,
            prev_chain: header.prev_chain,
            chain: *frame.chain(),
            entries,
        })
    }

    /// A place in the frame.
    pub fn position(&self, seq: u64) -> Position {
        Position { term: self.term, seq, chain: self.chain }
    }
}
