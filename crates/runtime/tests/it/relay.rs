//! From logs to streams: every durable frame once and in order, whatever the broker loses and however many carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holmes_kernel::ports::{Bus, BusError, Carried, Message};
use holmes_kernel::{Call, Frame, Handle as _, LogId};
use holmes_runtime::driver::{self, Running, Settings};
use holmes_runtime::relay::relay;
use holmes_runtime::{Clock, PublicFrame, fresh_id};
use holmes_store::bus::memory;
use tokio::task::JoinHandle;

use crate::support::{Faulty, deposit, patiently, until};
use crate::till::{self, Till};

/// A bus that is away when told to, and that loses answers.
#[derive(Clone, Default)]
struct Shaky {
    inner: memory::Bus,
    away: Arc<AtomicBool>,
    /// Every so manieth message is put, and nobody learns so; 0: none.
    answers_lost: Arc<AtomicU64>,
    put: Arc<AtomicU64>,
}

impl Shaky {
    fn answers(&self) -> Result<(), BusError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(BusError::Away("told to".into())),
            false => Ok(()),
        }
    }

    /// The stream of the till, from its beginning.
    async fn stream(&self) -> Vec<PublicFrame> {
        use holmes_kernel::ports::Ear as _;
        let mut frames = Vec::new();
        let Some(last) = self.inner.last(till::log(1)).await.unwrap() else { return frames };
        let mut ear = self.inner.listen(till::log(1), 0).await.unwrap();
        loop {
            let carried = ear.next().await.unwrap();
            frames.push(PublicFrame::from_bytes(&carried.message.body).unwrap());
            if carried.place == last.place {
                return frames;
            }
        }
    }
}

impl Bus for Shaky {
    type Ear = memory::Ear;

    async fn keeps(&self, log: LogId) -> Result<Option<Duration>, BusError> {
        self.inner.keeps(log).await
    }

    async fn last(&self, log: LogId) -> Result<Option<Carried>, BusError> {
        self.answers()?;
        self.inner.last(log).await
    }

    async fn publish(&self, behind: u64, message: &Message) -> Result<u64, BusError> {
        self.answers()?;
        let place = self.inner.publish(behind, message).await?;
        let (put, lost) = (self.put.fetch_add(1, Ordering::SeqCst), self.answers_lost.load(Ordering::SeqCst));
        if lost > 0 && put % lost == lost - 1 {
            return Err(BusError::Away("its answer was lost".into()));
        }
        Ok(place)
    }

    async fn listen(&self, log: LogId, after: u64) -> Result<memory::Ear, BusError> {
        self.inner.listen(log, after).await
    }
}

async fn till_over(journal: &Faulty) -> Running<Till> {
    driver::start(journal.clone(), Settings::new(till::log(1), Clock::System)).await.unwrap()
}

fn carrying(running: &Running<Till>, bus: &Shaky) -> JoinHandle<()> {
    tokio::spawn(relay(running.feed.clone(), bus.clone(), Clock::System))
}

/// A till whose log is of today.
async fn tills() -> Faulty {
    use holmes_kernel::ports::Journal as _;
    let journal = Faulty::over(holmes_store::journal::memory::Journal::new().into());
    journal.provision(&till::provision(1, Clock::System.now())).await.unwrap();
    journal
}

async fn pay_in(running: &Running<Till>, times: u64) {
    for _ in 0..times {
        let call = Call::request(till::owner(1), fresh_id());
        patiently(running.handle.submit(call, deposit(1, 1))).await.unwrap();
    }
}

/// Waits until the stream holds the log, no more and no less.
async fn same(bus: &Shaky, journal: &Faulty) {
    until(|| async { bus.stream().await.len() >= journal.frames().await.len() }).await;
    let frames: Vec<Frame> = journal.frames().await;
    let expected: Vec<PublicFrame> =
        frames.iter().map(|frame| PublicFrame::of::<till::Event>(frame).unwrap()).collect();
    assert_eq!(bus.stream().await, expected);
    for pair in expected.windows(2) {
        assert_eq!((pair[1].first, pair[1].prev_chain), (pair[0].last + 1, pair[0].chain));
    }
}

async fn end(running: Running<Till>) {
    running.handle.stop().await;
    patiently(running.task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_durable_is_carried_in_order_before_and_after_a_restart() {
    let (journal, bus) = (tills().await, Shaky::default());
    for _ in 0..3 {
        let running = till_over(&journal).await;
        pay_in(&running, 20).await;
        let task = carrying(&running, &bus);
        pay_in(&running, 20).await;
        end(running).await;
        patiently(task).await.unwrap(); // what its owner left is carried before it ends
        same(&bus, &journal).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_neither_lose_nor_repeat_a_message() {
    let (journal, bus) = (tills().await, Shaky::default());
    bus.answers_lost.store(3, Ordering::SeqCst);
    let running = till_over(&journal).await;
    let task = carrying(&running, &bus);
    pay_in(&running, 60).await;
    same(&bus, &journal).await;
    assert!(bus.put.load(Ordering::SeqCst) >= 60, "the fault was there");
    end(running).await;
    patiently(task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_carry_a_log_each_frame_is_carried_once() {
    let (journal, bus) = (tills().await, Shaky::default());
    let running = till_over(&journal).await;
    let tasks: Vec<_> = (0..4).map(|_| carrying(&running, &bus)).collect();
    pay_in(&running, 100).await;
    end(running).await;
    for task in tasks {
        patiently(task).await.unwrap();
    }
    same(&bus, &journal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_bus_is_away_the_log_goes_on_and_the_stream_catches_up() {
    let (journal, bus) = (tills().await, Shaky::default());
    bus.away.store(true, Ordering::SeqCst);
    let running = till_over(&journal).await;
    let task = carrying(&running, &bus);
    pay_in(&running, 40).await;
    assert_eq!(bus.stream().await, []);
    bus.away.store(false, Ordering::SeqCst);
    same(&bus, &journal).await;
    bus.away.store(true, Ordering::SeqCst);
    pay_in(&running, 5).await;
    end(running).await;
    patiently(task).await.unwrap(); // it does not keep its process from ending
    bus.away.store(false, Ordering::SeqCst);
    let running = till_over(&journal).await;
    let task = carrying(&running, &bus);
    same(&bus, &journal).await;
    end(running).await;
    patiently(task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_has_lost_is_carried_again_though_the_log_is_idle() {
    let (journal, bus) = (tills().await, Shaky::default());
    let running = till_over(&journal).await;
    let task = carrying(&running, &bus);
    pay_in(&running, 30).await;
    same(&bus, &journal).await;
    for from in [20, 1] {
        bus.inner.lose(till::log(1), from);
        same(&bus, &journal).await;
    }
    end(running).await;
    patiently(task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_another_history_is_carried_no_further() {
    let (journal, other, bus) = (tills().await, tills().await, Shaky::default());
    let running = till_over(&journal).await;
    let task = carrying(&running, &bus);
    pay_in(&running, 10).await;
    same(&bus, &journal).await;
    end(running).await;
    patiently(task).await.unwrap();
    for payments in [20, 3] {
        // A log with the same numbers, and one that is shorter than the stream: as after a restore.
        let running = till_over(&other).await;
        pay_in(&running, payments).await;
        let task = carrying(&running, &bus);
        patiently(task).await.unwrap(); // it ends, though the log's owner has not
        same(&bus, &journal).await;
        end(running).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_stream_is_not_filled_from_before_its_horizon() {
    let journal = Faulty::memory().await; // its first frame is of 2023
    let bus = Shaky::default();
    let settings = Settings { accept_clock: true, ..Settings::new(till::log(1), Clock::System) };
    let running = driver::start::<Till, _>(journal.clone(), settings).await.unwrap();
    pay_in(&running, 10).await;
    let task = carrying(&running, &bus);
    end(running).await;
    patiently(task).await.unwrap();
    let (stream, frames) = (bus.stream().await, journal.frames().await);
    assert_eq!(stream.len() + 1, frames.len());
    assert_eq!((stream[0].first, stream[0].prev_chain), (frames[1].header().first, *frames[0].chain()));
}
