//! A log of another process: heard on the bus, and what is missing there read from its owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holmes_consumer::{Consumer, Gaps, Place};
use holmes_kernel::ports::Bus;

use super::{Ended, Frames, PublicFrame, Source, Speaker};

/// A log of another process.
#[derive(Clone)]
pub struct Heard<B, G> {
    speaker: Speaker,
    bus: B,
    gaps: G,
    /// The last event heard of it.
    end: Arc<AtomicU64>,
}

impl<B: Bus, G: Gaps + Clone + Sync> Heard<B, G> {
    /// A log on a bus; where its stream has gaps, `gaps` are asked.
    pub fn new(speaker: Speaker, bus: B, gaps: G) -> Heard<B, G> {
        Heard { speaker, bus, gaps, end: Arc::default() }
    }
}

impl<B: Bus, G: Gaps + Clone + Sync> Source for Heard<B, G> {
    type Frames = Hearing<B, G>;

    fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    fn behind(&self, seq: u64) -> Hearing<B, G> {
        // Without the chain: the reader compares it, also in the middle of a frame.
        let place = Place::behind(seq);
        let consumer = Consumer::new(self.bus.clone(), self.gaps.clone(), self.speaker.log, place);
        Hearing { consumer, end: self.end.clone() }
    }

    fn end(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let end = self.end.clone();
        Arc::new(move || end.load(Ordering::Relaxed))
    }
}

/// Reads a log of another process.
pub struct Hearing<B: Bus, G> {
    consumer: Consumer<B, G>,
    end: Arc<AtomicU64>,
}

impl<B: Bus, G: Gaps> Frames for Hearing<B, G> {
    async fn next(&mut self) -> Result<Vec<PublicFrame>, Ended> {
        let frame = self.consumer.next().await.map_err(|broken| Ended::Parked(broken.to_string()))?;
        self.end.fetch_max(frame.last, Ordering::Relaxed);
        Ok(vec![frame])
    }
}
