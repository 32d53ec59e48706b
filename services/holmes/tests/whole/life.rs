//! A network's long life, in which staff and parties do all that a demo has no time for. Its log is what the independent
//! audit reads beside the demo's (tests/test_audit_life.py), which has it written into the directory that HOLMES_LIFE
//! names.

use std::path::Path;
use std::time::Duration;

use holmes_accounts::command::NewAccount;
use holmes_accounts::params::{FirstStaff, defaults};
use holmes_accounts::{Accounts, By, Change, Roles};
use holmes_emission::Command as Reward;
use holmes_kernel::{Amount, Id, Principal, PrincipalKind};
use holmes_ledger::command::Command as Pay;
use holmes_market::Command as Trade;
use holmes_market::model::Model;
use holmes_proto::staking::v1::NodeState;
use holmes_runtime::rig::Seat;
use holmes_staking::command::Command as Stake;
use holmes_store::journal::memory::Journal;
use prost_reflect::prost::Message as _;

use super::world::{
    COIN, DOLLAR, EPOCH_S, HOL, MODEL, STAFF, USD, World, account, log, node, opened, party, public,
};

/// How long a session may last, and the ledger keeps its hold behind that.
const SESSION_S: u64 = 8 * EPOCH_S;
const GRACE_S: u64 = 130;

impl World {
    fn stake(&mut self, who: Principal, command: Stake) {
        self.ask(&self.staking.clone(), who, command).unwrap();
    }

    fn freeze(&mut self, account: Id, frozen_out: bool) {
        let freeze = Pay::SetFrozen { account, frozen_out };
        self.ask(&self.ledger.clone(), STAFF, freeze).unwrap();
    }

    /// A session with a lease on a node, and calls that are reported.
    fn serve(&mut self, n: u8, renter: u8, asset: u32, calls: &[(u8, u64)]) {
        self.open(renter, asset, DOLLAR);
        let session = self.sessions.len() - 1;
        self.place_on(session, Some(n)).unwrap();
        self.rig.settle();
        self.report(self.leases.len() - 1, calls);
    }

    /// Its last lease is over.
    fn rest(&mut self) {
        self.end(self.leases.len() - 1);
    }

    fn epoch(&self) -> u64 {
        self.market.look(|state| state.params.calendar.epoch(self.rig.now()))
    }

    fn stands(&self, n: u8) -> NodeState {
        self.staking.look(|state| state.nodes.get(&node(n)).unwrap().state())
    }
}

/// Staff suspends an account and reinstates it.
fn a_suspension(world: &mut World) {
    let first = FirstStaff { public_keys: vec![public(7)], ..FirstStaff::default() };
    let params = defaults(&first).encode_to_vec();
    let accounts: Seat<Accounts, Journal> = world.rig.add(log(2), opened(params)).unwrap();
    let staff = Principal::new(PrincipalKind::Staff, Id::of_key(&public(7)));
    let account = world.fresh();
    let new = NewAccount { account, name: "mallory".into(), roles: Roles::RENTER, key: None };
    let cause = "asked for by a court".to_owned();
    for change in
        [Change::CreateAccount(new), Change::Suspend { account, cause }, Change::Reinstate { account }]
    {
        let command = holmes_accounts::Command { by: By::Signature, change };
        world.ask(&accounts, staff, command).unwrap();
    }
}

/// A model has another price from the middle of an epoch on; a lease keeps the one that it was granted at.
fn another_price(world: &mut World) {
    world.serve(1, 4, USD, &[(1, 90_000)]);
    let was = world.market.look(|state| state.models.get(MODEL).copied().unwrap());
    let model =
        Model { output_pico: was.output_pico + 7, output_micro_units: was.output_micro_units + 1, ..was };
    let set = Trade::SetModel { name: MODEL.into(), model };
    world.ask(&world.market.clone(), STAFF, set).unwrap();
    world.report(world.leases.len() - 1, &[(2, 90_001)]);
    world.rest();
    world.place_on(world.sessions.len() - 1, Some(1)).unwrap();
    world.rig.settle();
    world.report(world.leases.len() - 1, &[(3, 90_002)]);
    world.rest();
}

/// A renter's account is frozen while calls run: neither a whole hold nor the rest of the one before is made again.
fn a_frozen_renter(world: &mut World) {
    world.serve(1, 4, USD, &[(11, 90_000)]);
    world.freeze(account(4, USD), true);
    world.report(world.leases.len() - 1, &[(12, 80_000)]);
    world.wait(10);
    world.rest();
    world.wait(80);
    world.freeze(account(4, USD), false);
    world.serve(1, 4, USD, &[(13, 70_000)]);
    world.rest();
}

/// A renter runs out of money: what is left of the hold is held again, and nothing more.
fn a_poor_renter(world: &mut World) {
    world.serve(1, 5, HOL, &[(21, 90_000)]);
    let session = world.sessions[world.sessions.len() - 1].1;
    let held = world.market.look(|state| state.sessions.get(&session).unwrap().hold.unwrap().units);
    let spent = world.balance(account(5, HOL)) - held - COIN / 10;
    let spend = world.single(account(5, HOL), account(4, HOL), spent);
    world.transfer(party(5), spend);
    world.wait(10);
    world.report(world.leases.len() - 1, &[(22, 80_000)]);
    world.wait(10);
    world.rest();
}

/// A node is jailed while it serves, and released.
fn a_jailing(world: &mut World) {
    world.serve(2, 4, USD, &[(31, 50_000)]);
    world.stake(STAFF, Stake::Jail { node: node(2), cause: "it answers nonsense".into() });
    world.wait(20);
    assert_eq!(world.stands(2), NodeState::Jailed);
    world.stake(STAFF, Stake::Unjail { node: node(2) });
    world.serve(2, 4, USD, &[(32, 50_000)]);
    world.rest();
}

/// One owner takes a part of a bond back, one all of it, and comes back when it is paid.
fn unbondings(world: &mut World) {
    let part = Some(Amount::new(1_000 * COIN));
    world.stake(party(1), Stake::Unbond { node: node(1), amount: part, account: None });
    world.unbond(2).unwrap();
    world.rig.settle();
    while world.stands(2) != NodeState::Exited {
        world.serve(1, 4, USD, &[(41, 60_000)]);
        world.wait(30);
        world.rest();
        world.close(world.sessions.len() - 1);
        world.wait(EPOCH_S - 30);
    }
    world.bond(2);
    world.attach(2);
}

/// An owner takes what is locked of a grant at once, and a part of it burns.
fn an_early_exit(world: &mut World) {
    let grant = Reward::ExitGrant { node: node(1), epoch: world.epoch() - 3 };
    world.ask(&world.emission.clone(), party(1), grant).unwrap();
}

/// An owner is tombstoned while its node serves, and takes the bond back all the same (E-6.5).
fn a_tombstone(world: &mut World) {
    world.serve(3, 4, USD, &[(51, 50_000)]);
    world.stake(STAFF, Stake::Tombstone { node: node(3), cause: "it has forged".into() });
    world.wait(EPOCH_S);
    world.unbond(3).unwrap();
    world.rig.settle();
}

/// All of it is down for longer than a session and its hold last, with a window that is not settled.
fn an_outage(mut world: World) -> World {
    world.wait(EPOCH_S);
    world.serve(1, 4, USD, &[(61, 50_000)]);
    let mut world = world.down_for(Duration::from_secs(SESSION_S + GRACE_S + 10));
    world.start_gateway();
    world.attach(1);
    world.attach(2);
    world.wait(EPOCH_S);
    world
}

fn lived() -> World {
    let mut world = World::on_terms(|market| {
        (market.longest_session_ms, market.idle_ms) = (SESSION_S * 1_000, SESSION_S * 1_000);
        (market.drain_ms, market.silence_ms) = (60_000, 60_000);
        market.hold_grace_ms = GRACE_S * 1_000;
    });
    world.people();
    a_suspension(&mut world);
    world.wait(EPOCH_S + 10);
    another_price(&mut world);
    a_frozen_renter(&mut world);
    a_poor_renter(&mut world);
    a_jailing(&mut world);
    world.open_alone(4, USD, DOLLAR);
    world.close(world.sessions.len() - 1); // before the ledger has answered
    world.wait(EPOCH_S);
    unbondings(&mut world);
    an_early_exit(&mut world);
    a_tombstone(&mut world);
    let mut world = an_outage(world);
    while world.epoch() < 50 {
        world.serve(1, 4, USD, &[(71, 40_000)]);
        world.rest();
        world.wait(EPOCH_S);
    }
    world
}

/// As `holmes replay --frames` writes them: each behind its length.
fn write(world: &World, dir: &Path) {
    for (number, name) in holmes_proto::SERVICES {
        let mut file = Vec::new();
        for frame in world.frames(*number) {
            file.extend(u32::try_from(frame.bytes().len()).unwrap().to_le_bytes());
            file.extend(frame.bytes());
        }
        if !file.is_empty() {
            std::fs::write(dir.join(format!("{name}.frames")), file).unwrap();
        }
    }
}

#[test]
fn a_long_life_keeps_every_invariant_and_is_told_again_by_its_logs() {
    let mut world = lived();
    assert_eq!(world.rig.check(), []);
    assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new());
    if let Some(dir) = std::env::var_os("HOLMES_LIFE") {
        write(&world, Path::new(&dir));
    }
}
