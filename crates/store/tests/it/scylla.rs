//! The same suite on a real CQL server: the one that HOLMES_CQL names. `cargo xtask infra up` starts one.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use holmes_kernel::ports::{Claim, Journal as _, JournalError};
use holmes_kernel::{Frame, LogId, ServiceId, Tail};
use holmes_store::conformance::{Storage, assert_chain, first, frame, log};
use holmes_store::journal::scylla::{BUCKET_FRAMES, Journal, Options, Replication};
use scylla::client::session_builder::SessionBuilder;

mod lossy;
mod three;

/// A keyspace of its own, which goes with it: a small server has room for few.
struct Scylla(Options);

impl Drop for Scylla {
    fn drop(&mut self) {
        let gone = async {
            let session = SessionBuilder::new().known_nodes(&self.0.nodes).build().await.unwrap();
            session.query_unpaged(format!("DROP KEYSPACE {}", self.0.keyspace), ()).await.unwrap();
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(gone));
    }
}

fn one_copy() -> Replication {
    Replication { datacenter: "datacenter1".into(), copies: 1 }
}

fn options(keyspace: String) -> Options {
    let nodes = std::env::var("HOLMES_CQL").expect("asked only where it is set");
    let services: BTreeMap<ServiceId, String> =
        (1..=8).map(|svc| (ServiceId(svc), format!("s{svc}"))).collect();
    Options {
        nodes: nodes.split(',').map(str::to_owned).collect(),
        keyspace,
        cell: 1,
        services,
        dev: true,
        bucket_frames: BUCKET_FRAMES,
        user: None,
    }
}

impl Storage for Scylla {
    type Journal = Journal;

    fn missing() -> Option<String> {
        let what = "HOLMES_CQL names no CQL server; `cargo xtask infra up` starts one, `cargo xtask test` does so by itself";
        std::env::var_os("HOLMES_CQL").is_none().then(|| what.to_owned())
    }

    async fn fresh() -> Scylla {
        let mut drawn = [0; 6];
        getrandom::fill(&mut drawn).unwrap();
        let name: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        let options = options(format!("t_{name}"));
        Journal::migrate(&options, &one_copy()).await.unwrap();
        Scylla(options)
    }

    async fn handle(&self) -> Journal {
        Journal::connect(self.0.clone()).await.unwrap()
    }

    async fn reopen(self) -> Scylla {
        self
    }
}

holmes_store::conformance_suite!(Scylla);

/// Of a log whose buckets hold three frames; `None` where there is no server.
async fn narrow() -> Option<Scylla> {
    if let Some(what) = Scylla::missing() {
        eprintln!("NOT TESTED: {what}");
        return None;
    }
    let mut storage = Scylla::fresh().await;
    storage.handle().await.provision(&first(log(1))).await.unwrap();
    storage.0.bucket_frames = 3;
    Some(storage)
}

async fn extend(journal: &Journal, claim: &Claim, tail: &mut Tail, count: usize) {
    for _ in 0..count {
        let next = frame(claim.log, claim.term, tail, 2, 100);
        journal.append(claim, &next).await.unwrap();
        *tail = next.tail();
    }
}

async fn whole(journal: &Journal, log: LogId) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let after = frames.last().map_or(0, |frame| frame.header().last);
        let page = journal.read(log, after, 300).await.unwrap();
        if page.is_empty() {
            return frames;
        }
        frames.extend(page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_many_buckets_reads_as_one_whoever_wrote_it() {
    let Some(storage) = narrow().await else { return };
    let mut tail = first(log(1)).tail();
    for owner in 0..4 {
        let journal = storage.handle().await; // knows of no bucket yet
        let claim = journal.claim(log(1)).await.unwrap();
        assert_eq!(claim.tail, tail, "owner {owner}");
        extend(&journal, &claim, &mut tail, 7).await;
        let frames = whole(&storage.handle().await, log(1)).await;
        assert_eq!((frames.len(), assert_chain(log(1), &frames)), (1 + 7 * (owner + 1), tail));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_fenced_where_a_bucket_ends_neither_seals_nor_opens() {
    let Some(storage) = narrow().await else { return };
    let (old, new) = (storage.handle().await, storage.handle().await);
    let mut tail = first(log(1)).tail();
    let fenced = old.claim(log(1)).await.unwrap();
    extend(&old, &fenced, &mut tail, 2).await; // the bucket is full
    let late = frame(log(1), fenced.term, &tail, 1, 10);
    let claim = new.claim(log(1)).await.unwrap();
    let refused = old.append(&fenced, &late).await;
    assert!(matches!(refused, Err(JournalError::Fenced { by, .. }) if by == claim.term), "{refused:?}");
    extend(&new, &claim, &mut tail, 4).await;
    let refused = old.append(&fenced, &late).await;
    assert!(matches!(refused, Err(JournalError::Fenced { .. })), "{refused:?}");
    assert_eq!(assert_chain(log(1), &whole(&old, log(1)).await), tail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_is_claimed_for_development_alone() {
    let Some(storage) = narrow().await else { return };
    let options = storage.0.clone();
    let checks = Journal::connect(options.clone()).await.unwrap().checks().await.unwrap();
    assert!(checks.len() >= 4 && checks.iter().all(|check| check.fault.is_none()), "{checks:#?}");
    let strict = Journal::connect(Options { dev: false, ..options }).await.unwrap();
    let refused = strict.claim(log(1)).await;
    let Err(JournalError::Unsafe { why, .. }) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("odd number of copies"), "{why}");
    assert_eq!(whole(&strict, log(1)).await.len(), 1, "what is there can be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_again_is_no_change_and_other_copies_are_refused() {
    let Some(storage) = narrow().await else { return };
    let options = &storage.0;
    Journal::migrate(options, &one_copy()).await.unwrap();
    assert_eq!(whole(&Journal::connect(options.clone()).await.unwrap(), log(1)).await.len(), 1);
    // Of one server: of three it would be told that nothing moves copies.
    let refused = Journal::migrate(options, &Replication { copies: 3, ..one_copy() }).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("need as many servers") || why.contains("nothing moves copies"), "{why}");
}

/// Appends a frame as the runtime does: the same bytes again for as long as the outcome is not known. How often it was not.
async fn insist(journal: &Journal, claim: &Claim, frame: &Frame) -> Result<u64, JournalError> {
    let mut unknown = 0;
    loop {
        match journal.append(claim, frame).await {
            Err(JournalError::Unknown(_) | JournalError::Io(_)) => unknown += 1,
            told => return told.map(|()| unknown),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_answers_are_lost_each_frame_stands_there_once() {
    let Some(storage) = narrow().await else { return };
    let (address, faults) = lossy::in_front_of(storage.0.nodes[0].clone()).await;
    let away = Options { nodes: vec![address], bucket_frames: 50, ..storage.0.clone() };
    let journal = Journal::connect(away.clone()).await.unwrap();
    let mut tail = first(log(1)).tail();
    let mut claim = journal.claim(log(1)).await.unwrap();
    for number in 0..450 {
        let next = frame(log(1), claim.term, &tail, 2, 600);
        insist(&journal, &claim, &next).await.unwrap();
        tail = next.tail();
        if number % 90 == 89 {
            // Another owner, who knows nothing of what was lost on the way; the one before is out, whatever it repeats.
            let late = frame(log(1), claim.term, &tail, 1, 1_200);
            let before = claim;
            claim = storage.handle().await.claim(log(1)).await.unwrap();
            assert_eq!(claim.tail, tail, "frame {number}");
            let refused = insist(&journal, &before, &late).await;
            assert!(matches!(refused, Err(JournalError::Fenced { .. })), "{refused:?}");
            claim = journal.claim(log(1)).await.unwrap();
        }
    }
    let frames = whole(&storage.handle().await, log(1)).await;
    assert_eq!((frames.len(), assert_chain(log(1), &frames)), (451, tail));
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    let (applied, lost, cut) = (count(&faults.applied), count(&faults.lost), count(&faults.cut));
    eprintln!(
        "answers lost of appends that applied: {applied}, and with their connection: {cut}; appends lost: {lost}"
    );
    assert!(applied >= 100 && lost >= 100 && cut >= 3, "the faults were there: {faults:?}");
}
