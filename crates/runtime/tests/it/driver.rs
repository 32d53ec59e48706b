//! The driver as its callers know it: once, durable, in order, until it is told to stop.

use std::collections::BTreeSet;
use std::time::Duration;

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Call, Handle as _, Origin, Way};
use holmes_runtime::Clock;
use holmes_runtime::driver::{self, Settings, Status};
use holmes_runtime::recover::RecoverError;
use holmes_store::journal::embedded;

use crate::support::{Faulty, START, Shop, deposit, patiently, reason, until};
use crate::till::{self, Command, Manner, Till};

#[tokio::test]
async fn an_answer_leaves_only_when_it_is_durable() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let mut asked = Box::pin(shop.ask(deposit(1, 5)));
    assert!(crate::support::poke(&mut asked).is_pending());
    journal.told.appends.arrived(1).await;
    crate::support::breathe().await;
    assert!(crate::support::poke(&mut asked).is_pending(), "it was answered before it was durable");
    journal.told.appends.open();
    let answer = asked.await.unwrap();
    assert_eq!(answer.value.balance, Some(5));
    assert_eq!(journal.frames().await.last().unwrap().header().last, answer.seq);
}

/// Everything that a till does, over a journal and two restarts.
async fn a_life(journal: &Faulty) {
    let shop = Shop::open(journal).await;
    let (paid, refused) = (shop.id(), shop.id());
    let first = shop.ask_as(paid, deposit(1, 7)).await.unwrap();
    let broke = Command::Pay { from: till::account(9), to: till::account(1), units: 1 };
    assert_eq!(reason(shop.ask_as(refused, broke.clone()).await), "NO_FUNDS");
    assert_eq!(shop.ask_as(paid, deposit(1, 7)).await.unwrap(), first, "answered from the log");
    assert_eq!(reason(shop.ask_as(paid, deposit(1, 8)).await), "REQUEST_ID_REUSED");
    shop.ask(deposit(9, 100)).await.unwrap();
    shop.close().await;

    let shop = Shop::open(journal).await;
    assert_eq!(shop.ask_as(paid, deposit(1, 7)).await.unwrap(), first, "also after a restart");
    assert_eq!(reason(shop.ask_as(paid, deposit(1, 8)).await), "REQUEST_ID_REUSED");
    assert_eq!(reason(shop.ask_as(refused, broke).await), "NO_FUNDS", "a remembered refusal stays");
    let other = Call::request(till::owner(2), paid);
    shop.till.submit(other, deposit(1, 8)).await.expect("another principal's ids are its own");
    assert_eq!((shop.balance(1).await, shop.balance(9).await), (15, 100));
    assert!(shop.see(|state| state.held == state.came_in).await);
    shop.close().await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_from_the_log_and_its_id_serves_no_other_command() {
    a_life(&Faulty::memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_on_disk_is_the_same_life() {
    let dir = tempfile::tempdir().unwrap();
    let journal = embedded::Journal::open(dir.path(), embedded::Options::default()).unwrap();
    let faulty = Faulty::over(journal.into());
    faulty.provision(&till::provision(1, START)).await.unwrap();
    a_life(&faulty).await;
    until(|| async { std::sync::Arc::strong_count(&faulty.told) == 1 }).await;
    faulty.inner.close().await;
    let journal = embedded::Journal::open(dir.path(), embedded::Options::default()).unwrap();
    let shop = Shop::open(&Faulty::over(journal.into())).await;
    assert_eq!((shop.balance(1).await, shop.balance(9).await), (15, 100), "another process finds it");
    shop.close().await;
}

#[tokio::test]
async fn callers_at_the_same_time_share_frames() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let asked: Vec<_> = (0..600).map(|_| shop.spawn(shop.id(), deposit(1, 1))).collect();
    journal.told.appends.arrived(1).await;
    crate::support::breathe().await;
    journal.told.appends.open();
    for one in asked {
        one.await.unwrap().unwrap();
    }
    let frames = journal.frames().await.len() - 1;
    assert!(frames <= 4, "{frames} frames for 600 calls");
    assert_eq!(shop.balance(1).await, 600);
}

#[tokio::test]
async fn a_bulk_submitters_numbers_are_dense_and_repeatable() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let number = |n| Call { way: Way::Submission(n), ..Call::request(till::owner(1), shop.id()) };
    assert_eq!(reason(shop.till.submit(number(1), deposit(1, 1)).await), "NOT_A_SUBMITTER");
    shop.ask(Command::Register { who: till::owner(1) }).await.unwrap();
    let first = shop.till.submit(number(1), deposit(1, 1)).await.unwrap();
    assert_eq!(shop.till.submit(number(1), deposit(1, 1)).await.unwrap(), first);
    assert_eq!(reason(shop.till.submit(number(3), deposit(1, 1)).await), "SUBMITTER_GAP");
    shop.till.submit(number(2), deposit(1, 1)).await.unwrap();
    assert_eq!(shop.balance(1).await, 2);
}

#[tokio::test]
async fn what_is_due_happens_by_the_clock_alone() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let alarm = Command::SetAlarm { id: till::account(3), after_ms: 1_000, rings: 40, manner: Manner::Well };
    let set = shop.ask(alarm).await.unwrap().seq;
    shop.clock.advance(Duration::from_millis(999));
    tokio::time::sleep(Duration::from_millis(20)).await; // it must not happen now, and nothing tells that it does not
    assert_eq!(journal.frames().await.last().unwrap().header().last, set);
    shop.clock.advance(Duration::from_millis(2));
    until(|| shop.see(|state| state.alarms.is_empty())).await;
    assert_eq!(shop.see(|state| state.misplaced).await, 0);
    let frames = journal.frames().await;
    let rung = frames.iter().flat_map(|frame| frame.entries().unwrap());
    assert_eq!(rung.filter(|(_, entry)| matches!(entry.origin, Some(Origin::Due(_)))).count(), 40);
}

#[tokio::test]
async fn what_is_due_has_its_turn_while_callers_never_rest() {
    let journal = Faulty::memory().await;
    let shop = std::sync::Arc::new(Shop::open(&journal).await);
    let alarm = Command::SetAlarm { id: till::account(3), after_ms: 1, rings: 100, manner: Manner::Well };
    shop.ask(alarm).await.unwrap();
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let shop = shop.clone();
            tokio::spawn(async move {
                loop {
                    shop.ask(Command::Note { events: 1, bytes: 1 }).await.unwrap();
                }
            })
        })
        .collect();
    shop.clock.advance(Duration::from_millis(2));
    until(|| shop.see(|state| state.alarms.is_empty())).await;
    busy.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn a_due_command_that_fails_halts_the_log_and_says_so() {
    for manner in [Manner::Silently, Manner::Refused, Manner::Panicking] {
        let journal = Faulty::memory().await;
        let shop = Shop::open(&journal).await;
        shop.ask(Command::SetAlarm { id: till::account(3), after_ms: 1, rings: 1, manner }).await.unwrap();
        shop.clock.advance(Duration::from_millis(2));
        let status = shop.is(|status| *status != Status::Serving).await;
        assert!(matches!(&status, Status::Halted(why) if why.contains("due")), "{status:?}");
        let refusal = shop.ask(deposit(1, 1)).await.unwrap_err();
        assert_eq!(refusal.reason, "LOG_HALTED");
        assert!(refusal.message.contains("due"), "{refusal}");
        assert_eq!(reason(shop.till.read(holmes_kernel::At::Seq(0), |_| ()).await), "LOG_HALTED");
        shop.close().await;
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_queued_and_refuses_what_comes_later() {
    let journal = Faulty::memory().await;
    let mut shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let asked: Vec<_> = (0..2_000).map(|_| shop.spawn(shop.id(), deposit(1, 1))).collect();
    journal.told.appends.arrived(1).await;
    let stopping = tokio::spawn({
        let till = shop.till.clone();
        async move { till.stop().await }
    });
    crate::support::breathe().await;
    journal.told.appends.open();
    for one in asked {
        patiently(one).await.unwrap().expect("it was queued before");
    }
    stopping.await.unwrap();
    patiently(shop.running.take().unwrap().task).await.unwrap();
    assert_eq!(reason(shop.ask(deposit(1, 1)).await), "STOPPED");
    assert_eq!(*shop.till.status().borrow(), Status::Stopped);
    assert_eq!(Shop::open(&journal).await.balance(1).await, 2_000);
}

#[tokio::test]
async fn a_till_without_a_door_ends() {
    let journal = Faulty::memory().await;
    let mut shop = Shop::open(&journal).await;
    shop.ask(deposit(1, 1)).await.unwrap();
    let running = shop.running.take().unwrap();
    drop((shop, running.handle, running.feed));
    patiently(running.task).await.unwrap();
}

#[tokio::test]
async fn a_clock_far_past_the_log_needs_a_word() {
    let journal = Faulty::memory().await;
    let month = 30 * 86_400_000;
    let settings = |ms| Settings::new(till::log(1), Clock::manual(START.after_millis(ms)));
    let far = settings(month + 1);
    let refused = driver::start::<Till, _>(journal.clone(), far.clone()).await.err();
    assert!(matches!(refused, Some(RecoverError::ClockAhead { .. })), "{refused:?}");
    let accepted = Settings { accept_clock: true, ..far };
    driver::start::<Till, _>(journal.clone(), accepted).await.unwrap();
    driver::start::<Till, _>(journal.clone(), settings(month)).await.unwrap();
}

#[tokio::test]
async fn log_time_rises_though_the_clock_stands() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for _ in 0..20 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    let times: BTreeSet<u64> =
        journal.frames().await.iter().map(|frame| frame.header().ts.micros()).collect();
    assert_eq!(times.len(), 21);
    assert_eq!(shop.see(|state| state.misplaced).await, 0);
}
