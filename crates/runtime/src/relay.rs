//! Carries a log to its stream on the bus: one message for each durable frame, in order. Where the stream ends is asked
//! of the stream, never remembered, so that whatever it lost is carried again and nothing is carried twice. The log does
//! not wait for it: while the bus is away commits go on, and the stream catches up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holmes_kernel::ports::{Bus, BusError, Carried, JournalError, Message};
use holmes_kernel::{LogId, Time};
use metrics::{Counter, Gauge, Histogram};

use crate::clock::Clock;
use crate::feed::Feed;
use crate::measure::{self, RELAY_AGAIN, RELAY_HALTED, RELAY_LAG, RELAY_PUBLISH};
use holmes_proto::public::PublicFrame;

/// How much of a log is read at once.
const PAGE_BYTES: usize = 1024 * 1024;
/// How often the end of a stream is looked at while nothing is carried: so an idle log notices what the stream lost.
const LOOK: Duration = Duration::from_secs(5);
/// The pauses while the bus is away, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where a stream ends: the place of its last message, and the last event that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    place: u64,
    seq: u64,
}

/// Why nothing is carried at the moment, or any more.
#[derive(Debug)]
enum Halt {
    /// The log's owner has ended, and all that it left is carried.
    Gone,
    /// The stream ends elsewhere than thought.
    Moved,
    /// Bus or journal do not answer.
    Later(String),
    /// The stream holds what is not in the log: a person must look.
    Diverged(String),
}

/// Carries a log until its owner ends, or the stream is found to hold what is not in the log.
pub async fn relay<B: Bus>(mut feed: Feed, bus: B, clock: Clock) {
    let meters = Meters::of(&feed);
    let (service, mut pause, mut told) = (feed.name(), PAUSES.0, false);
    loop {
        meters.again.increment(1);
        let before = meters.published();
        let halt = match end_of(&feed, &bus, &clock).await {
            Ok(end) => carry(&mut feed, &bus, end, &meters).await,
            Err(halt) => halt,
        };
        if meters.published() > before {
            pause = PAUSES.0;
            if std::mem::take(&mut told) {
                tracing::info!(service, "its stream was carried on");
            }
        }
        match halt {
            Halt::Gone => return tracing::debug!(service, "carried to its end"),
            Halt::Moved if pause == PAUSES.0 => {
                tracing::debug!(service, "its stream ends elsewhere: looking again");
                pause *= 2; // the second time without a message between waits
                continue;
            }
            Halt::Moved => {}
            Halt::Later(why) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        service,
                        why,
                        "its stream is not carried on for now; the log itself goes on"
                    );
                }
            }
            Halt::Diverged(why) => {
                meters.halted.set(1.0);
                tracing::error!(
                    service,
                    why,
                    "BUS_DIVERGED: nothing more is carried until a person has looked: take the stream away (`holmes stream remove`), make it anew (`holmes migrate`), start again"
                );
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = feed.ended() => return tracing::warn!(service, "its stream is behind; the next owner carries it on"),
        }
    }
}

/// What a relay measures.
struct Meters {
    publish: Histogram,
    again: Counter,
    halted: Gauge,
    carried: Arc<AtomicU64>,
    published: AtomicU64,
}

impl Meters {
    fn of(feed: &Feed) -> Meters {
        let of = &[feed.name()];
        let (lag, carried) = (RELAY_LAG.gauge(of), Arc::new(AtomicU64::new(0)));
        let (until, durable) = (carried.clone(), feed.durable());
        measure::when_asked(move || {
            lag.set(durable.borrow().saturating_sub(until.load(Ordering::Relaxed)) as f64);
            durable.has_changed().is_ok()
        });
        let halted = RELAY_HALTED.gauge(of);
        halted.set(0.0);
        let published = AtomicU64::new(0);
        Meters {
            publish: RELAY_PUBLISH.histogram(of),
            again: RELAY_AGAIN.counter(of),
            halted,
            carried,
            published,
        }
    }

    fn carried(&self, end: End) {
        self.carried.store(end.seq, Ordering::Relaxed);
    }

    /// A message was put.
    fn put(&self, took: Duration) {
        self.publish.record(took.as_secs_f64());
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}

/// Where the stream of a log ends, and that it ends there with what the log holds.
async fn end_of<B: Bus>(feed: &Feed, bus: &B, clock: &Clock) -> Result<End, Halt> {
    let last = bus.last(feed.log()).await.map_err(|why| match why {
        // What lies there is none of ours: whoever put it there must be found.
        BusError::Refused(why) => Halt::Diverged(why),
        why => not_done(why),
    })?;
    let Some(Carried { place, message }) = last else {
        let keeps = bus.keeps(feed.log()).await.map_err(not_done)?;
        let seq = begin(feed, keeps, clock).await.map_err(unreadable)?;
        return Ok(End { place: 0, seq });
    };
    let diverged = |what: String| Halt::Diverged(format!("message {place} of the stream {what}"));
    let theirs =
        PublicFrame::from_bytes(&message.body).map_err(|why| diverged(format!("is none of ours: {why}")))?;
    // Not only what this process knows to be durable: another owner may have written and carried more.
    let ours = feed.stored(theirs.first - 1, 1).await.map_err(unreadable)?;
    match ours.first() {
        Some(frame) if (frame.last, frame.chain) == (theirs.last, theirs.chain) => {
            Ok(End { place, seq: theirs.last })
        }
        Some(_) => {
            Err(diverged(format!("covers {} to {} otherwise than the log", theirs.first, theirs.last)))
        }
        None => {
            Err(diverged(format!("covers {} to {}, where the log has nothing", theirs.first, theirs.last)))
        }
    }
}

/// Behind which event an empty stream begins: what is older than its messages may be would only come and go.
async fn begin(feed: &Feed, keeps: Option<Duration>, clock: &Clock) -> Result<u64, JournalError> {
    let Some(keeps) = keeps else { return Ok(0) };
    let keeps = u64::try_from(keeps.as_micros()).unwrap_or(u64::MAX);
    feed.at(Time::from_micros(clock.now().micros().saturating_sub(keeps))).await
}

/// Carries what is durable behind `end`, as it becomes so.
async fn carry<B: Bus>(feed: &mut Feed, bus: &B, mut end: End, meters: &Meters) -> Halt {
    loop {
        meters.carried(end);
        tokio::select! {
            alive = feed.beyond(end.seq) => if !alive {
                return Halt::Gone;
            },
            () = tokio::time::sleep(LOOK) => match bus.last(feed.log()).await {
                Ok(last) if last.as_ref().map_or(0, |last| last.place) == end.place => continue,
                Ok(_) => return Halt::Moved,
                Err(why) => return not_done(why),
            },
        }
        let frames = match feed.frames(end.seq, PAGE_BYTES).await {
            Ok(frames) => frames,
            Err(why) => return unreadable(why),
        };
        for frame in &frames {
            let began = Instant::now();
            match bus.publish(end.place, &message(frame)).await {
                Ok(place) => end = End { place, seq: frame.last },
                Err(why) => return not_done(why),
            }
            meters.put(began.elapsed());
            meters.carried(end);
        }
    }
}

fn message(frame: &PublicFrame) -> Message {
    let log: LogId = frame.log;
    Message { log, first: frame.first, last: frame.last, body: frame.to_bytes() }
}

fn not_done(why: BusError) -> Halt {
    match why {
        BusError::Moved(_) => Halt::Moved,
        why => Halt::Later(why.to_string()),
    }
}

fn unreadable(why: JournalError) -> Halt {
    match why {
        // Who owns the log finds the same, halts and says what to do.
        JournalError::Damaged { .. } => Halt::Diverged(why.to_string()),
        why => Halt::Later(why.to_string()),
    }
}
