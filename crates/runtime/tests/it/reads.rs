//! Reads: as new as asked, of nothing that is later lost, refused where the log has another owner.

use std::time::Duration;

use holmes_kernel::ports::{Journal as _, JournalError};
use holmes_kernel::shard::Delivery;
use holmes_kernel::{After, At, Call, Handle as _, LogId, Position, Principal, ServiceId};
use holmes_runtime::driver::Status;

use crate::support::{Faulty, START, Shop, breathe, deposit, patiently, poke, reason};
use crate::till::{self, Command};

const MARKET: ServiceId = ServiceId(7);

fn delivery(from: u64, to: u64) -> Delivery<Command> {
    let position = Position { term: 1, seq: to, chain: [to as u8; 32] };
    Delivery {
        ticket: 0,
        source: LogId::new(1, MARKET),
        from,
        to: position,
        ts: START,
        principal: Principal::service(MARKET),
        traceparent: String::new(),
        command: Some(deposit(2, 1)),
    }
}

#[tokio::test]
async fn a_read_sees_every_write_that_was_acknowledged_before_it() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for units in 1..50 {
        let written = shop.ask(deposit(1, 1)).await.unwrap().seq;
        let balance = |state: &till::State| state.balance(till::account(1));
        let latest = shop.till.read(At::Latest, balance).await.unwrap();
        let placed = shop.till.read(At::Seq(written), balance).await.unwrap();
        assert_eq!((latest.value, placed.value), (units, units));
        assert!(latest.seq >= written && placed.seq >= written);
    }
}

#[tokio::test]
async fn a_read_under_another_owners_claim_is_refused() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    shop.ask(deposit(1, 1)).await.unwrap();
    journal.claim(till::log(1)).await.unwrap();
    assert_eq!(reason(shop.till.read(At::Latest, |_| ()).await), "MOVED");
    assert!(matches!(shop.is(|status| *status != Status::Serving).await, Status::Fenced { .. }));
}

#[tokio::test]
async fn a_read_names_the_place_that_it_was_looked_at() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.confirms.shut();
    let mut read = Box::pin(shop.till.read(At::Latest, |state| state.balance(till::account(1))));
    assert!(poke(&mut read).is_pending());
    journal.told.confirms.arrived(1).await;
    let written = shop.ask(deposit(1, 1)).await.unwrap().seq;
    journal.told.confirms.open();
    let seen = patiently(read).await.unwrap();
    assert_eq!(seen.value >= 1, seen.seq >= written, "{seen:?} was written at {written}");
}

#[tokio::test]
async fn a_proof_that_fails_refuses_its_reads_and_nothing_else() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for why in [JournalError::Unknown("a timeout".into()), JournalError::Io("no quorum".into())] {
        journal.told.confirm_faults.lock().unwrap().push_back(why);
        let refusal = shop.till.read(At::Latest, |_| ()).await.unwrap_err();
        assert_eq!(refusal.reason, "NOT_CONFIRMED");
        assert!(refusal.retry_after_ms.is_some());
        shop.ask(deposit(1, 1)).await.unwrap();
        assert_eq!(shop.till.status().borrow().clone(), Status::Serving);
    }
    assert_eq!(shop.balance(1).await, 2);
}

#[tokio::test]
async fn many_reads_share_a_proof() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.confirms.shut();
    let mut reads: Vec<_> = (0..500).map(|_| Box::pin(shop.till.read(At::Latest, |_| ()))).collect();
    reads.iter_mut().for_each(|read| assert!(poke(read).is_pending()));
    breathe().await;
    journal.told.confirms.open();
    for read in reads {
        patiently(read).await.unwrap();
    }
    assert!(journal.told.confirms.calls() <= 3, "{} proofs", journal.told.confirms.calls());
}

#[tokio::test]
async fn a_read_at_zero_waits_for_no_proof() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.confirms.shut();
    patiently(shop.till.read(At::Seq(0), |_| ())).await.unwrap();
    assert_eq!(journal.told.confirms.calls(), 0);
}

#[tokio::test]
async fn a_read_waits_for_its_place() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let mut read = Box::pin(shop.till.read(At::Seq(3), |state| state.balance(till::account(1))));
    assert!(poke(&mut read).is_pending());
    shop.ask(deposit(1, 1)).await.unwrap();
    breathe().await;
    assert!(poke(&mut read).is_pending());
    shop.ask(deposit(1, 1)).await.unwrap();
    assert_eq!(patiently(read).await.unwrap().value, 2);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_never_reached_is_given_up_though_nothing_happens() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let began = tokio::time::Instant::now();
    assert_eq!(reason(patiently(shop.till.read(At::Seq(100), |_| ())).await), "NOT_REACHED");
    let after = Some(After { service: MARKET, seq: 1 });
    let call = Call { after, ..Call::request(till::owner(1), shop.id()) };
    assert_eq!(reason(patiently(shop.till.submit(call, deposit(1, 1))).await), "NOT_REACHED");
    assert_eq!(began.elapsed().as_secs(), 60);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(shop.balance(1).await, 0, "what was given up is not carried out later");
}

#[tokio::test]
async fn a_call_waits_until_another_log_was_taken_in() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    let after = After { service: MARKET, seq: 8 };
    let call = Call { after: Some(after), ..Call::request(till::owner(1), shop.id()) };
    let pay = Command::Pay { from: till::account(2), to: till::account(1), units: 2 };
    let mut asked = Box::pin(shop.till.submit(call, pay));
    let mut read = Box::pin(shop.till.read(At::After(after), |state| state.balance(till::account(2))));
    assert!(poke(&mut asked).is_pending() && poke(&mut read).is_pending());
    shop.till.deliver(delivery(0, 4)).await.unwrap();
    breathe().await;
    assert!(poke(&mut asked).is_pending() && poke(&mut read).is_pending());
    shop.till.deliver(delivery(4, 8)).await.unwrap();
    patiently(asked).await.expect("it did not outrun its money");
    patiently(read).await.unwrap();
    let gap = shop.till.deliver(delivery(9, 12)).await.unwrap();
    assert_eq!(gap, holmes_runtime::driver::Delivered::At(delivery(0, 8).to), "a gap is not taken");
}

#[tokio::test]
async fn a_read_that_panics_fails_its_own_caller() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for at in [At::Latest, At::Seq(0)] {
        let read = shop.till.read(at, |_| -> u64 { panic!("this look panics") });
        assert_eq!(reason(patiently(read).await), "READ_FAILED");
    }
    shop.ask(deposit(1, 1)).await.unwrap();
    assert_eq!(shop.balance(1).await, 1);
}
