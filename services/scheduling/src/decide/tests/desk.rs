//! A machine on a desk: commands are decided, their events happen, and every invariant is checked after each.

use std::ops::Range;

use holmes_kernel::{Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, Refusal, Time, canon};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{CallsMetered, Event, LeaseGranted};
use prost::Message;

use crate::command::{Attach, Command, Line, MarketFact, NodeFact, Place, Presence, Reply};
use crate::offer::Offer;
use crate::state::{LeaseId, Prices, State};
use crate::{MARKET, STAKING, Scheduling, US, params};

pub(super) const MODEL: &str = "smollm2";
pub(super) const SESSION: Id = Id::from_bytes([8; 16]);
pub(super) const SESSION_MS: u64 = 1_000_000;
pub(super) const CAP: u128 = 1_000_000;
pub(super) const EPOCH_MS: u64 = 45_000;
pub(super) const RENTER_NUMBER: u8 = 200;
pub(super) const RENTER: Principal =
    Principal::new(PrincipalKind::Account, Id::from_bytes([RENTER_NUMBER; 16]));
pub(super) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const KEYS: [[u8; 32]; 2] = [[101; 32], [102; 32]];
pub(super) const PRICES: Prices =
    Prices { input_pico: 10, output_pico: 20, input_micro_units: 1, output_micro_units: 2 };

/// The ids of the two gateways: the hashes of their keys, which no test here signs with.
pub(super) const GATEWAY: Principal =
    Principal::new(PrincipalKind::Gateway, Id::from_bytes(*b"\x01gateway-number-"));
pub(super) const OTHER_GATEWAY: Principal =
    Principal::new(PrincipalKind::Gateway, Id::from_bytes(*b"\x02gateway-number-"));

pub(super) fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

pub(super) fn node(n: u16) -> Id {
    let mut bytes = [0xee; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Id::from_bytes(bytes)
}

pub(super) fn line(n: u8, input_tokens: u64, output_tokens: u64) -> Line {
    Line {
        call: Id::v7(1_000, [n; 10]),
        input_tokens,
        output_tokens,
        finish: 1,
        prompt_commitment: [1; 32],
        output_commitment: [2; 32],
        node_signature: [[3; 32]; 2],
        gateway_signature: [[4; 32]; 2],
    }
}

/// Epochs of 45 beats of a second, changed.
pub(super) fn with(change: impl FnOnce(&mut wire::Params)) -> wire::Params {
    let mut params = params::defaults();
    (params.epoch_s, params.beat_s, params.tge_at_ms) = (45, 1, 1_000_000);
    change(&mut params);
    params
}

pub(super) struct Desk {
    pub(super) state: State,
    pub(super) seq: u64,
    /// Epochs that were sealed, each with its beats.
    pub(super) seals: Vec<(u64, u32)>,
    /// Sessions on which nothing more is metered.
    pub(super) drained: Vec<Id>,
    /// Calls that were metered.
    pub(super) metered: Vec<CallsMetered>,
    now: Time,
}

impl Desk {
    /// Nodes by number, owner and rating, each with two slots and attached to the gateway; a session with a budget.
    pub(super) fn with_nodes(nodes: &[(u16, u8, u32)]) -> Desk {
        Desk::with(with(|_| {}), nodes)
    }

    pub(super) fn with(params: wire::Params, nodes: &[(u16, u8, u32)]) -> Desk {
        let opened = Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() };
        let state = Scheduling::init(&opened).unwrap();
        let now = Time::from_millis(1_000_000);
        let mut desk =
            Desk { state, seq: 1, seals: Vec::new(), drained: Vec::new(), metered: Vec::new(), now };
        desk.start(GATEWAY);
        for (n, of, rating) in nodes {
            let registered = NodeFact::Registered { node: node(*n), owner: owner(*of), public_key: [1; 32] };
            let stands = NodeFact::Stands {
                node: node(*n),
                owner: owner(*of),
                qualified: true,
                rating_milli_cu: *rating,
                required: 1,
            };
            desk.staking(vec![registered, stands]);
            let attachment = desk.attachment(*n, 1, 2);
            desk.ask(GATEWAY, attachment).unwrap();
        }
        let expires_at = desk.now.after_millis(SESSION_MS);
        desk.market(vec![
            MarketFact::Model { name: MODEL.into(), prices: PRICES, withdrawn: false },
            MarketFact::Funded { session: SESSION, renter: RENTER, cap: CAP, expires_at },
        ]);
        desk
    }

    /// A gateway whose key this desk gives it: what checks that a key is one's own has its own test.
    pub(super) fn start(&mut self, gateway: Principal) {
        let key = KEYS[usize::from(gateway == OTHER_GATEWAY)];
        let started = wire::GatewayStarted {
            gateway: gateway.id.to_bytes().to_vec().into(),
            public_key: key.to_vec().into(),
        };
        self.happen(gateway, &[Event { event: Some(Kind::GatewayStarted(started)) }]);
    }

    fn happen(&mut self, who: Principal, events: &[Event]) {
        for event in events {
            let meta = Meta { ts: self.now, principal: who, term: 3, seq: self.seq + 1 };
            self.seq += 1;
            Scheduling::evolve(&mut self.state, event, &meta);
            if let Some(Kind::EpochSealed(sealed)) = &event.event {
                self.seals.push((sealed.epoch, sealed.beats));
            }
            if let Some(Kind::SessionDrained(drained)) = &event.event {
                self.drained.extend(Id::from_slice(&drained.session));
            }
            if let Some(Kind::CallsMetered(metered)) = &event.event {
                self.metered.push(metered.clone());
            }
        }
        Scheduling::check_step(&self.state, events).unwrap();
        assert_eq!(Scheduling::check(&self.state), []);
    }

    pub(super) fn decide(&self, who: Principal, command: &Command) -> Result<Vec<Event>, Refusal> {
        let log = LogId::new(1, US);
        let ctx = Ctx { now: self.now, principal: who, log, term: 3, seq: self.seq + 1 };
        let mut events = Vec::new();
        Scheduling::decide(&self.state, command, &ctx, &mut events).map_err(|why| Refusal::of(&why))?;
        Ok(events)
    }

    pub(super) fn ask(&mut self, who: Principal, command: Command) -> Result<Vec<Kind>, String> {
        let events = self.decide(who, &command).map_err(|why| why.reason.into_owned())?;
        self.happen(who, &events);
        Ok(events.into_iter().filter_map(|event| event.event).collect())
    }

    /// What a command answers.
    pub(super) fn told(&mut self, who: Principal, command: Command) -> Reply {
        let events = self.decide(who, &command).unwrap();
        self.happen(who, &events);
        Scheduling::reply(&command, &events)
    }

    /// The reason for which a command is refused; it changes nothing.
    pub(super) fn refused(&mut self, who: Principal, command: Command) -> String {
        let before = canon::digest(&self.state);
        let why = self.decide(who, &command).expect_err("it is refused");
        assert!(!why.message.is_empty() && canon::digest(&self.state) == before);
        why.reason.into_owned()
    }

    pub(super) fn staking(&mut self, facts: Vec<NodeFact>) -> Vec<Kind> {
        self.ask(Principal::service(STAKING), Command::NoteNodes(facts)).unwrap()
    }

    pub(super) fn market(&mut self, facts: Vec<MarketFact>) {
        self.ask(Principal::service(MARKET), Command::NoteMarket(facts)).unwrap();
    }

    /// The market closes the session, and takes calls for so long.
    pub(super) fn closing(&mut self, drain_ms: u64) {
        let drains_until = self.now.after_millis(drain_ms);
        self.market(vec![MarketFact::Closing { session: SESSION, drains_until }]);
    }

    /// Staking says of a node: (qualified, rating, required), changed.
    pub(super) fn note(&mut self, n: u16, change: impl FnOnce(&mut (bool, u32, u64))) {
        let known = self.state.nodes.get(&node(n)).unwrap();
        let (owner, mut fact) = (known.owner, (known.qualified, known.rating_milli_cu, known.required));
        change(&mut fact);
        let (qualified, rating_milli_cu, required) = fact;
        self.staking(vec![NodeFact::Stands { node: node(n), owner, qualified, rating_milli_cu, required }]);
    }

    pub(super) fn attachment(&self, n: u16, nonce: u8, slots: u32) -> Command {
        let model = wire::ServedModel { name: MODEL.into(), digest: vec![1; 32].into(), context: 8_200 };
        let offer = wire::Capabilities { models: vec![model], slots, ..Default::default() };
        let offer = Offer::read(&offer.encode_to_vec()).unwrap();
        Command::Attach(Attach { node: node(n), offer, nonce: [nonce; 16], signature: [[0; 32]; 2] })
    }

    pub(super) fn generation(&self, n: u16) -> u64 {
        self.state.nodes.get(&node(n)).and_then(|node| node.attached).unwrap().generation
    }

    pub(super) fn wish(&self, change: impl FnOnce(&mut Place)) -> Command {
        let mut place = Place {
            session: SESSION,
            model: MODEL.into(),
            allowance: 1_000,
            duration_ms: 0,
            avoid: vec![],
            named: None,
            context: 0,
        };
        change(&mut place);
        Command::Place(place)
    }

    pub(super) fn place(&mut self, change: impl FnOnce(&mut Place)) -> Result<LeaseGranted, String> {
        let wish = self.wish(change);
        let events = self.ask(GATEWAY, wish)?;
        let [Kind::LeaseGranted(granted)] = events.as_slice() else { panic!("{events:?}") };
        let id = LeaseId { cell: 1, term: 3, seq: self.seq };
        assert_eq!(LeaseId::from_slice(&granted.lease), Some(id));
        Ok(granted.clone())
    }

    pub(super) fn grant_with(&mut self, change: impl FnOnce(&mut Place)) -> (LeaseId, Id) {
        let granted = self.place(change).unwrap();
        (LeaseId::from_slice(&granted.lease).unwrap(), Id::from_slice(&granted.node).unwrap())
    }

    pub(super) fn grant(&mut self) -> (LeaseId, Id) {
        self.grant_with(|_| {})
    }

    pub(super) fn grant_of(&mut self, allowance: u64) -> (LeaseId, Id) {
        self.grant_with(|place| place.allowance = allowance)
    }

    /// What time alone causes next, now.
    pub(super) fn step(&mut self) -> Vec<Kind> {
        match Scheduling::due(&self.state) {
            Some((at, command)) if at <= self.now => {
                let events = self.ask(Principal::SYSTEM, command).unwrap();
                assert!(!events.is_empty(), "a due command has events");
                events
            }
            _ => Vec::new(),
        }
    }

    /// Lets time pass, stopping at every moment at which something is due.
    pub(super) fn wait(&mut self, ms: u64) {
        let end = self.now.after_millis(ms);
        while let Some((at, _)) = Scheduling::due(&self.state).filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass in which nothing happens, though it is due.
    pub(super) fn skip(&mut self, ms: u64) {
        self.now = self.now.after_millis(ms);
    }

    /// Lets time pass while the gateway says every now and then that it is there.
    pub(super) fn stay(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let stretch = left.min(10_000);
            self.wait(stretch);
            left -= stretch;
            let nothing = Presence { epoch: 0, first_beat: 0, beats: 0, nodes: vec![] };
            self.ask(GATEWAY, Command::ReportPresence(nothing)).unwrap();
        }
    }

    /// The gateway has seen nodes in stretches of an epoch's 45 beats.
    pub(super) fn seen(&mut self, epoch: u64, nodes: &[(u16, Range<u32>)]) {
        let bitmap = |beats: &Range<u32>| {
            let mut bitmap = vec![0; 6];
            beats.clone().for_each(|beat| bitmap[beat as usize / 8] |= 1 << (beat % 8));
            bitmap
        };
        let nodes = nodes.iter().map(|(n, beats)| (node(*n), bitmap(beats))).collect();
        let report = Command::ReportPresence(Presence { epoch, first_beat: 0, beats: 45, nodes });
        self.ask(GATEWAY, report).unwrap();
    }

    pub(super) fn sealed(&self) -> (u64, u32) {
        *self.seals.last().unwrap()
    }

    pub(super) fn active(&self) -> Vec<Id> {
        self.state.attendance.active.keys().copied().collect()
    }
}
