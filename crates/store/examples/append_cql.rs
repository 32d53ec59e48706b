//! How fast the journal on CQL servers makes frames durable, beside plain inserts of the same bytes and beside one
//! conditional update for each event, on the same servers in the same run.
//!
//! ```text
//! cargo xtask infra up
//! HOLMES_CQL=127.0.0.1:9042 cargo run --release -p holmes-store --features conformance,scylla --example append_cql -- [SECONDS]
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Frame, ServiceId, Tail};
use holmes_store::conformance::{first, frame, log};
use holmes_store::journal::scylla::{BUCKET_FRAMES, Journal, Options, Replication};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;

/// Bytes of one event.
const EVENT_BYTES: usize = 256;

struct Measured {
    frames: usize,
    took: Duration,
    waits: Vec<Duration>,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.frames as f64 / self.took.as_secs_f64()
    }

    fn wait(&mut self, percent: usize) -> Duration {
        self.waits.sort_unstable();
        self.waits[(self.waits.len() - 1) * percent / 100]
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let seconds =
        std::env::args().nth(1).map_or(Ok(10), |seconds| seconds.parse()).context("SECONDS is a number")?;
    let servers = std::env::var("HOLMES_CQL")
        .context("HOLMES_CQL names no server: `cargo xtask infra up` starts one")?;
    let nodes: Vec<String> = servers.split(',').map(str::to_owned).collect();
    let copies = if nodes.len() >= 3 { 3 } else { 1 };
    println!("events of {EVENT_BYTES} bytes, {seconds} s each, {copies} copies on {servers}");
    println!(
        "{:>4} {:>6} {:>9} {:>10} {:>9} {:>9} {:>9} {:>6}",
        "logs", "events", "frames/s", "events/s", "p50", "p99", "plain/s", "ratio"
    );
    let mut singly = BTreeMap::new();
    for logs in [1, 8] {
        for events in [1, 256] {
            let keyspace = Keyspace::make(&nodes, copies).await?;
            let duration = Duration::from_secs(seconds);
            let mut ours = journal(&keyspace, logs, events, duration).await?;
            let plain = plain(&keyspace, logs, events, duration).await?;
            let rate = ours.rate() * events as f64;
            println!(
                "{logs:>4} {events:>6} {:>9.0} {rate:>10.0} {:>9.2?} {:>9.2?} {plain:>9.0} {:>6.2}",
                ours.rate(),
                ours.wait(50),
                ours.wait(99),
                ours.rate() / plain,
            );
            match events {
                1 => drop(singly.insert(logs, rate)),
                _ => println!("     {:.0} times one conditional update for each event", rate / singly[&logs]),
            }
            keyspace
                .session
                .query_unpaged(format!("DROP KEYSPACE {}", keyspace.options.keyspace), ())
                .await?;
        }
    }
    Ok(())
}

struct Keyspace {
    options: Options,
    session: Arc<Session>,
}

impl Keyspace {
    async fn make(nodes: &[String], copies: u8) -> Result<Keyspace> {
        let named = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        let options = Options {
            nodes: nodes.to_vec(),
            keyspace: format!("bench_{named}"),
            cell: 1,
            services: (1..=8).map(|svc| (ServiceId(svc), format!("s{svc}"))).collect(),
            dev: copies == 1,
            bucket_frames: BUCKET_FRAMES,
            user: None,
        };
        let datacenter = Journal::datacenter(&options).await?;
        Journal::migrate(&options, &Replication { datacenter, copies }).await?;
        let session = Arc::new(SessionBuilder::new().known_nodes(nodes).build().await?);
        let table = "(shard int, seq bigint, last bigint, body blob, PRIMARY KEY (shard, seq))";
        session.query_unpaged(format!("CREATE TABLE {}.plain {table}", options.keyspace), ()).await?;
        Ok(Keyspace { options, session })
    }
}

/// One owner for each log, each with one frame under way, as the runtime has it.
async fn journal(keyspace: &Keyspace, logs: u16, events: usize, duration: Duration) -> Result<Measured> {
    let journal = Journal::connect(keyspace.options.clone()).await?;
    let mut owners = Vec::new();
    for svc in 1..=logs {
        journal.provision(&first(log(svc))).await?;
        let claim = journal.claim(log(svc)).await?;
        let journal = journal.clone();
        owners.push((claim, journal));
    }
    let (begun, mut tasks) = (Instant::now(), Vec::new());
    for (claim, journal) in owners {
        tasks.push(tokio::spawn(async move {
            let (mut tail, mut waits): (Tail, _) = (claim.tail, Vec::new());
            while begun.elapsed() < duration {
                let next = frame(claim.log, claim.term, &tail, events, EVENT_BYTES);
                let asked = Instant::now();
                journal.append(&claim, &next).await?;
                waits.push(asked.elapsed());
                tail = next.tail();
            }
            anyhow::Ok(waits)
        }));
    }
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await??);
    }
    Ok(Measured { frames: waits.len(), took: begun.elapsed(), waits })
}

/// Rows a second of as many writers, each with one insert under way: the same bytes, no condition.
async fn plain(keyspace: &Keyspace, logs: u16, events: usize, duration: Duration) -> Result<f64> {
    let text = format!(
        "INSERT INTO {}.plain (shard, seq, last, body) VALUES (?, ?, ?, ?)",
        keyspace.options.keyspace
    );
    let mut insert = keyspace.session.prepare(text).await?;
    insert.set_consistency(Consistency::LocalQuorum);
    let (begun, mut tasks) = (Instant::now(), Vec::new());
    for shard in 1..=i32::from(logs) {
        let (session, insert) = (keyspace.session.clone(), insert.clone());
        let body: Frame = frame(log(1), 1, &first(log(1)).tail(), events, EVENT_BYTES);
        tasks.push(tokio::spawn(async move {
            let mut rows = 0i64;
            while begun.elapsed() < duration {
                session.execute_unpaged(&insert, (shard, rows, rows, &body.bytes()[..])).await?;
                rows += 1;
            }
            anyhow::Ok(rows)
        }));
    }
    let mut rows = 0;
    for task in tasks {
        rows += task.await??;
    }
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}
