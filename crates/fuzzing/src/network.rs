//! Every state machine in one network on virtual time, with a real ledger behind all of them; requests of everybody, in
//! any order, through the services' own gRPC servers. After each one every invariant of every machine holds.

use std::time::Duration;

use arbitrary::Unstructured;
use holmes_accounts::Accounts;
use holmes_emission::Emission;
use holmes_kernel::{Call, Handle as _, Id, LogId, Opened, Principal, Refusal, ServiceId, Time};
use holmes_ledger::Ledger;
use holmes_market::Market;
use holmes_proto::edge::{Roles, Scope, SignedRequest};
use holmes_runtime::rig::{Rig, Seat};
use holmes_scheduling::Scheduling;
use holmes_staking::Staking;
use holmes_store::journal::memory::Journal;
use holmes_testing::now;
use holmes_treasury::Treasury;
use http_body_util::Full;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

mod people;
mod wire;

use people::{GENESIS, party, public};

const START: Time = Time::from_millis(20_832 * 86_400_000);
const EPOCH_S: u64 = 45;
/// Requests of one input: enough for a story, few enough to be quick.
const MOST_STEPS: usize = 40;
/// How long time may pass at once, ms: across a beat, a second, a window, an epoch, some epochs.
const WAITS: [u64; 6] = [1, 1_000, 5_000, 45_000, 100_000, 600_000];
/// Every epoch of the network is closed by all of its services: some of them in one input.
const MOST_WAIT_MS: u64 = 1_800_000;

type Door<M> = Seat<M, Journal>;
type Routes =
    tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, std::convert::Infallible>;

struct Network {
    rig: Rig<Journal>,
    accounts: Door<Accounts>,
    ledger: Door<Ledger>,
    market: Door<Market>,
    scheduling: Door<Scheduling>,
    staking: Door<Staking>,
    doors: Vec<(&'static str, Routes)>,
    asked: u32,
    waited: u64,
}

fn log(service: u16) -> LogId {
    LogId::new(1, ServiceId(service))
}

fn opened(params: Vec<u8>) -> Opened {
    Opened { cell: 1, shard: 0, profile_hash: GENESIS.to_vec(), params }
}

impl Network {
    fn new() -> Network {
        let mut rig = Rig::new(Journal::default(), START);
        let tge_at_ms = START.millis();
        let of_ledger = holmes_ledger::params::defaults(people::assets());
        let mut treasury = holmes_treasury::params::defaults();
        (treasury.epoch_s, treasury.tge_at_ms) = (EPOCH_S as u32, tge_at_ms);
        let mut staking = holmes_staking::params::defaults();
        (staking.epoch_s, staking.tge_at_ms, staking.hardware_pass_days) = (EPOCH_S, tge_at_ms, 90);
        let mut scheduling = holmes_scheduling::params::defaults();
        (scheduling.epoch_s, scheduling.beat_s, scheduling.tge_at_ms) = (EPOCH_S, 1, tge_at_ms);
        scheduling.public_key = public(people::SCHEDULER).to_vec().into();
        let mut market = holmes_market::params::defaults();
        (market.epoch_s, market.tge_at_ms, market.window_ms) = (EPOCH_S, tge_at_ms, 5_000);
        let mut emission = holmes_emission::params::defaults();
        (emission.epoch_s, emission.tge_at_ms) = (EPOCH_S, tge_at_ms);
        let staff = holmes_accounts::params::FirstStaff {
            public_keys: vec![public(people::STAFF)],
            api_key_hashes: Vec::new(),
        };
        let accounts = holmes_accounts::params::defaults(&staff);
        let ledger: Door<Ledger> = rig.add(log(1), opened(of_ledger.encode_to_vec())).unwrap();
        let accounts: Door<Accounts> = rig.add(log(2), opened(accounts.encode_to_vec())).unwrap();
        let staking: Door<Staking> = rig.add(log(3), opened(staking.encode_to_vec())).unwrap();
        let scheduling: Door<Scheduling> = rig.add(log(4), opened(scheduling.encode_to_vec())).unwrap();
        let market: Door<Market> = rig.add(log(5), opened(market.encode_to_vec())).unwrap();
        let emission: Door<Emission> = rig.add(log(6), opened(emission.encode_to_vec())).unwrap();
        let treasury: Door<Treasury> = rig.add(log(7), opened(treasury.encode_to_vec())).unwrap();
        let signer = people::key(people::SCHEDULER);
        let of_scheduling = holmes_scheduling::api::server(scheduling.clone(), signer, GENESIS, 1);
        let doors = vec![
            ("accounts", Routes::new(holmes_accounts::api::server(accounts.clone()))),
            ("emission", Routes::new(holmes_emission::api::server(emission))),
            ("ledger", Routes::new(holmes_ledger::api::server(ledger.clone()))),
            ("market", Routes::new(holmes_market::api::server(market.clone()))),
            ("scheduling", Routes::new(of_scheduling)),
            ("staking", Routes::new(holmes_staking::api::server(staking.clone()))),
            ("treasury", Routes::new(holmes_treasury::api::server(treasury))),
        ];
        let mut network =
            Network { rig, accounts, ledger, market, scheduling, staking, doors, asked: 0, waited: 0 };
        network.rig.advance(Duration::from_secs(1));
        network.people();
        network
    }

    fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"fuzzed", self.asked)
    }

    fn ask<M: holmes_kernel::Machine>(
        &mut self,
        door: &Door<M>,
        who: Principal,
        command: M::Command,
    ) -> Result<M::Reply, Refusal> {
        let id = self.fresh();
        let answer = now(door.submit(Call::request(who, id), command)).map(|answer| answer.value);
        self.rig.settle();
        answer
    }

    /// A request as the edge lets it in.
    fn call(&mut self, method: &MethodDescriptor, who: Principal, id: Id, message: &[u8]) -> Status {
        let service = method.parent_service().full_name().split('.').nth(1).unwrap().to_owned();
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        let mut request = http::Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(body))))
            .unwrap();
        request.extensions_mut().insert(who);
        let roles = Roles::RENTER | Roles::OPERATOR | Roles::VERIFIER | Roles::STAFF;
        request.extensions_mut().insert(Scope::signature(roles));
        request.extensions_mut().insert(SignedRequest(id));
        let (_, door) = self.doors.iter_mut().find(|(name, _)| *name == service).unwrap();
        let answer = now(now(door.ready()).unwrap().call(request)).unwrap();
        Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::new(Code::Ok, ""))
    }

    fn wait(&mut self, ms: u64) {
        let ms = ms.min(MOST_WAIT_MS.saturating_sub(self.waited));
        self.waited += ms;
        self.rig.advance(Duration::from_millis(ms));
    }
}

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap();
    let edge = ["holmes.gateway.v1.Gateway", "holmes.inference.v1.Inference"];
    let services = pool.services().filter(|service| !edge.contains(&service.full_name()));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Each input is a row of requests and waits; what they ask for is drawn from what there is.
pub(crate) fn commands(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (mut network, methods) = (Network::new(), methods());
    for _ in 0..MOST_STEPS {
        let Ok(what) = step(&mut network, &methods, &mut u) else { break };
        network.rig.settle();
        assert_eq!(network.rig.check(), [], "after {what}");
    }
    assert_eq!(network.rig.restart().unwrap(), Vec::<&str>::new(), "live and replayed differ");
    assert_eq!(network.rig.check(), []);
}

fn step(
    network: &mut Network,
    methods: &[MethodDescriptor],
    u: &mut Unstructured<'_>,
) -> arbitrary::Result<String> {
    if u.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    if u.ratio(1u8, 8u8)? {
        let ms = *u.choose(&WAITS)?;
        network.wait(ms);
        return Ok(format!("a wait of {ms} ms"));
    }
    let changes = u.ratio(5u8, 6u8)?;
    let some: Vec<_> = methods.iter().filter(|method| wire::changes(method) == changes).collect();
    let method = u.choose(&some)?;
    let who = people::caller(wire::meant_for(method), u)?;
    let id = if u.ratio(7u8, 8u8)? {
        network.fresh()
    } else {
        Id::derive(START, b"fuzzed", u.int_in_range(0..=60)?)
    };
    let known = wire::Known::of(network, who);
    let message = wire::message(&method.input(), &known, id, u, 0)?;
    let bytes = message.encode_to_vec();
    let status = if wire::is_signed(method) && u.ratio(3u8, 4u8)? {
        network.as_signed(method, who, &bytes)
    } else {
        network.call(method, who, id, &bytes)
    };
    let what = format!("{} by {who}: {message:?}", method.full_name());
    let defects = [Code::Internal, Code::Unknown, Code::DataLoss];
    assert!(!defects.contains(&status.code()), "{what}: {status:?}");
    Ok(what)
}

impl Network {
    /// What a gateway reports with signatures, which nobody here can make of any bytes: read as the edge reads it, and
    /// brought as the edge brings it once it has looked at them.
    fn as_signed(&mut self, method: &MethodDescriptor, who: Principal, bytes: &[u8]) -> Status {
        match wire::without_signatures(method.name(), bytes) {
            Err(status) => status,
            Ok(command) => {
                let door = self.scheduling.clone();
                match self.ask(&door, who, command) {
                    Ok(_) => Status::new(Code::Ok, ""),
                    Err(refusal) => holmes_proto::edge::status(refusal),
                }
            }
        }
    }

    /// Parties with money, owners with nodes that are bonded and attached, a model, a session.
    fn people(&mut self) {
        people::come(self);
    }
}

/// The account that party `n` has for an asset.
fn account(n: u8, asset: u32) -> Id {
    Id::v7(START.millis(), [asset as u8, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

/// Whether somebody is one of the parties.
fn is_party(who: Principal) -> bool {
    (1..=people::PARTIES).any(|n| party(n) == who)
}
