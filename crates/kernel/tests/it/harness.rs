//! One shard, a disk in memory and everything that can go wrong around them, in the order that a schedule says:
//! appends that land late, crashes at any moment, retries, reordered and repeated deliveries, clocks that jump. What
//! must hold at every step is checked at every step; [`crate::harness::Run::finish`] audits the log that is left.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::frame::{FRAME_BYTES, FRAME_EVENTS, HEADER_BYTES};
use holmes_kernel::shard::{Delivery, Input, Output, Poison, Request, Submission, Ticket, recall};
use holmes_kernel::ways::Number;
use holmes_kernel::window::{WINDOW_AGE_MS, WINDOW_AHEAD_MS};
use holmes_kernel::{Entry, Frame, Id, Position, Principal, Refusal, Replica, Shard, Time};

use crate::audit::{self, remember};
use crate::till::{self, Command, Reply, Till};

pub const START_MS: u64 = 1_790_000_000_000;

pub type Answered = Result<Reply, Refusal>;

/// One thing that happens around the shard.
#[derive(Clone, Debug)]
pub enum Op {
    /// A new request; the id's moment is so many ms from now.
    Ask {
        who: u8,
        command: Command,
        skew_ms: i64,
    },
    /// An earlier request once more.
    Again {
        which: usize,
    },
    /// An earlier request's id with another command.
    Reuse {
        which: usize,
        command: Command,
    },
    /// A bulk submitter's number: so many behind the next one (below 0), the next one (0), or beyond it.
    Submit {
        who: u8,
        step: i64,
        command: Command,
    },
    /// A range of a source's log that ends `to` entries from the next one and begins early or late.
    Deliver {
        source: u8,
        to: i64,
        begin: u64,
    },
    Tick,
    Gate,
    Idle,
    /// The append in flight is durable.
    Land,
    Wait {
        ms: u64,
    },
    ClockBack {
        ms: u64,
    },
    /// The process dies; the append in flight was durable, or was not.
    Crash {
        landed: bool,
        by_snapshot: bool,
    },
    Snapshot,
}

/// A request as its caller knows it.
pub struct Asked {
    pub principal: Principal,
    pub id: Id,
    pub command: Command,
    /// The answer that the log remembers, once it was heard.
    pub answer: Option<Answered>,
}

enum Waiting {
    /// And the log times at which it can have been judged.
    Request(usize, RangeInclusive<Time>),
    Submission(Principal, u64),
    Gate {
        decided: u64,
        state: Digest,
    },
    Refused(&'static str),
    Delivery,
}

pub struct Run {
    pub now: Time,
    latest: Time,
    /// What survives.
    pub disk: Vec<Frame>,
    flying: Option<Frame>,
    pub shard: Shard<Till>,
    /// Replays every frame as it is handed out.
    follower: Replica<Till>,
    snapshot: Option<(usize, Vec<u8>)>,
    term: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    tickets: Ticket,
    pub asked: Vec<Asked>,
    /// The last answer to each of them, whatever it was.
    pub heard: Vec<Option<Answered>>,
    pub submitted: BTreeMap<(Principal, u64), (Command, Option<Answered>)>,
    /// What readers were told: place and digest of the machine's state there.
    pub told: Vec<(u64, Digest)>,
    poisoned: BTreeSet<Digest>,
    /// Digest of the command that is being brought, and the refusal that it must get, if any.
    bringing: Option<Digest>,
    coin: bool,
    /// Comes with everything.
    pub traceparent: String,
    pub halted: Option<String>,
    pub reclaims: usize,
}

impl Run {
    pub fn start() -> Run {
        let now = Time::from_millis(START_MS);
        let first = till::provision(1, now);
        let replica = Replica::<Till>::open(till::log(1), &first).expect("a provisioned log opens");
        let follower = Replica::<Till>::open(till::log(1), &first).expect("a provisioned log opens");
        let mut run = Run {
            now,
            latest: now,
            disk: vec![first],
            flying: None,
            shard: Shard::new(replica, 1, Poison::new()),
            follower,
            snapshot: None,
            term: 1,
            waiting: BTreeMap::new(),
            tickets: 0,
            asked: Vec::new(),
            heard: Vec::new(),
            submitted: BTreeMap::new(),
            told: Vec::new(),
            poisoned: BTreeSet::new(),
            bringing: None,
            coin: false,
            traceparent: String::new(),
            halted: None,
            reclaims: 0,
        };
        for who in [1, 2] {
            run.ask(3, Command::Register { who: till::owner(who) }, 0);
        }
        run.settle();
        run
    }

    pub fn play(ops: &[Op]) -> Run {
        let mut run = Run::start();
        for op in ops {
            run.op(op);
        }
        run.finish();
        run
    }

    pub fn op(&mut self, op: &Op) {
        self.now = self.now.next();
        self.coin = !self.coin;
        match op {
            Op::Ask { who, command, skew_ms } => self.ask(*who, command.clone(), *skew_ms),
            Op::Again { which } => self.request(which % self.asked.len()),
            Op::Reuse { which, command } => self.reuse(which % self.asked.len(), command),
            Op::Submit { who, step, command } => self.submit(*who, *step, command),
            Op::Deliver { source, to, begin } => self.deliver(*source, *to, *begin),
            Op::Tick => self.step(Input::Tick),
            Op::Gate => {
                let (decided, state) = (self.shard.decided(), canon::digest(self.shard.replica().state()));
                let ticket = self.ticket(Waiting::Gate { decided, state });
                self.step(Input::Gate(ticket));
            }
            Op::Idle => self.idle(),
            Op::Land => self.land(),
            Op::Wait { ms } => self.now = self.now.after_millis(*ms),
            Op::ClockBack { ms } => {
                self.now = Time::from_micros(self.now.micros().saturating_sub(ms * 1_000));
            }
            Op::Crash { landed, by_snapshot } => self.crash(*landed, *by_snapshot),
            Op::Snapshot if self.flying.is_none() => {
                self.snapshot = Some((self.disk.len(), self.follower.encode()));
            }
            Op::Snapshot => {}
        }
    }

    /// Brings a new request; its place in `asked`.
    pub fn ask(&mut self, who: u8, command: Command, skew_ms: i64) {
        let ms = self.now.millis().saturating_add_signed(skew_ms);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(self.asked.len() as u64).to_be_bytes());
        self.asked.push(Asked { principal: till::owner(who), id: Id::v7(ms, random), command, answer: None });
        self.heard.push(None);
        self.request(self.asked.len() - 1);
    }

    pub fn request(&mut self, which: usize) {
        // Frames at one moment of the clock run ahead of it by a microsecond each.
        let latest = self.latest.max(self.now).max(self.shard.replica().tail().ts);
        let log_time = self.shard.replica().tail().ts..=latest.after_millis(1);
        let ticket = self.ticket(Waiting::Request(which, log_time));
        let Asked { principal, id, command, .. } = &self.asked[which];
        let mut request = request(ticket, *principal, *id, command.clone());
        request.traceparent.clone_from(&self.traceparent);
        self.bringing = Some(request.digest);
        self.step(Input::Request(request));
    }

    fn reuse(&mut self, which: usize, command: &Command) {
        let asked = &self.asked[which];
        let known = self.shard.replica().ways().window.get(&asked.principal, asked.id).is_some();
        if !known || asked.command == *command {
            return;
        }
        let (principal, id) = (asked.principal, asked.id);
        let ticket = self.ticket(Waiting::Refused("REQUEST_ID_REUSED"));
        self.step(Input::Request(request(ticket, principal, id, command.clone())));
    }

    fn submit(&mut self, who: u8, step: i64, command: &Command) {
        let principal = till::owner(1 + who % 2);
        let Number::Gap { expected } = self.shard.replica().ways().number(&principal, 0) else {
            panic!("0 is nobody's next number");
        };
        let number = expected.saturating_add_signed(step);
        let (waiting, command) = match (step, self.submitted.get(&(principal, number))) {
            (0, _) => {
                self.submitted.insert((principal, number), (command.clone(), None));
                (Waiting::Submission(principal, number), command.clone())
            }
            (..0, Some((before, _))) => (Waiting::Submission(principal, number), before.clone()),
            _ if number == expected => return,
            _ => (Waiting::Refused("SUBMITTER_GAP"), command.clone()),
        };
        let ticket = self.ticket(waiting);
        let digest = canon::digest(&command);
        self.bringing = Some(digest);
        let submission =
            Submission { ticket, principal, number, digest, traceparent: self.traceparent.clone(), command };
        self.step(Input::Submission(submission));
    }

    fn deliver(&mut self, source: u8, to: i64, begin: u64) {
        let source = till::log(2 + u16::from(source % 2));
        let before = self.shard.replica().ways().position(source);
        let next = audit::entry_behind(before.seq);
        let end = audit::foreign(source, next.saturating_add_signed(to).max(1));
        let earliest = audit::last_cause_before(end.number);
        let from = earliest + begin % (end.at.seq - earliest);
        let ticket = self.ticket(Waiting::Delivery);
        self.bringing = None;
        let delivery = Delivery {
            ticket,
            source,
            from,
            to: end.at,
            ts: end.ts,
            principal: Principal::service(source.svc),
            traceparent: self.traceparent.clone(),
            command: end.command,
        };
        let out = self.hand_in(Input::Delivery(delivery));
        let takes = from <= before.seq && before.seq < end.at.seq;
        match out.iter().find_map(position_of) {
            Some(Some(position)) => {
                assert_eq!(
                    position,
                    if takes { end.at } else { before },
                    "a range is taken once or not at all"
                );
                assert_eq!(position, self.shard.replica().ways().position(source));
            }
            Some(None) => {
                assert!(takes, "only what would be taken is early");
                assert!(self.now <= end.ts || self.shard.backlog() > 0, "a delivery waits for no reason");
            }
            None => {
                assert!(out.iter().any(|o| matches!(o, Output::Reclaim(_))), "a delivery is always answered")
            }
        }
        self.outputs(out);
    }

    pub fn idle(&mut self) {
        self.step(Input::Idle);
        self.compare();
    }

    pub fn land(&mut self) {
        if let Some(frame) = self.flying.take() {
            self.disk.push(frame);
            self.step(Input::Appended);
            self.compare();
        }
    }

    /// Lets everything decided become durable.
    pub fn settle(&mut self) {
        loop {
            self.idle();
            if self.flying.is_none() {
                break;
            }
            self.land();
        }
        assert_eq!(self.shard.durable(), self.shard.decided());
        assert!(self.waiting.values().all(|w| matches!(w, Waiting::Delivery)), "somebody waits for ever");
    }

    pub fn crash(&mut self, landed: bool, by_snapshot: bool) {
        self.poisoned.clear();
        self.rebuild(landed, by_snapshot, Poison::new());
    }

    fn rebuild(&mut self, landed: bool, by_snapshot: bool, poison: Poison) {
        if let Some(frame) = self.flying.take()
            && landed
        {
            self.disk.push(frame);
        }
        self.waiting.clear();
        self.follower = replay(&self.disk);
        let mut replica = replay(&self.disk);
        if let Some((frames, bytes)) = &self.snapshot
            && by_snapshot
        {
            let mut restored = Replica::<Till>::decode(bytes).expect("a snapshot reads back");
            for frame in &self.disk[*frames..] {
                restored.apply(frame).expect("the tail follows the snapshot");
            }
            assert_eq!(restored.digest(), replica.digest(), "snapshot and tail are the whole log");
            replica = restored;
        }
        self.term += 1;
        self.shard = Shard::new(replica, self.term, poison);
    }

    pub fn step(&mut self, input: Input<Command>) {
        let out = self.hand_in(input);
        self.outputs(out);
    }

    /// Every input passes here: what it finds open may have the time of any of them.
    fn hand_in(&mut self, input: Input<Command>) -> Vec<Output<Till>> {
        self.latest = self.latest.max(self.now);
        let mut out = Vec::new();
        self.shard.step(self.now, input, &mut out);
        out
    }

    fn outputs(&mut self, out: Vec<Output<Till>>) {
        let durable = self.disk.last().map_or(0, |frame| frame.header().last);
        let mut reclaim = false;
        for output in out {
            match output {
                Output::Append(frame) => self.take_off(frame),
                Output::Reply { ticket, answer, seq } => {
                    assert!(seq <= durable, "an answer left before {seq} was durable");
                    self.answered(ticket, answer);
                }
                Output::Recall { ticket, seq, command } => {
                    let entry = self.entry_at(seq).expect("what is recalled is durable");
                    self.answered(ticket, recall::<Till>(&entry, &command));
                }
                Output::Release { ticket, seq } => {
                    assert!(seq <= durable, "a gate opened before {seq} was durable");
                    match self.waiting.remove(&ticket) {
                        Some(Waiting::Gate { decided, state }) => {
                            assert_eq!(seq, decided);
                            self.told.push((seq, state));
                        }
                        _ => panic!("ticket {ticket} is no gate"),
                    }
                }
                Output::Delivered { ticket, .. } | Output::Early { ticket, .. } => {
                    self.waiting.remove(&ticket);
                }
                Output::Reclaim(_) => reclaim = true,
                Output::Halt(why) => self.halted = Some(why),
            }
        }
        if reclaim {
            self.reclaims += 1;
            if let Some(digest) = self.bringing {
                assert!(self.poisoned.insert(digest), "a poisoned command was let in again");
            }
            let mut shard =
                std::mem::replace(&mut self.shard, Shard::new(replay(&self.disk), 0, Poison::new()));
            self.rebuild(self.coin, self.coin, shard.take_poison());
        }
    }

    fn take_off(&mut self, frame: Frame) {
        assert!(self.flying.is_none(), "one append at a time");
        let header = *frame.header();
        assert!(frame.bytes().len() <= HEADER_BYTES + FRAME_BYTES, "a frame is within its limits");
        assert!(header.last - header.first < FRAME_EVENTS, "a frame is within its limits");
        assert_eq!(header.first, self.follower.tail().seq + 1, "sequence numbers are dense");
        assert_eq!(&header.prev_chain, &self.follower.tail().chain, "frames are chained");
        assert!(header.ts > self.follower.tail().ts, "log time rises strictly");
        assert_eq!(header.term, self.term);
        let read = Frame::decode(frame.bytes().clone()).expect("a frame handed out reads back");
        assert_eq!(read, frame);
        self.follower.apply(&read).expect("a frame handed out can be replayed");
        self.flying = Some(read);
    }

    fn answered(&mut self, ticket: Ticket, answer: Answered) {
        match self.waiting.remove(&ticket).expect("nobody is answered twice") {
            Waiting::Request(which, log_time) => {
                if answer.as_ref().is_err_and(|refusal| refusal.reason == "ID_EXPIRED") {
                    let moment = self.asked[which].id.moment().expect("ids are UUIDv7");
                    let old = moment.after_millis(WINDOW_AGE_MS) < *log_time.end();
                    let new = moment > log_time.start().after_millis(WINDOW_AHEAD_MS);
                    assert!(old || new, "a good id was refused");
                }
                self.heard[which] = Some(answer.clone());
                remember(&mut self.asked[which].answer, answer);
            }
            Waiting::Submission(who, number) => {
                let kept = self.submitted.get_mut(&(who, number)).expect("it was brought");
                remember(&mut kept.1, answer);
            }
            Waiting::Refused(reason) => {
                assert_eq!(answer.map_err(|refusal| refusal.reason.to_string()), Err(reason.to_owned()));
            }
            Waiting::Gate { .. } | Waiting::Delivery => {
                panic!("{answer:?} is no answer to a gate or delivery")
            }
        }
    }

    /// Where nothing is open, the live state is what a replay of the frames handed out gives.
    fn compare(&self) {
        if self.shard.backlog() == 0 && self.shard.decided() == self.follower.tail().seq {
            assert_eq!(self.shard.replica().digest(), self.follower.digest(), "live and replayed differ");
        }
    }

    fn entry_at(&self, seq: u64) -> Option<Entry> {
        let at = self.disk.partition_point(|frame| frame.header().last < seq);
        let entries = self.disk.get(at)?.entries().expect("frames on disk are whole");
        entries.into_iter().find(|(first, _)| *first == seq).map(|(_, entry)| entry)
    }

    fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.tickets += 1;
        self.waiting.insert(self.tickets, waiting);
        self.tickets
    }

    /// Everybody is answered, then the process dies once more, and what is left is audited.
    pub fn finish(&mut self) {
        assert_eq!(self.halted, None, "a machine that behaves never halts its log");
        self.settle();
        self.crash(true, true);
        audit::audit(self);
    }
}

pub fn request(ticket: Ticket, principal: Principal, request_id: Id, command: Command) -> Request<Command> {
    let digest = canon::digest(&command);
    Request { ticket, principal, request_id, digest, traceparent: String::new(), command }
}

pub fn replay(frames: &[Frame]) -> Replica<Till> {
    let read = |frame: &Frame| Frame::decode(frame.bytes().clone()).expect("frames on disk are whole");
    let mut replica = Replica::open(till::log(1), &read(&frames[0])).expect("the log opens");
    for frame in &frames[1..] {
        replica.apply(&read(frame)).expect("the log replays");
    }
    replica
}

fn position_of(output: &Output<Till>) -> Option<Option<Position>> {
    match output {
        Output::Delivered { position, .. } => Some(Some(*position)),
        Output::Early { .. } => Some(None),
        _ => None,
    }
}
