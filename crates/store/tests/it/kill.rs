//! SIGKILL in the middle of a write load, again and again: every acknowledged frame is there, and each log is one
//! chain from its first frame.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use holmes_kernel::ports::{Journal as _, JournalError};
use holmes_kernel::{Frame, LogId};
use holmes_store::conformance::{assert_chain, first, frame, log};
use holmes_store::journal::embedded::{Journal, Options};

/// Set for the child: where it writes.
const CHILD: &str = "HOLMES_STORE_KILLED_CHILD";
/// Enough for CI; set `HOLMES_KILLS` for a night of it.
const KILLS: u64 = 20;
const LOGS: u16 = 4;

type Acknowledged = BTreeMap<u16, Vec<(u64, [u8; 32])>>;

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed_again_and_again() {
    let mut dir = tempfile::tempdir().unwrap();
    let kills = std::env::var("HOLMES_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut acknowledged = Acknowledged::new();
    let mut terms = BTreeMap::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for kill in 0..kills {
        if kill > 0 && kill % KILLS == 0 {
            // Every check reads the whole log: a long night needs a new one now and then.
            dir = tempfile::tempdir().unwrap();
            acknowledged.clear();
            terms.clear();
        }
        let before: usize = acknowledged.values().map(Vec::len).sum();
        run_and_kill(dir.path(), kill, &mut acknowledged);
        runtime.block_on(check(dir.path(), &acknowledged, &mut terms));
        let written = acknowledged.values().map(Vec::len).sum::<usize>() - before;
        assert!(written > 0, "kill {kill} came before anything was acknowledged");
    }
}

/// Starts a child, lets it write for a moment, kills it, and notes what it had acknowledged.
fn run_and_kill(dir: &Path, kill: u64, acknowledged: &mut Acknowledged) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "it::kill::the_child_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (send, received) = mpsc::channel();
    let reader = thread::spawn(move || lines.map_while(Result::ok).for_each(|line| send.send(line).unwrap()));
    let mut begun = String::new();
    while !begun.starts_with("ack ") {
        begun = received.recv_timeout(Duration::from_secs(30)).expect("the child begins to write");
    }
    // Up to two hundred milliseconds, different each time, and now and then nearly none.
    thread::sleep(Duration::from_millis((kill * 7_919) % 197));
    end(&mut child);
    reader.join().unwrap();
    for line in std::iter::once(begun).chain(received) {
        let Some(line) = line.strip_prefix("ack ") else { continue };
        let (svc, at) = parse(line).expect("a whole line");
        acknowledged.entry(svc).or_default().push(at);
    }
}

fn end(child: &mut Child) {
    // SIGKILL: no handler, no destructor, no flush.
    child.kill().unwrap();
    child.wait().unwrap();
}

fn parse(line: &str) -> Option<(u16, (u64, [u8; 32]))> {
    let mut words = line.split(' ');
    let (svc, seq) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let hex = words.next()?;
    let mut chain = [0; 32];
    for (at, byte) in chain.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some((svc, (seq, chain)))
}

async fn check(dir: &Path, acknowledged: &Acknowledged, terms: &mut BTreeMap<u16, u64>) {
    let journal = Journal::open(dir, Options::default()).expect("opens after a kill");
    for (svc, expected) in acknowledged {
        let frames = whole(&journal, log(*svc)).await;
        assert_chain(log(*svc), &frames);
        let there: BTreeMap<u64, [u8; 32]> =
            frames.iter().map(|frame| (frame.header().last, *frame.chain())).collect();
        for (seq, chain) in expected {
            assert_eq!(there.get(seq), Some(chain), "service {svc}: frame up to {seq} was acknowledged");
        }
        let term = journal.claim(log(*svc)).await.unwrap().term;
        let before = terms.insert(*svc, term).unwrap_or(0);
        assert!(term > before + 1, "the child's claim and ours: {term} after {before}");
    }
    journal.close().await;
}

async fn whole(journal: &Journal, log: LogId) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let after = frames.last().map_or(0, |frame| frame.header().last);
        let page = journal.read(log, after, 4 << 20).await.expect("readable");
        if page.is_empty() {
            return frames;
        }
        frames.extend(page);
    }
}

/// Not a test of its own: the process that the test above starts and kills.
#[test]
fn the_child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let journal = Journal::open(Path::new(&dir), Options::default()).unwrap();
    thread::scope(|scope| {
        for svc in 1..=LOGS {
            let journal = journal.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(write(&journal, svc)).unwrap();
            });
        }
    });
}

/// Frames of all sizes, so that kills meet writes of one page and of many. Gives up after a minute: the parent is gone.
async fn write(journal: &Journal, svc: u16) -> Result<(), JournalError> {
    journal.provision(&first(log(svc))).await?;
    let claim = journal.claim(log(svc)).await?;
    let mut tail = claim.tail;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let (events, bytes) = if tail.seq % 37 == 0 { (200, 500) } else { (1 + tail.seq as usize % 5, 150) };
        let next = frame(log(svc), claim.term, &tail, events, bytes);
        journal.append(&claim, &next).await?;
        tail = next.tail();
        let chain: String = tail.chain.iter().map(|byte| format!("{byte:02x}")).collect();
        // One write, so that a kill leaves whole lines.
        let line = format!("\nack {svc} {} {chain}\n", tail.seq);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
    Ok(())
}
