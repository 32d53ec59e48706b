//! The journals that lose power: ours, and toys of which one is right and each other has one of the classic faults, so that
//! it shows whether a power cut finds them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::entry::DueOrigin;
use holmes_kernel::frame::Open;
use holmes_kernel::ports::{Journal as _, Snapshot};
use holmes_kernel::{Chain, Entry, Frame, LogId, Origin, ServiceId, Tail, Time, canon};
use holmes_store::journal::embedded::{Journal, Options};

use crate::args::Which;

/// Logs that are written at once.
const LOGS: u16 = 3;
/// Frames of each log in one life.
const FRAMES: u64 = 120;
/// Small, so that tables are written, compacted and journals let go in a short life.
const MEMTABLE_BYTES: u64 = 64 << 10;

/// What was acknowledged of each log: where a frame ends, and its chain.
pub(crate) type Acknowledged = BTreeMap<u16, Vec<(u64, Chain)>>;

fn log(svc: u16) -> LogId {
    LogId::new(1, ServiceId(svc))
}

/// A frame behind `tail`, of bytes that differ from frame to frame.
fn frame(log: LogId, term: u64, tail: &Tail, dice: &mut fastrand::Rng) -> Frame {
    let mut open = Open::new(log, term, Time::from_micros(tail.ts.micros() + 1), 1, tail);
    let head = Entry { origin: Some(Origin::Due(DueOrigin {})), ..Entry::default() };
    // Within a sector, over some, and over many pages.
    let (events, len) = match dice.u8(..20) {
        0 => (100, 600),
        1..5 => (4, 700),
        _ => (1, 60),
    };
    let events: Vec<Vec<u8>> = (0..events).map(|_| (0..len).map(|_| dice.u8(1..)).collect()).collect();
    open.push(&head, &events);
    open.freeze()
}

fn first(log: LogId) -> Frame {
    let mut dice = fastrand::Rng::with_seed(u64::from(log.svc.0));
    frame(log, 0, &Tail::default(), &mut dice)
}

/// Says that something is acknowledged: in one write, so that its step is one.
fn acknowledge(svc: u16, seq: u64, chain: &Chain) -> Result<()> {
    let hex: String = chain.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(std::io::stdout().lock().write_all(format!("ack {svc} {seq} {hex}\n").as_bytes())?)
}

/// What was acknowledged in the lines that a life has said before a step.
pub(crate) fn acknowledged(said: &[(usize, Vec<u8>)], before: usize) -> Result<Acknowledged> {
    let mut all = Acknowledged::new();
    for (_, bytes) in said.iter().filter(|(step, _)| *step < before) {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter_map(|line| line.strip_prefix("ack ")) {
            let mut words = line.split(' ');
            let (Some(svc), Some(seq), Some(hex)) = (words.next(), words.next(), words.next()) else {
                bail!("not understood: {line}")
            };
            let mut chain = [0; 32];
            for (at, byte) in chain.iter_mut().enumerate() {
                *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2).context("64 digits")?, 16)?;
            }
            all.entry(svc.parse()?).or_default().push((seq.parse()?, chain));
        }
    }
    Ok(all)
}

/// One life: writes, and says what is acknowledged.
pub(crate) fn write_into(dir: &Path, which: Which, seed: u64) -> Result<()> {
    match which {
        Which::Holmes => holmes(dir, seed),
        _ => toy(dir, which, seed),
    }
}

fn holmes(dir: &Path, seed: u64) -> Result<()> {
    let options = Options { memtable_bytes: MEMTABLE_BYTES, reserve_bytes: 0 };
    let journal = Journal::open(dir, options)?;
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (1..=LOGS)
            .map(|svc| {
                let journal = journal.clone();
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                    runtime.block_on(own(&journal, svc, seed))
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
    })?;
    if seed.is_multiple_of(2) {
        // As a kill would: the next life finds what lies there.
        std::process::exit(0);
    }
    Ok(())
}

async fn own(journal: &Journal, svc: u16, seed: u64) -> Result<()> {
    let mut dice = fastrand::Rng::with_seed(seed ^ (u64::from(svc) << 32));
    let first = first(log(svc));
    journal.provision(&first).await?;
    acknowledge(svc, first.header().last, first.chain())?;
    let claim = journal.claim(log(svc)).await?;
    let mut tail = claim.tail;
    for number in 1..=FRAMES {
        let next = frame(log(svc), claim.term, &tail, &mut dice);
        journal.append(&claim, &next).await?;
        tail = next.tail();
        acknowledge(svc, tail.seq, &tail.chain)?;
        if number % 40 == 0 {
            journal.keep_snapshot(&snapshot(svc, tail)).await?;
        }
    }
    Ok(())
}

fn snapshot(svc: u16, at: Tail) -> Snapshot {
    let bytes = at.chain.repeat(200);
    Snapshot { log: log(svc), state_version: 1, at, digest: canon::hash(&bytes), bytes }
}

/// Opens what the cut has left, and holds it to what was acknowledged; then the logs must go on, over one more start.
pub(crate) async fn check(dir: &Path, which: Which, acknowledged: &Acknowledged) -> Result<()> {
    if which != Which::Holmes {
        return check_toy(dir, which, acknowledged);
    }
    let options = Options { memtable_bytes: MEMTABLE_BYTES, reserve_bytes: 0 };
    let open = || Journal::open(dir, options).context("the journal does not open");
    let journal = open()?;
    for (svc, expected) in acknowledged {
        holds(&journal, *svc, expected).await.with_context(|| format!("log {svc}"))?;
    }
    let mut dice = fastrand::Rng::with_seed(1);
    let mut added = Acknowledged::new();
    for svc in 1..=LOGS {
        journal.provision(&first(log(svc))).await.context("provisioned")?;
        let claim = journal.claim(log(svc)).await.context("claimed")?;
        let next = frame(log(svc), claim.term, &claim.tail, &mut dice);
        journal.append(&claim, &next).await.context("the log does not go on")?;
        added.insert(svc, vec![(next.header().last, *next.chain())]);
    }
    journal.close().await;
    let journal = open().context("again")?;
    for (svc, expected) in &added {
        holds(&journal, *svc, expected).await.with_context(|| format!("log {svc}, a start later"))?;
    }
    journal.close().await;
    Ok(())
}

async fn holds(journal: &Journal, svc: u16, expected: &[(u64, Chain)]) -> Result<()> {
    let mut there = BTreeMap::new();
    let mut tail = Tail::default();
    loop {
        let page = journal.read(log(svc), tail.seq, 4 << 20).await.context("it cannot be read")?;
        if page.is_empty() {
            break;
        }
        for frame in page {
            frame.follows(log(svc), &tail).context("it is no chain")?;
            tail = frame.tail();
            there.insert(tail.seq, tail.chain);
        }
    }
    for (seq, chain) in expected {
        ensure!(
            there.get(seq) == Some(chain),
            "the frame up to {seq} was acknowledged, and the log ends at {}",
            tail.seq
        );
    }
    let snapshot = journal.snapshot(log(svc), 1, u64::MAX).await.context("looking for a snapshot")?;
    // A snapshot may be lost, or be ahead of a log that lost its unacknowledged end; what it says must be what was kept.
    let honest = snapshot.is_none_or(|found| found == self::snapshot(svc, found.at));
    ensure!(honest, "a snapshot is not what was kept");
    Ok(())
}

/// A record of a toy: length, number, checksum of both, bytes.
fn record(number: u64, len: usize) -> Vec<u8> {
    let mut record = (len as u32).to_le_bytes().to_vec();
    record.extend(number.to_le_bytes());
    record.extend(vec![number as u8 | 1; len]);
    let sum = blake3::hash(&record);
    record.extend(&sum.as_bytes()[..8]);
    record
}

fn toy(dir: &Path, which: Which, seed: u64) -> Result<()> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let path = dir.join("records");
    let begun = toy_records(&path, which)?;
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.set_len(begun.iter().map(|(_, len)| (len + 20) as u64).sum())?;
    file.sync_all()?;
    if which != Which::ToyForgetsDirectory {
        File::open(dir)?.sync_all()?;
    }
    let from = begun.len() as u64 + 1;
    for number in from..from + FRAMES {
        file.write_all(&record(number, dice.usize(1..1_500)))?;
        if which == Which::ToyAcksEarly {
            acknowledge(1, number, &[0; 32])?;
            file.sync_data()?;
        } else {
            file.sync_data()?;
            acknowledge(1, number, &[0; 32])?;
        }
    }
    Ok(())
}

/// Number and length of the records that a toy finds; it stops where one is not whole.
fn toy_records(path: &Path, which: Which) -> Result<Vec<(u64, usize)>> {
    let bytes = if path.exists() { std::fs::read(path)? } else { Vec::new() };
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while rest.len() >= 12 {
        let len = u32::from_le_bytes(rest[..4].try_into()?) as usize;
        let number = u64::from_le_bytes(rest[4..12].try_into()?);
        let Some(whole) = rest.get(..len + 20) else { break };
        if which != Which::ToyTrustsBytes && whole != record(number, len) {
            break;
        }
        found.push((number, len));
        rest = &rest[len + 20..];
    }
    Ok(found)
}

fn check_toy(dir: &Path, which: Which, acknowledged: &Acknowledged) -> Result<()> {
    let path = dir.join("records");
    let found = toy_records(&path, which)?;
    let bytes = if path.exists() { std::fs::read(&path)? } else { Vec::new() };
    let mut at = 0;
    for (place, (number, len)) in found.iter().enumerate() {
        ensure!(*number == place as u64 + 1, "record {number} stands at place {}", place + 1);
        ensure!(bytes[at..at + len + 20] == record(*number, *len), "record {number} is not what was written");
        at += len + 20;
    }
    let last = acknowledged.values().flatten().map(|(number, _)| *number).max().unwrap_or_default();
    ensure!(found.len() as u64 >= last, "record {last} was acknowledged, and there are {}", found.len());
    Ok(())
}
