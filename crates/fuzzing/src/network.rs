//! Every state machine in one network on virtual time, with a real ledger behind all of them; requests of everybody, in
//! any order, through the services' own gRPC servers. After each one every invariant of every machine holds.

use std::time::Duration;

use arbitrary::Unstructured;
use holmes_kernel::{Id, Principal};
use holmes_market::command::OpenSession;
use holmes_proto::edge::{Roles, Scope, SignedRequest};
use holmes_sim::world::{GENESIS, RENTERS, SCHEDULER, START, USD, World, key, party};
use holmes_testing::now;
use http_body_util::Full;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::bytes::garbled;

mod people;
mod wire;

/// Requests of one input: enough for a story, few enough to be quick.
const MOST_STEPS: usize = 40;
/// How long time may pass at once, ms: across a beat, a second, a window, an epoch, some epochs.
const WAITS: [u64; 6] = [1, 1_000, 5_000, 45_000, 100_000, 600_000];
/// Every epoch of the network is closed by all of its services: some of them in one input.
const MOST_WAIT_MS: u64 = 1_800_000;

type Routes =
    tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, std::convert::Infallible>;

/// The simulation's network, with the services' gRPC servers in front of it.
struct Network {
    world: World,
    doors: Vec<(&'static str, Routes)>,
    waited: u64,
}

impl Network {
    /// Renters with money and a session, owners with nodes that are bonded and attached; each has made its account.
    fn new() -> Network {
        let mut world = World::peopled();
        people::all().for_each(|n| people::register(&mut world, n));
        let (renter, session) = (*RENTERS.start(), world.fresh());
        let open = OpenSession { session, renter: None, asset: Some(USD), budget: Some(5_000_000) };
        let opened =
            world.ask(&world.market.clone(), party(renter), holmes_market::Command::OpenSession(open));
        opened.unwrap();
        let scheduling =
            holmes_scheduling::api::server(world.scheduling.clone(), key(SCHEDULER).clone(), GENESIS, 1);
        let doors = vec![
            ("accounts", Routes::new(holmes_accounts::api::server(world.accounts.clone()))),
            ("emission", Routes::new(holmes_emission::api::server(world.emission.clone()))),
            ("ledger", Routes::new(holmes_ledger::api::server(world.ledger.clone()))),
            ("market", Routes::new(holmes_market::api::server(world.market.clone()))),
            ("scheduling", Routes::new(scheduling)),
            ("staking", Routes::new(holmes_staking::api::server(world.staking.clone()))),
            ("treasury", Routes::new(holmes_treasury::api::server(world.treasury.clone()))),
        ];
        Network { world, doors, waited: 0 }
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
        self.world.rig.advance(Duration::from_millis(ms));
    }
}

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap();
    let edge = ["holmes.gateway.v1.Gateway", "holmes.inference.v1.Inference", "holmes.log.v1.Replay"];
    let services = pool.services().filter(|service| !edge.contains(&service.full_name()));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Each input is a row of requests and waits; what they ask for is drawn from what there is.
pub(crate) fn commands(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (mut network, methods) = (Network::new(), methods());
    for _ in 0..MOST_STEPS {
        let Ok(what) = step(&mut network, &methods, &mut u) else { break };
        network.world.rig.settle();
        assert_eq!(network.world.rig.check(), [], "after {what}");
    }
    assert_eq!(network.world.rig.restart().unwrap(), Vec::<&str>::new(), "live and replayed differ");
    assert_eq!(network.world.rig.check(), []);
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
        network.world.fresh()
    } else {
        Id::derive(START, b"fuzzed", u.int_in_range(0..=60)?)
    };
    let known = wire::Known::of(&network.world, who, id);
    let message = wire::message(&method.input(), &known, u, 0)?;
    let mut bytes = message.encode_to_vec();
    if u.ratio(1u8, 16u8)? {
        bytes = garbled(bytes, u)?;
    }
    let status = if wire::is_signed(method) && u.ratio(3u8, 4u8)? {
        network.as_signed(method, who, &bytes)
    } else {
        network.call(method, who, id, &bytes)
    };
    let what = format!("{} by {who}: {message:?}, sent as {bytes:02x?}", method.full_name());
    let defects = [Code::Internal, Code::Unknown, Code::DataLoss];
    // Bytes that are no message end in tonic, under the codes of a defect; the edge gives them their own.
    let is_message = DynamicMessage::decode(method.input(), bytes.as_slice()).is_ok();
    assert_ne!((is_message, status.code()), (false, Code::Ok), "{what} was carried out");
    assert!(!is_message || !defects.contains(&status.code()), "{what}: {status:?}");
    Ok(what)
}

impl Network {
    /// What a gateway reports with signatures, which nobody here can make of any bytes: read as the edge reads it, and
    /// brought as the edge brings it once it has looked at them.
    fn as_signed(&mut self, method: &MethodDescriptor, who: Principal, bytes: &[u8]) -> Status {
        match wire::without_signatures(method.name(), bytes) {
            Err(status) => status,
            Ok(command) => {
                let door = self.world.scheduling.clone();
                match self.world.ask(&door, who, command) {
                    Ok(_) => Status::new(Code::Ok, ""),
                    Err(refusal) => holmes_proto::edge::status(refusal),
                }
            }
        }
    }
}
