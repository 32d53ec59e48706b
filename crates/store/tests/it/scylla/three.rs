//! Three servers, of which one is stopped, then two, then one is killed, under load. HOLMES_CQL names them and
//! HOLMES_CQL_PIDS their processes, in the same order: `cargo xtask infra up --nodes 3` prints both.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holmes_kernel::ports::{Claim, Journal as _};
use holmes_kernel::{Frame, Tail};
use holmes_store::conformance::{assert_chain, first, frame, log};
use holmes_store::journal::scylla::{Journal, Options, Replication};

use super::{Scylla, insist, options, whole};

/// The servers' processes; `None`, and said so, where there are not three.
fn processes() -> Option<Vec<String>> {
    let pids: Vec<String> = std::env::var("HOLMES_CQL_PIDS").ok()?.split(',').map(str::to_owned).collect();
    let three = std::env::var("HOLMES_CQL").is_ok_and(|nodes| nodes.split(',').count() == 3);
    (three && pids.len() == 3).then_some(pids)
}

fn signal(pid: &str, word: &str) {
    assert!(Command::new("kill").args([word, pid]).status().unwrap().success(), "kill {word} {pid}");
}

/// Goes on whatever becomes of a test: a stopped server would stay so.
struct Stopped<'a>(&'a str);

impl<'a> Stopped<'a> {
    fn now(pid: &'a str) -> Stopped<'a> {
        signal(pid, "-STOP");
        Stopped(pid)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", self.0]).status(); // it may have been killed
    }
}

/// Appends until it is told to end.
async fn load(
    journal: Journal,
    claim: Claim,
    end: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> (u64, Vec<Frame>) {
    let (mut tail, mut frames, mut unknown): (Tail, _, _) = (claim.tail, Vec::new(), 0);
    while !end.load(Ordering::SeqCst) {
        let next = frame(claim.log, claim.term, &tail, 2, 200);
        unknown += insist(&journal, &claim, &next).await.unwrap();
        tail = next.tail();
        frames.push(next);
        done.fetch_add(1, Ordering::SeqCst);
    }
    (unknown, frames)
}

async fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < patience, "not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_of_three_servers_gone_appends_go_on_and_with_two_nothing_is_acknowledged() {
    let Some(pids) = processes() else {
        return eprintln!("NOT TESTED: three servers; `cargo xtask infra up --nodes 3` says how");
    };
    let name = format!("three_{}", std::process::id());
    let options = Options { dev: false, ..options(name) };
    let replication = Replication { datacenter: "datacenter1".into(), copies: 3 };
    Journal::migrate(&options, &replication).await.unwrap();
    let storage = Scylla(options.clone());
    let journal = Journal::connect(options).await.unwrap();
    journal.provision(&first(log(1))).await.unwrap();
    let claim = journal.claim(log(1)).await.unwrap();
    let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn(load(journal, claim, end.clone(), done.clone()));
    let count = || done.load(Ordering::SeqCst);
    let long = Duration::from_secs(60);
    let (mut waits, mut start) = (Vec::new(), 0);
    within(long, || count() > 50).await;
    {
        let _one = Stopped::now(&pids[2]);
        start = count().max(start);
        waits.push(within(long, || count() > start + 50).await);
        {
            let _two = Stopped::now(&pids[1]);
            tokio::time::sleep(Duration::from_secs(1)).await; // what was under way has ended
            let before = count();
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert!(count() <= before + 1, "{} appends were acknowledged by one of three", count() - before);
        }
        start = count();
        waits.push(within(long, || count() > start + 50).await);
    }
    start = count();
    waits.push(within(long, || count() > start + 50).await);
    signal(&pids[2], "-KILL");
    start = count();
    waits.push(within(long, || count() > start + 100).await);
    end.store(true, Ordering::SeqCst);
    let (unknown, appended) = writer.await.unwrap();
    // Whoever comes next does not wait for the one that is gone.
    let began = Instant::now();
    let next = Journal::connect(storage.0.clone()).await.unwrap().claim(log(1)).await.unwrap();
    assert_eq!(next.tail, appended.last().unwrap().tail());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    eprintln!("claimed anew after {took:.1?}");
    let frames = whole(&Journal::connect(storage.0.clone()).await.unwrap(), log(1)).await;
    assert_chain(log(1), &frames);
    assert_eq!(frames[1..], appended, "what was acknowledged, once and in order");
    eprintln!(
        "{} appends, of {unknown} the outcome was not known at first; until it went on: {waits:.1?}",
        appended.len()
    );
}
