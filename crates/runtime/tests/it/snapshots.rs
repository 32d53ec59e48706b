//! Snapshots: written beside the owner, used at the start, never believed blindly.

use std::sync::atomic::Ordering;

use holmes_kernel::Replica;
use holmes_kernel::ports::Journal as _;
use holmes_runtime::recover::{Extent, recover, write_snapshot};

use crate::support::{Faulty, START, Shop, deposit, until};
use crate::till::{self, Command, Till};

#[tokio::test]
async fn a_snapshot_is_written_beside_the_owner_and_shortens_the_next_start() {
    let journal = Faulty::memory().await;
    let clock = holmes_runtime::Clock::manual(START);
    let shop = Shop::with(&journal, clock.clone(), |settings| settings.snapshot_every = 100).await;
    for _ in 0..150 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    let newest = || journal.inner.snapshot(till::log(1), Replica::<Till>::VERSION, u64::MAX);
    until(|| async { newest().await.unwrap().is_some() }).await;
    for _ in 0..20 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    shop.close().await;
    let at = newest().await.unwrap().unwrap().at.seq;
    assert!((100..=151).contains(&at), "a snapshot at {at}");

    journal.told.shown.store(0, Ordering::SeqCst);
    let shop = Shop::open(&journal).await;
    let shown = journal.told.shown.load(Ordering::SeqCst);
    assert_eq!(shown, 171 - at, "only the frames behind the snapshot");
    assert_eq!(shop.balance(1).await, 170);
    let repeated = shop.see(|state| state.held).await;
    assert_eq!(repeated, 170);
}

#[tokio::test]
async fn an_owner_that_is_often_restarted_gets_its_snapshot_too() {
    let journal = Faulty::memory().await;
    for _ in 0..3 {
        let clock = holmes_runtime::Clock::manual(START);
        let shop = Shop::with(&journal, clock, |settings| settings.snapshot_every = 100).await;
        for _ in 0..60 {
            shop.ask(deposit(1, 1)).await.unwrap();
        }
        shop.close().await;
    }
    let newest = || journal.inner.snapshot(till::log(1), Replica::<Till>::VERSION, u64::MAX);
    until(|| async { newest().await.unwrap().is_some() }).await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for _ in 0..30 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    shop.close().await;
    write_snapshot::<Till, _>(&journal, till::log(1), 20).await.unwrap();
    journal.told.mangles.store(1, Ordering::SeqCst);
    journal.told.shown.store(0, Ordering::SeqCst);
    let shop = Shop::open(&journal).await;
    assert_eq!(journal.told.shown.load(Ordering::SeqCst), 31, "the whole log");
    assert_eq!(shop.balance(1).await, 30);
}

#[tokio::test]
async fn from_a_snapshot_or_from_the_first_frame_the_state_is_the_same() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for n in 0..60 {
        shop.ask(deposit(n % 7, 10)).await.unwrap();
        let pay = Command::Pay { from: till::account(n % 7), to: till::account(n % 5), units: 1 };
        let _ = shop.ask(pay).await; // to itself it is refused
    }
    shop.close().await;
    for upto in [1, 2, 33, 80] {
        let digest = write_snapshot::<Till, _>(&journal, till::log(1), upto).await.unwrap();
        let there = Extent { upto, snapshots: false };
        let replayed = recover::<Till, _>(&journal, till::log(1), there, |_| {}).await.unwrap();
        assert_eq!(replayed.digest(), digest, "at {upto}");
    }
    let (mut quick, mut whole) = (0, 0);
    let from_snapshot =
        recover::<Till, _>(&journal, till::log(1), Extent::ALL, |_| quick += 1).await.unwrap();
    let from_first =
        recover::<Till, _>(&journal, till::log(1), Extent::FROM_FIRST, |_| whole += 1).await.unwrap();
    assert_eq!(from_snapshot.digest(), from_first.digest());
    assert!(quick < whole, "{quick} and {whole} frames");
}
