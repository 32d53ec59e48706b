//! Ledger, treasury, staking, scheduling, market and emission as they are, on virtual time, with epochs of 45 seconds.
//! A gateway is played by the test, as are renters, owners and their nodes.

use std::time::Duration;

use holmes_accounts::Accounts;
use holmes_accounts::params::FirstStaff;
use holmes_emission::Emission;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Amount, Event, Frame, Id, Machine, Opened, Principal, Refusal, ServiceId, Time};
use holmes_ledger::command::{self as ledger, Coordinator, Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, system_account};
use holmes_market::Market;
use holmes_market::command::OpenSession;
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::statements::{attach as attach_statement, call_line};
use holmes_runtime::rig::{Rig, Seat};
use holmes_scheduling::command::{Attach, Line, Place, Presence, Reply};
use holmes_scheduling::offer::Offer;
use holmes_scheduling::state::LeaseId;
use holmes_scheduling::{Command as Ask, Scheduling};
use holmes_staking::Staking;
use holmes_staking::command::Command as Stake;
use holmes_testing::{ask, now};
use holmes_treasury::Treasury;
use prost::Message;

use crate::bus::Lines;
use crate::journal::Journal;

mod cast;

use cast::TREASURER;
pub use cast::*;

/// The network, and what its parties know of it.
pub struct World {
    /// The machines.
    pub rig: Rig<Journal>,
    /// Where money lies.
    pub ledger: Seat<Ledger, Journal>,
    /// Genesis and vesting.
    pub treasury: Seat<Treasury, Journal>,
    /// Bonds.
    pub staking: Seat<Staking, Journal>,
    /// Leases and calls.
    pub scheduling: Seat<Scheduling, Journal>,
    /// Sessions and settlement.
    pub market: Seat<Market, Journal>,
    /// Rewards.
    pub emission: Seat<Emission, Journal>,
    /// Keys and roles, of which no other service hears.
    pub accounts: Seat<Accounts, Journal>,
    /// Where the logs are kept.
    pub journal: Journal,
    /// How services hear of each other.
    pub lines: Lines,
    asked: u32,
    /// Sessions that were opened, and whose they are.
    pub sessions: Vec<(u8, Id)>,
    /// Leases that were granted.
    pub leases: Vec<LeaseId>,
}

/// How a log is opened.
pub fn opened(params: Vec<u8>) -> Opened {
    Opened { cell: 1, shard: 0, profile_hash: GENESIS.to_vec(), params }
}

impl World {
    /// A network in its first epoch: genesis is done, and nobody is there yet.
    pub fn empty() -> World {
        World::at(Journal::default(), START)
    }

    /// A network that nothing has happened in, genesis neither.
    pub fn begun() -> World {
        World::opened(Journal::default(), START, |_| {})
    }

    /// A network in its first epoch whose market has other terms.
    pub fn on_terms(terms: impl FnOnce(&mut holmes_proto::market::v1::Params)) -> World {
        let mut world = World::opened(Journal::default(), START, terms);
        world.rig.advance(Duration::from_secs(1));
        world
    }

    /// The machines at a moment: opened, or taken up where their logs are.
    pub fn at(journal: Journal, at: Time) -> World {
        let mut world = World::opened(journal, at, |_| {});
        world.rig.advance(Duration::from_secs(1));
        world
    }

    fn opened(
        journal: Journal,
        at: Time,
        terms: impl FnOnce(&mut holmes_proto::market::v1::Params),
    ) -> World {
        let lines = Lines::default();
        let mut rig = Rig::with_bus(journal.clone(), at, lines.clone());
        let tge_at_ms = START.millis();
        let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000 * COIN };
        let usd = Asset { id: USD, name: "USD".into(), decimals: 6, cap_units: 0 };
        let of_ledger = holmes_ledger::params::defaults(vec![hol, usd]);
        let mut treasury = holmes_treasury::params::defaults();
        (treasury.epoch_s, treasury.tge_at_ms) = (EPOCH_S as u32, tge_at_ms);
        let mut staking = holmes_staking::params::defaults();
        // A pass counts for 7 epochs by default: here nobody is challenged.
        (staking.epoch_s, staking.tge_at_ms, staking.hardware_pass_days) = (EPOCH_S, tge_at_ms, 90);
        let mut scheduling = holmes_scheduling::params::defaults();
        (scheduling.epoch_s, scheduling.beat_s, scheduling.tge_at_ms) = (EPOCH_S, 1, tge_at_ms);
        scheduling.public_key = public(SCHEDULER).to_vec().into();
        let mut market = holmes_market::params::defaults();
        (market.epoch_s, market.tge_at_ms, market.window_ms) = (EPOCH_S, tge_at_ms, 5_000);
        terms(&mut market);
        let mut emission = holmes_emission::params::defaults();
        (emission.epoch_s, emission.tge_at_ms) = (EPOCH_S, tge_at_ms);
        let ledger = rig.add(log(1), opened(of_ledger.encode_to_vec())).unwrap();
        let treasury = rig.add(log(7), opened(treasury.encode_to_vec())).unwrap();
        let staking = rig.add(log(3), opened(staking.encode_to_vec())).unwrap();
        let scheduling = rig.add(log(4), opened(scheduling.encode_to_vec())).unwrap();
        let market = rig.add(log(5), opened(market.encode_to_vec())).unwrap();
        let emission = rig.add(log(6), opened(emission.encode_to_vec())).unwrap();
        let first = FirstStaff { public_keys: vec![public(STAFF)], ..FirstStaff::default() };
        let accounts = holmes_accounts::params::defaults(&first);
        let accounts = rig.add(log(2), opened(accounts.encode_to_vec())).unwrap();
        let (sessions, leases) = (Vec::new(), Vec::new());
        World {
            rig,
            ledger,
            treasury,
            staking,
            scheduling,
            market,
            emission,
            accounts,
            journal,
            lines,
            asked: 0,
            sessions,
            leases,
        }
    }

    /// Two renters with money, three owners each with a node that is bonded and attached.
    pub fn peopled() -> World {
        let mut world = World::empty();
        world.people();
        world
    }

    /// They come to a network that has nobody yet.
    pub fn people(&mut self) {
        let world = self;
        for n in OWNERS.chain(RENTERS) {
            for asset in [HOL, USD] {
                world.open_account(n, asset);
                let set = holmes_market::Command::SetAccount { asset, account: account(n, asset) };
                world.ask(&world.market.clone(), party(n), set).unwrap();
            }
            let grant = world.single(system_account("ecosystem/HOL"), account(n, HOL), WEALTH[0]);
            world.transfer(TREASURER, grant);
            let (reference, amount) = (format!("bank {n}"), Amount::new(WEALTH[1]));
            let deposit = Movement { account: account(n, USD), amount, reference };
            world.ask(&world.ledger.clone(), BANK, ledger::Command::RecordDeposit(deposit)).unwrap();
        }
        OWNERS.for_each(|n| world.bond(n));
        world.start_gateway();
        OWNERS.for_each(|n| world.attach(n));
    }

    /// The same network after it was down for so long.
    pub fn down_for(self, by: Duration) -> World {
        let at = self.rig.now().micros() + by.as_micros() as u64;
        World::at(self.journal, Time::from_micros(at))
    }

    /// An id that was not used before.
    pub fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"world", self.asked)
    }

    /// Asks one machine, and lets the others hear of it.
    pub fn ask<M: Machine>(
        &mut self,
        seat: &Seat<M, Journal>,
        who: Principal,
        command: M::Command,
    ) -> Result<M::Reply, Refusal> {
        let answer = self.ask_alone(seat, who, command);
        self.rig.settle();
        answer
    }

    /// Asks one machine; the others have not yet heard of it.
    fn ask_alone<M: Machine>(
        &mut self,
        seat: &Seat<M, Journal>,
        who: Principal,
        command: M::Command,
    ) -> Result<M::Reply, Refusal> {
        let id = self.fresh();
        ask(seat, who, id, command)
    }

    fn open_account(&mut self, n: u8, asset: u32) {
        let (account, owner, name) = (account(n, asset), party(n), String::new());
        let open = OpenAccount { account, asset, owner, name, history: false, via: Via::Call };
        self.ask(&self.ledger.clone(), owner, ledger::Command::OpenAccount(open)).unwrap();
    }

    /// A transfer at once.
    pub fn single(&self, debit: Id, credit: Id, units: u64) -> Kind {
        let amount = Amount::new(units);
        Kind::Single(Move { debit, credit, amount, balancing: false, debit_owner: None })
    }

    /// A transfer that must succeed; its id.
    pub fn transfer(&mut self, who: Principal, kind: Kind) -> Id {
        let id = self.fresh();
        let transfers = vec![Transfer { id, linked: false, tag: 0, kind }];
        let batch = ledger::Command::CreateTransfers { via: Via::Call, transfers };
        let reply = self.ask(&self.ledger.clone(), who, batch).unwrap();
        assert!(matches!(&reply, ledger::Reply::Transfers(rows) if rows[0].code == TransferCode::Ok));
        id
    }

    /// An owner's node is registered, rated and bonded.
    pub fn bond(&mut self, n: u8) {
        self.ask(&self.staking.clone(), party(n), register(n)).unwrap();
        let rating = Stake::SetRating { node: node(n), rating_milli_cu: 1_000 };
        self.ask(&self.staking.clone(), staff(), rating).unwrap();
        let hold = self.hold_for_bond(n, 3_600_000);
        self.ask(&self.staking.clone(), party(n), Stake::Bond { node: node(n), hold }).unwrap();
    }

    /// A hold that can become a part of a bond for so long.
    pub fn hold_for_bond(&mut self, n: u8, timeout_ms: u64) -> Id {
        let (debit, credit, amount) = (account(n, HOL), system_account("bonds/HOL"), Amount::new(BOND));
        let of = Move { debit, credit, amount, balancing: false, debit_owner: None };
        let coordinator = Some(Coordinator { service: ServiceId(3), id: node(n) });
        self.transfer(party(n), Kind::Hold { of, timeout_ms: Some(timeout_ms), coordinator })
    }

    /// The gateway comes, or comes back.
    pub fn start_gateway(&mut self) {
        let start = Ask::StartGateway { public_key: public(GATEWAY) };
        self.ask(&self.scheduling.clone(), gateway(), start).unwrap();
    }

    /// A node's stream to the gateway opens.
    pub fn attach(&mut self, n: u8) {
        let attach = self.attachment(n);
        self.ask(&self.scheduling.clone(), gateway(), attach).unwrap();
    }

    /// What the gateway says when a node's stream opens.
    pub fn attachment(&mut self, n: u8) -> Ask {
        let offer = Offer::read(&offer()).unwrap();
        let nonce = self.fresh().to_bytes();
        let said = attach_statement(&GENESIS, 1, &gateway().id.to_bytes(), &nonce, &offer.bytes);
        Ask::Attach(Attach { node: node(n), offer, nonce, signature: signed(node_key(n), &said) })
    }

    /// The node's stream breaks.
    pub fn lose(&mut self, n: u8) {
        let Some(detach) = self.detachment(n) else { return };
        self.ask(&self.scheduling.clone(), gateway(), detach).unwrap();
    }

    /// What the gateway says when a node's stream breaks, if it is attached.
    pub fn detachment(&self, n: u8) -> Option<Ask> {
        let node = node(n);
        let attached = self.scheduling.look(|state| state.nodes.get(&node).and_then(|node| node.attached))?;
        let reason = wire::DetachReason::StreamLost.into();
        Some(Ask::Detach { node, generation: attached.generation, reason })
    }

    /// Opens a session.
    pub fn open(&mut self, n: u8, asset: u32, budget: u64) {
        self.open_alone(n, asset, budget);
        self.rig.settle();
    }

    /// Opens a session of which the ledger has not yet heard.
    pub fn open_alone(&mut self, n: u8, asset: u32, budget: u64) {
        let session = self.fresh();
        let open = OpenSession { session, renter: None, asset: Some(asset), budget: Some(budget) };
        if ask(&self.market, party(n), session, holmes_market::Command::OpenSession(open)).is_ok() {
            self.sessions.push((n, session));
        }
    }

    /// Closes one of the sessions.
    pub fn close(&mut self, at: usize) {
        let Some((n, session)) = self.sessions.get(at % self.sessions.len().max(1)).copied() else { return };
        let close = holmes_market::Command::CloseSession { session };
        self.ask(&self.market.clone(), party(n), close).unwrap();
    }

    /// A lease for a session; refusals are answers too.
    pub fn place(&mut self, at: usize) -> Option<LeaseId> {
        let lease = self.place_on(at, None);
        self.rig.settle();
        lease
    }

    /// A lease on a node, of which only scheduling knows until all is settled.
    pub fn place_on(&mut self, at: usize, n: Option<u8>) -> Option<LeaseId> {
        let place = self.placement(at, n)?;
        let reply = self.ask_alone(&self.scheduling.clone(), gateway(), place).ok()?;
        self.granted(&reply)
    }

    /// What the gateway asks for when one of the sessions has a call.
    pub fn placement(&self, at: usize, n: Option<u8>) -> Option<Ask> {
        let (_, session) = self.sessions.get(at % self.sessions.len().max(1)).copied()?;
        let (model, avoid, named) = (MODEL.to_owned(), Vec::new(), n.map(node));
        let allowance = 40_000_000_000;
        Some(Ask::Place(Place { session, model, allowance, duration_ms: 0, avoid, named, context: 0 }))
    }

    /// Takes note of a lease that was granted.
    pub fn granted(&mut self, reply: &Reply) -> Option<LeaseId> {
        let Reply::Placed(granted) = reply else { return None };
        let lease = LeaseId::from_slice(&granted.lease)?;
        self.leases.push(lease);
        Some(lease)
    }

    /// A lease goes on for longer.
    pub fn renew(&mut self, at: usize) {
        let Some(lease) = self.leases.get(at % self.leases.len().max(1)).copied() else { return };
        let renew = Ask::RenewLease { lease, allowance: 40_000_000_000, duration_ms: 0 };
        let _refused_is_an_answer_too = self.ask(&self.scheduling.clone(), gateway(), renew);
    }

    /// An owner asks for a bond back, of which only staking knows until all is settled; why not, if it is refused.
    pub fn unbond(&mut self, n: u8) -> Result<(), String> {
        let unbond = Stake::Unbond { node: node(n), amount: None, account: None };
        let answer = self.ask_alone(&self.staking.clone(), party(n), unbond);
        answer.map(drop).map_err(|refusal| refusal.reason.into_owned())
    }

    /// Reports calls of a lease by their numbers: a number that was reported before is a repetition.
    pub fn report(&mut self, at: usize, calls: &[(u8, u64)]) {
        let Some(lease) = self.leases.get(at % self.leases.len().max(1)).copied() else { return };
        let lines = calls.iter().map(|(call, tokens)| self.line(lease, *call, *tokens, wire::Finish::Stop));
        let report = Ask::ReportCalls { lease, lines: lines.collect() };
        let _refused_is_an_answer_too = self.ask(&self.scheduling.clone(), gateway(), report);
    }

    /// Calls of a lease that run have come to so much.
    pub fn checkpoint(&mut self, at: usize, calls: &[(u8, u64)]) {
        let Some(lease) = self.leases.get(at % self.leases.len().max(1)).copied() else { return };
        let lost = wire::Finish::NodeLost;
        let lines = calls.iter().map(|(call, tokens)| (lease, self.line(lease, *call, *tokens, lost)));
        let _refused_is_an_answer_too =
            self.ask(&self.scheduling.clone(), gateway(), Ask::Checkpoint(lines.collect()));
    }

    /// One of the leases ends.
    pub fn end(&mut self, at: usize) {
        let Some(lease) = self.leases.get(at % self.leases.len().max(1)).copied() else { return };
        let end = Ask::EndLease { lease, reason: wire::LeaseEnd::Released.into() };
        let _refused_is_an_answer_too = self.ask(&self.scheduling.clone(), gateway(), end);
    }

    /// Time passes while the gateway reports every five seconds who is there.
    pub fn wait(&mut self, mut seconds: u64) {
        while seconds > 0 {
            let part = seconds.min(5);
            seconds -= part;
            self.rig.advance(Duration::from_secs(part));
            let seen = self.presence();
            self.ask(&self.scheduling.clone(), gateway(), seen).unwrap();
        }
        assert_eq!(self.rig.check(), []);
    }

    /// What the gateway reports of who is there: everybody.
    pub fn presence(&self) -> Ask {
        self.presence_of(OWNERS)
    }

    /// The same when it has heard of some nodes only.
    pub fn presence_of(&self, owners: impl Iterator<Item = u8>) -> Ask {
        let (epoch, second) = self.scheduling.look(|state| {
            let params = &state.params;
            let epoch = params.calendar.epoch(self.rig.now());
            (epoch, self.rig.now().millis().saturating_sub(params.beat_begins(epoch, 0).millis()) / 1_000)
        });
        let beats = u32::try_from(second + 1).unwrap().min(EPOCH_S as u32);
        let bitmap: Vec<u8> = (0..beats.div_ceil(8)).map(|byte| ones(beats - 8 * byte)).collect();
        let nodes = owners.map(|n| (node(n), bitmap.clone())).collect();
        Ask::ReportPresence(Presence { epoch, first_beat: 0, beats, nodes })
    }

    /// A line of a call, as the lease's node and the gateway sign it.
    pub fn line(&self, lease: LeaseId, call: u8, tokens: u64, finish: wire::Finish) -> Line {
        let mut line = Line {
            call: Id::v7(START.millis(), [call; 10]),
            input_tokens: 3,
            output_tokens: tokens,
            finish: finish.into(),
            prompt_commitment: [1; 32],
            output_commitment: [2; 32],
            node_signature: [[0; 32]; 2],
            gateway_signature: [[0; 32]; 2],
        };
        let said = call_line(&GENESIS, 1, &lease.to_bytes(), &line.message());
        let at = self.scheduling.look(|state| state.leases.get(&lease.seq).map(|lease| lease.node));
        let n = OWNERS.clone().find(|n| Some(node(*n)) == at).unwrap_or_default();
        line.node_signature = signed(node_key(n), &said);
        line.gateway_signature = signed(GATEWAY, &said);
        line
    }

    /// A service's log as it is kept.
    pub fn frames(&self, service: ServiceId) -> Vec<Frame> {
        now(self.journal.read(log(service.0), 0, usize::MAX)).unwrap()
    }

    /// Every event of a service's log, in order.
    pub fn events<E: Event>(&self) -> Vec<E> {
        let frames = self.frames(E::SERVICE);
        let entries = frames.iter().flat_map(|frame| frame.entries().unwrap());
        entries.flat_map(|(_, entry)| entry.events).map(|bytes| E::decode(bytes).unwrap()).collect()
    }

    /// What lies in an account.
    pub fn balance(&self, account: Id) -> u64 {
        self.ledger.look(|state| state.account(&account).map_or(0, |account| account.balance.net().0))
    }

    /// What lies in an account of the platform's.
    pub fn of(&self, name: &str) -> u64 {
        self.balance(system_account(name))
    }
}

/// A byte whose lowest bits are set, so many.
fn ones(bits: u32) -> u8 {
    if bits >= 8 { 0xff } else { (1 << bits) - 1 }
}
