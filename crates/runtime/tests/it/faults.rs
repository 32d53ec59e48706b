//! Journals that fail, commands that panic, owners that are replaced.

use holmes_kernel::frame::Open;
use holmes_kernel::ports::{Journal as _, JournalError};
use holmes_kernel::replica::SCHEMA;
use holmes_kernel::{At, Entry, Handle as _};
use holmes_runtime::Clock;
use holmes_runtime::driver::{self, Settings, Status};
use holmes_runtime::recover::{Extent, RecoverError, recover};
use prost::Message as _;
use std::sync::atomic::Ordering;

use crate::ear::{self, Ear};
use crate::support::{Fault, Faulty, START, Shop, breathe, deposit, patiently, reason};
use crate::till::{self, Command, Failure, Till};

fn fenced() -> Fault {
    Fault::Fails(JournalError::Fenced { log: till::log(1), by: 99 })
}

#[tokio::test(start_paused = true)]
async fn an_append_of_unknown_outcome_is_sent_again_until_it_is_definite() {
    for (fault, times) in [(Fault::UnknownApplied, 1), (Fault::UnknownLost, 9)] {
        let journal = Faulty::memory().await;
        let shop = Shop::open(&journal).await;
        (0..times).for_each(|_| journal.fail_next(fault.clone()));
        let id = shop.id();
        let answer = shop.ask_as(id, deposit(1, 3)).await.unwrap();
        assert_eq!(journal.frames().await.len(), 2, "{fault:?}: one frame, once");
        assert_eq!(shop.ask_as(id, deposit(1, 3)).await.unwrap(), answer);
        assert_eq!(shop.balance(1).await, 3);
    }
}

#[tokio::test]
async fn a_full_disk_halts_with_its_reason_and_loses_nothing_that_was_answered() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    shop.ask(deposit(1, 1)).await.unwrap();
    journal.fail_next(Fault::Fails(JournalError::Full("no space left".into())));
    let refusal = shop.ask(deposit(1, 10)).await.unwrap_err();
    assert_eq!(refusal.reason, "LOG_HALTED");
    assert!(refusal.message.contains("no space left"), "{refusal}");
    assert_eq!(reason(shop.till.read(At::Seq(0), |_| ()).await), "LOG_HALTED", "it was ahead of the disk");
    shop.close().await;
    assert_eq!(Shop::open(&journal).await.balance(1).await, 1);
}

#[tokio::test]
async fn a_fenced_owner_answers_nothing_of_what_it_decided() {
    let journal = Faulty::memory().await;
    let mut shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let (paid, id) = (shop.id(), shop.id());
    let asked = [shop.spawn(paid, deposit(1, 1)), shop.spawn(id, deposit(1, 2))];
    journal.told.appends.arrived(1).await;
    let (latest, now) = (shop.till.clone(), shop.till.clone());
    let looks = [
        tokio::spawn(async move { latest.read(At::Latest, |state| state.balance(till::account(1))).await }),
        tokio::spawn(async move { now.read(At::Seq(0), |state| state.balance(till::account(1))).await }),
    ];
    breathe().await;
    let heir = Shop::open(&journal.clone()).await;
    journal.told.appends.open();
    for one in asked {
        assert_eq!(reason(patiently(one).await.unwrap()), "MOVED");
    }
    for look in looks {
        assert_eq!(reason(patiently(look).await.unwrap()), "MOVED", "a read showed what was lost");
    }
    assert!(matches!(shop.is(|status| *status != Status::Serving).await, Status::Fenced { .. }));
    patiently(shop.running.take().unwrap().task).await.unwrap();
    assert_eq!(reason(shop.ask(deposit(1, 1)).await), "MOVED");
    heir.ask_as(paid, deposit(1, 1)).await.expect("the same request goes to the new owner");
    assert_eq!(heir.balance(1).await, 1);
}

#[tokio::test]
async fn a_command_that_panics_is_poison_and_the_till_goes_on() {
    use Failure::*;
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for (n, how) in (0..).zip([Decide, Evolve, Step, Reply, Words, Nameless]) {
        let bad = Command::Fail { how, n };
        assert_eq!(reason(shop.ask(bad.clone()).await), "POISONED", "{how:?}");
        assert_eq!(reason(shop.ask(bad).await), "POISONED", "{how:?}, again");
        shop.ask(deposit(1, 1)).await.unwrap_or_else(|why| panic!("behind {how:?}: {why}"));
    }
    assert_eq!(shop.balance(1).await, 6);
    assert!(shop.see(|state| state.held == state.came_in).await);
    let digests = [Extent::ALL, Extent::FROM_FIRST]
        .map(|extent| recover::<Till, _>(&journal, till::log(1), extent, |_| {}));
    let [quick, whole] = digests;
    assert_eq!(quick.await.unwrap().digest(), whole.await.unwrap().digest());
}

#[tokio::test]
async fn others_beside_a_poisoned_command_retry_and_get_one_effect() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    let (durable, lost) = (shop.id(), shop.id());
    let first = shop.spawn(durable, deposit(1, 1));
    journal.told.appends.arrived(1).await;
    let second = shop.spawn(lost, deposit(1, 10));
    breathe().await;
    let bad = shop.spawn(shop.id(), Command::Fail { how: Failure::Evolve, n: 1 });
    breathe().await;
    let late = shop.spawn(shop.id(), deposit(1, 100));
    assert_eq!(reason(patiently(bad).await.unwrap()), "POISONED");
    journal.told.appends.open();
    for one in [first, second] {
        let refusal = patiently(one).await.unwrap().unwrap_err();
        assert_eq!(refusal.reason, "OUTCOME_UNKNOWN");
        assert!(refusal.retry_after_ms.is_some());
    }
    patiently(late).await.unwrap().expect("it was still in the queue");
    for (id, units) in [(durable, 1), (lost, 10)] {
        shop.ask_as(id, deposit(1, units)).await.unwrap();
    }
    assert_eq!(shop.balance(1).await, 111);
}

#[tokio::test]
async fn an_owner_that_is_fenced_while_it_rebuilds_does_not_claim_the_log_back() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    journal.told.appends.shut();
    journal.fail_next(fenced());
    let asked = shop.spawn(shop.id(), deposit(1, 1));
    journal.told.appends.arrived(1).await;
    assert_eq!(reason(shop.ask(Command::Fail { how: Failure::Evolve, n: 1 }).await), "POISONED");
    let claim = journal.claim(till::log(1)).await.unwrap();
    journal.told.appends.open();
    let status = shop.is(|status| matches!(status, Status::Fenced { .. } | Status::Serving)).await;
    assert_eq!(status, Status::Fenced { by: 99 });
    journal.confirm(&claim).await.expect("the other's claim still holds");
    assert_eq!(reason(patiently(asked).await.unwrap()), "MOVED");
}

#[tokio::test]
async fn a_log_that_cannot_be_replayed_to_its_end_is_not_served() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    for _ in 0..3 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    shop.close().await;
    journal.told.hidden_behind.store(3, Ordering::SeqCst);
    let settings = Settings::new(till::log(1), Clock::manual(START));
    let refused = driver::start::<Till, _>(journal.clone(), settings).await.err();
    assert!(matches!(refused, Some(RecoverError::Journal(JournalError::Io(_)))), "{refused:?}");
}

#[tokio::test]
async fn a_machine_that_cannot_tell_what_is_due_halts() {
    let journal = Faulty::over(holmes_store::journal::memory::Journal::new().into());
    journal.provision(&ear::provision(START)).await.unwrap();
    let settings = Settings::new(ear::LOG, Clock::manual(START));
    let running = driver::start::<Ear, _>(journal, settings).await.unwrap();
    let call = holmes_kernel::Call::request(till::owner(1), holmes_kernel::Id::v7(START.millis(), [1; 10]));
    let _ = running.handle.submit(call, ear::Command::Sabotage).await;
    let mut status = running.handle.status();
    let halted = patiently(status.wait_for(|status| matches!(status, Status::Halted(_)))).await;
    assert!(halted.is_ok());
    running.handle.stop().await;
    patiently(running.task).await.unwrap();
}

#[tokio::test]
async fn a_state_that_breaks_an_invariant_is_not_served_though_its_log_replays() {
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    shop.ask(deposit(1, 1)).await.unwrap();
    shop.close().await;
    let honest = journal.frames().await.pop().unwrap();
    let (_, entry) = honest.entries().unwrap().pop().unwrap();
    let mut event = till::Event::decode(entry.events[0].clone()).unwrap();
    let Some(till::What::Deposited(moved)) = &mut event.what else { panic!("{event:?}") };
    let at = honest.header().ts.after_millis(1);
    (moved.units, moved.seq, moved.at_us) = (till::LIMIT, honest.header().last + 1, at.micros());
    let mut forged = Open::new(till::log(1), 2, at, SCHEMA, &honest.tail());
    forged.push(&Entry { events: Vec::new(), ..entry }, &[event]);
    let claim = journal.claim(till::log(1)).await.unwrap();
    journal.append(&claim, &forged.freeze()).await.unwrap();
    let replayed = recover::<Till, _>(&journal, till::log(1), Extent::ALL, |_| ()).await.unwrap();
    assert_eq!(replayed.tail().seq, 3, "every step of it holds");
    let settings = Settings::new(till::log(1), Clock::manual(START.after_millis(1_000)));
    let refused = driver::start::<Till, _>(journal, settings).await.err().map(|why| why.to_string());
    let words = refused.unwrap_or_default();
    let told = "the state of till at 3 breaks 1 of its invariants, first: an account is over the limit. It is not served";
    assert!(words.starts_with(told) && words.contains("restore the directory from a copy"), "{words}");
}
