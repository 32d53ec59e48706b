//! A journal that fails when told to, and the few words in which the tests speak of machines.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holmes_kernel::ports::{Claim, Journal, JournalError, Snapshot};
use holmes_kernel::{Answer, Call, Frame, Handle, Id, LogId, Refusal, Time};
use holmes_runtime::driver::{self, Running, Settings, Status};
use holmes_runtime::{Clock, MachineHandle};
use holmes_store::journal::memory;
use tokio::sync::watch;

use crate::till::{self, Command, Reply, State, Till};

/// When the tests begin.
pub const START: Time = Time::from_millis(1_700_000_000_000);

/// What shall go wrong with an append.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It applies, and nobody learns so.
    UnknownApplied,
    /// It does not apply, and nobody learns so.
    UnknownLost,
    /// It fails, definitely.
    Fails(JournalError),
}

/// A journal over another one, that waits and fails when told to.
#[derive(Clone, Debug)]
pub struct Faulty {
    pub inner: holmes_store::Journal,
    pub told: Arc<Told>,
}

/// What a [`Faulty`] journal was told, and what it saw.
#[derive(Debug)]
pub struct Told {
    pub appends: Gate,
    pub confirms: Gate,
    pub reads: Gate,
    pub faults: Mutex<VecDeque<Fault>>,
    pub confirm_faults: Mutex<VecDeque<JournalError>>,
    /// Frames behind this are not shown to readers.
    pub hidden_behind: AtomicU64,
    /// Frames shown to readers.
    pub shown: AtomicU64,
    /// Snapshots come out with a bit turned.
    pub mangles: AtomicU64,
}

/// A door that calls wait at while it is shut.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    /// Calls that have arrived.
    arrived: watch::Sender<u64>,
    inside: AtomicU64,
    /// Most calls that were inside at the same time.
    pub most: AtomicU64,
}

impl Default for Gate {
    fn default() -> Gate {
        let (open, arrived) = (watch::Sender::new(true), watch::Sender::new(0));
        Gate { open, arrived, inside: AtomicU64::new(0), most: AtomicU64::new(0) }
    }
}

impl Gate {
    pub fn shut(&self) {
        self.open.send_replace(false);
        self.arrived.send_replace(0);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many calls have arrived since it was shut.
    pub async fn arrived(&self, calls: u64) {
        patiently(self.arrived.subscribe().wait_for(|seen| *seen >= calls)).await.unwrap();
    }

    /// How many calls have arrived since it was shut.
    pub fn calls(&self) -> u64 {
        *self.arrived.borrow()
    }

    async fn pass(&self) {
        self.arrived.send_modify(|seen| *seen += 1);
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Faulty {
    /// Over memory, with the till's log of cell 1.
    pub async fn memory() -> Faulty {
        let faulty = Faulty::over(memory::Journal::new().into());
        faulty.provision(&till::provision(1, START)).await.unwrap();
        faulty
    }

    pub fn over(inner: holmes_store::Journal) -> Faulty {
        let told = Told {
            appends: Gate::default(),
            confirms: Gate::default(),
            reads: Gate::default(),
            faults: Mutex::default(),
            confirm_faults: Mutex::default(),
            hidden_behind: AtomicU64::new(u64::MAX),
            shown: AtomicU64::new(0),
            mangles: AtomicU64::new(0),
        };
        Faulty { inner, told: Arc::new(told) }
    }

    pub fn fail_next(&self, fault: Fault) {
        self.told.faults.lock().unwrap().push_back(fault);
    }

    /// The frames of the till's log.
    pub async fn frames(&self) -> Vec<Frame> {
        self.inner.read(till::log(1), 0, usize::MAX).await.unwrap()
    }
}

impl Journal for Faulty {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        self.inner.provision(first).await
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        self.inner.claim(log).await
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        self.told.appends.pass().await;
        let fault = self.told.faults.lock().unwrap().pop_front();
        match fault {
            None => self.inner.append(claim, frame).await,
            Some(Fault::UnknownLost) => Err(JournalError::Unknown("the line broke".into())),
            Some(Fault::UnknownApplied) => {
                self.inner.append(claim, frame).await?;
                Err(JournalError::Unknown("the line broke".into()))
            }
            Some(Fault::Fails(why)) => Err(why),
        }
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        self.told.confirms.pass().await;
        let fault = self.told.confirm_faults.lock().unwrap().pop_front();
        fault.map_or(Ok(()), Err)?;
        self.inner.confirm(claim).await
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        self.told.reads.pass().await;
        let hidden = self.told.hidden_behind.load(Ordering::SeqCst);
        let mut frames = self.inner.read(log, after, max_bytes).await?;
        frames.retain(|frame| frame.header().last <= hidden);
        self.told.shown.fetch_add(frames.len() as u64, Ordering::SeqCst);
        Ok(frames)
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        self.inner.logs().await
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        self.inner.keep_snapshot(snapshot).await
    }

    async fn snapshot(&self, log: LogId, version: u32, at: u64) -> Result<Option<Snapshot>, JournalError> {
        let mut snapshot = self.inner.snapshot(log, version, at).await?;
        if self.told.mangles.load(Ordering::SeqCst) > 0
            && let Some(byte) = snapshot.as_mut().and_then(|kept| kept.bytes.last_mut())
        {
            *byte ^= 1;
        }
        Ok(snapshot)
    }
}

/// A till that runs.
pub struct Shop {
    pub till: MachineHandle<Till>,
    pub running: Option<Running<Till>>,
    pub clock: Clock,
}

impl Shop {
    /// The till of cell 1 on a clock that stands.
    pub async fn open(journal: &Faulty) -> Shop {
        Shop::with(journal, Clock::manual(START.after_millis(1_000)), |_| {}).await
    }

    pub async fn with(journal: &Faulty, clock: Clock, change: impl FnOnce(&mut Settings)) -> Shop {
        let mut settings = Settings::new(till::log(1), clock.clone());
        change(&mut settings);
        let running = driver::start::<Till, _>(journal.clone(), settings).await.unwrap();
        Shop { till: running.handle.clone(), running: Some(running), clock }
    }

    /// A request id that nobody else has.
    pub fn id(&self) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut random = [0; 10];
        random[3..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes()[1..]);
        Id::v7(self.clock.now().millis(), random)
    }

    /// Asks once, under a fresh id.
    pub async fn ask(&self, command: Command) -> Outcome {
        self.ask_as(self.id(), command).await
    }

    pub async fn ask_as(&self, id: Id, command: Command) -> Outcome {
        patiently(self.till.submit(Call::request(till::owner(1), id), command)).await
    }

    /// The same in a task of its own.
    pub fn spawn(&self, id: Id, command: Command) -> tokio::task::JoinHandle<Outcome> {
        let till = self.till.clone();
        tokio::spawn(async move { till.submit(Call::request(till::owner(1), id), command).await })
    }

    pub async fn balance(&self, n: u8) -> u64 {
        self.see(move |state| state.balance(till::account(n))).await
    }

    /// What the latest state shows.
    pub async fn see<T: Send + 'static>(&self, look: impl FnOnce(&State) -> T + Send + 'static) -> T {
        patiently(self.till.read(holmes_kernel::At::Latest, look)).await.unwrap().value
    }

    pub async fn is(&self, wanted: impl FnMut(&Status) -> bool) -> Status {
        patiently(self.till.status().wait_for(wanted)).await.unwrap().clone()
    }

    /// Ends the till in order, and waits for it.
    pub async fn close(mut self) {
        self.till.stop().await;
        let running = self.running.take().unwrap();
        patiently(running.task).await.unwrap();
    }
}

pub type Outcome = Result<Answer<Reply>, Refusal>;

pub fn deposit(n: u8, units: u64) -> Command {
    Command::Deposit { to: till::account(n), units }
}

/// The stable reason of a refusal.
pub fn reason<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
    outcome.unwrap_err().reason.into_owned()
}

/// Waits, but not for ever.
pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it takes for ever")
}

/// Waits until something holds that tells nobody when it does.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    patiently(waiting).await;
}

/// Polls a future once: what it sends is sent.
pub fn poke<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets the other tasks of this thread have many turns.
pub async fn breathe() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
