//! Between services: one task for each (source, reader) pair takes the source's durable frames, asks the reader's
//! `react` what they cause, and brings that to the reader's queue. What was taken in is in the reader's own log, so a
//! task that dies, and a process, go on where they were. A source is a log of this process ([`Feed`]) or of another
//! one ([`Heard`]).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holmes_kernel::ports::{Journal, JournalError};
use holmes_kernel::{Event as _, LogId, Machine, ServiceId, Time};
use metrics::{Counter, Gauge};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::driver::{Delivered, MachineHandle};
use crate::measure::{self, FEED_AHEAD, FEED_LAG, FEED_PARKED};
use crate::reader::Reader;
use crate::recover::DamagedLog;
use holmes_proto::public::PublicFrame;

mod heard;

pub use heard::Heard;

type Reading = Pin<Box<dyn Future<Output = Result<Vec<PublicFrame>, JournalError>> + Send>>;

/// How much of a source is read at once.
const PAGE_BYTES: usize = 1024 * 1024;
/// The pause before a failed read or delivery is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// How far a source's time may be ahead of the clock before a person should know.
const MOST_AHEAD_US: u64 = 5_000_000;

/// Whose log a source is, and whom it concerns.
#[derive(Clone, Copy, Debug)]
pub struct Speaker {
    log: LogId,
    name: &'static str,
    sends_to: &'static [ServiceId],
}

impl Speaker {
    /// A machine's log in a cell.
    pub fn of<M: Machine>(cell: u16) -> Speaker {
        Speaker { log: LogId::new(cell, M::Event::SERVICE), name: M::NAME, sends_to: M::Event::SENDS_TO }
    }

    /// Whose log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The service's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a machine with this log reads it: for its events, for what is sent to it, or for the answers to its own
    /// sends.
    pub fn concerns<M: Machine>(&self, own: LogId) -> bool {
        let (us, source) = (M::Event::SERVICE, self.log.svc);
        let concerned = M::LISTENS.contains(&source)
            || self.sends_to.contains(&us)
            || M::Event::SENDS_TO.contains(&source);
        concerned && self.log != own
    }
}

/// A service's log that can be followed.
pub trait Source: Clone + Send + Sync + 'static {
    /// What reads it.
    type Frames: Frames;

    /// Whose log it is.
    fn speaker(&self) -> &Speaker;

    /// Reads it behind a place.
    fn behind(&self, seq: u64) -> Self::Frames;

    /// Up to where it is known to be durable, now and later.
    fn end(&self) -> Arc<dyn Fn() -> u64 + Send + Sync>;
}

/// Reads a source.
pub trait Frames: Send + 'static {
    /// Waits for the next frames. May be dropped while it waits: nothing is lost.
    fn next(&mut self) -> impl Future<Output = Result<Vec<PublicFrame>, Ended>> + Send;
}

/// A service's log of this process as others see it, whatever the type of its events and the engine that keeps it.
#[derive(Clone)]
pub struct Feed {
    speaker: Speaker,
    durable: watch::Receiver<u64>,
    read: Arc<dyn Fn(u64, usize) -> Reading + Send + Sync>,
    type_of: fn(&Bytes) -> Option<&'static str>,
}

impl Feed {
    /// The feed of a machine's log, which is durable up to what `durable` shows.
    pub(crate) fn new<M: Machine, J: Journal>(journal: J, log: LogId, durable: watch::Receiver<u64>) -> Feed {
        let read = move |after, bytes| -> Reading {
            let journal = journal.clone();
            Box::pin(async move {
                let frames = journal.read(log, after, bytes).await?;
                let public = frames.iter().map(PublicFrame::of::<M::Event>);
                public.collect::<Result<_, _>>().map_err(|why| JournalError::Damaged { log, after, why })
            })
        };
        let type_of = |event: &Bytes| M::Event::decode(event.clone()).ok()?.name();
        let speaker = Speaker::of::<M>(log.cell);
        Feed { speaker, durable, read: Arc::new(read), type_of }
    }

    /// Whose log.
    pub fn log(&self) -> LogId {
        self.speaker.log
    }

    /// The service's name.
    pub fn name(&self) -> &'static str {
        self.speaker.name
    }

    /// Up to where the log is durable, as far as its owner in this process knows.
    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    /// The durable frames behind a place, at least one where there is one, in all about `bytes` long: for those who
    /// look something up. Who follows a log does it by [`follow`].
    pub async fn frames(&self, after: u64, bytes: usize) -> Result<Vec<PublicFrame>, JournalError> {
        let durable = *self.durable.borrow();
        let mut frames = if durable > after { self.stored(after, bytes).await? } else { Vec::new() };
        frames.retain(|frame| frame.last <= durable);
        Ok(frames)
    }

    /// The same, of whatever the journal holds: perhaps more than this process knows of.
    pub(crate) async fn stored(&self, after: u64, bytes: usize) -> Result<Vec<PublicFrame>, JournalError> {
        (self.read)(after, bytes.min(PAGE_BYTES)).await
    }

    /// The type of one of its events.
    pub(crate) fn type_of(&self, event: &Bytes) -> Option<&'static str> {
        (self.type_of)(event)
    }

    /// The last event that was written by a moment; 0 when none was. Times rise from frame to frame.
    pub async fn at(&self, moment: Time) -> Result<u64, JournalError> {
        let (mut low, mut high) = (0, *self.durable.borrow());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.stored(middle, 1).await?.first() {
                Some(frame) if frame.ts <= moment => low = frame.last,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Waits until the log is durable behind a place; `false` when its owner has ended.
    pub(crate) async fn beyond(&mut self, seq: u64) -> bool {
        self.durable.wait_for(|durable| *durable > seq).await.is_ok()
    }

    /// Waits until its owner has ended.
    pub(crate) async fn ended(&mut self) {
        let _ = self.durable.wait_for(|_| false).await; // an error is the end
    }
}

impl Source for Feed {
    type Frames = Here;

    fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    fn behind(&self, seq: u64) -> Here {
        Here { feed: self.clone(), seq }
    }

    fn end(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let durable = self.durable.clone();
        Arc::new(move || *durable.borrow())
    }
}

/// Reads a log of this process.
pub struct Here {
    feed: Feed,
    seq: u64,
}

impl Frames for Here {
    async fn next(&mut self) -> Result<Vec<PublicFrame>, Ended> {
        loop {
            if !self.feed.beyond(self.seq).await {
                return Err(Ended::Gone);
            }
            match self.feed.stored(self.seq, PAGE_BYTES).await {
                Ok(frames) => {
                    self.seq = frames.last().map_or(self.seq, |frame| frame.last);
                    return Ok(frames);
                }
                Err(JournalError::Damaged { after, why, .. }) => {
                    let service = self.feed.name();
                    return Err(Ended::Parked(DamagedLog { service, after, why }.to_string()));
                }
                Err(why) => {
                    tracing::warn!(source = self.feed.name(), %why, "a source could not be read; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Why a source is not read any further.
#[derive(Debug)]
pub enum Ended {
    /// The source or the reader has shut down.
    Gone,
    /// A person must look; the source stays where it is.
    Parked(String),
}

/// Follows one source for one machine until either ends or the source has to be parked.
pub async fn follow<M: Machine>(machine: MachineHandle<M>, from: impl Source, clock: Clock) {
    let source = from.speaker().log;
    let meters = Meters::of(&machine, &from);
    match following(&machine, from, &clock, &meters).await {
        Ended::Gone => tracing::debug!(reader = M::NAME, %source, "no longer followed"),
        Ended::Parked(why) => {
            meters.parked.set(1.0);
            tracing::error!(reader = M::NAME, %source, why, "source parked: nothing of it is taken in until a person has looked");
        }
    }
}

/// What the follower of a source measures.
struct Meters {
    parked: Gauge,
    ahead: Counter,
    /// Up to where the source was read.
    seen: Arc<AtomicU64>,
}

impl Meters {
    fn of<M: Machine>(machine: &MachineHandle<M>, from: &impl Source) -> Meters {
        let of = &[M::NAME, from.speaker().name];
        let (lag, seen) = (FEED_LAG.gauge(of), Arc::new(AtomicU64::new(0)));
        let (behind, end, status) = (seen.clone(), from.end(), machine.status());
        // Also of a source that is parked, as long as its reader lives.
        measure::when_asked(move || {
            lag.set(end().saturating_sub(behind.load(Ordering::Relaxed)) as f64);
            status.has_changed().is_ok()
        });
        let parked = FEED_PARKED.gauge(of);
        parked.set(0.0);
        Meters { parked, ahead: FEED_AHEAD.counter(of), seen }
    }
}

async fn following<M: Machine>(
    machine: &MachineHandle<M>,
    from: impl Source,
    clock: &Clock,
    meters: &Meters,
) -> Ended {
    let log = from.speaker().log;
    'anew: loop {
        let Ok(position) = machine.position(log).await else { return Ended::Gone };
        let (mut reader, mut ahead) = (Reader::new(log, position), from.behind(position.seq));
        loop {
            meters.seen.store(reader.seen(), Ordering::Relaxed);
            let frames = tokio::select! {
                frames = ahead.next() => frames,
                () = machine.closed() => Err(Ended::Gone), // a source that stays silent must not keep this task alive
            };
            let frames = match frames {
                Ok(frames) => frames,
                Err(ended) => return ended,
            };
            for frame in &frames {
                // Where an entry parks the source, what the entries before it caused comes first, and the reason then.
                while reader.seen() < frame.last {
                    let deliveries = match reader.read::<M>(frame) {
                        Ok(deliveries) => deliveries,
                        Err(parked) => return Ended::Parked(parked.to_string()),
                    };
                    for delivery in deliveries {
                        match deliver(machine, delivery, clock, meters).await {
                            Some(true) => {}
                            Some(false) => continue 'anew, // the machine stands elsewhere: it has been rebuilt meanwhile
                            None => return Ended::Gone,
                        }
                    }
                }
            }
        }
    }
}

/// Brings one delivery until it is taken; `Some(false)` when the machine stands elsewhere, `None` when it has ended.
async fn deliver<M: Machine>(
    machine: &MachineHandle<M>,
    delivery: holmes_kernel::shard::Delivery<M::Command>,
    clock: &Clock,
    meters: &Meters,
) -> Option<bool> {
    let (to, ts) = (delivery.to.seq, delivery.ts);
    // The machine would refuse what comes from the future; the same clock tells it here, without asking.
    let ahead = ts.micros().saturating_sub(clock.now().micros());
    if ahead > MOST_AHEAD_US {
        meters.ahead.increment(1);
        tracing::error!(reader = M::NAME, source = %delivery.source, ahead_us = ahead, "a source's clock is ahead of ours");
        tokio::time::sleep(Duration::from_micros(MOST_AHEAD_US)).await;
        return Some(false); // the machine may have ended meanwhile
    }
    if ahead > 0 {
        tokio::time::sleep(Duration::from_micros(ahead + 1)).await;
    }
    match machine.deliver(delivery).await {
        Ok(Delivered::At(position)) => Some(position.seq == to),
        Ok(Delivered::Early(until)) => {
            let wait = until.micros().saturating_sub(clock.now().micros()).clamp(1_000, 5_000_000);
            tokio::time::sleep(Duration::from_micros(wait)).await;
            Some(false)
        }
        Err(_) if machine.is_closed() => None,
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            Some(false)
        }
    }
}
