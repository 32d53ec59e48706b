//! How fast the embedded journal makes frames durable, beside a raw preallocated file with one fdatasync for the same
//! bytes, on the same disk in the same run.
//!
//! ```text
//! cargo run --release -p holmes-store --example append -- [DIRECTORY] [SECONDS]
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Frame, Tail};
use holmes_store::conformance::{first, frame, log};
use holmes_store::journal::embedded::{Journal, Options};

/// Bytes of one event.
const EVENT_BYTES: usize = 256;
/// What the raw file is laid out to before it is measured, and then written round and round.
const RAW_BYTES: u64 = 256 << 20;

struct Measured {
    frames: usize,
    commits: u64,
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

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let within = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse()).context("SECONDS is a number")?;
    println!("events of {EVENT_BYTES} bytes, {seconds} s each, in {}", within.display());
    println!(
        "{:>4} {:>6} {:>9} {:>10} {:>9} {:>8} {:>8} {:>8} {:>9} {:>6}",
        "logs", "events", "frames/s", "events/s", "commits/s", "frames", "p50", "p99", "raw", "ratio"
    );
    println!(
        "{:>4} {:>6} {:>9} {:>10} {:>9} {:>8} {:>8} {:>8} {:>9} {:>6}",
        "", "/frame", "", "", "", "/commit", "", "", "frames/s", ""
    );
    for logs in [1, 8] {
        for events in [1, 16, 256] {
            let dir = tempfile::tempdir_in(&within)?;
            let mut ours = journal(dir.path(), logs, events, Duration::from_secs(seconds))?;
            let bytes = logs as usize * sample(events).bytes().len();
            let raw = raw(&dir.path().join("raw"), bytes, Duration::from_secs(seconds))? * f64::from(logs);
            println!(
                "{logs:>4} {events:>6} {:>9.0} {:>10.0} {:>9.0} {:>8.1} {:>8.2?} {:>8.2?} {raw:>9.0} {:>6.2}",
                ours.rate(),
                ours.rate() * events as f64,
                ours.commits as f64 / ours.took.as_secs_f64(),
                ours.frames as f64 / ours.commits as f64,
                ours.wait(50),
                ours.wait(99),
                ours.rate() / raw,
            );
        }
    }
    Ok(())
}

fn sample(events: usize) -> Frame {
    frame(log(1), 1, &first(log(1)).tail(), events, EVENT_BYTES)
}

/// One owner for each log, each with one frame under way, as the runtime has it.
fn journal(dir: &Path, logs: u16, events: usize, duration: Duration) -> Result<Measured> {
    let journal = Journal::open(dir, Options::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let measured = runtime.block_on(async {
        let mut owners = Vec::new();
        let commits = journal.commits();
        let begun = Instant::now();
        for svc in 1..=logs {
            owners.push(tokio::spawn(own(journal.clone(), svc, events, begun + duration)));
        }
        let mut waits = Vec::new();
        for owner in owners {
            waits.extend(owner.await??);
        }
        // Provisioning and claiming are commits, too.
        let commits = journal.commits() - commits - 2;
        anyhow::Ok(Measured { frames: waits.len(), commits, took: begun.elapsed(), waits })
    })?;
    runtime.block_on(journal.close());
    Ok(measured)
}

async fn own(journal: Journal, svc: u16, events: usize, until: Instant) -> Result<Vec<Duration>> {
    journal.provision(&first(log(svc))).await?;
    let claim = journal.claim(log(svc)).await?;
    let mut tail: Tail = claim.tail;
    let mut waits = Vec::new();
    while Instant::now() < until {
        let next = frame(log(svc), claim.term, &tail, events, EVENT_BYTES);
        let begun = Instant::now();
        journal.append(&claim, &next).await?;
        waits.push(begun.elapsed());
        tail = next.tail();
    }
    Ok(waits)
}

/// Commits a second of plain writes into a file that is laid out and filled, each with one fdatasync.
fn raw(path: &Path, bytes: usize, duration: Duration) -> Result<f64> {
    let file = File::create_new(path)?;
    let zeros = vec![0; 1 << 20];
    for at in 0..RAW_BYTES >> 20 {
        file.write_all_at(&zeros, at << 20)?;
    }
    file.sync_all()?;
    let commit = vec![0xa5; bytes];
    let (mut at, mut commits) = (0, 0u32);
    let begun = Instant::now();
    while begun.elapsed() < duration {
        file.write_all_at(&commit, at)?;
        file.sync_data()?;
        at = if at + 2 * bytes as u64 > RAW_BYTES { 0 } else { at + bytes as u64 };
        commits += 1;
    }
    Ok(f64::from(commits) / begun.elapsed().as_secs_f64())
}
