//! Follows one service's log from another process: every frame in order and once, whatever the stream repeats, reorders or
//! loses.
//!
//! A [`Consumer`] listens to the log's stream on a [`Bus`] and reads what is missing there from the service itself
//! ([`Gaps`], for one over `holmes.log.v1.Replay`). It begins at a [`Place`] and gives a frame with the place behind it:
//! whoever keeps the effect of the frame and that place together, in one transaction, applies each event once, also over
//! its own death. Who has no transactions keeps the place in a [`checkpoint::File`] behind the effect, and makes the effect so
//! that it may come twice: of the frames behind the kept place, by (cell, service, sequence number).
//!
//! ```no_run
//! # async fn example(bus: impl holmes_kernel::ports::Bus, gaps: impl holmes_consumer::Gaps, log: holmes_kernel::LogId)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use holmes_consumer::{Consumer, checkpoint};
//!
//! let kept = checkpoint::File::open("ledger.place")?;
//! let mut ledger = Consumer::new(bus, gaps, log, kept.place());
//! loop {
//!     let frame = ledger.next().await?;
//!     for entry in &frame.entries {
//!         for (seq, event) in entry.events() {
//!             println!("{seq}: {} bytes of holmes.ledger.v1.Event", event.len());
//!         }
//!     }
//!     kept.keep(ledger.place())?;
//! }
//! # }
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use holmes_kernel::ports::{Bus, BusError, Ear as _};
use holmes_kernel::{Chain, LogId};
use holmes_proto::public::{PublicFrame, WireError};

pub mod checkpoint;
mod gaps;
mod signed;

pub use gaps::{Gaps, NotRead, Replay};
pub use signed::Signed;

/// The pauses while neither the stream nor the service answers, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A place in a log: the last event applied, and the chain up to its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its sequence number; 0: nothing was applied.
    pub seq: u64,
    /// Tells another history under the same numbers; `None`: not known, so that it is not compared.
    pub chain: Option<Chain>,
}

impl Place {
    /// Behind a sequence number, whatever was before.
    pub fn behind(seq: u64) -> Place {
        Place { seq, chain: None }
    }
}

/// Why a log cannot be followed any further. Everything else is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The log goes on from another history than the one that was applied: it was restored from a copy.
    #[error(
        "SOURCE_REWOUND: {log} at {seq} follows another history than the one that was applied: what was made of it has to be made anew"
    )]
    Rewound {
        /// Whose log.
        log: LogId,
        /// Where.
        seq: u64,
    },
    /// A message is not what was carried.
    #[error("SOURCE_DAMAGED: a message of {log} cannot be read: {why}")]
    Damaged {
        /// Whose log.
        log: LogId,
        /// What is wrong with it.
        why: WireError,
    },
    /// Bus or service will never answer this.
    #[error("{0}")]
    Refused(String),
}

/// Follows one log.
pub struct Consumer<B: Bus, G> {
    bus: B,
    gaps: G,
    log: LogId,
    place: Place,
    ear: Option<B::Ear>,
    /// Read and not given yet.
    waiting: VecDeque<PublicFrame>,
    /// Came behind a gap, which is read first.
    ahead: Option<PublicFrame>,
    /// What was given and repaired.
    counts: Counts,
}

/// What a consumer has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames given.
    pub given: u64,
    /// Messages that had come before.
    pub repeated: u64,
    /// Frames that the stream did not have.
    pub repaired: u64,
    /// Times that stream or service did not answer.
    pub away: u64,
}

impl<B: Bus, G: Gaps> Consumer<B, G> {
    /// Follows a log behind a place.
    pub fn new(bus: B, gaps: G, log: LogId, place: Place) -> Consumer<B, G> {
        Consumer {
            bus,
            gaps,
            log,
            place,
            ear: None,
            waiting: VecDeque::new(),
            ahead: None,
            counts: Counts::default(),
        }
    }

    /// Behind the last frame given.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What it has met so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The next frame; waits for it. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When a person must look: it gives no more.
    pub async fn next(&mut self) -> Result<PublicFrame, Broken> {
        let mut pause = PAUSES.0;
        loop {
            while let Some(frame) = self.waiting.pop_front() {
                if self.take(&frame)? {
                    return Ok(frame);
                }
            }
            match self.more().await {
                Ok(()) => pause = PAUSES.0,
                Err(Halt::Broken(broken)) => return Err(broken),
                Err(Halt::Away(why)) => {
                    self.counts.away += 1;
                    tracing::warn!(log = %self.log, why, "not followed for now; trying again");
                    self.ear = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Whether a frame is the next one, which it then counts as given.
    fn take(&mut self, frame: &PublicFrame) -> Result<bool, Broken> {
        let Place { seq, chain } = self.place;
        let rewound = Broken::Rewound { log: self.log, seq: frame.first };
        if frame.last <= seq {
            self.counts.repeated += 1;
            let same = frame.last < seq || chain.is_none_or(|chain| chain == frame.chain);
            return if same { Ok(false) } else { Err(rewound) };
        }
        // A place without its chain may lie within a frame.
        if chain.is_some_and(|chain| frame.first - 1 != seq || chain != frame.prev_chain) {
            return Err(rewound);
        }
        self.place = Place { seq: frame.last, chain: Some(frame.chain) };
        self.counts.given += 1;
        Ok(true)
    }

    /// Reads on, until something waits to be given.
    async fn more(&mut self) -> Result<(), Halt> {
        let after = self.place.seq;
        if let Some(frame) = self.ahead.take() {
            if frame.first <= after.saturating_add(1) {
                self.waiting.push_back(frame);
                return Ok(());
            }
            let missing = frame.first - 1;
            self.ahead = Some(frame);
            self.repair(after, missing).await?;
            return match self.waiting.is_empty() {
                true => Err(Halt::Away(format!("the service does not give {} to {missing}", after + 1))),
                false => Ok(()),
            };
        }
        let Some(ear) = &mut self.ear else {
            // What the stream has lost or never had, the service still has.
            let last = self.bus.last(self.log).await.map_err(Halt::from);
            let ends = last.as_ref().map_or(0, |last| last.as_ref().map_or(0, |last| last.message.last));
            if ends <= after && !matches!(last, Err(Halt::Broken(_))) {
                self.repair(after, u64::MAX).await?;
                if !self.waiting.is_empty() {
                    return Ok(());
                }
            }
            last?;
            self.ear = Some(self.bus.listen(self.log, after).await?);
            return Ok(());
        };
        let carried = ear.next().await?;
        let frame = PublicFrame::from_bytes(&carried.message.body)
            .map_err(|why| Halt::Broken(Broken::Damaged { log: self.log, why }))?;
        if frame.log != self.log {
            return Err(Halt::Broken(Broken::Refused(format!(
                "a frame of {} came for {}",
                frame.log, self.log
            ))));
        }
        self.ahead = Some(frame);
        Ok(())
    }

    /// Reads what the service has behind a place, a page of it, as far as another.
    async fn repair(&mut self, after: u64, upto: u64) -> Result<(), Halt> {
        let frames = self.gaps.frames(self.log, after, upto).await.map_err(|why| match why {
            NotRead::Away(why) => Halt::Away(why),
            NotRead::Refused(why) => Halt::Broken(Broken::Refused(why)),
            NotRead::Damaged(why) => Halt::Broken(Broken::Damaged { log: self.log, why }),
        })?;
        self.counts.repaired += frames.len() as u64;
        self.waiting.extend(frames);
        Ok(())
    }
}

/// Why there is nothing more for now.
enum Halt {
    Away(String),
    Broken(Broken),
}

impl From<BusError> for Halt {
    fn from(why: BusError) -> Halt {
        match why {
            BusError::Refused(why) => Halt::Broken(Broken::Refused(why)),
            why => Halt::Away(why.to_string()),
        }
    }
}
