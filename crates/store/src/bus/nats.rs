//! The bus on NATS JetStream: a stream for each log, with the one subject `evt.v1.<cell>.<service>`.
//!
//! A message says in its headers which events of the log it covers, so that a place in the log is found in a stream by
//! bisection, whatever the stream has lost and however often it was made anew.

mod listen;
mod session;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use holmes_kernel::LogId;
use holmes_kernel::ports::{self, BusError, Carried, Message};

pub use self::listen::Ear;
use self::session::Session;
pub use self::session::{Options, Proof};
pub use self::streams::{Keep, Names, Shown};

/// How long a request may take. One that is sent while nobody leads is lost silently: better asked again soon.
const PATIENCE: Duration = Duration::from_secs(2);
/// Which events of a log a message covers.
const FIRST: &str = "Holmes-First";
const LAST: &str = "Holmes-Last";
const STREAM_NOT_FOUND: u64 = 10_059;
const WRONG_LAST_UNDER_WAY: &str = "10164";

/// Handles are clones of one connection, which comes back by itself.
#[derive(Clone, Debug)]
pub struct Bus {
    session: Arc<Session>,
}

impl Bus {
    async fn handle(&self, log: LogId) -> Result<Stream<()>, BusError> {
        let stream = self.session.context.get_stream_no_info(self.session.names.stream(log)).await;
        stream.map_err(|why| BusError::Refused(why.to_string()))
    }

    /// The first message of a log at a place or behind it, as the leader has it.
    async fn at_or_behind(&self, log: LogId, place: u64) -> Result<Option<Carried>, BusError> {
        let asked = self.handle(log).await?;
        let asked =
            asked.raw_message_builder().sequence(place).next_by_subject(self.session.names.subject(log));
        self.found(log, asked.send().await)
    }

    fn found(
        &self,
        log: LogId,
        answer: Result<StreamMessage, RawMessageError>,
    ) -> Result<Option<Carried>, BusError> {
        match answer {
            Ok(raw) => carried(log, raw.sequence, Some(&raw.headers), raw.payload).map(Some),
            Err(why) => match why.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(error) if error.error_code().0 == STREAM_NOT_FOUND => {
                    Err(self.missing(log))
                }
                _ => Err(self.session.away(&why)),
            },
        }
    }

    fn missing(&self, log: LogId) -> BusError {
        BusError::Missing(self.session.names.stream(log))
    }

    fn not_published(&self, log: LogId, why: &PublishError) -> BusError {
        match why.kind() {
            PublishErrorKind::WrongLastSequence => BusError::Moved(log),
            // What a leader says that has lost the others: another message is still under way.
            PublishErrorKind::Other if names(why, WRONG_LAST_UNDER_WAY) => BusError::Moved(log),
            // Also what the client says while the stream's leader is being chosen.
            PublishErrorKind::StreamNotFound => self.missing(log),
            PublishErrorKind::MaxPayloadExceeded => BusError::Refused(format!(
                "{why}: raise max_payload of the NATS servers to 1 MiB, which is their default"
            )),
            _ => self.session.away(why),
        }
    }
}

impl ports::Bus for Bus {
    type Ear = Ear;

    async fn keeps(&self, log: LogId) -> Result<Option<Duration>, BusError> {
        Ok(Some(self.info(log).await?.config.max_age).filter(|age| !age.is_zero()))
    }

    async fn last(&self, log: LogId) -> Result<Option<Carried>, BusError> {
        let asked = self.handle(log).await?;
        let asked = asked.raw_message_builder().last_by_subject(self.session.names.subject(log));
        self.found(log, asked.send().await)
    }

    async fn publish(&self, behind: u64, message: &Message) -> Result<u64, BusError> {
        let log = message.log;
        let put = PublishMessage::build()
            .payload(message.body.clone())
            .header(FIRST, message.first.to_string().as_str())
            .header(LAST, message.last.to_string().as_str())
            .expected_last_subject_sequence(behind);
        let acknowledged =
            async { self.session.context.send_publish(self.session.names.subject(log), put).await?.await };
        match acknowledged.await {
            Ok(ack) => Ok(ack.sequence),
            Err(why) => Err(self.not_published(log, &why)),
        }
    }

    async fn listen(&self, log: LogId, after: u64) -> Result<Ear, BusError> {
        Ear::open(self, log, after).await
    }
}

/// Whether an error goes back to one with this number.
fn names(why: &dyn std::error::Error, number: &str) -> bool {
    let mut cause = Some(why);
    while let Some(error) = cause {
        if error.to_string().contains(number) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A message as it came.
fn carried(
    log: LogId,
    place: u64,
    headers: Option<&HeaderMap>,
    body: bytes::Bytes,
) -> Result<Carried, BusError> {
    let number = |name| headers?.get(name)?.as_str().parse().ok();
    match (number(FIRST), number(LAST)) {
        (Some(first), Some(last)) => Ok(Carried { place, message: Message { log, first, last, body } }),
        _ => Err(BusError::Refused(format!(
            "message {place} of the stream was not put there by Holmes: only its services may publish there"
        ))),
    }
}
