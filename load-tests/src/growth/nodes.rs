//! Placements: what `decide` and `evolve` of scheduling do on one core with so many nodes, without frames and disk, and the
//! memory that a node and a lease take.

#![allow(clippy::unwrap_used)] // a measurement that cannot be taken ends here

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use holmes_kernel::{Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, Time};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_scheduling::command::{Attach, MarketFact, NodeFact, Place, Reply};
use holmes_scheduling::offer::Offer;
use holmes_scheduling::state::{LeaseId, Prices};
use holmes_scheduling::{Command, MARKET, STAKING, Scheduling, State, US, params};
use prost::Message;

use super::{Found, own_bytes};

const MODEL: &str = "smollm2";
const SESSIONS: u32 = 1_000;
const PLACEMENTS: usize = 200_000;
const OWNERS: u32 = 500;
/// Open leases while it is measured; never more than half of all slots.
const MOST_OPEN: usize = 50_000;

struct Bench {
    state: State,
    seq: u64,
    now: Time,
}

impl Bench {
    fn new() -> Bench {
        let mut params = params::defaults();
        let now = Time::from_millis(1_800_000_000_000);
        params.tge_at_ms = now.millis();
        let opened = Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() };
        Bench { state: Scheduling::init(&opened).unwrap(), seq: 1, now }
    }

    fn ask(&mut self, principal: Principal, command: &Command) -> Reply {
        self.now = self.now.next();
        let ctx = Ctx { now: self.now, principal, log: LogId::new(1, US), term: 1, seq: self.seq + 1 };
        let mut events = Vec::new();
        Scheduling::decide(&self.state, command, &ctx, &mut events).unwrap();
        for event in &events {
            self.seq += 1;
            let meta = Meta { ts: self.now, principal, term: 1, seq: self.seq };
            Scheduling::evolve(&mut self.state, event, &meta);
        }
        Scheduling::check_step(&self.state, &events).unwrap();
        Scheduling::reply(command, &events)
    }
}

fn id(kind: u8, n: u32) -> Id {
    let mut bytes = [kind; 16];
    bytes[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    Id::from_bytes(bytes)
}

fn account(n: u32) -> Principal {
    Principal::new(PrincipalKind::Account, id(3, n))
}

fn filled(nodes: u32) -> (Bench, Principal) {
    let mut bench = Bench::new();
    let key = [7; 32];
    let gateway = Principal::new(PrincipalKind::Gateway, Id::of_key(&key));
    bench.ask(gateway, &Command::StartGateway { public_key: key });
    let model = wire::ServedModel { name: MODEL.into(), digest: vec![1; 32].into(), context: 8_192 };
    let offer = wire::Capabilities { models: vec![model], slots: 4, ..Default::default() };
    let offer = Offer::read(&offer.encode_to_vec()).unwrap();
    for n in 0..nodes {
        let (node, owner) = (id(1, n), account(n % OWNERS));
        let stands = NodeFact::Stands {
            node,
            owner,
            qualified: true,
            rating_milli_cu: 500 + n % 8 * 500,
            required: 1,
        };
        let facts = vec![NodeFact::Registered { node, owner, public_key: key }, stands];
        bench.ask(Principal::service(STAKING), &Command::NoteNodes(facts));
        let attach = Attach { node, offer: offer.clone(), nonce: [9; 16], signature: [[0; 32]; 2] };
        bench.ask(gateway, &Command::Attach(attach));
    }
    let prices = Prices { input_pico: 1, output_pico: 2, input_micro_units: 1, output_micro_units: 2 };
    let mut facts = vec![MarketFact::Model { name: MODEL.into(), prices, withdrawn: false }];
    let expires_at = bench.now.after_millis(86_400_000);
    facts.extend((0..SESSIONS).map(|n| MarketFact::Funded {
        session: id(2, n),
        renter: account(OWNERS + n),
        cap: 1 << 100,
        expires_at,
    }));
    for facts in facts.chunks(256) {
        bench.ask(Principal::service(MARKET), &Command::NoteMarket(facts.to_vec()));
    }
    (bench, gateway)
}

fn wish(n: usize) -> Command {
    Command::Place(Place {
        session: id(2, n as u32 % SESSIONS),
        model: MODEL.into(),
        allowance: 1_000_000,
        duration_ms: 0,
        avoid: Vec::new(),
        named: None,
        context: 2_048,
    })
}

/// Fills a state and asks it.
pub(super) fn measure(nodes: u32) -> Found {
    let before = own_bytes();
    let (mut bench, gateway) = filled(nodes);
    let of_a_node = own_bytes().saturating_sub(before) as f64 / f64::from(nodes);
    let most = MOST_OPEN.min(nodes as usize * 2);
    let before = own_bytes();
    let mut open = VecDeque::new();
    let (mut placing, mut ending) = (Duration::ZERO, Duration::ZERO);
    let mut of_a_lease = 0.0;
    for n in 0..PLACEMENTS {
        if open.len() >= most
            && let Some(lease) = open.pop_front()
        {
            if of_a_lease == 0.0 {
                of_a_lease = own_bytes().saturating_sub(before) as f64 / most as f64;
            }
            let start = Instant::now();
            bench.ask(gateway, &Command::EndLease { lease, reason: LeaseEnd::Released.into() });
            ending += start.elapsed();
        }
        let wish = wish(n);
        let start = Instant::now();
        let Reply::Placed(granted) = bench.ask(gateway, &wish) else { panic!("every wish is granted") };
        placing += start.elapsed();
        open.extend(LeaseId::from_slice(&granted.lease));
    }
    let per_second = |time: Duration| PLACEMENTS as f64 / time.as_secs_f64();
    Found::from([
        ("placements", per_second(placing)),
        ("placements, each with the end of a lease", per_second(placing + ending)),
        ("memory of a node", of_a_node),
        ("memory of a lease", of_a_lease),
    ])
}
