//! A ledger on a disk that is always done.

use std::future::Future;
use std::sync::{Arc, Mutex};

use holmes_kernel::shard::{Delivery, Poison, Request, Submission, recall};
use holmes_kernel::{
    Answer, At, Call, Frame, Handle, Id, Input, LogId, Machine, Opened, Output, Position, Principal,
    PrincipalKind, Refusal, Replica, ServiceId, Shard, Time, Way, canon,
};
use holmes_ledger::{Command, Ledger, Reply, State, params};
use holmes_proto::ledger::v1::{Asset, Params};
use prost::Message;

pub(crate) const HOL: u32 = 1;
pub(crate) const USD: u32 = 2;
pub(crate) const CAP: u64 = 1_000_000_000_000_000_000;
pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const MARKET: Principal = Principal::service(ServiceId(9));
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));

const LOG: LogId = LogId::new(1, ServiceId(1));

pub(crate) fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The n-th account of an asset.
pub(crate) fn account(n: u8, asset: u32) -> Id {
    Id::v7(START_MS, [n, asset as u8, 1, 1, 1, 1, 1, 1, 1, 1])
}

pub(crate) fn default_params() -> Params {
    let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units: CAP };
    params::defaults(vec![hol, Asset { id: USD, name: "USD".into(), decimals: 6, cap_units: 0 }])
}

pub(crate) struct Driver {
    shard: Shard<Ledger>,
    frames: Vec<Frame>,
    pub(crate) now: Time,
    asked: u32,
    sent: u64,
}

impl Driver {
    pub(crate) fn new(params: Params) -> Driver {
        let opened = Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() };
        let now = Time::from_millis(START_MS);
        let first = Replica::<Ledger>::provision(LOG, now, opened).unwrap();
        let shard = Shard::new(Replica::open(LOG, &first).unwrap(), 1, Poison::new());
        Driver { shard, frames: vec![first], now, asked: 0, sent: 0 }
    }

    pub(crate) fn state(&self) -> &State {
        self.shard.replica().state()
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        canon::digest(self.state())
    }

    pub(crate) fn decided(&self) -> u64 {
        self.shard.decided()
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.shard.replica().check(), []);
    }

    /// The same log, read from its first frame.
    pub(crate) fn replayed(&self) -> Replica<Ledger> {
        let mut replica = Replica::open(LOG, &self.frames[0]).unwrap();
        self.frames[1..].iter().for_each(|frame| replica.apply(frame).unwrap());
        replica
    }

    pub(crate) fn live_digest(&self) -> canon::Digest {
        self.shard.replica().digest()
    }

    /// A fresh id of this moment.
    pub(crate) fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.now, b"harness", self.asked)
    }

    pub(crate) fn ask(&mut self, principal: Principal, command: Command) -> Result<Reply, Refusal> {
        let id = self.fresh();
        self.ask_as(principal, id, command)
    }

    pub(crate) fn ask_as(
        &mut self,
        principal: Principal,
        id: Id,
        command: Command,
    ) -> Result<Reply, Refusal> {
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Request(Request { ticket, principal, request_id: id, digest, traceparent, command }))
            .expect("a request is answered")
    }

    pub(crate) fn submit(
        &mut self,
        principal: Principal,
        number: u64,
        command: Command,
    ) -> Result<Reply, Refusal> {
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Submission(Submission { ticket, principal, number, digest, traceparent, command }))
            .expect("a submission is answered")
    }

    /// What another service sends; answers the refusal that stands in the log, if one does.
    pub(crate) fn deliver(&mut self, sender: ServiceId, command: Command) -> Option<String> {
        let from = self.sent;
        self.sent += 1;
        let to = Position { term: 1, seq: self.sent, chain: [9; 32] };
        let delivery = Delivery {
            ticket: 0,
            source: LogId::new(1, sender),
            from,
            to,
            ts: Time::from_millis(1),
            principal: Principal::service(sender),
            traceparent: String::new(),
            command: Some(command),
        };
        self.run(Input::Delivery(delivery));
        let entries = self.frames.last().unwrap().entries().unwrap();
        entries.last().unwrap().1.refused.as_ref().map(|refused| refused.reason.clone())
    }

    /// Lets time pass, and what is due happen.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now = self.now.after_millis(ms);
        while self.shard.next_due().is_some_and(|at| at <= self.now) {
            self.run(Input::Tick);
        }
    }

    fn run(&mut self, input: Input<Command>) -> Option<Result<Reply, Refusal>> {
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
                    Output::Recall { seq, command, .. } => answer = Some(self.recall(seq, &command)),
                    Output::Halt(why) | Output::Reclaim(why) => panic!("the shard stopped: {why}"),
                    Output::Release { .. } | Output::Delivered { .. } | Output::Early { .. } => {}
                }
            }
        }
        answer
    }

    fn recall(&self, seq: u64, command: &Command) -> Result<Reply, Refusal> {
        let entries = self.frames.iter().flat_map(|frame| frame.entries().unwrap());
        let (_, entry) = entries.into_iter().find(|(first, _)| *first == seq).unwrap();
        recall::<Ledger>(&entry, command)
    }
}

/// The driver as a handle.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) Arc<Mutex<Driver>>);

impl Handle<Ledger> for Local {
    fn submit(
        &self,
        call: Call,
        command: <Ledger as Machine>::Command,
    ) -> impl Future<Output = Result<Answer<Reply>, Refusal>> + Send {
        let mut driver = self.0.lock().unwrap();
        let answer = match call.way {
            Way::Request(id) => driver.ask_as(call.principal, id, command),
            Way::Submission(number) => driver.submit(call.principal, number, command),
        };
        let seq = driver.decided();
        std::future::ready(answer.map(|value| Answer { value, seq }))
    }

    fn read<T: Send + 'static>(
        &self,
        _at: At,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<Answer<T>, Refusal>> + Send {
        let driver = self.0.lock().unwrap();
        std::future::ready(Ok(Answer { value: look(driver.state()), seq: driver.decided() }))
    }
}

/// What a future that never waits gives.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the local handle never waits"),
    }
}
