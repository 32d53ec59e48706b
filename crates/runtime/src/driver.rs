//! The tokio driver: one task runs one machine. Everything that a machine is asked arrives in one bounded queue; full
//! means refused at once, with a time to wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::shard::{Delivery, Poison};
use holmes_kernel::{
    After, Answer, At, Call, Code, Frame, Handle, LogId, Machine, Position, Refusal, Shard, Time,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::feed::Feed;
use crate::recover::{Extent, RecoverError, recover, sound};

mod disk;
mod meters;
mod run;

use meters::Meters;
use run::Driver;

/// How many requests may wait in a machine's queue. At 40,000 a second this is a tenth of a second.
pub const QUEUE: usize = 4_096;
/// Behind how many events a new snapshot is written.
const SNAPSHOT_EVERY: u64 = 1_000_000;

/// What a driver needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which log.
    pub log: LogId,
    /// Where the time comes from.
    pub clock: Clock,
    /// Behind how many events a new snapshot is written; 0 means never.
    pub snapshot_every: u64,
    /// Start although the clock is more than 30 days past the last frame.
    pub accept_clock: bool,
}

/// How far the clock may be past a log's end. A clock that jumped ahead would end every hold and every wait at once.
const CLOCK_AHEAD_MS: u64 = 30 * 86_400_000;

impl Settings {
    /// The usual ones.
    pub fn new(log: LogId, clock: Clock) -> Settings {
        Settings { log, clock, snapshot_every: SNAPSHOT_EVERY, accept_clock: false }
    }
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Reading its log.
    Recovering,
    /// Another process owns its log: calls are passed on.
    StandingBy,
    /// Answering.
    Serving,
    /// Somebody else owns the log now.
    Fenced {
        /// The other's term.
        by: u64,
    },
    /// Nothing more is decided until a person has looked; the reason.
    Halted(String),
    /// Shut down in order.
    Stopped,
}

/// Tells those who watch that the task is gone, however it went.
struct Ended {
    service: &'static str,
    status: watch::Sender<Status>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if matches!(*self.status.borrow(), Status::Serving | Status::Recovering) {
            tracing::error!(service = self.service, "the machine's task has ended without a word");
            self.status.send_replace(Status::Halted("its task has ended without a word: see the log".into()));
        }
    }
}

/// A running machine.
pub struct Running<M: Machine> {
    /// Its door.
    pub handle: MachineHandle<M>,
    /// Its log, for those who listen to it.
    pub feed: Feed,
    /// Of its claim.
    pub term: u64,
    /// Its task; ends after [`MachineHandle::stop`] or when the log is lost to another owner.
    pub task: JoinHandle<()>,
}

/// Claims a log, replays it, and runs its machine.
pub async fn start<M: Machine, J: Journal>(
    journal: J,
    settings: Settings,
) -> Result<Running<M>, RecoverError> {
    let (status, seen) = watch::channel(Status::Recovering);
    let meters = Arc::new(Meters::new(M::NAME));
    let (claim, shard, kept) = claim_shard::<M, J>(&journal, settings.log, Poison::new(), &meters).await?;
    let plausible = settings.clock.now() <= claim.tail.ts.after_millis(CLOCK_AHEAD_MS);
    if !plausible && !settings.accept_clock {
        return Err(RecoverError::ClockAhead { service: M::NAME });
    }
    status.send_replace(Status::Serving);
    let (sender, queue) = mpsc::channel(QUEUE);
    let handle = MachineHandle { queue: sender, status: seen, meters: meters.clone() };
    meters::show(&handle);
    let (term, (durable, watched)) = (claim.term, watch::channel(shard.durable()));
    let feed = Feed::new::<M, J>(journal.clone(), settings.log, watched);
    let task = tokio::spawn(
        Driver::new(journal, settings, (claim, shard, kept), queue, status, durable, meters).run(),
    );
    Ok(Running { handle, feed, term, task })
}

/// Takes a log over and replays it to its end, where every invariant holds. Also where the replay began: behind the newest
/// snapshot, or at 0.
async fn claim_shard<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    poison: Poison,
    meters: &Meters,
) -> Result<(Claim, Shard<M>, u64), RecoverError> {
    let began = Instant::now();
    let claim = journal.claim(log).await?;
    let mut first = None;
    let each = |frame: &Frame| {
        first.get_or_insert(frame.header().first);
    };
    let replica = recover::<M, J>(journal, log, Extent::ALL, each).await?;
    let kept = first.map_or(replica.tail().seq, |first| first - 1);
    if *replica.tail() != claim.tail {
        journal.confirm(&claim).await?; // another owner goes on behind us: say so
        let why = format!("it was claimed at {} and replayed to {}", claim.tail.seq, replica.tail().seq);
        return Err(RecoverError::Journal(JournalError::Io(why)));
    }
    sound(&replica)?;
    tracing::info!(
        service = M::NAME,
        term = claim.term,
        seq = replica.tail().seq,
        "log claimed and replayed"
    );
    meters.replayed(replica.tail().seq, began.elapsed());
    meters.kept(kept);
    let term = claim.term;
    Ok((claim, Shard::new(replica, term, poison), kept))
}

/// The door of a machine that runs in this process.
pub struct MachineHandle<M: Machine> {
    queue: mpsc::Sender<Message<M>>,
    status: watch::Receiver<Status>,
    meters: Arc<Meters>,
}

impl<M: Machine> Clone for MachineHandle<M> {
    fn clone(&self) -> Self {
        MachineHandle { queue: self.queue.clone(), status: self.status.clone(), meters: self.meters.clone() }
    }
}

type ReplySlot<M> = oneshot::Sender<Result<Answer<<M as Machine>::Reply>, Refusal>>;
/// Hands what was seen of a state over, when the state is durable.
type HandOver = Box<dyn FnOnce(Result<u64, Refusal>) + Send>;

/// A look at a state, and who waits for what is seen.
trait Query<S>: Send {
    /// Looks at once; what it returns hands the result over, later.
    fn look(self: Box<Self>, state: &S) -> HandOver;
    fn refuse(self: Box<Self>, refusal: Refusal);
    fn is_abandoned(&self) -> bool;
}

struct Asked<T, F> {
    look: F,
    reply: oneshot::Sender<Result<Answer<T>, Refusal>>,
}

impl<S, T: Send + 'static, F: FnOnce(&S) -> T + Send> Query<S> for Asked<T, F> {
    fn look(self: Box<Self>, state: &S) -> HandOver {
        let Asked { look, reply } = *self;
        // A look is a caller's code: what panics in it must not take the machine with it.
        let Ok(value) = catch_unwind(AssertUnwindSafe(|| look(state))) else {
            let message = "this read made the service fail; please report it";
            let _ = reply.send(Err(Refusal::new(Code::Internal, "READ_FAILED", message))); // the caller may have gone
            return Box::new(|_| ());
        };
        Box::new(move |released| {
            let _ = reply.send(released.map(|seq| Answer { value, seq })); // the caller may have gone
        })
    }

    fn refuse(self: Box<Self>, refusal: Refusal) {
        let _ = self.reply.send(Err(refusal)); // the caller may have gone
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What arrives in a machine's queue.
enum Message<M: Machine> {
    Submit { call: Call, digest: Digest, command: M::Command, reply: ReplySlot<M> },
    Read { at: At, query: Box<dyn Query<M::State>> },
    Deliver { delivery: Delivery<M::Command>, reply: oneshot::Sender<Delivered> },
    Position { source: LogId, reply: oneshot::Sender<Position> },
    Stop,
}

impl<M: Machine> Message<M> {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Message::Submit { reply, .. } => reply.is_closed(),
            Message::Read { query, .. } => query.is_abandoned(),
            Message::Deliver { .. } | Message::Position { .. } | Message::Stop => false,
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The source stands here now.
    At(Position),
    /// It comes from the future: bring it again then.
    Early(Time),
}

impl<M: Machine> MachineHandle<M> {
    /// How the machine is, now and from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Brings what was read in another service's log. Waits for room: a reader has no caller to refuse.
    pub async fn deliver(&self, delivery: Delivery<M::Command>) -> Result<Delivered, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Deliver { delivery, reply }).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    /// Up to where another service's log was taken in.
    pub async fn position(&self, source: LogId) -> Result<Position, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Position { source, reply }).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    /// Whether the machine's task has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the machine's task has ended.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Lets what is queued be finished and made durable, then ends the task.
    pub async fn stop(&self) {
        let _ = self.queue.send(Message::Stop).await; // an error means that it has ended
    }

    fn enqueue(&self, message: Message<M>) -> Result<(), Refusal> {
        self.queue.try_send(message).map_err(|why| match why {
            mpsc::error::TrySendError::Full(_) => {
                let message = format!("{} has {QUEUE} requests waiting: try again a little later", M::NAME);
                self.meters.refused(Refusal::new(Code::Exhausted, "QUEUE_FULL", message).retry_after(50))
            }
            mpsc::error::TrySendError::Closed(_) => self.lost(),
        })
    }

    /// What a caller hears whose message the machine did not answer.
    fn lost(&self) -> Refusal {
        self.meters.refused(self.gone())
    }

    fn gone(&self) -> Refusal {
        gone(M::NAME, &self.status.borrow())
    }
}

/// What callers hear when a machine does not answer any more.
fn gone(service: &str, status: &Status) -> Refusal {
    match status {
        Status::Halted(why) => {
            let message = format!("{service} has halted and needs a person: {why}");
            Refusal::new(Code::Unavailable, "LOG_HALTED", message)
        }
        Status::Stopped => Refusal::new(Code::Unavailable, "STOPPED", format!("{service} is shutting down")),
        Status::Fenced { .. } => {
            let message =
                format!("{service} has moved to another process: try again with the same request id");
            Refusal::new(Code::Unavailable, "MOVED", message).retry_after(200)
        }
        Status::Recovering | Status::Serving | Status::StandingBy => {
            let message = format!(
                "whether {service} carried this out is not known: try again with the same request id"
            );
            Refusal::new(Code::Unavailable, "OUTCOME_UNKNOWN", message).retry_after(200)
        }
    }
}

impl<M: Machine> Handle<M> for MachineHandle<M> {
    async fn submit(&self, call: Call, command: M::Command) -> Result<Answer<M::Reply>, Refusal> {
        let digest = canon::digest(&command);
        let (reply, answer) = oneshot::channel();
        self.enqueue(Message::Submit { call, digest, command, reply })?;
        answer.await.unwrap_or_else(|_| Err(self.lost()))
    }

    async fn read<T: Send + 'static>(
        &self,
        at: At,
        look: impl FnOnce(&M::State) -> T + Send + 'static,
    ) -> Result<Answer<T>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Message::Read { at, query: Box::new(Asked { look, reply }) })?;
        answer.await.unwrap_or_else(|_| Err(self.lost()))
    }
}

/// A condition on another log's position.
fn reached<M: Machine>(shard: &Shard<M>, after: &After) -> bool {
    let log = LogId::new(shard.replica().log().cell, after.service);
    shard.replica().ways().position(log).seq >= after.seq
}
