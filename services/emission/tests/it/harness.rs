//! Emission on a disk that is always done, and a ledger whose moods the test chooses.

use std::collections::BTreeMap;
use std::future::Future;

use holmes_emission::command::{Fact, Outcome, WorkRow};
use holmes_emission::state::{ACCOUNTS, Account, Awaited};
use holmes_emission::{Command, Emission, LEDGER, Reply, State, params};
use holmes_kernel::shard::{Delivery, Poison, Request};
use holmes_kernel::{
    Amount, Event as _, Frame, Id, Input, LogId, Opened, Output, Position, Principal, PrincipalKind, Refusal,
    Replica, ServiceId, Shard, Time, canon,
};
use holmes_proto::emission::v1::{Event, Params};
use holmes_proto::ledger::v1 as ledger;
use prost::Message;

pub(crate) const HOL: u64 = 1_000_000_000;
pub(crate) const EPOCH_MS: u64 = 45_000;
pub(crate) const START: Time = Time::from_millis(20_832 * 86_400_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const SOURCES: [ServiceId; 3] =
    [holmes_emission::STAKING, holmes_emission::SCHEDULING, holmes_emission::MARKET];
const LOG: LogId = LogId::new(1, ServiceId(6));

/// The n-th owner.
pub(crate) fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The n-th node.
pub(crate) fn node_id(n: u8) -> Id {
    Id::from_bytes([100 + n; 16])
}

/// The account that the n-th node is paid to.
pub(crate) fn account(n: u8) -> Id {
    Id::from_bytes([200 + n; 16])
}

/// Epochs of 45 s from the start on, changed.
pub(crate) fn with(change: impl FnOnce(&mut Params)) -> Params {
    let mut params = params::defaults();
    (params.epoch_s, params.tge_at_ms) = (EPOCH_MS / 1_000, START.millis());
    change(&mut params);
    params
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() }
}

/// What a future that never waits gives.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a rig never waits"),
    }
}

pub(crate) fn bonded(n: u8, of: u8, slashable: u64, rating_milli_cu: u32) -> Fact {
    Fact::Node {
        node: node_id(n),
        owner: owner(of),
        kind: 1,
        slashable: Amount::new(slashable),
        required: Amount::new(1_000 * HOL),
        rating_milli_cu,
        barred: false,
        registered: false,
    }
}

pub(crate) fn worked(n: u8, of: u8, full: bool, units: u64, fees_micro_usd: u64) -> WorkRow {
    WorkRow { node: node_id(n), owner: owner(of), full, units, fees_micro_usd }
}

pub(crate) struct Driver {
    shard: Shard<Emission>,
    frames: Vec<Frame>,
    pub(crate) now: Time,
    asked: u32,
    heard: BTreeMap<u16, u64>,
    /// What was sent and not answered, by sequence number.
    sent: BTreeMap<u64, Vec<u8>>,
    /// The ledger's books, as it would have them.
    pub(crate) balances: BTreeMap<String, u64>,
}

impl Driver {
    pub(crate) fn new(params: &Params) -> Driver {
        let first = Replica::<Emission>::provision(LOG, START, opened(params)).unwrap();
        let shard = Shard::new(Replica::open(LOG, &first).unwrap(), 1, Poison::new());
        let mut driver = Driver {
            shard,
            frames: vec![first],
            now: START,
            asked: 0,
            heard: BTreeMap::new(),
            sent: BTreeMap::new(),
            balances: BTreeMap::new(),
        };
        let pools = [Account::Trr, Account::Br, Account::Verifier];
        for (account, units) in pools.into_iter().zip(driver.state().held) {
            let id = driver.state().account_id(account).to_string();
            driver.balances.insert(id, units);
        }
        driver
    }

    pub(crate) fn state(&self) -> &State {
        self.shard.replica().state()
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        self.shard.replica().digest()
    }

    pub(crate) fn ask(&mut self, principal: Principal, command: Command) -> Result<Reply, Refusal> {
        self.asked += 1;
        let request_id = Id::derive(self.now, b"driver", self.asked);
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        self.run(Input::Request(Request { ticket, principal, request_id, digest, traceparent, command }))
            .expect("a request is answered")
    }

    pub(crate) fn note(&mut self, source: ServiceId, facts: Vec<Fact>) {
        let at = self.now;
        self.hear(source, Command::Note { source, at, facts });
    }

    fn hear(&mut self, source: ServiceId, command: Command) {
        let heard = self.heard.entry(source.0).or_default();
        let from = *heard;
        *heard += 1;
        let to = Position { term: 1, seq: from + 1, chain: [9; 32] };
        self.run(Input::Delivery(Delivery {
            ticket: 0,
            source: LogId::new(1, source),
            from,
            to,
            ts: Time::from_millis(1),
            principal: Principal::service(source),
            traceparent: String::new(),
            command: Some(command),
        }));
    }

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
                        self.keep(frame);
                        self.shard.step(self.now, Input::Appended, &mut out);
                        self.shard.step(self.now, Input::Idle, &mut out);
                    }
                    Output::Reply { answer: given, .. } => answer = Some(given),
                    Output::Halt(why) | Output::Reclaim(why) => panic!("the shard stopped: {why}"),
                    Output::Recall { .. } | Output::Release { .. } => {}
                    Output::Delivered { .. } | Output::Early { .. } => {}
                }
            }
        }
        answer
    }

    fn keep(&mut self, frame: Frame) {
        for (first, entry) in frame.entries().unwrap() {
            for (seq, bytes) in (first..).zip(&entry.events) {
                let event = Event::decode(bytes.clone()).unwrap();
                if let Some(send) = event.send() {
                    self.sent.insert(seq, send.command.to_vec());
                }
            }
        }
        self.frames.push(frame);
    }

    /// Answers one of the sends that wait. What is carried out moves money, and never more than there is.
    pub(crate) fn answer(&mut self, which: usize, refused: Option<&str>) {
        let waiting: Vec<u64> = self.state().awaited.keys().copied().collect();
        let Some(seq) = waiting.get(which % waiting.len().max(1)).copied() else { return };
        let is_payment = matches!(self.state().awaited[&seq], Awaited::Payments(_));
        let sent = ledger::Command::decode(self.sent[&seq].as_slice()).unwrap();
        let Some(ledger::command::Command::CreateTransfers(request)) = sent.command else {
            let outcome = refused.map_or(Outcome::Done(vec![]), |reason| Outcome::Refused(reason.into()));
            return self.hear(LEDGER, Command::Answered { seq, outcome });
        };
        let mut reasons = Vec::new();
        for (at, transfer) in request.transfers.iter().enumerate() {
            // Of payments every second one fails: each stands by itself. A chain fails as a whole.
            let fails = refused.filter(|_| !is_payment || at % 2 == 0);
            reasons.push(fails.unwrap_or_default().to_owned());
            if fails.is_none() {
                let debit = self.balances.entry(transfer.debit_account_id.clone()).or_default();
                *debit = debit.checked_sub(transfer.amount_units).expect("nothing is overdrawn");
                *self.balances.entry(transfer.credit_account_id.clone()).or_default() +=
                    transfer.amount_units;
            }
        }
        self.hear(LEDGER, Command::Answered { seq, outcome: Outcome::Done(reasons) });
    }

    /// Lets the ledger carry out whatever is asked, until it rests.
    pub(crate) fn settle(&mut self) {
        self.wait(0);
        while !self.state().awaited.is_empty() {
            self.answer(0, None);
            self.wait(0);
        }
    }

    /// The invariants hold, and the ledger has what emission believes.
    pub(crate) fn agrees(&self) {
        assert_eq!(self.shard.replica().check(), []);
        for (account, held) in ACCOUNTS.into_iter().zip(self.state().held) {
            let id = self.state().account_id(account).to_string();
            assert_eq!(self.balances.get(&id).copied().unwrap_or_default(), held, "{account:?}");
        }
    }

    /// The digest of the same log, read from its first frame.
    pub(crate) fn replayed(&self) -> canon::Digest {
        let mut replica = Replica::<Emission>::open(LOG, &self.frames[0]).unwrap();
        self.frames[1..].iter().for_each(|frame| replica.apply(frame).unwrap());
        replica.digest()
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let entries = self.frames.iter().flat_map(|frame| frame.entries().unwrap());
        entries.flat_map(|(_, entry)| entry.events).map(|bytes| Event::decode(bytes).unwrap())
    }
}
