//! A treasury on a disk that is always done, and a ledger whose answers the test invents.

use holmes_kernel::shard::{Delivery, Poison, Request};
use holmes_kernel::{
    Frame, Id, Input, LogId, Opened, Output, Position, Principal, PrincipalKind, Refusal, Replica, ServiceId,
    Shard, Time, canon,
};
use holmes_proto::treasury::v1::{GrantParams, Params};
use holmes_treasury::{Command, Outcome, Reply, State, Treasury, params};
use prost::Message;

pub(crate) const START_MS: u64 = 1_800_014_400_000;
/// 00:00 UTC of the day of `START_MS`.
pub(crate) const TGE: Time = Time::from_millis(1_799_971_200_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const HOL: u32 = 1;
pub(crate) const CELL: u16 = 1;
pub(crate) const LEDGER: ServiceId = ServiceId(1);
pub(crate) const TREASURY: ServiceId = ServiceId(7);

const LOG: LogId = LogId::new(CELL, TREASURY);

pub(crate) fn operator(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The defaults with two operators' grants, two of them to the first.
pub(crate) fn with_grants() -> Params {
    let grant = |name: &str, n, amount_units| GrantParams {
        name: name.into(),
        owner: operator(n).to_string(),
        amount_units,
    };
    Params { grants: vec![grant("a", 1, 1_000), grant("b", 2, 1), grant("c", 1, 500)], ..params::defaults() }
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: CELL.into(), params: params.encode_to_vec(), ..Opened::default() }
}

pub(crate) struct Driver {
    shard: Shard<Treasury>,
    frames: Vec<Frame>,
    pub(crate) now: Time,
    asked: u32,
    heard: u64,
}

impl Driver {
    pub(crate) fn new(params: &Params) -> Driver {
        let now = Time::from_millis(START_MS);
        let first = Replica::<Treasury>::provision(LOG, now, opened(params)).unwrap();
        let shard = Shard::new(Replica::open(LOG, &first).unwrap(), 1, Poison::new());
        Driver { shard, frames: vec![first], now, asked: 0, heard: 0 }
    }

    pub(crate) fn state(&self) -> &State {
        self.shard.replica().state()
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.shard.replica().check(), []);
    }

    pub(crate) fn live_digest(&self) -> canon::Digest {
        self.shard.replica().digest()
    }

    /// The same log, read from its first frame.
    pub(crate) fn replayed(&self) -> Replica<Treasury> {
        let mut replica = Replica::open(LOG, &self.frames[0]).unwrap();
        self.frames[1..].iter().for_each(|frame| replica.apply(frame).unwrap());
        replica
    }

    pub(crate) fn ask(&mut self, principal: Principal, command: Command) -> Result<Reply, Refusal> {
        self.asked += 1;
        let request_id = Id::derive(self.now, b"harness", self.asked);
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Request(Request { ticket, principal, request_id, digest, traceparent, command }))
            .expect("a request is answered")
    }

    /// What the ledger answers to what the event at `sent` carried.
    pub(crate) fn answer(&mut self, sent: u64, outcome: Outcome) {
        let from = self.heard;
        self.heard += 1;
        self.run(Input::Delivery(Delivery {
            ticket: 0,
            source: LogId::new(CELL, LEDGER),
            from,
            to: Position { term: 1, seq: self.heard, chain: [9; 32] },
            ts: Time::from_millis(1),
            principal: Principal::service(LEDGER),
            traceparent: String::new(),
            command: Some(Command::Answered { sent, outcome }),
        }));
    }

    /// The events whose answers are awaited.
    pub(crate) fn awaited(&self) -> Vec<u64> {
        let state = self.state();
        let errands = state.vestings.iter().map(|vesting| &vesting.errand).chain([&state.genesis.errand]);
        errands.filter_map(|errand| errand.awaits).collect()
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
                    Output::Halt(why) | Output::Reclaim(why) => panic!("the shard stopped: {why}"),
                    Output::Recall { .. }
                    | Output::Release { .. }
                    | Output::Delivered { .. }
                    | Output::Early { .. } => {}
                }
            }
        }
        answer
    }
}
