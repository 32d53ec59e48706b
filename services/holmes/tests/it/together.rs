//! Services beside each other on virtual time: emission with the real ledger, treasury and staking. What scheduling and
//! the market say is read from logs that the test writes, in their own events.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_emission::{Emission, State, params};
use holmes_kernel::{Amount, Id, LogId, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_ledger::command::{self as ledger, Coordinator, Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, system_account};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_proto::market::v1 as market;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::staking::v1::NodeKind;
use holmes_runtime::rig::{Rig, Seat};
use holmes_staking::Staking;
use holmes_staking::command::{Command as Stake, RegisterNode};
use holmes_staking::possession::{Network, statement};
use holmes_store::journal::memory::Journal;
use holmes_testing::{Script, ask};
use holmes_treasury::Treasury;
use prost_reflect::prost::Message;

const HOL: u64 = 1_000_000_000;
const START: Time = Time::from_millis(20_832 * 86_400_000);
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const CAP: u64 = 1_000_000_000 * HOL;
const GENESIS: [u8; 16] = [5; 16];
const TREASURER: Principal = Principal::service(ServiceId(7));
const DAY_ONE_TRR: u64 = 142_296_258_824_876;
const DAY_ONE_BR: u64 = 94_841_674_521_834;

/// The n-th owner.
fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

struct World {
    rig: Rig<Journal>,
    ledger: Seat<Ledger, Journal>,
    staking: Seat<Staking, Journal>,
    emission: Seat<Emission, Journal>,
    market: Seat<Script<market::Event>, Journal>,
    scheduling: Seat<Script<scheduling::Event>, Journal>,
    asked: u32,
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn node_id(n: u8) -> Id {
    Id::of_key(&key(n).verifying_key().to_bytes())
}

fn opened(params: Vec<u8>) -> Opened {
    Opened { cell: 1, shard: 0, profile_hash: GENESIS.to_vec(), params }
}

impl World {
    /// A network on its first day: genesis is done, and two owners have an account with 10,000 HOL each.
    fn new() -> World {
        let mut rig = Rig::new(Journal::default(), START);
        let log = |number| LogId::new(1, ServiceId(number));
        let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: CAP };
        let books = holmes_ledger::params::defaults(vec![hol]).encode_to_vec();
        let ledger = rig.add(log(1), opened(books)).unwrap();
        let defaults = holmes_treasury::params::defaults().encode_to_vec();
        let _: Seat<Treasury, Journal> = rig.add(log(7), opened(defaults)).unwrap();
        let staking = rig.add(log(3), opened(holmes_staking::params::encoded_defaults())).unwrap();
        let emission = rig.add(log(6), opened(params::encoded_defaults())).unwrap();
        let market = rig.add(log(5), opened(Vec::new())).unwrap();
        let scheduling = rig.add(log(4), opened(Vec::new())).unwrap();
        let mut world = World { rig, ledger, staking, emission, market, scheduling, asked: 0 };
        world.wait(Duration::from_secs(1));
        for n in 1..=2 {
            let open = OpenAccount {
                account: world.account(n),
                asset: 1,
                owner: owner(n),
                name: String::new(),
                history: false,
                via: Via::Call,
            };
            world.ask_ledger(owner(n), ledger::Command::OpenAccount(open));
            let (debit, credit) = (system_account("ecosystem/HOL"), world.account(n));
            let amount = Amount::new(10_000 * HOL);
            world.transfer(
                TREASURER,
                Kind::Single(Move { debit, credit, amount, balancing: false, debit_owner: None }),
            );
        }
        world
    }

    fn account(&self, n: u8) -> Id {
        Id::v7(START.millis(), [n; 10])
    }

    fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"world", self.asked)
    }

    fn ask_ledger(&mut self, who: Principal, command: ledger::Command) -> ledger::Reply {
        let id = self.fresh();
        ask(&self.ledger, who, id, command).unwrap()
    }

    fn transfer(&mut self, who: Principal, kind: Kind) -> Id {
        let id = self.fresh();
        let transfers = vec![Transfer { id, linked: false, tag: 0, kind }];
        let reply = self.ask_ledger(who, ledger::Command::CreateTransfers { via: Via::Call, transfers });
        assert!(
            matches!(&reply, ledger::Reply::Transfers(rows) if rows[0].code == TransferCode::Ok),
            "{reply:?}"
        );
        self.rig.settle();
        id
    }

    fn stake(&mut self, who: Principal, command: Stake) {
        let id = self.fresh();
        ask(&self.staking, who, id, command).unwrap();
        self.rig.settle();
    }

    /// Registers the n-th owner's node, rates it, and bonds 5,000 HOL to it.
    fn node(&mut self, n: u8) {
        let public_key = key(n).verifying_key().to_bytes();
        let network = Network { genesis: GENESIS, cell: 1 };
        let signature = key(n).sign(&statement(&network, owner(n), &public_key));
        let possession = [*signature.r_bytes(), *signature.s_bytes()];
        let kind = NodeKind::Compute as u8;
        let register = RegisterNode { public_key, kind, claim_milli_cu: 1_000, possession };
        self.stake(owner(n), Stake::RegisterNode(register));
        self.stake(STAFF, Stake::SetRating { node: node_id(n), rating_milli_cu: 1_000 });
        let (debit, credit) = (self.account(n), system_account("bonds/HOL"));
        let of =
            Move { debit, credit, amount: Amount::new(5_000 * HOL), balancing: false, debit_owner: None };
        let coordinator = Some(Coordinator { service: ServiceId(3), id: node_id(n) });
        let hold = self.transfer(owner(n), Kind::Hold { of, timeout_ms: Some(3_600_000), coordinator });
        self.stake(owner(n), Stake::Bond { node: node_id(n), hold });
    }

    fn say_market(&mut self, said: Vec<market::event::Event>) {
        let said = said.into_iter().map(|event| market::Event { event: Some(event) });
        let id = self.fresh();
        ask(&self.market, STAFF, id, Script::saying(said)).unwrap();
        self.rig.settle();
    }

    fn say_scheduling(&mut self, said: Vec<scheduling::event::Event>) {
        let said = said.into_iter().map(|event| scheduling::Event { event: Some(event) });
        let id = self.fresh();
        ask(&self.scheduling, STAFF, id, Script::saying(said)).unwrap();
        self.rig.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.rig.advance(time);
        self.agrees();
    }

    /// Work and beats of an epoch's nodes; then the epoch ends and is sealed by all three.
    fn epoch(&mut self, work: &[(u8, u64, u64)], beats: &[(u8, u32)]) {
        let epoch = self.look(|state| state.next);
        let nodes: Vec<u8> = work.iter().flat_map(|(n, ..)| node_id(*n).to_bytes()).collect();
        let owners: Vec<u8> = work.iter().flat_map(|(n, ..)| owner(*n).to_bytes()).collect();
        let settled = market::Settled {
            epoch,
            nodes: nodes.into(),
            owners: owners.into(),
            credits: work.iter().map(|_| market::WorkCredit::Full.into()).collect(),
            units: work.iter().map(|(_, units, _)| *units).collect(),
            fees_micro_usd: work.iter().map(|(.., fees)| *fees).collect(),
            ..Default::default()
        };
        self.say_market(vec![market::event::Event::Settled(settled)]);
        let seen: Vec<u8> = beats.iter().flat_map(|(n, _)| node_id(*n).to_bytes()).collect();
        let end = self.look(|state| state.params.calendar.ends(epoch));
        let rest = Duration::from_micros(end.micros() - self.rig.now().micros());
        self.wait(rest + Duration::from_secs(6)); // staking seals after five
        let attendance = scheduling::EpochAttendance {
            epoch,
            nodes: seen.into(),
            beats_seen: beats.iter().map(|(_, beats)| *beats).collect(),
            active: beats.iter().map(|_| true).collect(),
        };
        let sealed = scheduling::EpochSealed { epoch, beats: 5_760 };
        self.say_scheduling(vec![
            scheduling::event::Event::EpochAttendance(attendance),
            scheduling::event::Event::EpochSealed(sealed),
        ]);
        let price = market::PriceSealed { epoch, token_price_micro_usd: 700_000 };
        self.say_market(vec![
            market::event::Event::PriceSealed(price),
            market::event::Event::EpochSealed(market::EpochSealed { epoch }),
        ]);
        self.wait(Duration::from_secs(1));
        assert_eq!(self.look(|state| state.next), epoch + 1, "it has closed");
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.emission.look(look)
    }

    fn balance(&self, account: Id) -> u64 {
        self.ledger.look(|state| state.account(&account).map_or(0, |account| account.balance.net().0))
    }

    fn of(&self, name: &str) -> u64 {
        self.balance(system_account(name))
    }

    /// The invariants of all hold, and the ledger has what emission believes.
    fn agrees(&self) {
        assert_eq!(self.rig.check(), []);
        let names =
            ["trr_pool/HOL", "br_pool/HOL", "verifier_pool/HOL", "vesting_work/HOL", "emission_pot/HOL"];
        if self.of("trr_pool/HOL") > 0 {
            assert_eq!(names.map(|name| self.of(name)).as_slice(), &self.look(|state| state.held)[..5]);
        }
    }
}

#[test]
fn an_epoch_with_work_closes_and_balances_move() {
    // E-4.1, E-4.2, E-4.3, E-4.6, E-5.4, E-6.2
    let mut world = World::new();
    (1..=2).for_each(|n| world.node(n));
    world.epoch(&[], &[]); // bonded since within it: no base reward yet
    assert_eq!(world.of("br_pool/HOL"), CAP / 10);
    let before = [1, 2].map(|n| world.balance(world.account(n)));
    let rich = 50_000_000_000; // $50,000 of fees: κ cuts nothing
    world.epoch(&[(1, 3_000, rich), (2, 1_000, rich)], &[(1, 5_760), (2, 5_760)]);
    assert_eq!(world.of("trr_pool/HOL"), CAP / 10 * 3 - DAY_ONE_TRR);
    assert_eq!(world.of("br_pool/HOL"), CAP / 10 - DAY_ONE_BR);
    assert_eq!(world.of("emission_pot/HOL"), 0);
    let trr = [DAY_ONE_TRR / 4 * 3, DAY_ONE_TRR / 4];
    let liquid = trr.map(|reward| reward / 4);
    assert_eq!(world.of("vesting_work/HOL"), DAY_ONE_TRR - liquid[0] - liquid[1]);
    for (at, n) in [(0, 1), (1, 2)] {
        assert_eq!(world.balance(world.account(n)) - before[at], liquid[at] + DAY_ONE_BR / 2, "owner {n}");
    }
    let next = world.look(|state| state.targets().iter().sum::<u64>());
    assert_eq!(world.staking.look(|state| state.inputs().next_emission), Amount::new(next));
    let paid = world.look(|state| state.books.paid);
    let circulating = world.look(|state| state.params.circulating.units()) + paid;
    // What is published counts payments up to the close: the one of this epoch comes after it.
    assert_eq!(world.staking.look(|state| state.inputs().circulating.units()), circulating - paid);
    assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new());
}

#[test]
fn fees_bound_what_an_operator_earns_and_an_exit_burns_into_the_inbox() {
    // E-3.2: $7.00 of fees at $0.70 are 50 HOL; E-5.2: half of the locked part is burnt on the first day.
    let mut world = World::new();
    world.node(1);
    world.epoch(&[], &[]);
    let before = world.balance(world.account(1));
    world.epoch(&[(1, 3_000, 7_000_000)], &[]);
    let locked = 50 * HOL - 50 * HOL / 4;
    assert_eq!(world.of("trr_pool/HOL"), CAP / 10 * 3 - 50 * HOL);
    assert_eq!(world.of("vesting_work/HOL"), locked);
    assert_eq!(world.balance(world.account(1)) - before, 50 * HOL / 4);
    let epoch = world.look(|state| state.next - 1);
    let exit = holmes_emission::Command::ExitGrant { node: node_id(1), epoch };
    let id = world.fresh();
    ask(&world.emission, owner(1), id, exit).unwrap();
    world.wait(Duration::from_secs(1));
    assert_eq!((world.of("vesting_work/HOL"), world.of("burn_inbox/HOL")), (0, locked / 2));
    assert_eq!(world.balance(world.account(1)) - before, 50 * HOL / 4 + locked / 2);
}

#[test]
fn a_tombstone_in_staking_burns_what_is_locked_and_a_frozen_pool_only_delays() {
    // E-5.2; E-2.5
    let mut world = World::new();
    (1..=2).for_each(|n| world.node(n));
    world.epoch(&[], &[]);
    let freeze =
        |frozen_out| ledger::Command::SetFrozen { account: system_account("trr_pool/HOL"), frozen_out };
    world.ask_ledger(STAFF, freeze(true));
    let before = world.balance(world.account(2));
    world.epoch(&[(1, 1_000, 7_000_000), (2, 1_000, 7_000_000)], &[(2, 10)]);
    assert_eq!(world.look(|state| state.moves.values().next().unwrap().refused.clone()), "ACCOUNT_FROZEN");
    assert_eq!(world.balance(world.account(2)), before, "the chain moves all or nothing");
    world.ask_ledger(STAFF, freeze(false));
    world.wait(Duration::from_secs(3_600));
    assert_eq!(world.balance(world.account(2)) - before, DAY_ONE_BR + 50 * HOL / 4);
    let locked = 50 * HOL - 50 * HOL / 4;
    assert_eq!(world.of("vesting_work/HOL"), 2 * locked);
    world.stake(STAFF, Stake::Tombstone { node: node_id(1), cause: "evidence 7".into() });
    world.wait(Duration::from_secs(1));
    assert_eq!((world.of("vesting_work/HOL"), world.of("burn_inbox/HOL")), (locked, locked));
}

#[test]
fn weeks_of_work_unlock_grants_and_a_restart_in_between_changes_nothing() {
    // E-5.1
    let mut world = World::new();
    world.node(1);
    world.epoch(&[], &[]);
    let mut unlocked = 0;
    for day in 0..5 {
        world.epoch(&[(1, 86_400_000, 7_000_000)], &[(1, 5_760)]);
        assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new(), "day {day}");
        world.agrees();
        let now = world.look(|state| state.nodes.get(&node_id(1)).unwrap().totals.unlocked);
        assert!(if day == 0 { now == 0 } else { now > unlocked }, "day {day}");
        unlocked = now;
    }
    let reward = 5 * 50 * HOL / 4;
    assert_eq!(world.of("vesting_work/HOL"), 5 * 50 * HOL - reward - unlocked);
}

#[test]
fn the_account_that_the_owner_names_is_the_one_that_is_paid() {
    // E-6.5
    let mut world = World::new();
    world.node(1);
    let other = world.account(2);
    world.stake(owner(1), Stake::SetPayoutAccount { node: node_id(1), account: other });
    world.epoch(&[], &[]);
    let before = world.balance(other);
    world.epoch(&[], &[(1, 10)]);
    assert_eq!(world.balance(other) - before, DAY_ONE_BR);
}
