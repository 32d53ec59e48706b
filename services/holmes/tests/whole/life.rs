//! A network's long life, in which staff and parties do all that a demo has no time for. Its log is what the independent
//! audit reads beside the demo's (tests/test_audit_life.py), which has it written into the directory that HOLMES_LIFE
//! names.

use std::path::Path;
use std::time::Duration;

use holmes_accounts::command::{NewAccount, NewApiKey};
use holmes_accounts::{By, Change, Roles};
use holmes_emission::Command as Reward;
use holmes_kernel::{Amount, Id, Principal};
use holmes_ledger::command::{Command as Pay, Movement, OpenAccount, Via};
use holmes_ledger::rate::RateLimit;
use holmes_market::Command as Trade;
use holmes_market::model::Model;
use holmes_proto::staking::v1::NodeState;
use holmes_staking::command::Command as Stake;

use holmes_sim::world::{BANK, COIN, DOLLAR, EPOCH_S, HOL, MODEL, USD, World, account, node, party, staff};

/// A session without calls or leases closes then.
const IDLE_S: u64 = 40;
/// How long a session may last, and the ledger keeps its hold behind that.
const SESSION_S: u64 = 8 * EPOCH_S;
const GRACE_S: u64 = 130;

/// What only this life does.
trait Life {
    fn stake(&mut self, who: Principal, command: Stake);
    fn freeze(&mut self, account: Id, frozen_out: bool);
    /// A session with a lease on a node, and calls that are reported.
    fn serve(&mut self, n: u8, renter: u8, asset: u32, calls: &[(u8, u64)]);
    /// Its last lease is over.
    fn rest(&mut self);
    fn is_refused_a_payout(&self) -> bool;
    /// One more account of a party.
    fn another_account(&mut self, n: u8, asset: u32) -> Id;
    fn epoch(&self) -> u64;
    fn stands(&self, n: u8) -> NodeState;
}

impl Life for World {
    fn stake(&mut self, who: Principal, command: Stake) {
        self.ask(&self.staking.clone(), who, command).unwrap();
    }

    fn freeze(&mut self, account: Id, frozen_out: bool) {
        let freeze = Pay::SetFrozen { account, frozen_out };
        self.ask(&self.ledger.clone(), staff(), freeze).unwrap();
    }

    fn serve(&mut self, n: u8, renter: u8, asset: u32, calls: &[(u8, u64)]) {
        self.open(renter, asset, DOLLAR);
        let session = self.sessions.len() - 1;
        self.place_on(session, Some(n)).unwrap();
        self.rig.settle();
        self.report(self.leases.len() - 1, calls);
    }

    fn rest(&mut self) {
        self.end(self.leases.len() - 1);
    }

    fn is_refused_a_payout(&self) -> bool {
        self.staking.look(|state| state.unbondings.values().any(|one| !one.refused.is_empty()))
    }

    fn another_account(&mut self, n: u8, asset: u32) -> Id {
        let (account, owner, name) = (self.fresh(), party(n), String::new());
        let open = OpenAccount { account, asset, owner, name, history: false, via: Via::Call };
        self.ask(&self.ledger.clone(), owner, Pay::OpenAccount(open)).unwrap();
        account
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
    let accounts = world.accounts.clone();
    let (account, key, hash) = (world.fresh(), world.fresh(), [9; 32]);
    let new = NewAccount { account, name: "mallory".into(), roles: Roles::RENTER, key: None };
    let (label, roles) = (String::new(), Roles::RENTER);
    let api_key = NewApiKey { account, key, hash, label, roles, admin: false, expires: None };
    let cause = "asked for by a court".to_owned();
    for change in [
        Change::CreateAccount(new),
        Change::CreateApiKey(api_key),
        Change::Suspend { account, cause },
        Change::Reinstate { account },
        Change::RevokeApiKey { key },
    ] {
        let command = holmes_accounts::Command { by: By::Signature, change };
        world.ask(&accounts, staff(), command).unwrap();
    }
}

/// A model has another price from the middle of an epoch on; a lease keeps the one that it was granted at.
fn another_price(world: &mut World) {
    world.serve(1, 4, USD, &[(1, 90_000)]);
    let was = world.market.look(|state| state.models.get(MODEL).copied().unwrap());
    let model =
        Model { output_pico: was.output_pico + 7, output_micro_units: was.output_micro_units + 1, ..was };
    let set = Trade::SetModel { name: MODEL.into(), model };
    world.ask(&world.market.clone(), staff(), set).unwrap();
    world.report(world.leases.len() - 1, &[(2, 90_001)]);
    world.rest();
    world.place_on(world.sessions.len() - 1, Some(1)).unwrap();
    world.rig.settle();
    world.report(world.leases.len() - 1, &[(3, 90_002)]);
    world.rest();
}

/// A call runs for so long that it is checkpointed and its lease renewed, and its node is lost before it ends.
fn a_long_call(world: &mut World) {
    world.serve(1, 4, USD, &[(5, 1_000), (6, 1_000)]);
    let lease = world.leases.len() - 1;
    world.report(lease, &[(5, 1_000), (7, 1_000)]); // the first is a repetition
    world.wait(20);
    world.checkpoint(lease, &[(8, 40_000)]);
    world.renew(lease);
    world.wait(20);
    world.checkpoint(lease, &[(8, 80_000)]);
    world.lose(1);
    world.attach(1);
}

/// An owner has no account any more when a window is settled: the owner's part waits for the next one.
fn an_owner_without_account(world: &mut World) {
    let all = world.single(account(2, USD), account(4, USD), world.balance(account(2, USD)));
    world.transfer(party(2), all);
    world.ask(&world.ledger.clone(), party(2), Pay::CloseAccount { account: account(2, USD) }).unwrap();
    world.serve(2, 4, USD, &[(15, 90_000)]);
    world.rest();
    world.wait(20);
    let account = world.another_account(2, USD);
    let set = Trade::SetAccount { asset: USD, account };
    world.ask(&world.market.clone(), party(2), set).unwrap();
}

/// What the border and staff do with accounts: a limit, a bulk submitter, money that leaves.
fn the_border(world: &mut World) {
    let rate = RateLimit::new(100 * DOLLAR, 60_000);
    let (reference, amount) = ("bank out".to_owned(), Amount::new(DOLLAR));
    let withdrawal = Movement { account: account(3, USD), amount, reference };
    for (who, command) in [
        (staff(), Pay::SetLimits { account: account(3, USD), credit_limit: 0, rate }),
        (staff(), Pay::RegisterSubmitter { submitter: party(3), registered: true }),
        (BANK, Pay::RecordWithdrawal(withdrawal)),
    ] {
        world.ask(&world.ledger.clone(), who, command).unwrap();
    }
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
    world.stake(staff(), Stake::Jail { node: node(2), cause: "it answers nonsense".into() });
    world.wait(20);
    assert_eq!(world.stands(2), NodeState::Jailed);
    world.stake(staff(), Stake::Unjail { node: node(2) });
    world.serve(2, 4, USD, &[(32, 50_000)]);
    world.rest();
}

/// One owner takes a part of a bond back, one all of it, and comes back when it is paid.
fn unbondings(world: &mut World) {
    let ended = world.hold_for_bond(1, 1_000);
    world.wait(2);
    world.stake(party(1), Stake::Bond { node: node(1), hold: ended }); // the ledger refuses it
    // The first account that it is to be paid to is closed by then.
    let closed = world.another_account(2, HOL);
    world.stake(party(2), Stake::SetPayoutAccount { node: node(2), account: closed });
    world.ask(&world.ledger.clone(), party(2), Pay::CloseAccount { account: closed }).unwrap();
    let part = Some(Amount::new(1_000 * COIN));
    world.stake(party(1), Stake::Unbond { node: node(1), amount: part, account: None });
    world.unbond(2).unwrap();
    world.rig.settle();
    while world.stands(2) != NodeState::Exited {
        if world.is_refused_a_payout() {
            world.stake(party(2), Stake::SetPayoutAccount { node: node(2), account: account(2, HOL) });
        }
        world.serve(1, 4, USD, &[(41, 60_000)]);
        world.wait(30);
        world.rest();
        world.close(world.sessions.len() - 1);
        world.wait(EPOCH_S - 30);
    }
    world.bond(2);
    world.attach(2);
}

/// An owner takes what is locked of a grant at once, and a part of it burns: those tokens end.
fn an_early_exit(world: &mut World) {
    let grant = Reward::ExitGrant { node: node(1), epoch: world.epoch() - 3 };
    world.ask(&world.emission.clone(), party(1), grant).unwrap();
    world.wait(10);
    let amount = Amount::new(world.of("burn_inbox/HOL"));
    world.ask(&world.ledger.clone(), BANK, Pay::Destroy { asset: HOL, amount }).unwrap();
}

/// An owner is tombstoned while its node serves, and takes the bond back all the same (E-6.5).
fn a_tombstone(world: &mut World) {
    world.serve(3, 4, USD, &[(51, 50_000)]);
    world.stake(staff(), Stake::Tombstone { node: node(3), cause: "it has forged".into() });
    world.wait(EPOCH_S);
    world.unbond(3).unwrap();
    world.rig.settle();
}

/// All of it is down for longer than a session and its hold last, with a window that is not settled.
fn an_outage(mut world: World) -> World {
    world.wait(EPOCH_S);
    world.serve(1, 4, USD, &[(61, 50_000)]);
    let leases = world.leases.clone();
    let mut world = world.down_for(Duration::from_secs(SESSION_S + GRACE_S + 10));
    world.leases = leases;
    world.start_gateway();
    world.report(world.leases.len() - 1, &[(62, 50_000)]); // nobody pays it any more
    world.attach(1);
    world.attach(2);
    world.wait(EPOCH_S);
    world
}

fn lived() -> World {
    let mut world = World::on_terms(|market| {
        (market.longest_session_ms, market.idle_ms) = (SESSION_S * 1_000, IDLE_S * 1_000);
        market.keep_closed_ms = SESSION_S * 1_000;
        (market.drain_ms, market.silence_ms) = (60_000, 60_000);
        market.hold_grace_ms = GRACE_S * 1_000;
    });
    world.people();
    a_suspension(&mut world);
    world.wait(EPOCH_S + 10);
    another_price(&mut world);
    a_long_call(&mut world);
    an_owner_without_account(&mut world);
    for n in 0..3 {
        world.serve(3, 5, HOL, &[(n, 80_000)]);
        world.rest();
        world.wait(EPOCH_S);
    }
    a_frozen_renter(&mut world);
    a_poor_renter(&mut world);
    the_border(&mut world);
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
