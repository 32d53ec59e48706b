//! The loop of one machine: take what has arrived, step the shard, do what it says.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use holmes_kernel::shard::{Request, Submission, Ticket, recall};
use holmes_kernel::{Input, Output, Way};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::disk::{append_until_known, entry_at, keep_snapshot};
use super::*;

/// How many messages are taken between two looks at the disk. Bounds the size of a step, not of a frame.
const BATCH: usize = 1_024;
/// How many of them while the disk has nothing to do: it begins with these, and the rest is decided meanwhile. Taking all of
/// them first would let callers and disk wait for each other in turn (512 callers of the ledger: 1.2 times as many transfers).
const FIRST: usize = 16;
/// Full frames that may wait for the disk before no more commands are taken: a few, to keep memory and delay small.
const BACKLOG: usize = 4;
/// How many may wait for the disk before no more messages are taken: reads and refusals fill no frame, and a disk that
/// stands still must not fill the memory with them.
const WAITERS: usize = 8_192;
/// How many calls may wait for a place in a log to be reached.
const PARKED: usize = 4_096;
/// How long such a call waits at most; its caller's deadline is usually shorter.
const PARKED_FOR: Duration = Duration::from_secs(30);

/// Repeated requests whose answers are read from the log at the same time. Each holds a frame.
const RECALLS: usize = 64;

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct Driver<M: Machine, J: Journal> {
    journal: J,
    settings: Settings,
    claim: Claim,
    shard: Shard<M>,
    queue: mpsc::Receiver<Message<M>>,
    status: watch::Sender<Status>,
    /// How far the log is durable, for those who listen to it.
    durable: watch::Sender<u64>,
    waiters: HashMap<Ticket, Waiter<M>>,
    next_ticket: Ticket,
    /// Calls that wait for a place in a log, the oldest first.
    parked: Vec<(Instant, Message<M>)>,
    /// Where the log was decided up to when they were last looked at: places are reached only when it goes on.
    parked_at: u64,
    /// The frame that is being made durable.
    append: Option<Pending<Result<(), JournalError>>>,
    /// The last sequence number that was handed to the journal.
    handed: u64,
    /// A proof of ownership that is under way, and the reads that arrived before it began.
    barrier: Option<Pending<Result<(), JournalError>>>,
    behind_barrier: Vec<Ticket>,
    before_barrier: Vec<Ticket>,
    snapshot: Option<JoinHandle<()>>,
    snapshot_at: u64,
    recalls: Arc<Semaphore>,
    out: Vec<Output<M>>,
    stopping: bool,
    meters: Arc<Meters>,
}

enum Waiter<M: Machine> {
    Reply(ReplySlot<M>),
    /// With the place that the state stood at when it was looked at.
    Read(HandOver, u64),
    Delivery(oneshot::Sender<Delivered>),
}

/// Why the loop ends or begins anew.
enum Turn {
    Go,
    Reclaim(String),
    Halt(String),
    Fenced(u64),
    Stop,
}

enum Happened<M: Machine> {
    Appended(Result<(), JournalError>),
    Confirmed(Result<(), JournalError>),
    Arrived(Option<Message<M>>),
    Due,
    Impatient,
}

impl<M: Machine, J: Journal> Driver<M, J> {
    pub(super) fn new(
        journal: J,
        settings: Settings,
        (claim, shard, kept): (Claim, Shard<M>, u64),
        queue: mpsc::Receiver<Message<M>>,
        status: watch::Sender<Status>,
        durable: watch::Sender<u64>,
        meters: Arc<Meters>,
    ) -> Self {
        let handed = shard.durable();
        Driver {
            journal,
            settings,
            claim,
            shard,
            queue,
            status,
            durable,
            waiters: HashMap::new(),
            next_ticket: 0,
            parked: Vec::new(),
            parked_at: handed,
            append: None,
            handed,
            barrier: None,
            behind_barrier: Vec::new(),
            before_barrier: Vec::new(),
            snapshot: None,
            snapshot_at: kept,
            recalls: Arc::new(Semaphore::new(RECALLS)),
            out: Vec::new(),
            stopping: false,
            meters,
        }
    }

    pub(super) async fn run(mut self) {
        let _ended = Ended { service: M::NAME, status: self.status.clone() };
        loop {
            let happened = self.next().await;
            let mut turn = self.turn(happened);
            if let Turn::Reclaim(why) = turn {
                tracing::error!(service = M::NAME, why, "the state is rebuilt from the log");
                self.meters.rebuilt.increment(1);
                turn = self.reclaim().await;
            }
            match turn {
                Turn::Go | Turn::Reclaim(_) => {}
                Turn::Halt(why) => return self.halted(why).await,
                Turn::Fenced(by) => {
                    tracing::error!(service = M::NAME, by, "the log has another owner");
                    self.status.send_replace(Status::Fenced { by });
                    return;
                }
                Turn::Stop => {
                    self.status.send_replace(Status::Stopped);
                    return;
                }
            }
        }
    }

    async fn next(&mut self) -> Happened<M> {
        let due = self.shard.next_due().map(|at| self.until(at));
        let (has_room, takes) = (self.has_room(), self.takes());
        let patience = self.parked.first().map(|(since, _)| *since + PARKED_FOR);
        tokio::select! {
            biased;
            done = wait(&mut self.append), if self.append.is_some() => Happened::Appended(done),
            done = wait(&mut self.barrier), if self.barrier.is_some() => Happened::Confirmed(done),
            message = self.queue.recv(), if takes => Happened::Arrived(message),
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() && has_room => Happened::Due,
            () = until_instant(patience), if patience.is_some() => Happened::Impatient,
        }
    }

    /// Whether more may be decided.
    fn has_room(&self) -> bool {
        !self.stopping && self.shard.backlog() < BACKLOG
    }

    /// Whether more messages are taken.
    fn takes(&self) -> bool {
        self.has_room() && self.waiters.len() < WAITERS
    }

    fn turn(&mut self, happened: Happened<M>) -> Turn {
        match happened {
            Happened::Appended(done) => {
                self.append = None;
                if let Err(why) = done {
                    return failed(why);
                }
                self.step(Input::Appended);
                self.durable.send_replace(self.shard.durable());
                self.maybe_snapshot();
            }
            Happened::Confirmed(done) => {
                self.barrier = None;
                let tickets = std::mem::take(&mut self.behind_barrier);
                match done {
                    Ok(()) => tickets.into_iter().for_each(|ticket| self.step(Input::Gate(ticket))),
                    // Nothing was written, so nothing is in doubt but these reads.
                    Err(JournalError::Unknown(why) | JournalError::Io(why)) => {
                        self.unconfirmed(&tickets, &why)
                    }
                    Err(why) => return failed(why),
                }
            }
            Happened::Arrived(message) => self.arrived(message),
            Happened::Due => self.step(Input::Tick),
            Happened::Impatient => self.parked_at = u64::MAX,
        }
        self.unpark();
        self.step(Input::Idle);
        self.start_barrier();
        let turn = self.carry_out();
        let quiet =
            self.append.is_none() && self.barrier.is_none() && self.shard.decided() == self.shard.durable();
        if matches!(turn, Turn::Go) && self.stopping && quiet { Turn::Stop } else { turn }
    }

    fn arrived(&mut self, first: Option<Message<M>>) {
        let Some(first) = first else {
            self.stopping = true;
            return;
        };
        if self.shard.next_due().is_some_and(|at| at <= self.settings.clock.now()) {
            self.step(Input::Tick); // what time has caused comes before what is asked now
        }
        self.take(first);
        let most = if self.append.is_some() { BATCH } else { FIRST };
        for _ in 1..most {
            if !self.takes() {
                return;
            }
            match self.queue.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, message: Message<M>) {
        if !self.is_time_for(&message) {
            return self.park(message);
        }
        match message {
            Message::Submit { call, digest, command, reply } => self.submit(call, digest, command, reply),
            Message::Read { at, query } => {
                let hand_over = query.look(self.shard.replica().state());
                let ticket = self.ticket(Waiter::Read(hand_over, self.shard.decided()));
                let later_append_proves_ownership = self.shard.decided() > self.handed;
                if matches!(at, At::Seq(_)) || later_append_proves_ownership {
                    self.step(Input::Gate(ticket));
                } else {
                    self.before_barrier.push(ticket);
                }
            }
            Message::Deliver { mut delivery, reply } => {
                delivery.ticket = self.ticket(Waiter::Delivery(reply));
                self.step(Input::Delivery(delivery));
            }
            Message::Position { source, reply } => {
                let _ = reply.send(self.shard.replica().ways().position(source)); // the asker may have gone
            }
            Message::Stop => self.stopping = true,
        }
    }

    fn submit(&mut self, call: Call, digest: Digest, command: M::Command, reply: ReplySlot<M>) {
        let Call { principal, way, traceparent, .. } = call;
        let ticket = self.ticket(Waiter::Reply(reply));
        let input = match way {
            Way::Request(request_id) => {
                Input::Request(Request { ticket, principal, request_id, digest, traceparent, command })
            }
            Way::Submission(number) => {
                Input::Submission(Submission { ticket, principal, number, digest, traceparent, command })
            }
        };
        self.step(input);
    }

    /// Whether the place that a call waits for has been reached.
    fn is_time_for(&self, message: &Message<M>) -> bool {
        let after = match message {
            Message::Submit { call, .. } => &call.after,
            Message::Read { at: At::After(after), .. } => &Some(*after),
            Message::Read { at: At::Seq(seq), .. } => return *seq <= self.shard.decided(),
            _ => return true,
        };
        after.as_ref().is_none_or(|after| reached(&self.shard, after))
    }

    fn park(&mut self, message: Message<M>) {
        if self.parked.len() >= PARKED {
            self.parked.retain(|(_, message)| !message.is_abandoned());
        }
        if self.parked.len() < PARKED {
            return self.parked.push((Instant::now(), message));
        }
        let why = format!(
            "{} has {PARKED} calls that wait for a place in a log: try again a little later",
            M::NAME
        );
        self.give_up(message, Refusal::new(Code::Exhausted, "QUEUE_FULL", why).retry_after(100));
    }

    fn unpark(&mut self) {
        let decided = self.shard.decided();
        if self.parked.is_empty() || std::mem::replace(&mut self.parked_at, decided) == decided {
            return;
        }
        for (since, message) in std::mem::take(&mut self.parked) {
            if message.is_abandoned() {
                continue; // its caller has given up
            }
            if self.is_time_for(&message) {
                self.take(message);
            } else if since.elapsed() >= PARKED_FOR {
                let why = "the place in the log that the call waits for was not reached in time";
                self.give_up(message, Refusal::new(Code::Deadline, "NOT_REACHED", why));
            } else {
                self.parked.push((since, message));
            }
        }
    }

    fn give_up(&self, message: Message<M>, refusal: Refusal) {
        let refusal = self.meters.refused(refusal);
        match message {
            Message::Submit { reply, .. } => {
                let _ = reply.send(Err(refusal)); // the caller may have gone
            }
            Message::Read { query, .. } => query.refuse(refusal),
            Message::Deliver { .. } | Message::Position { .. } | Message::Stop => {}
        }
    }

    fn ticket(&mut self, waiter: Waiter<M>) -> Ticket {
        self.next_ticket += 1;
        self.waiters.insert(self.next_ticket, waiter);
        self.next_ticket
    }

    fn step(&mut self, input: Input<M::Command>) {
        self.shard.step(self.settings.clock.now(), input, &mut self.out);
    }

    /// Does what the shard has said, in order.
    fn carry_out(&mut self) -> Turn {
        let mut turn = Turn::Go;
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Append(frame) => self.append(frame),
                Output::Reply { ticket, answer, seq } => self.answer(ticket, answer, seq),
                Output::Recall { ticket, seq, command } => self.recall(ticket, seq, command),
                Output::Release { ticket, .. } => {
                    if let Some(Waiter::Read(hand_over, seq)) = self.waiters.remove(&ticket) {
                        hand_over(Ok(seq));
                    }
                }
                Output::Delivered { ticket, position } => self.delivered(ticket, Delivered::At(position)),
                Output::Early { ticket, until } => self.delivered(ticket, Delivered::Early(until)),
                Output::Reclaim(why) => turn = Turn::Reclaim(why),
                Output::Halt(why) => turn = Turn::Halt(why),
            }
        }
        turn
    }

    fn append(&mut self, frame: Frame) {
        self.handed = frame.header().last;
        self.append = Some(Box::pin(append_until_known(
            self.meters.clone(),
            self.journal.clone(),
            self.claim.clone(),
            frame,
        )));
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<M::Reply, Refusal>, seq: u64) {
        match self.waiters.remove(&ticket) {
            Some(Waiter::Reply(reply)) => {
                let _ = reply.send(answer.map(|value| Answer { value, seq })); // the caller may have gone
            }
            Some(Waiter::Read(hand_over, _)) => hand_over(answer.map(|_| seq)),
            Some(Waiter::Delivery(_)) | None => {}
        }
    }

    /// Refuses reads of which it is not known whether the log is still ours.
    fn unconfirmed(&mut self, tickets: &[Ticket], why: &str) {
        tracing::warn!(service = M::NAME, why, "a read could not be confirmed");
        for ticket in tickets {
            let message = format!("{} could not prove that it still owns its log: try again", M::NAME);
            let refusal = Refusal::new(Code::Unavailable, "NOT_CONFIRMED", message).retry_after(200);
            self.answer(*ticket, Err(self.meters.refused(refusal)), 0);
        }
    }

    fn delivered(&mut self, ticket: Ticket, delivered: Delivered) {
        if let Some(Waiter::Delivery(reply)) = self.waiters.remove(&ticket) {
            let _ = reply.send(delivered); // the reader may have gone
        }
    }

    /// Answers a repeated request from its entry in the log.
    fn recall(&mut self, ticket: Ticket, seq: u64, command: M::Command) {
        let Some(Waiter::Reply(reply)) = self.waiters.remove(&ticket) else { return };
        let (journal, log, recalls) = (self.journal.clone(), self.settings.log, self.recalls.clone());
        tokio::spawn(async move {
            let _turn = recalls.acquire().await; // never closed
            let entry = entry_at(&journal, log, seq).await;
            let answer = entry.and_then(|entry| recall::<M>(&entry, &command));
            let _ = reply.send(answer.map(|value| Answer { value, seq })); // the caller may have gone
        });
    }

    fn start_barrier(&mut self) {
        if self.barrier.is_none() && !self.before_barrier.is_empty() {
            self.behind_barrier = std::mem::take(&mut self.before_barrier);
            let (journal, claim) = (self.journal.clone(), self.claim.clone());
            self.barrier = Some(Box::pin(async move { journal.confirm(&claim).await }));
        }
    }

    fn maybe_snapshot(&mut self) {
        let (every, durable) = (self.settings.snapshot_every, self.shard.durable());
        let running = self.snapshot.as_ref().is_some_and(|task| !task.is_finished());
        if every == 0 || running || durable - self.snapshot_at < every {
            return;
        }
        self.snapshot_at = durable;
        let (journal, log, meters) = (self.journal.clone(), self.settings.log, self.meters.clone());
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own: replaying is work, and the owner's thread has callers.
        self.snapshot = Some(tokio::task::spawn_blocking(move || {
            runtime.block_on(keep_snapshot::<M, J>(&meters, &journal, log, durable));
        }));
    }

    /// Begins anew from the log. Whoever waits learns that the outcome is not known.
    async fn reclaim(&mut self) -> Turn {
        self.status.send_replace(Status::Recovering);
        if let Some(append) = self.append.take()
            && let Err(why) = append.await
        {
            return failed(why); // a log that is another's now is not claimed back, a full disk not replayed
        }
        self.waiters.clear();
        self.parked_at = u64::MAX;
        (self.barrier, self.behind_barrier, self.before_barrier) = (None, Vec::new(), Vec::new());
        let poison = self.shard.take_poison();
        let (claim, shard) =
            match claim_shard::<M, J>(&self.journal, self.settings.log, poison, &self.meters).await {
                Ok((claim, shard, _)) => (claim, shard),
                Err(RecoverError::Journal(JournalError::Fenced { by, .. })) => return Turn::Fenced(by),
                Err(why) => return Turn::Halt(format!("the log could not be taken up again: {why}")),
            };
        (self.handed, self.claim, self.shard) = (shard.durable(), claim, shard);
        self.durable.send_replace(self.shard.durable()); // the frame that was under way may be there now
        self.status.send_replace(Status::Serving);
        Turn::Go
    }

    /// Refuses everything until it is told to stop.
    async fn halted(mut self, why: String) {
        tracing::error!(service = M::NAME, why, "halted: a person must look");
        self.status.send_replace(Status::Halted(why));
        self.waiters.clear();
        self.parked.clear();
        while let Some(message) = self.queue.recv().await {
            if matches!(message, Message::Stop) {
                return;
            }
        }
    }

    fn until(&self, at: Time) -> Duration {
        let wait = Duration::from_micros(at.micros().saturating_sub(self.settings.clock.now().micros()));
        match self.settings.clock {
            Clock::System => wait,
            Clock::Manual(_) => wait.min(Duration::from_millis(5)), // moved by hand: look now and then
        }
    }
}

async fn until_instant(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn wait<T>(pending: &mut Option<Pending<T>>) -> T {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

fn failed(why: JournalError) -> Turn {
    match why {
        JournalError::Fenced { by, .. } => Turn::Fenced(by),
        other => Turn::Halt(other.to_string()),
    }
}
