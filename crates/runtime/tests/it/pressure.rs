//! More than there is room for: refused early, with a time to wait, and nothing that was taken is lost.

use std::sync::atomic::Ordering;

use holmes_kernel::{At, Handle as _};
use holmes_runtime::driver::QUEUE;

use crate::support::{Faulty, Shop, breathe, deposit, patiently, poke, reason};
use crate::till;

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_loses_nothing() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let mut asked = Vec::new();
    for n in 0..3 * QUEUE {
        let mut one = Box::pin(shop.ask(deposit(1, 1)));
        if let std::task::Poll::Ready(refused) = poke(&mut one) {
            let refusal = refused.unwrap_err();
            assert_eq!(refusal.reason, "QUEUE_FULL");
            assert!(refusal.retry_after_ms.is_some());
        } else {
            asked.push(one);
        }
        if n % 1_000 == 0 {
            breathe().await;
        }
    }
    assert!(asked.len() < 2 * QUEUE, "{} calls are waiting", asked.len());
    journal.told.appends.open();
    let taken = asked.len() as u64;
    for one in asked {
        patiently(one).await.unwrap();
    }
    assert_eq!(shop.balance(1).await, taken);
    shop.close().await;
    assert_eq!(Shop::open(&journal).await.balance(1).await, taken);
}

#[tokio::test]
async fn reads_behind_a_disk_that_stands_still_are_bounded() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let mut write = Box::pin(shop.ask(deposit(1, 1)));
    assert!(poke(&mut write).is_pending());
    journal.told.appends.arrived(1).await;
    let mut reads = Vec::new();
    let mut refused = 0;
    for n in 0..6 * QUEUE {
        let mut read = Box::pin(shop.till.read(At::Seq(0), |_| ()));
        match poke(&mut read) {
            std::task::Poll::Ready(answer) => {
                assert_eq!(reason(answer), "QUEUE_FULL");
                refused += 1;
            }
            std::task::Poll::Pending => reads.push(read),
        }
        if n % 1_000 == 0 {
            breathe().await;
        }
    }
    assert!(refused >= QUEUE, "{} reads wait for the disk", reads.len());
    journal.told.appends.open();
    patiently(write).await.unwrap();
    for read in reads {
        patiently(read).await.unwrap();
    }
}

#[tokio::test]
async fn calls_whose_callers_have_gone_take_no_place_among_those_who_wait() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for n in 0..5_000 {
        let mut gone = Box::pin(shop.till.read(At::Seq(u64::MAX), |_| ()));
        assert!(poke(&mut gone).is_pending());
        if n % 1_000 == 0 {
            breathe().await;
        }
    }
    breathe().await;
    let mut read = Box::pin(shop.till.read(At::Seq(2), |state| state.balance(till::account(1))));
    assert!(poke(&mut read).is_pending());
    breathe().await;
    shop.ask(deposit(1, 1)).await.unwrap();
    assert_eq!(patiently(read).await.unwrap().value, 1);
}

#[tokio::test]
async fn those_who_wait_for_a_place_are_bounded() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let mut reads: Vec<_> = Vec::new();
    for n in 0..5_000 {
        let mut read = Box::pin(shop.till.read(At::Seq(2), |_| ()));
        assert!(poke(&mut read).is_pending());
        reads.push(read);
        if n % 1_000 == 0 {
            breathe().await;
        }
    }
    breathe().await;
    shop.ask(deposit(1, 1)).await.unwrap();
    let mut refused = 0;
    for read in reads {
        if let Err(refusal) = patiently(read).await {
            assert_eq!(refusal.reason, "QUEUE_FULL");
            refused += 1;
        }
    }
    assert_eq!(refused, 5_000 - 4_096);
}

#[tokio::test]
async fn a_flood_of_one_repeated_request_reads_few_frames_at_a_time() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let id = shop.id();
    let first = shop.ask_as(id, deposit(1, 1)).await.unwrap();
    journal.told.reads.shut();
    journal.told.reads.most.store(0, Ordering::SeqCst);
    let again: Vec<_> = (0..1_000).map(|_| shop.spawn(id, deposit(1, 1))).collect();
    journal.told.reads.arrived(1).await;
    breathe().await;
    journal.told.reads.open();
    for one in again {
        assert_eq!(patiently(one).await.unwrap().unwrap(), first);
    }
    let most = journal.told.reads.most.load(Ordering::SeqCst);
    assert!(most <= 64, "{most} frames at the same time");
}
