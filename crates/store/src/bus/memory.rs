//! A bus in memory, gone with the process: for tests, and for what runs on virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holmes_kernel::LogId;
use holmes_kernel::ports::{self, BusError, Carried, Message};
use tokio::sync::watch;

/// How far back a log is carried into an empty stream: nothing is taken away before the process ends.
const KEEPS: Duration = Duration::from_secs(14 * 86_400);

type Streams = BTreeMap<LogId, Vec<Carried>>;

/// Handles are clones of one.
#[derive(Clone, Debug, Default)]
pub struct Bus {
    streams: Arc<watch::Sender<Streams>>,
}

/// Listens to one log.
#[derive(Debug)]
pub struct Ear {
    log: LogId,
    /// The last message given.
    place: u64,
    after: u64,
    streams: watch::Receiver<Streams>,
}

impl Bus {
    /// Without a message.
    pub fn new() -> Bus {
        Bus::default()
    }

    /// Loses the messages of a log from a place on, as a broker may that had not written them yet.
    pub fn lose(&self, log: LogId, from: u64) {
        self.streams.send_modify(|streams| {
            streams.entry(log).or_default().retain(|carried| carried.place < from);
        });
    }
}

impl ports::Bus for Bus {
    type Ear = Ear;

    async fn keeps(&self, _: LogId) -> Result<Option<Duration>, BusError> {
        Ok(Some(KEEPS))
    }

    async fn last(&self, log: LogId) -> Result<Option<Carried>, BusError> {
        Ok(self.streams.borrow().get(&log).and_then(|stream| stream.last()).cloned())
    }

    async fn publish(&self, behind: u64, message: &Message) -> Result<u64, BusError> {
        let log = message.log;
        let mut put = Err(BusError::Moved(log));
        self.streams.send_if_modified(|streams| {
            let stream = streams.entry(log).or_default();
            let end = stream.last().map_or(0, |last| last.place);
            if end == behind {
                stream.push(Carried { place: end + 1, message: message.clone() });
                put = Ok(end + 1);
            }
            end == behind
        });
        put
    }

    async fn listen(&self, log: LogId, after: u64) -> Result<Ear, BusError> {
        Ok(Ear { log, place: 0, after, streams: self.streams.subscribe() })
    }
}

impl ports::Ear for Ear {
    async fn next(&mut self) -> Result<Carried, BusError> {
        let Ear { log, place, after, streams } = self;
        loop {
            let next = streams.borrow_and_update().get(log).and_then(|stream| {
                stream.iter().find(|c| c.place > *place && c.message.last > *after).cloned()
            });
            if let Some(carried) = next {
                *place = carried.place;
                return Ok(carried);
            }
            streams.changed().await.map_err(|_| BusError::Away("its process has ended".into()))?;
        }
    }
}
