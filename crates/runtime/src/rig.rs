//! Virtual time: machines on one thread, a clock moved by hand, ports passed in. The same shard as in production, so a
//! test, a scenario and the simulator play what would really happen, only sooner.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::shard::{Poison, Request, Submission, Ticket, recall};
use holmes_kernel::{
    Answer, At, Broken, Call, Code, Event as _, Handle, Input, LogId, Machine, Opened, Output, Refusal,
    Replica, ServiceId, Shard, Time, Way,
};

use crate::clock::Clock;
use crate::public::PublicFrame;
use crate::reader::Reader;
use crate::recover::{Extent, RecoverError, recover};

/// Several machines over one journal, whose futures must be ready at once, on a clock that stands until it is moved.
pub struct Rig<J: Journal> {
    journal: J,
    clock: Clock,
    seats: Vec<Arc<dyn Play>>,
}

/// How often a machine may go on by itself at one moment before it is taken for one that never rests.
const MOST_TURNS: usize = 100_000;

impl<J: Journal> Rig<J> {
    /// An empty rig at a moment.
    pub fn new(journal: J, start: Time) -> Rig<J> {
        Rig { journal, clock: Clock::manual(start), seats: Vec::new() }
    }

    /// The moment.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The rig's clock, for what stands around its machines.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Opens a machine's log, or takes it up where it is, and gives the machine's door.
    pub fn add<M: Machine>(&mut self, log: LogId, opened: Opened) -> Result<Seat<M, J>, RecoverError> {
        let replay = |why| RecoverError::Replay { service: M::NAME, why };
        if !ready(self.journal.logs())?.contains(&log) {
            let first = Replica::<M>::provision(log, self.now(), opened).map_err(|why| replay(why.into()))?;
            ready(self.journal.provision(&first))?;
        }
        let (claim, shard) = take_up::<M, J>(&self.journal, log)?;
        let (journal, clock) = (self.journal.clone(), self.clock.clone());
        let seated = Seated {
            journal,
            clock,
            claim,
            shard,
            readers: BTreeMap::new(),
            parked: BTreeMap::new(),
            halted: None,
        };
        let seat = Seat(Arc::new(Mutex::new(seated)));
        self.seats.push(Arc::new(seat.clone()));
        Ok(seat)
    }

    /// Lets time pass, stopping at every moment at which something is due.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now().micros().saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX));
        loop {
            let next = self.seats.iter().filter_map(|seat| seat.next_due()).min();
            // What is heard at a standing clock moves it by microseconds, past the end perhaps.
            let now = self.now().micros();
            let stop = next.map_or(end, |at| at.micros().min(end)).max(now);
            self.clock.advance(Duration::from_micros(stop - now));
            let mut went_on = false;
            for seat in &self.seats {
                went_on |= seat.tick();
            }
            went_on |= self.settle();
            if stop >= end && !went_on {
                return;
            }
        }
    }

    /// Lets every service hear what the others have written, until all is heard; whether anything was.
    pub fn settle(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MOST_TURNS {
            let mut went_on = false;
            for reader in &self.seats {
                for source in self.seats.iter().filter(|source| reader.hears(source.as_ref())) {
                    let frames = source.frames(reader.heard(source.log()));
                    went_on |= !frames.is_empty();
                    reader.hear(&frames);
                }
            }
            if !went_on {
                return any;
            }
            any = true;
        }
        panic!("the services of a rig never stop talking")
    }

    /// Every invariant of every machine that does not hold.
    pub fn check(&self) -> Vec<Broken> {
        self.seats.iter().flat_map(|seat| seat.check()).collect()
    }

    /// Throws every state away and rebuilds it from its log alone; answers the services whose digest is then another.
    pub fn restart(&mut self) -> Result<Vec<&'static str>, RecoverError> {
        self.restart_where(|_| true)
    }

    /// The same of the services whose names are so; the others go on as they are.
    pub fn restart_where(
        &mut self,
        is_one: impl Fn(&str) -> bool,
    ) -> Result<Vec<&'static str>, RecoverError> {
        let mut changed = Vec::new();
        for seat in self.seats.iter().filter(|seat| is_one(seat.name())) {
            if !seat.restart()? {
                changed.push(seat.name());
            }
        }
        Ok(changed)
    }
}

/// What a rig asks of a machine of any type.
trait Play {
    fn name(&self) -> &'static str;
    fn next_due(&self) -> Option<Time>;
    fn tick(&self) -> bool;
    fn check(&self) -> Vec<Broken>;
    fn restart(&self) -> Result<bool, RecoverError>;
    fn log(&self) -> LogId;
    fn sends_to(&self) -> &'static [ServiceId];
    /// Whether it reads a source: for its events, for what is sent to it, or for the answers to its own sends.
    fn hears(&self, source: &dyn Play) -> bool;
    /// What others may see of the frames behind a place.
    fn frames(&self, after: u64) -> Vec<PublicFrame>;
    /// Up to where a source was read.
    fn heard(&self, source: LogId) -> u64;
    /// Takes a source's next frames in.
    fn hear(&self, frames: &[PublicFrame]);
}

/// A machine's door in a rig. Every call is finished, and durable, when it returns.
pub struct Seat<M: Machine, J: Journal>(Arc<Mutex<Seated<M, J>>>);

impl<M: Machine, J: Journal> Clone for Seat<M, J> {
    fn clone(&self) -> Self {
        Seat(self.0.clone())
    }
}

struct Seated<M: Machine, J: Journal> {
    journal: J,
    clock: Clock,
    claim: Claim,
    shard: Shard<M>,
    readers: BTreeMap<LogId, Reader>,
    /// Sources that are not read further, and why.
    parked: BTreeMap<LogId, String>,
    halted: Option<String>,
}

const TICKET: Ticket = 1;
const PAGE_BYTES: usize = 1024 * 1024;

impl<M: Machine, J: Journal> Seat<M, J> {
    /// Looks at the state as it is.
    pub fn look<T>(&self, look: impl FnOnce(&M::State) -> T) -> T {
        look(self.lock().shard.replica().state())
    }

    /// Digest of state, memory and place.
    pub fn digest(&self) -> Digest {
        self.lock().shard.replica().digest()
    }

    fn lock(&self) -> MutexGuard<'_, Seated<M, J>> {
        // A panic of a test while it held the lock has failed that test already.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<M: Machine, J: Journal> Seated<M, J> {
    /// Takes an input and everything that follows from it, until the machine rests.
    fn play(&mut self, input: Input<M::Command>) -> Option<Output<M>> {
        let mut answer = None;
        let mut out = Vec::new();
        let now = self.clock.now();
        self.shard.step(now, input, &mut out);
        self.shard.step(now, Input::Idle, &mut out);
        for _ in 0..MOST_TURNS {
            if out.is_empty() {
                return answer;
            }
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Append(frame) => match ready(self.journal.append(&self.claim, &frame)) {
                        Ok(()) => self.shard.step(now, Input::Appended, &mut out),
                        Err(why) => self.halted = Some(why.to_string()),
                    },
                    Output::Halt(why) => self.halted = Some(why),
                    Output::Reclaim(_) => self.reclaim(),
                    answered => answer = Some(answered),
                }
            }
            self.shard.step(now, Input::Idle, &mut out);
        }
        panic!("{} does not come to rest", M::NAME)
    }

    fn reclaim(&mut self) {
        let poison = self.shard.take_poison();
        match take_up_with(&self.journal, self.claim.log, poison) {
            Ok((claim, shard)) => {
                (self.claim, self.shard) = (claim, shard);
                self.readers.clear(); // they begin anew where the rebuilt inbox stands
            }
            Err(why) => self.halted = Some(why.to_string()),
        }
    }

    /// Takes a frame in; whether the next one may follow. A machine that was rebuilt meanwhile is read to anew.
    fn hear(&mut self, frame: &PublicFrame) -> bool {
        let position = self.shard.replica().ways().position(frame.log);
        let reader = self.readers.entry(frame.log).or_insert_with(|| Reader::new(frame.log, position));
        // A reaction that panics parks its source, as it does in production.
        let read = catch_unwind(AssertUnwindSafe(|| reader.read::<M>(frame)));
        let deliveries = match read {
            Ok(Ok(deliveries)) => deliveries,
            Ok(Err(parked)) => return self.park(frame, parked.to_string()),
            Err(_) => {
                return self
                    .park(frame, format!("the reaction to {} to {} panicked", frame.first, frame.last));
            }
        };
        for delivery in deliveries {
            // Many frames at one moment run ahead of a standing clock by microseconds.
            let ahead = delivery.ts.next().micros().saturating_sub(self.clock.now().micros());
            self.clock.advance(Duration::from_micros(ahead));
            let to = delivery.to;
            self.play(Input::Delivery(delivery));
            if self.halted.is_some() || self.shard.replica().ways().position(frame.log) != to {
                self.readers.remove(&frame.log);
                return false;
            }
        }
        true
    }

    fn park(&mut self, frame: &PublicFrame, why: String) -> bool {
        self.readers.remove(&frame.log);
        self.parked.insert(frame.log, why);
        false
    }

    fn refusal(&self) -> Refusal {
        match &self.halted {
            Some(why) => Refusal::new(Code::Unavailable, "LOG_HALTED", why.clone()),
            None => Refusal::new(
                Code::Unavailable,
                "NOT_REACHED",
                "the call waits for a place that is not reached",
            ),
        }
    }

    fn recalled(&self, seq: u64, command: &M::Command) -> Result<M::Reply, Refusal> {
        let page = ready(self.journal.read(self.claim.log, seq - 1, 1)).unwrap_or_default();
        let entries = page.first().and_then(|frame| frame.entries().ok()).unwrap_or_default();
        let entry = entries.iter().find(|(first, _)| *first == seq).map(|(_, entry)| entry);
        entry.map_or_else(|| Err(self.refusal()), |entry| recall::<M>(entry, command))
    }
}

impl<M: Machine, J: Journal> Handle<M> for Seat<M, J> {
    async fn submit(&self, call: Call, command: M::Command) -> Result<Answer<M::Reply>, Refusal> {
        let digest = canon::digest(&command);
        let Call { principal, way, traceparent, .. } = call;
        let mut seated = self.lock();
        let input = match way {
            Way::Request(request_id) => Input::Request(Request {
                ticket: TICKET,
                principal,
                request_id,
                digest,
                traceparent,
                command,
            }),
            Way::Submission(number) => Input::Submission(Submission {
                ticket: TICKET,
                principal,
                number,
                digest,
                traceparent,
                command,
            }),
        };
        match seated.play(input) {
            Some(Output::Reply { answer, seq, .. }) => answer.map(|value| Answer { value, seq }),
            Some(Output::Recall { seq, command, .. }) => {
                seated.recalled(seq, &command).map(|value| Answer { value, seq })
            }
            _ => Err(seated.refusal()),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        _at: At,
        look: impl FnOnce(&M::State) -> T + Send + 'static,
    ) -> Result<Answer<T>, Refusal> {
        let seated = self.lock();
        if seated.halted.is_some() {
            return Err(seated.refusal()); // what was decided last may not be durable
        }
        // Everything that was decided is durable before a call returns, so every read is the latest.
        Ok(Answer { value: look(seated.shard.replica().state()), seq: seated.shard.durable() })
    }
}

impl<M: Machine, J: Journal> Play for Seat<M, J> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn next_due(&self) -> Option<Time> {
        self.lock().shard.next_due()
    }

    fn tick(&self) -> bool {
        let mut seated = self.lock();
        let before = seated.shard.decided();
        seated.play(Input::Tick);
        seated.shard.decided() > before
    }

    fn check(&self) -> Vec<Broken> {
        let seated = self.lock();
        let halted = seated.halted.iter().map(|why| Broken(format!("{} has halted: {why}", M::NAME)));
        let parked = |(log, why)| Broken(format!("{} has parked {log}: {why}", M::NAME));
        let parked = seated.parked.iter().map(parked);
        seated.shard.replica().check().into_iter().chain(halted).chain(parked).collect()
    }

    fn restart(&self) -> Result<bool, RecoverError> {
        let mut seated = self.lock();
        let before = seated.shard.replica().digest();
        let (claim, shard) = take_up(&seated.journal, seated.claim.log)?;
        (seated.claim, seated.shard) = (claim, shard);
        // As a process that starts: it reads every source again, and whatever has halted it may be gone.
        seated.readers.clear();
        seated.parked.clear();
        let had_halted = seated.halted.take().is_some(); // with a state ahead of its log
        Ok(had_halted || seated.shard.replica().digest() == before)
    }

    fn log(&self) -> LogId {
        self.lock().claim.log
    }

    fn sends_to(&self) -> &'static [ServiceId] {
        M::Event::SENDS_TO
    }

    fn hears(&self, source: &dyn Play) -> bool {
        let (us, from) = (M::Event::SERVICE, source.log().svc);
        let concerned = M::LISTENS.contains(&from)
            || source.sends_to().contains(&us)
            || M::Event::SENDS_TO.contains(&from);
        concerned && source.log() != self.log()
    }

    fn frames(&self, after: u64) -> Vec<PublicFrame> {
        let seated = self.lock();
        let frames = ready(seated.journal.read(seated.claim.log, after, PAGE_BYTES)).unwrap_or_default();
        frames.iter().filter_map(|frame| PublicFrame::of::<M::Event>(frame).ok()).collect()
    }

    fn heard(&self, source: LogId) -> u64 {
        let seated = self.lock();
        if seated.halted.is_some() || seated.parked.contains_key(&source) {
            return u64::MAX;
        }
        let position = seated.shard.replica().ways().position(source).seq;
        seated.readers.get(&source).map_or(position, Reader::seen)
    }

    fn hear(&self, frames: &[PublicFrame]) {
        let mut seated = self.lock();
        for frame in frames {
            if !seated.hear(frame) {
                return;
            }
        }
    }
}

fn take_up<M: Machine, J: Journal>(journal: &J, log: LogId) -> Result<(Claim, Shard<M>), RecoverError> {
    take_up_with(journal, log, Poison::new())
}

fn take_up_with<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    poison: Poison,
) -> Result<(Claim, Shard<M>), RecoverError> {
    let claim = ready(journal.claim(log))?;
    let replica = ready(recover::<M, J>(journal, log, Extent::FROM_FIRST, |_| {}))?;
    if *replica.tail() != claim.tail {
        return Err(RecoverError::Journal(JournalError::Io("the log changed while it was read".into())));
    }
    let term = claim.term;
    Ok((claim, Shard::new(replica, term, poison)))
}

/// The result of a future of the ports: on virtual time they answer at once, or after being polled a few times.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MOST_TURNS {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("a port of a rig must answer without waiting for another thread")
}
