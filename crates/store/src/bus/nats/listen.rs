//! Listening: where a place of a log lies in its stream, and a consumer from there.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use holmes_kernel::LogId;
use holmes_kernel::ports::{self, Bus as _, BusError, Carried};
use tokio_stream::StreamExt as _;

use super::{Bus, carried};

/// Behind how much silence the stream's leader is asked whether there is anything to be heard.
const SILENCE: Duration = Duration::from_secs(5);
/// How many probes a bisection may take: one more than a place has bits.
const PROBES: usize = 65;

/// Listens to one log.
pub struct Ear {
    bus: Bus,
    log: LogId,
    /// The last event heard.
    heard: u64,
    messages: Box<Ordered>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("log", &self.log).field("heard", &self.heard).finish_non_exhaustive()
    }
}

/// A silent consumer may be one that the server forgot: whoever leads the stream knows.
async fn still_silent(bus: &Bus, log: LogId, heard: u64) -> Result<(), BusError> {
    match bus.last(log).await? {
        Some(last) if last.message.last > heard => {
            Err(BusError::Away(format!("nothing of {log} is delivered, though there is more")))
        }
        _ => Ok(()),
    }
}

impl Ear {
    pub(super) async fn open(bus: &Bus, log: LogId, after: u64) -> Result<Ear, BusError> {
        let start = first_behind(bus, log, after).await?;
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            filter_subject: bus.session.names.subject(log),
            ..OrderedConfig::default()
        };
        let stream = bus.handle(log).await?;
        let consumer = stream.create_consumer(config).await.map_err(|why| bus.session.away(&why))?;
        let messages = consumer.messages().await.map_err(|why| bus.session.away(&why))?;
        Ok(Ear { bus: bus.clone(), log, heard: after, messages: Box::new(messages) })
    }
}

impl ports::Ear for Ear {
    async fn next(&mut self) -> Result<Carried, BusError> {
        loop {
            match tokio::time::timeout(SILENCE, self.messages.next()).await {
                Err(_) => {
                    let (bus, log, heard) = (self.bus.clone(), self.log, self.heard);
                    still_silent(&bus, log, heard).await?;
                }
                Ok(None) => return Err(BusError::Away("the consumer has ended".into())),
                Ok(Some(Err(why))) => return Err(self.bus.session.away(&why)),
                Ok(Some(Ok(message))) => {
                    let place = message.info().map_err(|why| BusError::Refused(why.to_string()))?;
                    let (place, body) = (place.stream_sequence, message.payload.clone());
                    let carried = carried(self.log, place, message.headers.as_ref(), body)?;
                    self.heard = self.heard.max(carried.message.last);
                    return Ok(carried);
                }
            }
        }
    }
}

/// The place of the first message that ends behind a sequence number; where there is none, that of the next to come.
async fn first_behind(bus: &Bus, log: LogId, after: u64) -> Result<u64, BusError> {
    let Some(last) = bus.last(log).await? else { return Ok(1) };
    if last.message.last <= after {
        return Ok(last.place + 1);
    }
    // Every message before `low` ends at `after` or earlier; the one at `high`, or the first behind it, ends later.
    let (mut low, mut high) = (1, last.place);
    for _ in 0..PROBES {
        if low >= high {
            return Ok(low);
        }
        let middle = low + (high - low) / 2;
        match bus.at_or_behind(log, middle).await? {
            Some(found) if found.message.last <= after => low = found.place + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
