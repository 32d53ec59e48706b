//! The runner of a machine: one synchronous function, [`Shard::step`]. It decides ahead of the disk on speculative
//! state, gathers entries into frames, hands out one frame at a time, and releases an answer only when everything it
//! depends on is durable. Two drivers call it: tokio in production, `Rig` on virtual time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use prost::bytes::Bytes;

use crate::Table;
use crate::canon::Digest;
use crate::entry::{DueOrigin, Entry, Origin, Refused, RequestOrigin, SourceOrigin, SubmitterOrigin};
use crate::frame::{ENTRY_BYTES, ENTRY_EVENTS, Frame, Open, entry_len};
use crate::id::{LogId, Position, Principal, Time};
use crate::machine::{Ctx, Event, Machine, Meta, Refusal, Rejection};
use crate::replica::{Replica, SCHEMA};
use crate::ways::Number;
use crate::weak::{Guard, is_off};

mod entries;
mod inout;
mod refusals;

pub use entries::recall;
use entries::{head, shorten};
pub use inout::{Delivery, Input, Output, Request, Submission, Ticket};
use refusals::*;

/// Commands that panicked, by digest: refused for the rest of the process's life.
pub type Poison = Table<Digest, ()>;

/// How many due commands one tick may carry out before others have their turn.
const DUE_PER_TICK: usize = 16;
/// How far log time may lie behind the clock while a frame waits for the disk. Well below [`crate::window::WINDOW_AHEAD_MS`],
/// or whoever takes a new id in a long standstill would hear that it is too far ahead (E-2.3).
const MOST_LAG_MS: u64 = 60_000;
/// How many poisoned digests are kept; beyond that the log halts, since something larger is wrong.
const MOST_POISON: usize = 1_024;

/// A machine that is being run by the owner of its log.
pub struct Shard<M: Machine> {
    replica: Replica<M>,
    term: u64,
    /// The frame that entries are written to.
    open: Option<Open>,
    /// Full frames that wait for their turn.
    ready: VecDeque<Frame>,
    /// The end of the frame that is being made durable.
    in_flight: Option<u64>,
    durable: u64,
    /// Answers with the sequence number that must be durable first; rising.
    waiting: VecDeque<(u64, Output<M>)>,
    poison: Poison,
    /// What everyone hears once nothing more may be decided.
    stopped: Option<Refusal>,
    events: Vec<M::Event>,
}

impl<M: Machine> Shard<M> {
    /// Runs a machine from the end of its log, under a claim's term.
    pub fn new(replica: Replica<M>, term: u64, poison: Poison) -> Shard<M> {
        let durable = replica.tail().seq;
        Shard {
            replica,
            term,
            open: None,
            ready: VecDeque::new(),
            in_flight: None,
            durable,
            waiting: VecDeque::new(),
            poison,
            stopped: None,
            events: Vec::new(),
        }
    }

    /// The speculative state: ahead of the disk. What is learnt from it may be told only behind a [`Input::Gate`].
    pub fn replica(&self) -> &Replica<M> {
        &self.replica
    }

    /// The last sequence number that is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last sequence number that was decided.
    pub fn decided(&self) -> u64 {
        self.open.as_ref().map_or(self.replica.tail().seq, |open| open.next() - 1)
    }

    /// Full frames that wait for the disk: a driver stops bringing commands while there are several.
    pub fn backlog(&self) -> usize {
        self.ready.len()
    }

    /// When the next due command wants to happen.
    pub fn next_due(&self) -> Option<Time> {
        if self.stopped.is_some() {
            return None;
        }
        // A `due` that panics is due at once: the tick that follows halts the log and says so.
        guarded(|| M::due(&self.replica.state)).map_or(Some(Time::default()), |due| due.map(|(at, _)| at))
    }

    /// Takes out what a new shard of the same process must go on refusing.
    pub fn take_poison(&mut self) -> Poison {
        std::mem::take(&mut self.poison)
    }

    /// Takes one input at a moment; pushes what is to be done, in order.
    pub fn step(&mut self, now: Time, input: Input<M::Command>, out: &mut Vec<Output<M>>) {
        if let Some(refusal) = &self.stopped {
            return step_stopped(refusal, input, out);
        }
        self.close_outdated(now);
        match input {
            Input::Request(request) => self.request(now, request, out),
            Input::Submission(submission) => self.submission(now, submission, out),
            Input::Delivery(delivery) => self.delivery(now, delivery, out),
            Input::Tick => self.tick(now, out),
            Input::Gate(ticket) => {
                let seq = self.decided();
                self.when_durable(Output::Release { ticket, seq }, out);
            }
            Input::Appended => self.appended(out),
            Input::Idle => self.hand_out(out),
        }
    }

    fn request(&mut self, now: Time, request: Request<M::Command>, out: &mut Vec<Output<M>>) {
        let Request { ticket, principal, request_id, digest, traceparent, command } = request;
        if let Some(known) = self.replica.ways.window.get(&principal, request_id).copied()
            && !is_off(Guard::Window)
        {
            if known.digest == digest {
                return self.when_durable(Output::Recall { ticket, seq: known.seq, command }, out);
            }
            return self.refuse(ticket, id_reused(request_id), out);
        }
        let moment = self.moment(now);
        if let Err(why) = self.replica.ways.window.admits(&principal, request_id, moment) {
            return self.refuse(ticket, not_taken(why, request_id), out);
        }
        if self.poison.contains(&digest) {
            return self.refuse(ticket, poisoned(), out);
        }
        let origin = Origin::Request(RequestOrigin {
            request_id: Bytes::copy_from_slice(&request_id.to_bytes()),
            digest: Bytes::copy_from_slice(&digest),
        });
        let head = head(origin, &principal, traceparent);
        match self.decide(now, principal, &command, &head) {
            Decided::Yes => self.accept(now, head, ticket, &command, digest, out),
            Decided::No { refusal, remembered: true } => {
                self.record_refusal(now, head, Some(ticket), refusal, out)
            }
            Decided::No { refusal, remembered: false } => self.refuse(ticket, refusal, out),
            Decided::Panicked => {
                self.poison(digest);
                self.refuse(ticket, poisoned(), out);
            }
        }
    }

    fn submission(&mut self, now: Time, submission: Submission<M::Command>, out: &mut Vec<Output<M>>) {
        let Submission { ticket, principal, number, digest, traceparent, command } = submission;
        if !guarded(|| M::may_submit(&self.replica.state, &principal)).unwrap_or(false) {
            return self.refuse(ticket, not_a_submitter(&principal), out);
        }
        match self.replica.ways.number(&principal, number) {
            Number::Next => {}
            Number::Done(known) if known.digest != digest => {
                return self.refuse(ticket, number_reused(number), out);
            }
            Number::Done(known) => {
                return self.when_durable(Output::Recall { ticket, seq: known.seq, command }, out);
            }
            Number::Forgotten => return self.refuse(ticket, forgotten(number), out),
            Number::Gap { expected } => return self.refuse(ticket, gap(number, expected), out),
        }
        let origin = Origin::Submitter(SubmitterOrigin { number, digest: Bytes::copy_from_slice(&digest) });
        let head = head(origin, &principal, traceparent);
        if self.poison.contains(&digest) {
            // On record, as every refusal of a number: the submitter's next ones would wait behind it for ever.
            return self.record_refusal(now, head, Some(ticket), poisoned(), out);
        }
        match self.decide(now, principal, &command, &head) {
            Decided::Yes => self.accept(now, head, ticket, &command, digest, out),
            Decided::No { refusal, .. } => self.record_refusal(now, head, Some(ticket), refusal, out),
            Decided::Panicked => self.record_refusal(now, head, Some(ticket), poisoned(), out),
        }
    }

    fn delivery(&mut self, now: Time, delivery: Delivery<M::Command>, out: &mut Vec<Output<M>>) {
        let Delivery { ticket, source, from, to, ts, principal, traceparent, command } = delivery;
        let position = self.replica.ways.position(source);
        if !(is_off(Guard::Inbox) || from <= position.seq && position.seq < to.seq) {
            return out.push(Output::Delivered { ticket, position });
        }
        if self.moment(now) <= ts && ts < now && self.ready.is_empty() {
            self.close(); // only the open frame's time lies before; one frame in line at most, or batching would end
        }
        if self.moment(now) <= ts {
            return out.push(Output::Early { ticket, until: ts.next() });
        }
        let head = head(Origin::Source(SourceOrigin::new(source, to)), &principal, traceparent);
        let digest = delivery_digest(source, &to);
        self.events.clear();
        let decided = match &command {
            _ if self.poison.contains(&digest) => Decided::No { refusal: poisoned(), remembered: true },
            None => Decided::Yes,
            Some(command) => self.decide(now, principal, command, &head),
        };
        match decided {
            Decided::Yes => {
                if let Err(why) = self.commit(now, &head) {
                    return self.reclaim(digest, why, out);
                }
            }
            Decided::No { refusal, .. } => self.record_refusal(now, head, None, refusal, out),
            // The sender hears of it as of any refusal, and goes on.
            Decided::Panicked => self.record_refusal(now, head, None, poisoned(), out),
        }
        if self.stopped.is_some() {
            return; // the refusal could not be recorded: the position has not moved
        }
        out.push(Output::Delivered { ticket, position: to });
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Output<M>>) {
        for _ in 0..DUE_PER_TICK {
            let (at, command) = match guarded(|| M::due(&self.replica.state)) {
                Ok(Some(due)) => due,
                Ok(None) => return,
                Err(why) => return self.halt(&format!("what is due cannot be told: {why}"), out),
            };
            if at > now.max(self.moment(now)) {
                return;
            }
            if at > self.moment(now) {
                self.close(); // the open frame's time lies before: this one needs a frame of its own
            }
            let head = head(Origin::Due(DueOrigin {}), &Principal::SYSTEM, String::new());
            match self.decide(now, Principal::SYSTEM, &command, &head) {
                Decided::Yes if self.events.is_empty() => {
                    return self.halt("a due command had no effect", out);
                }
                Decided::Yes => {
                    if let Err(why) = self.commit(now, &head) {
                        return self.halt(&format!("a due command broke the state: {why}"), out);
                    }
                }
                Decided::No { refusal, .. } => {
                    return self.halt(&format!("a due command was refused: {refusal}"), out);
                }
                Decided::Panicked => return self.halt("a due command panicked", out),
            }
        }
    }

    /// Asks the machine; its events are in `self.events` afterwards.
    fn decide(&mut self, now: Time, principal: Principal, command: &M::Command, head: &Entry) -> Decided {
        let ctx = Ctx {
            now: self.moment(now),
            principal,
            log: self.replica.log(),
            term: self.term,
            seq: self.decided() + 1,
        };
        self.events.clear();
        let (state, events) = (&self.replica.state, &mut self.events);
        // The refusal's words are the machine's too: `Display` and `is_remembered` belong inside.
        let decide = || {
            M::decide(state, command, &ctx, events).map_err(|why| (Refusal::of(&why), why.is_remembered()))
        };
        match guarded(decide) {
            Err(_) => Decided::Panicked,
            Ok(Err((refusal, remembered))) => Decided::No { refusal, remembered },
            // Replay would take it for a newer build's and halt: the log could never be read again.
            Ok(Ok(())) if self.events.iter().any(|event| event.name().is_none()) => Decided::Panicked,
            Ok(Ok(())) => {
                // The answer to a send names the entry's last event.
                if self.events.iter().rev().skip(1).any(|event| event.send().is_some()) {
                    return Decided::Panicked;
                }
                let bytes = entry_len(head, &self.events);
                if self.events.len() > ENTRY_EVENTS || bytes > ENTRY_BYTES {
                    return Decided::No { refusal: too_large(self.events.len(), bytes), remembered: false };
                }
                Decided::Yes
            }
        }
    }

    fn accept(
        &mut self,
        now: Time,
        head: Entry,
        ticket: Ticket,
        command: &M::Command,
        digest: Digest,
        out: &mut Vec<Output<M>>,
    ) {
        // The answer first: it hangs on the events alone, and when it cannot be made nothing has happened yet.
        let Ok(reply) = guarded(|| M::reply(command, &self.events)) else {
            self.poison(digest);
            return self.refuse(ticket, poisoned(), out);
        };
        if let Err(why) = self.commit(now, &head) {
            out.push(Output::Reply { ticket, answer: Err(poisoned()), seq: 0 });
            return self.reclaim(digest, why, out);
        }
        let seq = self.decided();
        self.when_durable(Output::Reply { ticket, answer: Ok(reply), seq }, out);
    }

    /// Lets the decided events happen in the speculative state and writes the entry. After an error the state is not
    /// to be used any more.
    fn commit(&mut self, now: Time, head: &Entry) -> Result<(), String> {
        if self.open.as_ref().is_some_and(|open| !open.has_room()) {
            self.close();
        }
        let ts = self.moment(now);
        let (log, term) = (self.replica.log(), self.term);
        let principal = head.asked_by();
        let tail = *self.replica.tail();
        let open = self.open.get_or_insert_with(|| Open::new(log, term, ts, SCHEMA, &tail));
        let first = open.next();
        let (replica, events) = (&mut self.replica, &self.events);
        let begins_frame = open.is_empty();
        let happened = guarded(|| {
            if begins_frame {
                replica.ways.advance(ts);
            }
            for (seq, event) in (first..).zip(events) {
                M::evolve(&mut replica.state, event, &Meta { ts, principal, term, seq });
            }
            if !is_off(Guard::Step) {
                M::check_step(&replica.state, events).map_err(|broken| broken.to_string())?;
            }
            replica.ways.record(head, first).map_err(str::to_owned)
        });
        happened.flatten()?;
        open.push(head, events);
        Ok(())
    }

    fn record_refusal(
        &mut self,
        now: Time,
        mut head: Entry,
        ticket: Option<Ticket>,
        mut refusal: Refusal,
        out: &mut Vec<Output<M>>,
    ) {
        shorten(&mut refusal.message);
        head.refused = Some(Refused::from(&refusal));
        self.events.clear();
        if let Err(why) = self.commit(now, &head) {
            return self.halt(&format!("a refusal could not be recorded: {why}"), out);
        }
        if let Some(ticket) = ticket {
            let seq = self.decided();
            self.when_durable(Output::Reply { ticket, answer: Err(refusal), seq }, out);
        }
    }

    /// A refusal that is not recorded still depends on all that was decided before it.
    fn refuse(&mut self, ticket: Ticket, refusal: Refusal, out: &mut Vec<Output<M>>) {
        let seq = self.decided();
        self.when_durable(Output::Reply { ticket, answer: Err(refusal), seq }, out);
    }

    /// Refuses a command from now on. When there are too many to remember the newest is not: it panics again, and the
    /// state is as it was again.
    fn poison(&mut self, digest: Digest) {
        if self.poison.len() < MOST_POISON {
            self.poison.insert(digest, ());
        }
    }

    /// The speculative state is broken. Each command does that once; too many different ones are no accident.
    fn reclaim(&mut self, digest: Digest, why: String, out: &mut Vec<Output<M>>) {
        if self.poison.len() >= MOST_POISON {
            return self.halt("more commands broke the state than can be remembered", out);
        }
        self.poison(digest);
        self.stopped = Some(restarting());
        out.push(Output::Reclaim(why));
    }

    fn halt(&mut self, why: &str, out: &mut Vec<Output<M>>) {
        self.stopped = Some(halted());
        out.push(Output::Halt(why.to_owned()));
    }

    fn when_durable(&mut self, output: Output<M>, out: &mut Vec<Output<M>>) {
        let needs = self.decided();
        if (needs <= self.durable && self.waiting.is_empty()) || is_off(Guard::Durable) {
            out.push(output);
        } else {
            self.waiting.push_back((needs, output));
        }
    }

    fn appended(&mut self, out: &mut Vec<Output<M>>) {
        if let Some(last) = self.in_flight.take() {
            self.durable = last;
        }
        while self.waiting.front().is_some_and(|(needs, _)| *needs <= self.durable) {
            out.extend(self.waiting.pop_front().map(|(_, output)| output));
        }
    }

    fn hand_out(&mut self, out: &mut Vec<Output<M>>) {
        if self.in_flight.is_some() {
            return;
        }
        if self.ready.is_empty() {
            self.close();
        }
        if let Some(frame) = self.ready.pop_front() {
            self.in_flight = Some(frame.header().last);
            out.push(Output::Append(frame));
        }
    }

    /// Ends the frame that entries are written to.
    fn close(&mut self) {
        if let Some(open) = self.open.take_if(|open| !open.is_empty()) {
            let frame = open.freeze();
            self.replica.passed(frame.tail());
            self.ready.push_back(frame);
        }
    }

    /// A frame that has waited long for the disk is closed, however small: what is asked now is not judged by its time.
    fn close_outdated(&mut self, now: Time) {
        if self.open.as_ref().is_some_and(|open| open.ts().after_millis(MOST_LAG_MS) < now) {
            self.close();
        }
    }

    /// Log time of what is decided now: that of the open frame, or of the one that would be opened.
    fn moment(&self, now: Time) -> Time {
        match &self.open {
            Some(open) if open.has_room() => open.ts(),
            Some(open) => open.ts().next().max(now),
            None => self.replica.tail().ts.next().max(now),
        }
    }
}

/// A stopped shard refuses what comes; its speculative state is not to be believed.
fn step_stopped<M: Machine>(refusal: &Refusal, input: Input<M::Command>, out: &mut Vec<Output<M>>) {
    let ticket = match input {
        Input::Request(Request { ticket, .. }) => ticket,
        Input::Submission(Submission { ticket, .. }) => ticket,
        Input::Gate(ticket) => ticket,
        Input::Delivery(_) | Input::Tick | Input::Appended | Input::Idle => return,
    };
    out.push(Output::Reply { ticket, answer: Err(refusal.clone()), seq: 0 });
}

enum Decided {
    Yes,
    No {
        refusal: Refusal,
        remembered: bool,
    },
    /// Or decided on what no log may hold. The state is as it was: `decide` only looks at it.
    Panicked,
}

fn delivery_digest(source: LogId, to: &Position) -> Digest {
    crate::canon::digest(&("delivery", source, to))
}

/// Runs the machine's code: a panic becomes its words.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| text_of(panic.as_ref()))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}
