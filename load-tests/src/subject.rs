//! What is measured: one trait, one file each. A subject is started in a directory of its own, does batches of work that
//! carry ids, and is read back afterwards.

mod echo;
mod events;
mod jetstream;
pub(crate) mod ledger;
mod ledger_grpc;
mod postgres;
mod raw;
mod redis;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use holmes_kernel::Id;
use serde::{Deserialize, Serialize};

pub(crate) use self::server::find;
use crate::scenario::{EVENT_BYTES, Work};

/// What a subject does while it is waited for.
pub(crate) type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Something that does the work.
pub(crate) trait Subject: Send + Sync {
    /// The processes that make it durable: whose syncs are counted.
    fn processes(&self) -> Vec<u32> {
        vec![std::process::id()]
    }

    /// How it is set up, for whoever reads the figure; its version among it.
    fn settings(&self) -> BTreeMap<String, String>;

    /// Does one item for each id. Back when all of them are durable by the subject's own word.
    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()>;

    /// Ends it, and reads every id that it kept; a machine of ours from its log, opened anew.
    fn read_back(self: Arc<Self>) -> Doing<'static, Kept>;
}

/// What a subject kept.
#[derive(Debug)]
pub(crate) enum Kept {
    /// These ids; as many more were overwritten since, which is its way.
    Ids { ids: Vec<Id>, overwritten: u64 },
    /// It keeps nothing.
    Nothing,
}

impl Kept {
    fn all(ids: Vec<Id>) -> Kept {
        Kept::Ids { ids, overwritten: 0 }
    }
}

/// For a start.
pub(crate) struct Start<'a> {
    pub(crate) work: Work,
    pub(crate) callers: usize,
    pub(crate) batch: usize,
    pub(crate) accounts: usize,
    /// Empty, on the disk to be measured.
    pub(crate) dir: &'a Path,
}

/// The subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Raw,
    Ledger,
    LedgerGrpc,
    Events,
    Echo,
    PostgresProcedure,
    PostgresSerial,
    PostgresLoop,
    PostgresEvents,
    PostgresCopy,
    Redis,
    RedisShared,
    Jetstream,
    JetstreamBatch,
}

impl Kind {
    /// Starts it.
    pub(crate) async fn start(self, start: &Start<'_>) -> Result<Arc<dyn Subject>> {
        Ok(match self {
            Kind::Raw => Arc::new(raw::Raw::start(start)?),
            Kind::Ledger => Arc::new(ledger::InProcess::start(start).await?),
            Kind::LedgerGrpc => Arc::new(ledger_grpc::OverGrpc::start(start).await?),
            Kind::Events => Arc::new(events::Events::start(start).await?),
            Kind::Echo => Arc::new(echo::Echo::start(start).await?),
            Kind::PostgresProcedure => {
                Arc::new(postgres::Postgres::start(start, postgres::Way::Procedure).await?)
            }
            Kind::PostgresSerial => Arc::new(postgres::Postgres::start(start, postgres::Way::Serial).await?),
            Kind::PostgresLoop => Arc::new(postgres::Postgres::start(start, postgres::Way::Loop).await?),
            Kind::PostgresEvents => Arc::new(postgres::Postgres::start(start, postgres::Way::Events).await?),
            Kind::PostgresCopy => Arc::new(postgres::Postgres::start(start, postgres::Way::Copy).await?),
            Kind::Redis => Arc::new(redis::Redis::start(start, start.callers).await?),
            Kind::RedisShared => Arc::new(redis::Redis::start(start, 1).await?),
            Kind::Jetstream => Arc::new(jetstream::Jetstream::start(start, jetstream::Way::Each).await?),
            Kind::JetstreamBatch => {
                Arc::new(jetstream::Jetstream::start(start, jetstream::Way::Batch).await?)
            }
        })
    }

    /// Whether it does this work.
    pub(crate) fn does(self, work: Work) -> bool {
        match self {
            Kind::Raw | Kind::PostgresEvents => true,
            Kind::PostgresProcedure | Kind::PostgresSerial | Kind::PostgresLoop => work == Work::Transfers,
            Kind::Ledger | Kind::LedgerGrpc | Kind::Echo => work == Work::Transfers,
            Kind::Events | Kind::PostgresCopy => work == Work::Events,
            Kind::Redis | Kind::RedisShared | Kind::Jetstream | Kind::JetstreamBatch => work == Work::Events,
        }
    }

    /// The program that it needs beside this one.
    pub(crate) fn needs(self) -> Option<&'static str> {
        match self {
            Kind::PostgresProcedure
            | Kind::PostgresSerial
            | Kind::PostgresLoop
            | Kind::PostgresEvents
            | Kind::PostgresCopy => Some(server::POSTGRES),
            Kind::Redis | Kind::RedisShared => Some(server::REDIS),
            Kind::Jetstream | Kind::JetstreamBatch => Some(server::NATS),
            Kind::Raw | Kind::Ledger | Kind::LedgerGrpc | Kind::Events | Kind::Echo => None,
        }
    }

    /// As people read it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Raw => "raw file, write and fdatasync",
            Kind::Ledger => "our ledger, in process",
            Kind::LedgerGrpc => "our ledger, over gRPC",
            Kind::Events => "our log, in process",
            Kind::Echo => "bare tonic echo, nothing kept",
            Kind::PostgresProcedure => "PostgreSQL, procedure over sets, its rows locked",
            Kind::PostgresSerial => "PostgreSQL, procedure over sets, one lock for all",
            Kind::PostgresLoop => "PostgreSQL, procedure row by row",
            Kind::PostgresEvents => "PostgreSQL, append-only table",
            Kind::PostgresCopy => "PostgreSQL, append-only by COPY",
            Kind::Redis => "Redis stream, a connection a writer",
            Kind::RedisShared => "Redis stream, one connection",
            Kind::Jetstream => "JetStream, a message an event",
            Kind::JetstreamBatch => "JetStream, atomic batches",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The bytes of an event: its id, and behind it what does not compress away.
fn event_bytes(id: Id) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(EVENT_BYTES);
    bytes.extend(id.to_bytes());
    let mut state = (u128::from_be_bytes(id.to_bytes()) as u64) | 1;
    while bytes.len() < EVENT_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes
}

/// The id of an event's bytes.
fn event_id(bytes: &[u8]) -> Result<Id> {
    let id = bytes.get(..16).and_then(Id::from_slice);
    id.ok_or_else(|| anyhow::anyhow!("{} bytes are no event of this run", bytes.len()))
}

/// Two different accounts for the transfer of an id, evenly spread: the same two for every subject.
pub(crate) fn pair(id: Id, accounts: usize) -> (usize, usize) {
    let n = (u128::from_be_bytes(id.to_bytes()) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let debit = n as usize % accounts;
    (debit, (debit + 1 + (n >> 24) as usize % (accounts - 1)) % accounts)
}

/// A few settings.
fn settings<const N: usize>(rows: [(&str, String); N]) -> BTreeMap<String, String> {
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;

    #[test]
    fn an_events_bytes_begin_with_its_id_and_differ_from_the_next_ones() {
        let ids = Ids::new(3).take(2);
        let bytes: Vec<_> = ids.iter().map(|id| event_bytes(*id)).collect();
        assert_eq!(bytes[0].len(), EVENT_BYTES);
        assert_eq!(event_id(&bytes[0]).expect("an id"), ids[0]);
        assert_ne!(bytes[0][16..], bytes[1][16..]);
        assert!(event_id(&bytes[0][..15]).is_err());
    }

    #[test]
    fn a_transfers_accounts_differ_and_all_are_used() {
        let pairs: Vec<_> = Ids::new(0).take(5_000).into_iter().map(|id| pair(id, 100)).collect();
        assert!(pairs.iter().all(|(debit, credit)| debit != credit && *debit < 100 && *credit < 100));
        let debits: std::collections::BTreeSet<_> = pairs.iter().map(|(debit, _)| debit).collect();
        assert_eq!(debits.len(), 100);
    }
}
