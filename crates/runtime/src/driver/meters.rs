//! What a driver measures.

use std::time::{Duration, Instant};

use holmes_kernel::{Frame, Machine, Refusal};
use metrics::{Counter, Gauge, Histogram};

use super::{MachineHandle, Status};
use crate::measure::{
    self, LOG_APPEND, LOG_FRAME_BYTES, LOG_FRAME_EVENTS, LOG_HEAD, LOG_QUEUE, LOG_REBUILT, LOG_REFUSED,
    LOG_REPEATED, LOG_REPLAY, LOG_SERVING, LOG_SNAPSHOT, LOG_SNAPSHOT_FAILED, Reasons,
};

/// Reasons of a driver's own; what its machine refuses is an answer.
const REFUSED: [&str; 7] =
    ["LOG_HALTED", "MOVED", "NOT_CONFIRMED", "NOT_REACHED", "OUTCOME_UNKNOWN", "QUEUE_FULL", "STOPPED"];

/// The handles of one service.
#[derive(Debug)]
pub(super) struct Meters {
    head: Gauge,
    append: Histogram,
    pub(super) repeated: Counter,
    frame_bytes: Histogram,
    frame_events: Histogram,
    pub(super) rebuilt: Counter,
    replay: Gauge,
    snapshot: Gauge,
    pub(super) snapshot_failed: Counter,
    refused: Reasons,
}

impl Meters {
    pub(super) fn new(service: &str) -> Meters {
        let of = &[service];
        Meters {
            head: LOG_HEAD.gauge(of),
            append: LOG_APPEND.histogram(of),
            repeated: LOG_REPEATED.counter(of),
            frame_bytes: LOG_FRAME_BYTES.histogram(of),
            frame_events: LOG_FRAME_EVENTS.histogram(of),
            rebuilt: LOG_REBUILT.counter(of),
            replay: LOG_REPLAY.gauge(of),
            snapshot: LOG_SNAPSHOT.gauge(of),
            snapshot_failed: LOG_SNAPSHOT_FAILED.counter(of),
            refused: Reasons::new(&LOG_REFUSED, of, &REFUSED),
        }
    }

    /// The log was replayed, and is durable up to here.
    pub(super) fn replayed(&self, head: u64, took: Duration) {
        self.head.set(head as f64);
        self.replay.set(took.as_secs_f64());
    }

    /// There is a snapshot up to here.
    pub(super) fn kept(&self, seq: u64) {
        self.snapshot.set(seq as f64);
    }

    /// A frame was handed to the journal.
    pub(super) fn handed(&self, frame: &Frame) {
        let header = frame.header();
        self.frame_bytes.record(frame.bytes().len() as f64);
        self.frame_events.record((header.last - header.first + 1) as f64);
    }

    /// The journal has said what became of a frame.
    pub(super) fn appended(&self, frame: &Frame, began: Instant, durable: bool) {
        self.append.record(began.elapsed());
        if durable {
            self.head.set(frame.header().last as f64);
        }
    }

    /// Counts a refusal of the driver's own, on its way to its caller.
    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        self.refused.count(&refusal.reason);
        refusal
    }
}

/// Shows a machine's queue and whether it answers, whenever somebody asks.
pub(super) fn show<M: Machine>(handle: &MachineHandle<M>) {
    let (queue, status) = (handle.queue.downgrade(), handle.status.clone());
    let (length, serving) = (LOG_QUEUE.gauge(&[M::NAME]), LOG_SERVING.gauge(&[M::NAME]));
    measure::when_asked(move || {
        serving.set(if *status.borrow() == Status::Serving { 1.0 } else { 0.0 });
        // Not held: a machine ends when nobody can ask it any more.
        let waiting = queue.upgrade().map(|queue| queue.max_capacity() - queue.capacity());
        length.set(waiting.unwrap_or_default() as f64);
        waiting.is_some()
    });
}
