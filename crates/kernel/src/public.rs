//! What leaves a service: of each durable frame the public events, sends and refusals, a pure function of the frame,
//! made even when nothing in it is public, so that readers see every position move.

use crate::entry::{Entry, Origin};
use crate::frame::{Damage, Frame};
use crate::id::{Chain, LogId, Position, Principal, ServiceId, Time};
use crate::machine::{Event, Machine, SendTo, Sighted, Unknown};
use crate::shard::{Delivery, guarded};

/// Behind how many events without effect a reader's position is written alone.
pub const MOST_SKIPPED: u64 = 10_000;

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
}

impl PublicFrame {
    /// What of a frame may leave, given the type of its events.
    pub fn of<E: Event>(frame: &Frame) -> Result<PublicFrame, Damage> {
        let header = frame.header();
        let mut entries = Vec::new();
        for (first, mut entry) in frame.entries()? {
            let last = first + entry.span() - 1;
            let mut events = Vec::with_capacity(entry.events.len());
            let mut send = None;
            for bytes in std::mem::take(&mut entry.events) {
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
                }
            }
            entry.events = events;
            let answers = matches!(entry.origin, Some(Origin::Source(_)));
            if !entry.events.is_empty() || send.is_some() || entry.refused.is_some() || answers {
                entries.push(PublicEntry { first, last, send, entry });
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

    fn position(&self, seq: u64) -> Position {
        Position { term: self.term, seq, chain: self.chain }
    }
}

/// Reads one source's frames for one machine: what each entry causes there, and when the position alone must move.
#[derive(Clone, Debug)]
pub struct Reader {
    source: LogId,
    at: Position,
    /// The last place read, which may be ahead of what was delivered.
    seen: Position,
}

/// Why a source cannot be read further. The source is parked until a person has looked; others go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Parked {
    /// The frame follows another history than the one that was taken in: the source was restored from a backup.
    #[error("SOURCE_REWOUND: {0} at {1} follows another history than the one that was taken in")]
    Rewound(LogId, u64),
    /// The frame is of another log.
    #[error("SOURCE_FOREIGN: a frame of {0} came for {1}")]
    Foreign(LogId, LogId),
    /// Frames are missing.
    #[error("SOURCE_GAP: {source_log} goes on at {found}, expected {expected}")]
    Gap {
        /// Whose log.
        source_log: LogId,
        /// The frame's first sequence number.
        found: u64,
        /// The next one.
        expected: u64,
    },
    /// The reaction panicked.
    #[error("SOURCE_REACTION_PANICKED: {source_log} at {seq}: {words}")]
    Panicked {
        /// Whose log.
        source_log: LogId,
        /// The entry.
        seq: u64,
        /// What the panic said.
        words: String,
    },
    /// An event that this build does not know.
    #[error("SOURCE_UNKNOWN_EVENT: {0}")]
    Unknown(#[from] Unknown),
}

impl Reader {
    /// A reader that goes on where a machine's inbox stands.
    pub fn new(source: LogId, at: Position) -> Reader {
        Reader { source, at, seen: at }
    }

    /// The last sequence number read.
    pub fn seen(&self) -> u64 {
        self.seen.seq
    }

    /// What a frame causes, in order. Each delivery begins where the one before it ends, so they must be taken in
    /// turn. A frame that was read before causes nothing. Where an entry parks the source, what the entries before it
    /// caused comes first; reading the frame again then answers the error.
    pub fn read<M: Machine>(&mut self, frame: &PublicFrame) -> Result<Vec<Delivery<M::Command>>, Parked> {
        if frame.last <= self.seen.seq {
            return Ok(Vec::new());
        }
        self.follow(frame)?;
        let mut deliveries = Vec::new();
        for public in &frame.entries {
            if public.last <= self.seen.seq {
                continue; // taken in before: the position stands in the middle of the frame
            }
            let send = public
                .send
                .as_ref()
                .filter(|(to, _)| *to == M::Event::SERVICE)
                .map(|(_, bytes)| bytes.as_slice());
            let sighted =
                Sighted { log: frame.log, seq: public.first, ts: frame.ts, send, entry: &public.entry };
            // A reaction that panics is a defect of this build: the source waits for one that does not.
            let reaction = guarded(|| M::react(&sighted));
            let parked = |words| Parked::Panicked { source_log: self.source, seq: public.first, words };
            match reaction.map_err(parked).and_then(|reaction| reaction.map_err(Parked::from)) {
                Ok(None) => {}
                Ok(Some(command)) => {
                    let to = frame.position(public.last);
                    deliveries.push(self.deliver(frame, to, Some(command), public.entry.traceparent.clone()));
                }
                Err(parked) if deliveries.is_empty() => return Err(parked),
                Err(_) => return Ok(deliveries),
            }
            self.seen = frame.position(public.last);
        }
        self.seen = frame.position(frame.last);
        if self.seen.seq - self.at.seq >= MOST_SKIPPED {
            deliveries.push(self.deliver(frame, self.seen, None, String::new()));
        }
        Ok(deliveries)
    }

    /// Whether a frame goes on from what was read.
    fn follow(&self, frame: &PublicFrame) -> Result<(), Parked> {
        if frame.log != self.source {
            return Err(Parked::Foreign(frame.log, self.source));
        }
        let expected = self.seen.seq + 1;
        if frame.first > expected {
            return Err(Parked::Gap { source_log: self.source, found: frame.first, expected });
        }
        // A position in the middle of a frame carries that frame's own chain.
        let chain = if frame.first == expected { frame.prev_chain } else { frame.chain };
        if chain == self.seen.chain { Ok(()) } else { Err(Parked::Rewound(self.source, frame.first)) }
    }

    fn deliver<C>(
        &mut self,
        frame: &PublicFrame,
        to: Position,
        command: Option<C>,
        trace: String,
    ) -> Delivery<C> {
        let from = self.at.seq;
        self.at = to;
        let principal = Principal::service(frame.log.svc);
        Delivery {
            ticket: 0,
            source: self.source,
            from,
            to,
            ts: frame.ts,
            principal,
            traceparent: trace,
            command,
        }
    }
}
