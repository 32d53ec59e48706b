//! Between logs: what one till pays abroad another one hears, each payment once, whoever dies meanwhile.

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{At, Call, Frame, Handle as _, Id, Machine, PrincipalKind, Time};
use holmes_runtime::driver::{self, Running, Settings};
use holmes_runtime::feed::follow;
use holmes_runtime::{Clock, Feed, MachineHandle, fresh_id};
use holmes_store::journal::memory;
use tokio::task::JoinHandle;

use crate::ear::{self, Ear, Press};
use crate::support::{Faulty, deposit, patiently, reason, until};
use crate::till::{self, Command, Failure, Till};

async fn provision(journal: &Faulty, make: impl Fn(Time) -> Frame) {
    journal.provision(&make(Clock::System.now())).await.unwrap();
}

async fn tills() -> Faulty {
    let journal = Faulty::over(memory::Journal::new().into());
    for cell in [1, 2] {
        provision(&journal, |now| till::provision(cell, now)).await;
    }
    journal
}

async fn start<M: Machine>(journal: &Faulty, log: holmes_kernel::LogId) -> Running<M> {
    driver::start(journal.clone(), Settings::new(log, Clock::System)).await.unwrap()
}

fn following<M: Machine>(reader: &MachineHandle<M>, feed: &Feed) -> JoinHandle<()> {
    tokio::spawn(follow(reader.clone(), feed.clone(), Clock::System))
}

async fn ask<M: Machine>(
    machine: &MachineHandle<M>,
    command: M::Command,
) -> Result<u64, holmes_kernel::Refusal> {
    let who = holmes_kernel::Principal::new(PrincipalKind::Account, till::account(1));
    patiently(machine.submit(Call::request(who, fresh_id()), command)).await.map(|answer| answer.seq)
}

async fn pay(till: &MachineHandle<Till>, to: Id, units: u64) -> u64 {
    ask(till, Command::Pay { from: till::account(1), to, units }).await.unwrap()
}

async fn end<M: Machine>(running: Running<M>) {
    running.handle.stop().await;
    patiently(running.task).await.unwrap();
}

/// What the ear has heard; again if it was just being rebuilt.
async fn heard(ear: &MachineHandle<Ear>) -> Vec<u64> {
    loop {
        match patiently(ear.read(At::Latest, |state| state.heard.clone())).await {
            Ok(answer) => return answer.value,
            Err(refusal) => assert_eq!(refusal.reason, "OUTCOME_UNKNOWN"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_payment_arrives_once_whoever_is_restarted_or_rebuilt() {
    let journal = tills().await;
    let mut source = start::<Till>(&journal, till::log(1)).await;
    let mut reader = start::<Till>(&journal, till::log(2)).await;
    ask(&source.handle, deposit(1, 100_000)).await.unwrap();
    let mut task = following(&reader.handle, &source.feed);
    let mut paid = 0;
    for round in 0..20u64 {
        for _ in 0..20 {
            pay(&source.handle, till::ABROAD, 1).await;
            pay(&source.handle, till::account(3), 1).await;
            paid += 1;
        }
        match round % 4 {
            0 => {
                end(reader).await;
                patiently(task).await.unwrap();
                reader = start(&journal, till::log(2)).await;
                task = following(&reader.handle, &source.feed);
            }
            1 => {
                let bad = Command::Fail { how: Failure::Evolve, n: round };
                assert_eq!(reason(ask(&reader.handle, bad).await), "POISONED");
            }
            2 => {
                end(source).await;
                source = start(&journal, till::log(1)).await;
                let again = following(&reader.handle, &source.feed);
                patiently(std::mem::replace(&mut task, again)).await.unwrap();
            }
            _ => {
                let bad = Command::Fail { how: Failure::Step, n: round };
                assert_eq!(reason(ask(&source.handle, bad).await), "POISONED");
            }
        }
    }
    let arrived =
        || reader.handle.read(At::Latest, |state| (state.balance(till::account(1)), state.misplaced));
    until(|| async { arrived().await.unwrap().value.0 >= paid }).await;
    assert_eq!(arrived().await.unwrap().value, (paid, 0), "each once");
    end(reader).await;
    patiently(task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_became_durable_while_its_till_was_rebuilt_is_heard_at_once() {
    let journal = tills().await;
    let source = start::<Till>(&journal, till::log(1)).await;
    let other = Faulty::over(journal.inner.clone());
    let reader = start::<Till>(&other, till::log(2)).await;
    ask(&source.handle, deposit(1, 10)).await.unwrap();
    let _task = following(&reader.handle, &source.feed);
    journal.told.appends.shut();
    let payment = Command::Pay { from: till::account(1), to: till::ABROAD, units: 7 };
    let (till, id) = (source.handle.clone(), fresh_id());
    let paying = tokio::spawn(async move { till.submit(Call::request(till::owner(1), id), payment).await });
    journal.told.appends.arrived(1).await;
    assert_eq!(reason(ask(&source.handle, Command::Fail { how: Failure::Evolve, n: 0 }).await), "POISONED");
    journal.told.appends.open();
    assert_eq!(reason(patiently(paying).await.unwrap()), "OUTCOME_UNKNOWN");
    let arrived = || reader.handle.read(At::Latest, |state| state.balance(till::account(1)));
    until(|| async { arrived().await.unwrap().value == 7 }).await; // though nothing more happens at the source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_written_alone_once_in_ten_thousand_events() {
    let journal = tills().await;
    let (source, reader) =
        (start::<Till>(&journal, till::log(1)).await, start::<Till>(&journal, till::log(2)).await);
    let _task = following(&reader.handle, &source.feed);
    for _ in 0..82 {
        ask(&source.handle, Command::Note { events: 256, bytes: 1 }).await.unwrap();
    }
    let position = || async { reader.handle.position(till::log(1)).await.unwrap().seq };
    until(|| async { position().await >= 20_000 }).await;
    let frames = || async { journal.inner.read(till::log(2), 0, usize::MAX).await.unwrap().len() };
    until(|| async { frames().await == 3 }).await;
    assert!((20_000..20_993).contains(&position().await), "{}", position().await);
}

async fn newspaper() -> (Faulty, Running<Till>, Running<Ear>) {
    let journal = tills().await;
    provision(&journal, ear::provision).await;
    let (source, reader) =
        (start::<Till>(&journal, till::log(1)).await, start::<Ear>(&journal, ear::LOG).await);
    ask(&source.handle, deposit(1, 100_000)).await.unwrap();
    (journal, source, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_known_parks_its_source_alone() {
    let (journal, source, reader) = newspaper().await;
    let opened = ear::opened();
    provision(&journal, |now| {
        holmes_kernel::Replica::<Press>::provision(ear::PRESS_LOG, now, opened.clone()).unwrap()
    })
    .await;
    let press = start::<Press>(&journal, ear::PRESS_LOG).await;
    let parked = following(&reader.handle, &press.feed);
    let _task = following(&reader.handle, &source.feed);
    ask(&press.handle, 5).await.unwrap();
    patiently(parked).await.unwrap();
    pay(&source.handle, till::ABROAD, 3).await;
    until(|| async { heard(&reader.handle).await == [3] }).await;
    assert_eq!(reader.handle.position(ear::PRESS_LOG).await.unwrap().seq, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaction_that_panics_parks_its_source_where_it_is() {
    let (_journal, source, reader) = newspaper().await;
    let task = following(&reader.handle, &source.feed);
    let good = pay(&source.handle, till::ABROAD, 3).await;
    until(|| async { heard(&reader.handle).await == [3] }).await;
    pay(&source.handle, till::ABROAD, ear::DEAFENING).await;
    pay(&source.handle, till::ABROAD, 4).await;
    patiently(task).await.unwrap();
    assert_eq!(reader.handle.position(till::log(1)).await.unwrap().seq, good);
    patiently(following(&reader.handle, &source.feed)).await.unwrap(); // the same build parks it again
    assert_eq!(heard(&reader.handle).await, [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_panics_is_refused_in_the_log_and_the_next_ones_arrive() {
    let (_journal, source, reader) = newspaper().await;
    let _task = following(&reader.handle, &source.feed);
    for units in [1, ear::PAINFUL, 2, 3] {
        pay(&source.handle, till::ABROAD, units).await;
    }
    until(|| async { heard(&reader.handle).await == [1, 2, 3] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_restored_from_a_backup_is_parked() {
    let (_journal, source, reader) = newspaper().await;
    let task = following(&reader.handle, &source.feed);
    let last = pay(&source.handle, till::ABROAD, 3).await;
    until(|| async { heard(&reader.handle).await == [3] }).await;
    task.abort();
    let rewound = tills().await;
    let other = start::<Till>(&rewound, till::log(1)).await;
    ask(&other.handle, deposit(1, 100_000)).await.unwrap();
    for units in 5..9 {
        pay(&other.handle, till::ABROAD, units).await;
    }
    patiently(following(&reader.handle, &other.feed)).await.unwrap();
    assert_eq!(heard(&reader.handle).await, [3]);
    assert_eq!(reader.handle.position(till::log(1)).await.unwrap().seq, last);
}

#[tokio::test]
async fn who_follows_a_silent_source_ends_with_its_own_machine() {
    let (_journal, source, reader) = newspaper().await;
    let task = following(&reader.handle, &source.feed);
    until(|| async { reader.handle.position(till::log(1)).await.is_ok() }).await;
    crate::support::breathe().await;
    end(reader).await;
    patiently(task).await.unwrap();
}

#[tokio::test]
async fn who_looks_something_up_reads_the_durable_frames_behind_a_place() {
    let journal = tills().await;
    let source = start::<Till>(&journal, till::log(1)).await;
    assert!(source.feed.frames(1_000, 1).await.unwrap().is_empty());
    let seq = ask(&source.handle, deposit(1, 5)).await.unwrap();
    let frames = source.feed.frames(seq - 1, 1).await.unwrap();
    assert!(frames[0].first <= seq && seq <= frames[0].last);
    let all = source.feed.frames(0, usize::MAX).await.unwrap();
    assert_eq!(all.last().unwrap().last, seq);
    end(source).await;
}
