//! The streams themselves: made by `holmes migrate`, looked at by `holmes stream`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use holmes_kernel::ports::{BusError, Carried};
use holmes_kernel::{LogId, ServiceId};

use super::{Bus, STREAM_NOT_FOUND};

/// Largest message: what leaves of the largest frame, with room for what is said about it.
const MESSAGE_BYTES: i32 = 1024 * 1024;

/// How messages are kept. What is not said stays as it is; of a new stream it is one server, and 14 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Servers that keep a stream: 1, 3 or 5.
    pub replicas: Option<usize>,
    /// How long a message stays.
    pub age: Option<Duration>,
}

/// How long a message stays, unless it is said otherwise.
const AGE: Duration = Duration::from_secs(14 * 86_400);

/// What streams and subjects are called.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<ServiceId, String>);

impl Names {
    /// Of services with these names.
    pub fn new(services: impl IntoIterator<Item = (ServiceId, String)>) -> Names {
        Names(services.into_iter().collect())
    }

    /// The stream of a log.
    pub fn stream(&self, log: LogId) -> String {
        format!("EVT_{}_{}", log.cell, self.service(log).to_uppercase())
    }

    /// The subject of a log.
    pub fn subject(&self, log: LogId) -> String {
        format!("evt.v1.{}.{}", log.cell, self.service(log))
    }

    /// What `holmes migrate` makes of a log's stream, for people.
    pub fn plan(&self, log: LogId, keep: Keep) -> String {
        let (stream, subject) = (self.stream(log), self.subject(log));
        let said = |number: Option<u64>| number.map_or("as it is".to_owned(), |number| number.to_string());
        let replicas = said(keep.replicas.map(|replicas| replicas as u64));
        let days = said(keep.age.map(|age| age.as_secs() / 86_400));
        format!("stream {stream} on subject {subject}: on file; replicas: {replicas}; days: {days}")
    }

    fn service(&self, log: LogId) -> String {
        self.0.get(&log.svc).cloned().unwrap_or_else(|| log.svc.0.to_string())
    }
}

/// A stream as it is.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its name.
    pub stream: String,
    /// Its subject.
    pub subject: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The first message that it still has.
    pub first: Option<Carried>,
    /// The last.
    pub last: Option<Carried>,
    /// Consumers of it.
    pub consumers: usize,
    /// Servers that keep it.
    pub replicas: usize,
    /// How long a message stays.
    pub age: Duration,
}

impl Bus {
    /// Makes the stream of a log, or sets it right; what is in it stays.
    pub async fn migrate(&self, log: LogId, keep: Keep) -> Result<(), BusError> {
        let is = match self.info(log).await {
            Ok(info) => Some((info.config.num_replicas, info.config.max_age)),
            Err(BusError::Missing(_)) => None,
            Err(why) => return Err(why),
        };
        let (replicas, age) = is.unwrap_or((1, AGE));
        let config = Config {
            name: self.session.names.stream(log),
            description: Some("Durable frames of one Holmes log, in order; made anew from the log".into()),
            subjects: vec![self.session.names.subject(log)],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            num_replicas: keep.replicas.unwrap_or(replicas),
            max_age: keep.age.unwrap_or(age),
            max_message_size: MESSAGE_BYTES,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            deny_delete: true,
            allow_direct: true,
            compression: Some(Compression::S2),
            ..Config::default()
        };
        self.session
            .context
            .create_or_update_stream(config)
            .await
            .map(drop)
            .map_err(|why| self.session.away(&why))
    }

    /// How the stream of a log is.
    pub async fn show(&self, log: LogId) -> Result<Shown, BusError> {
        use holmes_kernel::ports::Bus as _;
        let Info { config, state, .. } = self.info(log).await?;
        let first = match state.messages {
            0 => None,
            _ => self.at_or_behind(log, state.first_sequence.max(1)).await?,
        };
        Ok(Shown {
            stream: config.name,
            subject: self.session.names.subject(log),
            messages: state.messages,
            bytes: state.bytes,
            first,
            last: self.last(log).await?,
            consumers: state.consumer_count,
            replicas: config.num_replicas,
            age: config.max_age,
        })
    }

    pub(super) async fn info(&self, log: LogId) -> Result<Info, BusError> {
        use async_nats::jetstream::context::GetStreamErrorKind;
        let found = self.session.context.get_stream(self.session.names.stream(log)).await;
        found.map(|stream| stream.cached_info().clone()).map_err(|why| match why.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code().0 == STREAM_NOT_FOUND => {
                self.missing(log)
            }
            _ => self.session.away(&why),
        })
    }

    /// Takes the stream of a log away: it can be made anew, and is filled again from the log.
    pub async fn remove(&self, log: LogId) -> Result<(), BusError> {
        self.info(log).await?; // it says so where there is none
        self.session
            .context
            .delete_stream(self.session.names.stream(log))
            .await
            .map(drop)
            .map_err(|why| self.session.away(&why))
    }
}
