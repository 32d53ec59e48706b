//! Redis with `appendfsync always`: a stream, a batch a pipeline. It forces its file to disk once for all that came in
//! at a time, so many writers share a sync.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use holmes_kernel::Id;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, pipe};

use super::server::{REDIS, Server, command, need, version};
use super::{Doing, Kept, Start, Subject, event_bytes, event_id, settings};

const STREAM: &str = "events";
/// Entries read at once afterwards.
const PAGE: usize = 10_000;
const SETTINGS: [(&str, &str); 5] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("auto-aof-rewrite-percentage", "0"),
    ("port", "0"),
];

/// An entry's place, and its fields.
type Entry = (String, Vec<(String, Vec<u8>)>);

pub(super) struct Redis {
    server: Server,
    version: String,
    connections: Vec<MultiplexedConnection>,
    /// As the server says that it has them.
    set: BTreeMap<String, String>,
    _socket: tempfile::TempDir,
}

impl Redis {
    /// So many connections, which the callers share.
    pub(super) async fn start(start: &Start<'_>, connections: usize) -> Result<Redis> {
        let redis = need(REDIS)?;
        let socket = tempfile::tempdir()?;
        let path = socket.path().join("redis.sock");
        let mut serve = command(&redis, false);
        serve.arg("--dir").arg(start.dir).arg("--unixsocket").arg(&path);
        for (key, value) in SETTINGS {
            serve.args([format!("--{key}"), value.to_owned()]);
        }
        let mut server = Server::start(serve, start.dir)?;
        let mut open = vec![server.answers(|| connect(&path)).await?];
        while open.len() < connections {
            open.push(connect(&path).await?);
        }
        let names = SETTINGS.map(|(key, _)| key);
        let set = redis::cmd("CONFIG").arg("GET").arg(&names).query_async(&mut open[0]).await?;
        Ok(Redis { server, version: version(&redis)?, connections: open, set, _socket: socket })
    }

    async fn write(&self, caller: usize, ids: &[Id]) -> Result<()> {
        let mut connection = self.connections[caller % self.connections.len()].clone();
        let mut pipeline = pipe();
        for id in ids {
            pipeline.cmd("XADD").arg(STREAM).arg("*").arg("e").arg(event_bytes(*id));
        }
        let places: Vec<String> = pipeline.query_async(&mut connection).await?;
        ensure!(places.len() == ids.len(), "{} of {} were added", places.len(), ids.len());
        Ok(())
    }

    async fn read(&self) -> Result<Vec<Id>> {
        let mut connection = self.connections.first().context("a connection")?.clone();
        let (mut ids, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let page: Vec<Entry> = redis::cmd("XRANGE")
                .arg(STREAM)
                .arg(&from)
                .arg("+")
                .arg("COUNT")
                .arg(PAGE)
                .query_async(&mut connection)
                .await?;
            let Some((last, _)) = page.last() else { return Ok(ids) };
            from = format!("({last}");
            for (_, fields) in &page {
                ids.push(event_id(&fields.first().context("an entry without its event")?.1)?);
            }
        }
    }
}

async fn connect(path: &Path) -> Result<MultiplexedConnection> {
    let client = Client::open(format!("redis+unix://{}", path.display()))?;
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&patient).await?)
}

impl Subject for Redis {
    fn processes(&self) -> Vec<u32> {
        vec![self.server.id()]
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let mut all = settings([
            ("version", self.version.clone()),
            ("connections", format!("{}, over a Unix socket; a batch is a pipeline", self.connections.len())),
        ]);
        all.extend(self.set.clone());
        all
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(self.write(caller, ids))
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move { Ok(Kept::all(self.read().await?)) })
    }
}
