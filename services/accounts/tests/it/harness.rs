//! A machine in a shard over a row of frames, on a clock moved by hand, and the keys that its tests use.

use std::sync::{Arc, Mutex};

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_accounts::params::{FirstStaff, defaults};
use holmes_accounts::possession::{Network, OfferedKey, statement};
use holmes_accounts::{Accounts, Command, Done, State};
use holmes_kernel::shard::{Poison, Request, recall};
use holmes_kernel::{
    Answer, At, Call, Frame, Handle, Id, Input, LogId, Opened, Output, Principal, PrincipalKind, Refusal,
    Replica, ServiceId, Shard, Time, Way, canon,
};
use prost::Message;

pub(crate) const START_MS: u64 = 1_700_000_000_000;
const LOG: LogId = LogId::new(1, ServiceId(2));
const NETWORK: Network = Network { genesis: [7; 16], cell: 1 };

/// The seed of the first staff's key pair.
pub(crate) const STAFF: u8 = 1;

pub(crate) fn public(seed: u8) -> [u8; 32] {
    SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()
}

/// The account of a wallet, or the id of a node or gateway.
pub(crate) fn id(seed: u8) -> Id {
    Id::of_key(&public(seed))
}

pub(crate) fn wallet(seed: u8) -> Principal {
    Principal::new(PrincipalKind::Account, id(seed))
}

pub(crate) fn staff() -> Principal {
    Principal::new(PrincipalKind::Staff, id(STAFF))
}

/// The text of an API key.
pub(crate) fn secret(n: u8) -> String {
    format!("hk_{n:064x}")
}

pub(crate) fn hash(n: u8) -> [u8; 32] {
    *blake3::hash(secret(n).as_bytes()).as_bytes()
}

/// A key pair's public half with its proof.
pub(crate) fn offer(seed: u8, holder: Principal, owner: Option<Id>) -> OfferedKey {
    let signature =
        SigningKey::from_bytes(&[seed; 32]).sign(&statement(&NETWORK, holder, owner, &public(seed)));
    let possession = [*signature.r_bytes(), *signature.s_bytes()];
    OfferedKey { public_key: public(seed), label: format!("key {seed}"), possession }
}

pub(crate) struct Driver {
    shard: Shard<Accounts>,
    frames: Vec<Frame>,
    pub(crate) now: Time,
    asked: u32,
}

impl Driver {
    pub(crate) fn new() -> Driver {
        let mut params = defaults(&FirstStaff { public_keys: vec![public(STAFF)], api_key_hashes: vec![] });
        (params.most_api_keys, params.most_public_keys, params.most_machines) = (4, 3, 10);
        let (profile_hash, params) = (NETWORK.genesis.to_vec(), params.encode_to_vec());
        let opened = Opened { cell: 1, profile_hash, params, ..Opened::default() };
        let now = Time::from_millis(START_MS);
        let first = Replica::<Accounts>::provision(LOG, now, opened).unwrap();
        let shard = Shard::new(Replica::open(LOG, &first).unwrap(), 1, Poison::new());
        Driver { shard, frames: vec![first], now, asked: 0 }
    }

    pub(crate) fn state(&self) -> &State {
        self.shard.replica().state()
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        canon::digest(self.state())
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.shard.replica().check(), []);
    }

    /// The same log, read from its first frame, is the same state and memory.
    pub(crate) fn check_replay(&self) {
        let mut replica = Replica::<Accounts>::open(LOG, &self.frames[0]).unwrap();
        self.frames[1..].iter().for_each(|frame| replica.apply(frame).unwrap());
        assert_eq!(replica.digest(), self.shard.replica().digest());
    }

    /// A fresh id of this moment.
    pub(crate) fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.now, b"harness", self.asked)
    }

    pub(crate) fn ask_as(&mut self, principal: Principal, id: Id, command: Command) -> Result<Done, Refusal> {
        self.now = self.now.next();
        let (ticket, digest, traceparent) = (0, canon::digest(&command), String::new());
        let request = Request { ticket, principal, request_id: id, digest, traceparent, command };
        let (mut out, mut answer) = (Vec::new(), None);
        self.shard.step(self.now, Input::Request(request), &mut out);
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
                    other => panic!("the shard did something else: {other:?}"),
                }
            }
        }
        answer.expect("a request is answered")
    }

    fn recall(&self, seq: u64, command: &Command) -> Result<Done, Refusal> {
        let entries = self.frames.iter().flat_map(|frame| frame.entries().unwrap());
        let (_, entry) = entries.into_iter().find(|(first, _)| *first == seq).unwrap();
        recall::<Accounts>(&entry, command)
    }
}

/// The driver as a handle.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) Arc<Mutex<Driver>>);

impl Handle<Accounts> for Local {
    fn submit(
        &self,
        call: Call,
        command: Command,
    ) -> impl Future<Output = Result<Answer<Done>, Refusal>> + Send {
        let Way::Request(id) = call.way else { panic!("nobody submits in bulk to accounts") };
        let mut driver = self.0.lock().unwrap();
        let answer = driver.ask_as(call.principal, id, command);
        let seq = driver.shard.decided();
        std::future::ready(answer.map(|value| Answer { value, seq }))
    }

    fn read<T: Send + 'static>(
        &self,
        _at: At,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<Answer<T>, Refusal>> + Send {
        let driver = self.0.lock().unwrap();
        std::future::ready(Ok(Answer { value: look(driver.state()), seq: driver.shard.decided() }))
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
