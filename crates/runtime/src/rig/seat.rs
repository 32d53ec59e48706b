//! One machine in a rig: its shard, its readers, the frame under way, and the door to it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::shard::{Poison, Request, Submission, Ticket, recall};
use holmes_kernel::{
    Answer, At, Broken, Call, Code, Event as _, Frame, Handle, Input, LogId, Machine, Output, Position,
    Refusal, ServiceId, Shard, Time, Way,
};

use super::{MOST_TURNS, Play, ready};
use crate::clock::Clock;
use crate::reader::Reader;
use crate::recover::{Extent, RecoverError, recover, write_snapshot};
use holmes_proto::public::PublicFrame;

/// Full frames that may wait for the disk before no more is brought to a machine, as in production.
const BACKLOG: usize = 4;

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
    /// The frame of which the journal has not said whether it is there.
    in_flight: Option<Frame>,
    tickets: Ticket,
    /// Calls that have no answer yet.
    waiting: BTreeSet<Ticket>,
    /// Answers that nobody has fetched.
    answers: BTreeMap<Ticket, Result<Answer<M::Reply>, Refusal>>,
    readers: BTreeMap<LogId, Reader>,
    /// Sources that are not read further, and why.
    parked: BTreeMap<LogId, String>,
    halted: Option<String>,
}

const PAGE_BYTES: usize = 1024 * 1024;

impl<M: Machine, J: Journal> Seat<M, J> {
    /// Takes a log up that is there.
    pub(super) fn new(journal: J, clock: Clock, log: LogId) -> Result<Seat<M, J>, RecoverError> {
        let (claim, shard) = take_up::<M, J>(&journal, log, Extent::FROM_FIRST, Poison::new())?;
        let seated = Seated {
            journal,
            clock,
            claim,
            shard,
            in_flight: None,
            tickets: 0,
            waiting: BTreeSet::new(),
            answers: BTreeMap::new(),
            readers: BTreeMap::new(),
            parked: BTreeMap::new(),
            halted: None,
        };
        Ok(Seat(Arc::new(Mutex::new(seated))))
    }

    /// Looks at the state as it is.
    pub fn look<T>(&self, look: impl FnOnce(&M::State) -> T) -> T {
        look(self.lock().shard.replica().state())
    }

    /// Digest of state, memory and place.
    pub fn digest(&self) -> Digest {
        self.lock().shard.replica().digest()
    }

    /// Brings a call without waiting for its answer, which [`Seat::answer`] fetches.
    pub fn post(&self, call: Call, command: M::Command) -> Ticket {
        self.lock().post(call, command)
    }

    /// The answer to a call that was posted: once, and only when it is durable.
    pub fn answer(&self, ticket: Ticket) -> Option<Result<Answer<M::Reply>, Refusal>> {
        self.lock().answers.remove(&ticket)
    }

    /// Why the machine has stopped, if it has: it wants [`Seat::restart`].
    pub fn halted(&self) -> Option<String> {
        self.lock().halted.clone()
    }

    /// Whether everything that was decided is durable, and more can be.
    pub fn rests(&self) -> bool {
        self.lock().rests()
    }

    /// Throws the state away, with every call that has no answer, and rebuilds it from the log, from a snapshot or from
    /// the first frame; whether it is what it was, as far as that was durable.
    pub fn restart(&self, snapshots: bool) -> Result<bool, RecoverError> {
        self.lock().restart(snapshots)
    }

    /// Keeps a snapshot of what is durable.
    pub fn snapshot(&self) -> Result<Digest, RecoverError> {
        let (journal, log, upto) = {
            let seated = self.lock();
            (seated.journal.clone(), seated.claim.log, seated.shard.durable())
        };
        ready(write_snapshot::<M, J>(&journal, log, upto))
    }

    fn lock(&self) -> MutexGuard<'_, Seated<M, J>> {
        // A panic of a test while it held the lock has failed that test already.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<M: Machine, J: Journal> Seated<M, J> {
    /// Takes an input and everything that follows from it, until the machine rests.
    fn play(&mut self, input: Input<M::Command>) {
        if self.halted.is_some() {
            return;
        }
        let mut out = Vec::new();
        self.shard.step(self.clock.now(), input, &mut out);
        self.rest(out);
    }

    /// Does what the shard has said, until it says no more.
    fn rest(&mut self, mut out: Vec<Output<M>>) {
        let now = self.clock.now();
        self.shard.step(now, Input::Idle, &mut out);
        for _ in 0..MOST_TURNS {
            if out.is_empty() {
                return;
            }
            for output in std::mem::take(&mut out) {
                self.carry_out(output, &mut out);
            }
            self.shard.step(now, Input::Idle, &mut out);
        }
        panic!("{} does not come to rest", M::NAME)
    }

    fn carry_out(&mut self, output: Output<M>, out: &mut Vec<Output<M>>) {
        match output {
            Output::Append(frame) => {
                self.in_flight = Some(frame);
                self.append(out);
            }
            Output::Halt(why) => self.halted = Some(why),
            Output::Reclaim(_) => self.reclaim(),
            Output::Reply { ticket, answer, seq } => {
                self.answered(ticket, answer.map(|value| Answer { value, seq }));
            }
            Output::Recall { ticket, seq, command } => {
                let answer = self.recalled(seq, &command);
                self.answered(ticket, answer.map(|value| Answer { value, seq }));
            }
            Output::Release { .. } | Output::Delivered { .. } | Output::Early { .. } => {}
        }
    }

    /// Hands the frame under way to the journal. Where the outcome is not known it stays under way, and the same bytes
    /// are sent again at the next turn, as in production.
    fn append(&mut self, out: &mut Vec<Output<M>>) -> bool {
        let Some(frame) = &self.in_flight else { return false };
        match ready(self.journal.append(&self.claim, frame)) {
            Ok(()) => {
                self.in_flight = None;
                self.shard.step(self.clock.now(), Input::Appended, out);
                true
            }
            Err(JournalError::Unknown(_)) => false,
            Err(why) => {
                self.halted = Some(why.to_string());
                false
            }
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Result<Answer<M::Reply>, Refusal>) {
        if self.waiting.remove(&ticket) {
            self.answers.insert(ticket, answer);
        }
    }

    fn post(&mut self, call: Call, command: M::Command) -> Ticket {
        let digest = canon::digest(&command);
        let Call { principal, way, traceparent, .. } = call;
        self.tickets += 1;
        let ticket = self.tickets;
        if self.halted.is_some() {
            self.answers.insert(ticket, Err(self.refusal()));
            return ticket;
        }
        self.waiting.insert(ticket);
        self.play(match way {
            Way::Request(request_id) => {
                Input::Request(Request { ticket, principal, request_id, digest, traceparent, command })
            }
            Way::Submission(number) => {
                Input::Submission(Submission { ticket, principal, number, digest, traceparent, command })
            }
        });
        ticket
    }

    /// Takes the log up anew. Whoever waits for an answer gets none.
    fn restart(&mut self, snapshots: bool) -> Result<bool, RecoverError> {
        let before = self.rests().then(|| self.shard.replica().digest());
        let extent = if snapshots { Extent::ALL } else { Extent::FROM_FIRST };
        let (claim, shard) = take_up(&self.journal, self.claim.log, extent, Poison::new())?;
        (self.claim, self.shard) = (claim, shard);
        (self.in_flight, self.halted) = (None, None);
        self.waiting.clear();
        // As a process that starts: it reads every source again.
        self.readers.clear();
        self.parked.clear();
        Ok(before.is_none_or(|before| self.shard.replica().digest() == before))
    }

    fn reclaim(&mut self) {
        let poison = self.shard.take_poison();
        match take_up(&self.journal, self.claim.log, Extent::FROM_FIRST, poison) {
            Ok((claim, shard)) => {
                (self.claim, self.shard, self.in_flight) = (claim, shard, None);
                self.waiting.clear();
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

    fn rests(&self) -> bool {
        self.halted.is_none() && self.shard.decided() == self.shard.durable()
    }

    /// Whether nothing more may be brought to it now.
    fn is_busy(&self) -> bool {
        self.halted.is_some() || self.shard.backlog() >= BACKLOG
    }

    fn park(&mut self, frame: &PublicFrame, why: String) -> bool {
        self.readers.remove(&frame.log);
        self.parked.insert(frame.log, why);
        false
    }

    fn refusal(&self) -> Refusal {
        let (reason, why) = match &self.halted {
            Some(why) => ("LOG_HALTED", why.clone()),
            None => (
                "OUTCOME_UNKNOWN",
                "it is not known yet whether this was carried out: ask again with the same id".to_owned(),
            ),
        };
        Refusal::new(Code::Unavailable, reason, why)
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
        let mut seated = self.lock();
        let ticket = seated.post(call, command);
        seated.answers.remove(&ticket).unwrap_or_else(|| Err(seated.refusal()))
    }

    async fn read<T: Send + 'static>(
        &self,
        _at: At,
        look: impl FnOnce(&M::State) -> T + Send + 'static,
    ) -> Result<Answer<T>, Refusal> {
        let seated = self.lock();
        if !seated.rests() {
            return Err(seated.refusal()); // what was decided last may not be durable
        }
        Ok(Answer { value: look(seated.shard.replica().state()), seq: seated.shard.durable() })
    }
}

impl<M: Machine, J: Journal> Play for Seat<M, J> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn next_due(&self) -> Option<Time> {
        let seated = self.lock();
        if seated.is_busy() { None } else { seated.shard.next_due() }
    }

    fn tick(&self) -> bool {
        let mut seated = self.lock();
        if seated.is_busy() {
            return false;
        }
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
        self.lock().restart(false)
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
        let durable = seated.shard.durable();
        let frames = ready(seated.journal.read(seated.claim.log, after, PAGE_BYTES)).unwrap_or_default();
        let known = frames.iter().take_while(|frame| frame.header().last <= durable);
        known.filter_map(|frame| PublicFrame::of::<M::Event>(frame).ok()).collect()
    }

    fn heard(&self, source: LogId) -> u64 {
        let seated = self.lock();
        if seated.is_busy() || seated.parked.contains_key(&source) {
            return u64::MAX;
        }
        let position = seated.shard.replica().ways().position(source).seq;
        seated.readers.get(&source).map_or(position, Reader::seen)
    }

    fn hear(&self, frames: &[PublicFrame]) {
        let mut seated = self.lock();
        for frame in frames {
            if seated.is_busy() || !seated.hear(frame) {
                return;
            }
        }
    }

    fn go_back(&self, first: &PublicFrame) {
        let at = Position { term: first.term, seq: first.first - 1, chain: first.prev_chain };
        self.lock().readers.insert(first.log, Reader::new(first.log, at));
    }

    fn append_again(&self) -> bool {
        let mut seated = self.lock();
        let mut out = Vec::new();
        let known = seated.halted.is_none() && seated.append(&mut out);
        if known {
            seated.rest(out);
        }
        known
    }
}

fn take_up<M: Machine, J: Journal>(
    journal: &J,
    log: LogId,
    extent: Extent,
    poison: Poison,
) -> Result<(Claim, Shard<M>), RecoverError> {
    let claim = ready(journal.claim(log))?;
    let replica = ready(recover::<M, J>(journal, log, extent, |_| {}))?;
    if *replica.tail() != claim.tail {
        return Err(RecoverError::Journal(JournalError::Io("the log changed while it was read".into())));
    }
    let term = claim.term;
    Ok((claim, Shard::new(replica, term, poison)))
}
