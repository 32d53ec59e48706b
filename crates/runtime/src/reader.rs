//! Reads another service's frames for a machine: pure, so that both drivers read alike.

use holmes_kernel::shard::{Delivery, guarded};
use holmes_kernel::{Event as _, LogId, Machine, Position, Principal, Sighted, Unknown};

use holmes_proto::public::PublicFrame;

/// Behind how many events without effect a reader's position is written alone.
const MOST_SKIPPED: u64 = 10_000;

/// Reads one source's frames for one machine: what each entry causes there, and when the position alone must move.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    source: LogId,
    at: Position,
    /// The last place read, which may be ahead of what was delivered.
    seen: Position,
}

/// Why a source cannot be read further. The source is parked until a person has looked; others go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Parked {
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
    pub(crate) fn new(source: LogId, at: Position) -> Reader {
        Reader { source, at, seen: at }
    }

    /// The last sequence number read.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.seq
    }

    /// What a frame causes, in order. Each delivery begins where the one before it ends, so they must be taken in
    /// turn. A frame that was read before causes nothing. Where an entry parks the source, what the entries before it
    /// caused comes first; reading the frame again then answers the error.
    pub(crate) fn read<M: Machine>(
        &mut self,
        frame: &PublicFrame,
    ) -> Result<Vec<Delivery<M::Command>>, Parked> {
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
