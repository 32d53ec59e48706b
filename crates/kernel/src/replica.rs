//! What replaying a log gives: the machine's state, what the kernel remembers beside it, and the place. The owner's
//! shard, the writer of snapshots and `verify` all stand on it, so there is one way from a log to a state.

use prost::Message as _;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::canon::{self, Digest, NotCanonical};
use crate::entry::{Entry, Origin};
use crate::frame::{Damage, ENTRY_BYTES, Frame, Open, Tail};
use crate::id::{LogId, Principal, Time};
use crate::machine::{BadParams, Broken, Event, Machine, Meta, Opened};
use crate::shard::guarded;
use crate::ways::Ways;
use crate::weak::{Guard, is_off};
use crate::window::WindowLimits;

/// The least schema that a reader of our frames must know.
pub const SCHEMA: u32 = 1;

/// A machine at a place of its log.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Replica<M: Machine> {
    log: LogId,
    tail: Tail,
    /// The machine's state.
    pub(crate) state: M::State,
    /// What came in.
    pub(crate) ways: Ways,
}

/// Why a log cannot be replayed further. Nothing is ever skipped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are not the log's next frame.
    #[error("behind {after}: {why}")]
    Damage {
        /// The last sequence number that was applied.
        after: u64,
        /// What is wrong.
        why: Damage,
    },
    /// An entry is not what this kernel writes.
    #[error("at {seq}: {why}")]
    Entry {
        /// The entry's first sequence number.
        seq: u64,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer build.
    #[error(
        "at {seq}: an event of {service} that this build does not know (frame schema {schema}); use a build that knows it"
    )]
    Unknown {
        /// The event's sequence number.
        seq: u64,
        /// The service's name.
        service: &'static str,
        /// The frame's schema.
        schema: u32,
    },
    /// A frame that asks for a newer reader, even if all of its events look known.
    #[error(
        "behind {after}: a frame of schema {schema}, this build knows {SCHEMA}; use a build that knows it"
    )]
    Schema {
        /// The last sequence number that was applied.
        after: u64,
        /// The frame's schema.
        schema: u32,
    },
    /// The log was opened with parameters that this build refuses.
    #[error(transparent)]
    Params(#[from] BadParams),
}

/// Version of what the kernel adds to a snapshot (ways, window, tail): raised with every change of their encoding or
/// of the limits that stand in it.
const KERNEL_STATE: u32 = 1;

impl<M: Machine> Replica<M> {
    /// Version of a snapshot's bytes: the kernel's part and the machine's.
    pub const VERSION: u32 = (KERNEL_STATE << 16) | M::STATE;

    /// The first frame of a log: what provisioning writes.
    pub fn provision(log: LogId, now: Time, opened: Opened) -> Result<Frame, BadParams> {
        if log.svc != M::Event::SERVICE {
            return Err(BadParams(format!("{log} is not a log of {}", M::NAME)));
        }
        M::init(&opened)?;
        let largest = opened.encoded_len();
        if largest > ENTRY_BYTES / 2 {
            return Err(BadParams(format!("{largest} bytes are more than the first frame can hold")));
        }
        let mut open = Open::new(log, 0, now, SCHEMA, &Tail::default());
        let head = Entry {
            origin: Some(Origin::Opened(opened)),
            principal: Bytes::copy_from_slice(&Principal::SYSTEM.to_bytes()),
            ..Entry::default()
        };
        open.push::<M::Event>(&head, &[]);
        Ok(open.freeze())
    }

    /// The machine behind the first frame of its log.
    pub fn open(log: LogId, first: &Frame) -> Result<Replica<M>, ReplayError> {
        let damage = |why| ReplayError::Damage { after: 0, why };
        first.follows(log, &Tail::default()).map_err(damage)?;
        known(first, 0)?;
        let entries = first.entries().map_err(damage)?;
        let opened = match entries.as_slice() {
            [(_, Entry { origin: Some(Origin::Opened(opened)), .. })] => opened,
            _ => {
                return Err(ReplayError::Entry {
                    seq: 1,
                    why: "a log begins with its opening, alone".into(),
                });
            }
        };
        let state = M::init(opened)?;
        Ok(Replica { log, tail: first.tail(), state, ways: Ways::new(WindowLimits::DEFAULT) })
    }

    /// Applies the next frame, and holds the machine's invariants to every entry: a log that somebody forged is found at the
    /// entry that breaks them, though later ones mend it. After an error the replica may stand in the middle of the frame:
    /// drop it.
    pub fn apply(&mut self, frame: &Frame) -> Result<(), ReplayError> {
        let damage = |why| ReplayError::Damage { after: self.tail.seq, why };
        match frame.follows(self.log, &self.tail) {
            Err(Damage::Chain) if is_off(Guard::Chain) => {}
            follows => follows.map_err(damage)?,
        }
        known(frame, self.tail.seq)?;
        let entries = frame.entries().map_err(damage)?;
        let header = frame.header();
        self.ways.advance(header.ts);
        let ts = if is_off(Guard::Moment) { self.tail.ts } else { header.ts };
        for (first, entry) in &entries {
            let wrong = |seq, why: String| ReplayError::Entry { seq, why };
            let principal = written_by(entry).map_err(|why| wrong(*first, why.into()))?;
            let mut events = Vec::with_capacity(entry.events.len());
            for (seq, bytes) in (*first..).zip(&entry.events) {
                let event = <M::Event as prost::Message>::decode(bytes.clone())
                    .map_err(|why| wrong(seq, format!("an event cannot be read: {why}")))?;
                if event.name().is_none() {
                    return Err(ReplayError::Unknown { seq, service: M::NAME, schema: header.schema });
                }
                events.push(event);
            }
            // On events that no machine of ours decided, a machine may fail: that is damage, and has a place.
            let happened = guarded(|| {
                for (seq, event) in (*first..).zip(&events) {
                    M::evolve(&mut self.state, event, &Meta { ts, principal, term: header.term, seq });
                }
                if is_off(Guard::Step) {
                    return Ok(());
                }
                M::check_step(&self.state, &events).map_err(|why| why.to_string())
            });
            let failed = |words| Err(format!("{} fails over its events: {words}", M::NAME));
            happened.unwrap_or_else(failed).map_err(|why| wrong(*first, why))?;
            self.ways.record(entry, *first).map_err(|why| wrong(*first, why.into()))?;
        }
        self.tail = frame.tail();
        Ok(())
    }

    /// Whose log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The place.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The machine's state.
    pub fn state(&self) -> &M::State {
        &self.state
    }

    /// What came in.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Every invariant of the machine that does not hold.
    pub fn check(&self) -> Vec<Broken> {
        let failed = |words| vec![Broken(format!("{} fails over its own check: {words}", M::NAME))];
        guarded(|| M::check(&self.state)).unwrap_or_else(failed)
    }

    /// Digest of state, memory and place together.
    pub fn digest(&self) -> Digest {
        canon::digest(self)
    }

    /// The bytes of a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        canon::encode(self)
    }

    /// A replica from a snapshot's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Replica<M>, NotCanonical> {
        canon::decode(bytes)
    }

    /// A frame of our own was frozen: the log now ends behind it. Its events were applied when they were decided.
    pub(crate) fn passed(&mut self, tail: Tail) {
        self.tail = tail;
    }
}

/// Whether this build may read a frame at all.
fn known(frame: &Frame, after: u64) -> Result<(), ReplayError> {
    let schema = frame.header().schema;
    if schema > SCHEMA { Err(ReplayError::Schema { after, schema }) } else { Ok(()) }
}

/// Who asked, if the entry is one that a shard writes behind the opening.
fn written_by(entry: &Entry) -> Result<Principal, &'static str> {
    if matches!(entry.origin, Some(Origin::Opened(_))) {
        return Err("a log is opened once");
    }
    if entry.refused.is_some() && !entry.events.is_empty() {
        return Err("what was refused has no events");
    }
    Principal::from_slice(&entry.principal).ok_or("an entry's principal is none")
}
