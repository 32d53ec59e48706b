//! The journal on ScyllaDB or Apache Cassandra: one frame is one row, one append is one conditional write, and whoever owns
//! a log stands in the partition that he writes to, so that no clock and no lease is ever trusted (design: Journal).

mod append;
mod bucket;
mod read;
mod safety;
mod schema;
mod session;
mod snapshots;
mod standing;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holmes_kernel::ports::{self, Claim, DamagedSnapshot, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId, ServiceId};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use bucket::Bucket;
pub use safety::Check;
pub use schema::Replication;
use session::{Statements, failed};

/// How the server is reached, and which logs are whose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Some of the servers: `host:port`.
    pub nodes: Vec<String>,
    /// The cell's keyspace.
    pub keyspace: String,
    /// The cell.
    pub cell: u16,
    /// The services whose logs are reached, each with the name of its tables.
    pub services: BTreeMap<ServiceId, String>,
    /// For development: one copy of each row is enough.
    pub dev: bool,
    /// Frames of a bucket at most: a partition stays one that servers like.
    pub bucket_frames: i32,
    /// Who we are to the servers, and the password.
    pub user: Option<(String, String)>,
}

/// Frames of a bucket at most, unless it is said otherwise.
pub const BUCKET_FRAMES: i32 = 8_192;

/// How long what was looked at counts.
const CHECKED_FOR: Duration = Duration::from_secs(60);
/// How often the driver looks whether every server knows a new table.
const AGREEMENT: Duration = Duration::from_millis(20);
/// How often a silent server is asked whether it lives, and how long it may take: one that stands still is then passed over.
const ALIVE: (Duration, Duration) = (Duration::from_millis(1_001), Duration::from_secs(2)); // the driver warns of a second

/// Logs in tables.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    keyspace: String,
    dev: bool,
    bucket_frames: i32,
    cell: u16,
    services: BTreeMap<ServiceId, Service>,
    /// When the servers were found safe.
    safe: Mutex<Option<Instant>>,
    /// The last bucket of logs that this process owns, as it has left it.
    owned: Mutex<BTreeMap<LogId, Bucket>>,
}

#[derive(Debug)]
struct Service {
    /// Of its tables.
    name: String,
    statements: Statements,
    known: Mutex<Known>,
}

/// What never changes once it is so.
#[derive(Debug, Default)]
struct Known {
    /// Where each bucket begins.
    bases: Vec<u64>,
    /// The last bucket there was.
    last: i32,
}

impl Service {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner) // every change is whole
    }
}

impl Journal {
    /// The data centre of the server that answers first.
    ///
    /// # Errors
    /// When no server can be reached.
    pub async fn datacenter(options: &Options) -> Result<String, JournalError> {
        let session = connected(options).await?;
        let answer =
            session.query_unpaged("SELECT data_center FROM system.local", ()).await.map_err(failed)?;
        let row = answer.into_rows_result().map_err(failed)?.single_row::<(String,)>().map_err(failed)?;
        Ok(row.0)
    }

    /// What [`Journal::migrate`] says to the servers, in its order.
    pub fn plan(options: &Options, replication: &Replication) -> Vec<String> {
        schema::statements(&options.keyspace, options.services.values(), replication)
    }

    /// What gives a role of the servers for each service its rights, and no others.
    pub fn rights(options: &Options) -> Vec<String> {
        options.services.values().flat_map(|name| schema::rights(&options.keyspace, name)).collect()
    }

    /// Makes keyspace and tables where they are not there; it may be said again at any time.
    ///
    /// # Errors
    /// When a server cannot be reached, or refuses.
    pub async fn migrate(options: &Options, replication: &Replication) -> Result<(), JournalError> {
        let session = connected(options).await?;
        enough(&session, replication)?;
        for statement in Journal::plan(options, replication) {
            session.query_unpaged(statement.as_str(), ()).await.map_err(failed)?;
        }
        let keyspace = &options.keyspace;
        let text = format!(
            "INSERT INTO {keyspace}.provisioned (one, datacenter, copies) VALUES (1, ?, ?) IF NOT EXISTS"
        );
        let copies = i8::try_from(replication.copies).map_err(failed)?;
        session.query_unpaged(text, (&replication.datacenter, copies)).await.map_err(failed)?;
        match safety::gather(&session, keyspace).await?.provisioned {
            Some(then) if then == *replication => Ok(()),
            then => Err(JournalError::Io(format!(
                "the keyspace {keyspace} was made for {then:?}, not for {replication:?}: nothing moves copies but a restore"
            ))),
        }
    }

    /// Connects, and prepares everything that will be asked.
    ///
    /// # Errors
    /// When no server can be reached, or a table is not there.
    pub async fn connect(options: Options) -> Result<Journal, JournalError> {
        let session = connected(&options).await?;
        let keyspace = &options.keyspace;
        if session.get_cluster_state().get_keyspace(keyspace).is_none() {
            let fix = "run `holmes migrate`, or name another one (store.keyspace)";
            return Err(JournalError::Io(format!("there is no keyspace {keyspace} on these servers: {fix}")));
        }
        let mut services = BTreeMap::new();
        for (id, name) in options.services {
            let statements = Statements::prepare(&session, &options.keyspace, &name).await?;
            services.insert(id, Service { name, statements, known: Mutex::default() });
        }
        let inner = Inner {
            session,
            keyspace: options.keyspace,
            dev: options.dev,
            bucket_frames: options.bucket_frames,
            cell: options.cell,
            services,
            safe: Mutex::default(),
            owned: Mutex::default(),
        };
        Ok(Journal { inner: Arc::new(inner) })
    }

    /// Looks at everything that the fence needs of the servers.
    ///
    /// # Errors
    /// When they cannot be asked.
    pub async fn checks(&self) -> Result<Vec<Check>, JournalError> {
        let facts = safety::gather(&self.inner.session, &self.inner.keyspace).await?;
        Ok(safety::judge(&facts, self.inner.dev))
    }
}

impl Journal {
    /// Nothing is claimed where two could own a log at once.
    async fn safe(&self, log: LogId) -> Result<(), JournalError> {
        let remembered = || self.inner.safe.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered().is_some_and(|at| at.elapsed() < CHECKED_FOR) {
            return Ok(());
        }
        let faults: Vec<String> = self.checks().await?.into_iter().filter_map(Check::told).collect();
        if !faults.is_empty() {
            return Err(JournalError::Unsafe { log, why: faults.join("; ") });
        }
        *remembered() = Some(Instant::now());
        Ok(())
    }
}

/// Rows cannot be kept more often than there are servers, and nothing could be read.
fn enough(session: &Session, replication: &Replication) -> Result<(), JournalError> {
    let Replication { datacenter, copies } = replication;
    let state = session.get_cluster_state();
    let there =
        state.get_nodes_info().iter().filter(|node| node.datacenter.as_ref() == Some(datacenter)).count();
    if there < usize::from(*copies) {
        return Err(JournalError::Io(format!(
            "{copies} copies need as many servers in the data centre {datacenter}, and it has {there}"
        )));
    }
    Ok(())
}

async fn connected(options: &Options) -> Result<Session, JournalError> {
    let builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .keyspaces_to_fetch([&options.keyspace])
        .schema_agreement_interval(AGREEMENT)
        .keepalive_interval(ALIVE.0)
        .keepalive_timeout(ALIVE.1);
    let builder = match &options.user {
        Some((user, password)) => builder.user(user, password),
        None => builder,
    };
    builder.build().await.map_err(|why| {
        JournalError::Io(format!("no CQL server answers at {}: {why}", options.nodes.join(", ")))
    })
}

impl Inner {
    fn service(&self, log: LogId) -> Result<&Service, JournalError> {
        let service = self.services.get(&log.svc).filter(|_| log.cell == self.cell && log.shard == 0);
        service.ok_or(JournalError::Missing(log))
    }

    fn hinted(&self, log: LogId) -> i32 {
        self.service(log).map_or(0, |service| service.known().last)
    }

    fn hint(&self, log: LogId, bucket: i32) {
        if let Ok(service) = self.service(log) {
            service.known().last = bucket;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LogId, Bucket>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner) // every change is whole
    }

    /// Remembers how this process, as its owner, has left a log.
    fn own(&self, log: LogId, bucket: Bucket) {
        self.lock().insert(log, bucket);
    }

    /// How the owner of this claim has left its log, if this process remembers.
    fn owned(&self, claim: &Claim) -> Option<Bucket> {
        let bucket = self.lock().get(&claim.log).copied()?;
        let Bucket { header: bucket::Header { head, .. }, .. } = bucket;
        (head.term == claim.term && head.nonce == claim.nonce).then_some(bucket)
    }
}

/// A number as the server has it.
fn signed(value: u64) -> Result<i64, JournalError> {
    i64::try_from(value).map_err(|_| JournalError::Io(format!("{value} is larger than the server's numbers")))
}

/// A bucket's number as the server has it.
fn number(bucket: usize) -> Result<i32, JournalError> {
    i32::try_from(bucket).map_err(|_| JournalError::Io(format!("there are no more buckets than {bucket}")))
}

impl ports::Journal for Journal {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        self.safe(first.header().log).await?;
        self.inner.provision(first).await
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        self.safe(log).await?;
        self.inner.claim(log).await
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        self.inner.append(claim, frame).await
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        self.inner.confirm(claim).await
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        self.inner.read(log, after, max_bytes).await
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        let mut logs = Vec::new();
        for svc in self.inner.services.keys() {
            let log = LogId::new(self.inner.cell, *svc);
            if self.inner.header(log, 0).await?.is_some_and(|header| header.head.tail.seq > 0) {
                logs.push(log);
            }
        }
        Ok(logs)
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.inner.keep_snapshot(snapshot).await
    }

    async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.inner.snapshot(log, state_version, at_most).await
    }

    async fn damaged_snapshots(
        &self,
        log: LogId,
        state_version: u32,
        above: u64,
    ) -> Result<Vec<DamagedSnapshot>, JournalError> {
        self.inner.damaged_snapshots(log, state_version, above).await
    }
}
