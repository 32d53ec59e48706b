//! One machine in its shard, on a disk that is always done.

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::shard::{Delivery, Poison, Request, Submission, recall};
use holmes_kernel::{
    Entry, Frame, Id, Input, LogId, Machine, Opened, Output, Position, Principal, Refusal, Replica,
    ServiceId, Shard, Time,
};
use prost::Message as _;

/// A machine that a test drives through its shard, input by input, on a clock moved by hand. Every call is finished and
/// durable when it returns.
pub struct Driver<M: Machine> {
    shard: Shard<M>,
    log: LogId,
    frames: Vec<Frame>,
    /// The moment; every input is brought at the next one.
    pub now: Time,
    asked: u32,
    heard: u64,
}

impl<M: Machine> Driver<M> {
    /// Provisions the log and opens it.
    pub fn new(log: LogId, now: Time, opened: Opened) -> Driver<M> {
        let first = Replica::<M>::provision(log, now, opened).unwrap();
        let shard = Shard::new(Replica::open(log, &first).unwrap(), 1, Poison::new());
        Driver { shard, log, frames: vec![first], now, asked: 0, heard: 0 }
    }

    /// The state.
    pub fn state(&self) -> &M::State {
        self.shard.replica().state()
    }

    /// The digest of the state alone: without what the log remembers of requests.
    pub fn digest(&self) -> Digest {
        canon::digest(self.state())
    }

    /// The place of the last event.
    pub fn decided(&self) -> u64 {
        self.shard.decided()
    }

    /// Every invariant holds.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.shard.replica().check(), []);
    }

    /// The same log, read from its first frame, is the same state and memory, and its invariants hold.
    #[track_caller]
    pub fn check_replay(&self) {
        let mut replica = Replica::<M>::open(self.log, &self.frames[0]).unwrap();
        self.frames[1..].iter().for_each(|frame| replica.apply(frame).unwrap());
        assert_eq!(replica.digest(), self.shard.replica().digest(), "live and replayed differ");
        assert_eq!(replica.check(), []);
    }

    /// Every event of the log, in order.
    pub fn events(&self) -> impl Iterator<Item = M::Event> {
        let entries = self.frames.iter().flat_map(|frame| frame.entries().unwrap());
        entries.flat_map(|(_, entry)| entry.events).map(|bytes| M::Event::decode(bytes).unwrap())
    }

    /// The event at a place of the log.
    pub fn event(&self, seq: u64) -> M::Event {
        let (first, entry) = self.entry(seq);
        M::Event::decode(entry.events[(seq - first) as usize].clone()).unwrap()
    }

    /// A fresh id of this moment.
    pub fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.now, b"driver", self.asked)
    }

    /// Asks under a fresh request id.
    pub fn ask(&mut self, principal: Principal, command: M::Command) -> Result<M::Reply, Refusal> {
        let id = self.fresh();
        self.ask_as(principal, id, command)
    }

    /// Asks under a request id.
    pub fn ask_as(
        &mut self,
        principal: Principal,
        request_id: Id,
        command: M::Command,
    ) -> Result<M::Reply, Refusal> {
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Request(Request { ticket, principal, request_id, digest, traceparent, command }))
            .expect("a request is answered")
    }

    /// Asks as a bulk submitter, under a number.
    pub fn submit(
        &mut self,
        principal: Principal,
        number: u64,
        command: M::Command,
    ) -> Result<M::Reply, Refusal> {
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Submission(Submission { ticket, principal, number, digest, traceparent, command }))
            .expect("a submission is answered")
    }

    /// What an entry of another service's log causes; the reason of the refusal that stands in the log, if one does.
    pub fn hear(&mut self, sender: ServiceId, command: M::Command) -> Option<String> {
        let source = LogId::new(self.log.cell, sender);
        // One counter for all sources: each sees its numbers rise, with gaps that its reader has skipped.
        let from = self.shard.replica().ways().position(source).seq;
        self.heard += 1;
        self.run(Input::Delivery(Delivery {
            ticket: 0,
            source,
            from,
            to: Position { term: 1, seq: self.heard, chain: [9; 32] },
            ts: Time::from_millis(1),
            principal: Principal::service(sender),
            traceparent: String::new(),
            command: Some(command),
        }));
        let entries = self.frames.last().unwrap().entries().unwrap();
        entries.last().unwrap().1.refused.as_ref().map(|refused| refused.reason.clone())
    }

    /// Lets time pass, and what is due happen.
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.after_millis(ms);
        while self.shard.next_due().is_some_and(|at| at <= self.now) {
            self.run(Input::Tick);
        }
    }

    fn run(&mut self, input: Input<M::Command>) -> Option<Result<M::Reply, Refusal>> {
        self.now = self.now.next();
        let (mut out, mut answer) = (Vec::new(), None);
        self.shard.step(self.now, input, &mut out);
        self.shard.step(self.now, Input::Idle, &mut out);
        while !out.is_empty() {
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Append(frame) => {
                        self.frames.push(frame);
                        self.shard.step(self.now, Input::Appended, &mut out);
                        self.shard.step(self.now, Input::Idle, &mut out);
                    }
                    Output::Reply { answer: given, .. } => answer = Some(given),
                    Output::Recall { seq, command, .. } => {
                        answer = Some(recall::<M>(&self.entry(seq).1, &command));
                    }
                    Output::Delivered { position, .. } => assert_eq!(position.seq, self.heard, "not taken"),
                    Output::Early { .. } | Output::Release { .. } => panic!("nothing here has to wait"),
                    Output::Halt(why) | Output::Reclaim(why) => panic!("the shard stopped: {why}"),
                }
            }
        }
        answer
    }

    /// The entry that holds an event, and the place of its first one.
    fn entry(&self, seq: u64) -> (u64, Entry) {
        let at = self.frames.partition_point(|frame| frame.header().last < seq);
        let entries = self.frames[at].entries().unwrap();
        entries.into_iter().rfind(|(first, _)| *first <= seq).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Script;
    use holmes_proto::treasury::v1::event::Event as Kind;
    use holmes_proto::treasury::v1::{Event, GenesisStepDone};

    const WHO: Principal = Principal::service(ServiceId(9));

    fn steps(steps: &[u32]) -> Vec<Vec<u8>> {
        let kind = |step: &u32| Kind::GenesisStepDone(GenesisStepDone { step: *step });
        Script::saying(steps.iter().map(|step| Event { event: Some(kind(step)) }))
    }

    #[test]
    fn what_is_asked_again_is_recalled_and_every_event_is_found_at_its_place() {
        let log = LogId::new(1, ServiceId(7));
        let opened = Opened { cell: 1, ..Opened::default() };
        let mut driver = Driver::<Script<Event>>::new(log, Time::from_millis(1_800_000_000_000), opened);
        let (id, first) = (driver.fresh(), driver.decided() + 1);
        driver.ask_as(WHO, id, steps(&[1, 2, 3])).unwrap();
        driver.ask_as(WHO, id, steps(&[1, 2, 3])).unwrap();
        assert_eq!(driver.hear(ServiceId(2), steps(&[4])), None);
        assert_eq!(driver.hear(ServiceId(3), steps(&[5, 6])), None);
        assert_eq!(*driver.state(), 6, "nothing ran twice, and both sources were heard");
        let found: Vec<Event> = (first..=driver.decided()).map(|seq| driver.event(seq)).collect();
        let said = driver.events().skip(found.len().abs_diff(driver.events().count()));
        assert_eq!(found, said.collect::<Vec<_>>());
        driver.check_replay();
    }
}
