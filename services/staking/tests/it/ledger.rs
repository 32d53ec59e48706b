//! Beside a real ledger: bonds arrive, leave when they may and not before, and the ledger agrees at every rest.

use std::time::Duration;

use holmes_kernel::{Amount, Id, ServiceId};
use holmes_ledger::command as ledger;
use holmes_ledger::system_account;
use holmes_proto::staking::v1::{NodeKind, NodeState};
use holmes_staking::{Command, Reply};

use crate::harness::{DAY, HOL, STAFF, World, node_id, owner, registration, with};

const SECOND: Duration = Duration::from_secs(1);

fn defaults() -> World {
    World::new(&with(|_| {}))
}

#[test]
fn a_posted_hold_makes_a_rated_node_active() {
    // E-6.1
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    assert_eq!(world.see(node, |n| n.state()), NodeState::Registered);
    let required = world.look(|s| s.nodes.get(&node).unwrap().required(&s.params, s.at)).units();
    world.bond(1, node, required - 1);
    assert_eq!(world.see(node, |n| (n.state(), n.bond)), (NodeState::Registered, required - 1));
    world.bond(1, node, 1);
    assert_eq!(world.see(node, |n| (n.state(), n.bond)), (NodeState::Active, required));
    assert_eq!(world.balance(world.account(1)), 10_000_000 * HOL - required);
    world.agrees();
}

#[test]
fn a_bond_is_paid_after_fourteen_days_and_not_before_and_the_node_is_gone() {
    // E-6.5
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    world.bond(1, node, 1_000 * HOL);
    world.unbond(1, node, None);
    assert_eq!(world.see(node, |n| (n.state(), n.bond, n.unbonding)), (NodeState::Unbonding, 0, 1_000 * HOL));
    world.wait(14 * DAY - SECOND);
    assert_eq!(world.balance(world.account(1)), 9_999_000 * HOL);
    world.wait(SECOND);
    assert_eq!(world.balance(world.account(1)), 10_000_000 * HOL);
    assert_eq!(world.see(node, |n| (n.state(), n.unbonding)), (NodeState::Exited, 0));
    let again = registration(1, owner(1), NodeKind::Compute, 1_000);
    world.ask(owner(1), Command::RegisterNode(again)).unwrap();
    assert_eq!(world.see(node, |n| n.state()), NodeState::Registered);
}

#[test]
fn a_verifier_waits_twenty_one_days_and_its_class_has_a_throttle_of_its_own() {
    // E-6.1, E-6.5
    let mut world = defaults();
    let (compute, verifier) =
        (world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 1, NodeKind::Verifier, 0));
    world.bond(1, verifier, 1_000 * HOL);
    world.bond(1, compute, 1_000 * HOL);
    assert_eq!(world.see(verifier, |n| n.state()), NodeState::Active);
    world.unbond(1, verifier, None);
    world.unbond(1, compute, None);
    world.wait(20 * DAY + SECOND);
    assert_eq!(world.see(compute, |n| n.state()), NodeState::Exited);
    assert_eq!(world.see(verifier, |n| n.state()), NodeState::Unbonding);
    world.wait(DAY);
    assert_eq!(world.see(verifier, |n| n.state()), NodeState::Exited);
    assert_eq!(world.balance(system_account("bonds/HOL")), 0);
}

#[test]
fn a_class_leaves_in_the_order_of_request_in_parts_and_each_day_no_more_than_may() {
    // E-6.5: 9 % of 1,000,000 HOL at 00:00, then of what is left; never below 50,000.
    let mut world = defaults();
    let nodes = [world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 2, NodeKind::Compute, 1_000)];
    world.bond(1, nodes[0], 600_000 * HOL);
    world.bond(2, nodes[1], 400_000 * HOL);
    world.unbond(1, nodes[0], None);
    world.wait(SECOND);
    world.unbond(2, nodes[1], None);
    let (mut left, mut paid) = (1_000_000 * HOL, 0);
    world.wait(14 * DAY);
    for day in 0..30 {
        let may = (left / 100 * 9).max(50_000 * HOL).min(left);
        (left, paid) = (left - may, paid + may);
        assert_eq!(world.balance(system_account("bonds/HOL")), left, "day {day}");
        let first = paid.min(600_000 * HOL);
        assert_eq!(world.balance(world.account(1)), 9_400_000 * HOL + first, "day {day}");
        world.wait(DAY / 2);
        world.wait(DAY / 2);
    }
    assert_eq!(left, 0);
    assert_eq!(world.see(nodes[1], |n| n.state()), NodeState::Exited);
}

#[test]
fn a_restart_in_the_middle_changes_nothing() {
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    world.bond(1, node, 700_000 * HOL);
    world.unbond(1, node, None);
    for _ in 0..32 {
        world.wait(DAY);
        assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new());
    }
    assert_eq!(world.balance(world.account(1)), 10_000_000 * HOL);
    world.agrees();
}

#[test]
fn a_refused_payout_is_tried_again_and_others_do_not_wait_for_it() {
    // E-6.5
    let mut world = defaults();
    let nodes = [world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 2, NodeKind::Compute, 1_000)];
    world.bond(1, nodes[0], 1_000 * HOL);
    world.bond(2, nodes[1], 1_000 * HOL);
    for name in ["trr_pool/HOL", "bonds/HOL", "fees/HOL"] {
        let pool = system_account(name);
        let leave = Command::Unbond { node: nodes[0], amount: None, account: Some(pool) };
        let set = Command::SetPayoutAccount { node: nodes[0], account: pool };
        for asked in [leave, set] {
            assert_eq!(world.ask(owner(1), asked).unwrap_err().reason, "ACCOUNT_RESERVED", "{name}");
        }
    }
    let nowhere = Some(Id::v7(1, [99; 10]));
    let astray = Command::Unbond { node: nodes[0], amount: None, account: nowhere };
    world.ask(owner(1), astray).unwrap();
    world.unbond(2, nodes[1], None);
    world.wait(14 * DAY + SECOND);
    let refused = world.look(|s| s.unbondings.values().next().unwrap().refused.clone());
    assert_eq!(refused, "CREDIT_NOT_FOUND");
    assert_eq!(world.see(nodes[1], |n| n.state()), NodeState::Exited);
    let account = world.account(1);
    world.ask(owner(1), Command::SetPayoutAccount { node: nodes[0], account }).unwrap();
    world.wait(DAY);
    assert_eq!(world.balance(account), 10_000_000 * HOL);
    assert_eq!(world.see(nodes[0], |n| n.state()), NodeState::Exited);
}

#[test]
fn only_the_owners_own_hold_for_that_node_is_bonded() {
    let mut world = defaults();
    let (mine, theirs) =
        (world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 2, NodeKind::Compute, 1_000));
    let hold = world.hold(1, mine, 500 * HOL);
    let bond = |node, hold| Command::Bond { node, hold };
    assert_eq!(world.refused(owner(2), bond(theirs, hold)), "HOLD_NOT_OFFERED");
    assert_eq!(world.refused(owner(2), bond(mine, hold)), "FORBIDDEN");
    // A hold for another's node is nobody's offer.
    let gift = world.hold(1, theirs, 500 * HOL);
    assert_eq!(world.refused(owner(2), bond(theirs, gift)), "HOLD_NOT_OFFERED");
    world.ask(owner(1), bond(mine, hold)).unwrap();
    assert_eq!(world.see(mine, |n| n.bond), 500 * HOL);
    assert_eq!(world.refused(owner(1), bond(mine, hold)), "HOLD_NOT_OFFERED");
    world.agrees();
}

#[test]
fn a_hold_that_has_expired_is_refused_by_the_ledger_and_the_bond_stays_as_it_was() {
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    let hold = world.hold(1, node, 500 * HOL);
    world.wait(2 * Duration::from_secs(3_600));
    assert_eq!(
        world.ask(owner(1), Command::Bond { node, hold }),
        Ok(Reply::Bonding { amount: Amount::new(500 * HOL) })
    );
    assert_eq!(world.see(node, |n| n.bond_refused.clone()), "HOLD_ENDED");
    assert_eq!(world.see(node, |n| (n.bond, n.pending, n.offers.len())), (0, 0, 0));
    world.agrees();
}

#[test]
fn the_ledger_lets_nobody_but_staking_take_a_bond_out() {
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    world.bond(1, node, 1_000 * HOL);
    let (vault, account) = (system_account("bonds/HOL"), world.account(1));
    assert_ne!(world.transfer(owner(1), vault, account, HOL), holmes_proto::ledger::v1::TransferCode::Ok);
    let owned = world.ledger.look(|s| s.account(&vault).unwrap().owner);
    assert_eq!(owned, holmes_kernel::Principal::service(ServiceId(3)));
}

#[test]
fn the_bonds_account_is_asked_for_again_until_the_ledger_has_the_asset() {
    let mut world = World::new(&with(|params| params.asset = 9));
    world.wait(DAY);
    assert!(world.look(|s| !s.vault.open && s.vault.refusals > 2 && s.vault.ask_at.is_some()));
}

#[test]
fn a_hardware_pass_ends_after_seven_days_and_the_network_is_smaller() {
    // E-0.6
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 2_000);
    world.bond(1, node, 100_000 * HOL);
    assert_eq!(world.look(|s| (s.classes[0].active, s.classes[0].active_milli_cu)), (1, 2_000));
    world.wait(7 * DAY);
    assert_eq!(world.see(node, |n| (n.state(), n.qualified)), (NodeState::Active, false));
    assert_eq!(world.look(|s| (s.classes[0].active, s.classes[0].active_milli_cu)), (0, 0));
    world.rate(1, NodeKind::Compute, 2_000);
    assert!(world.see(node, |n| n.qualified));
    world.agrees();
}

#[test]
fn every_seven_days_the_base_follows_the_network_ten_per_cent_at_a_time() {
    // E-6.2
    let mut world = World::new(&with(|params| params.circulating_units = 500_000_000 * HOL));
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    world.bond(1, node, 9_000_000 * HOL);
    let base = |world: &World| world.look(|s| s.base.units.units());
    let first = base(&world);
    world
        .ask(owner(1), Command::Unbond { node, amount: Some(Amount::new(8_000_000 * HOL)), account: None })
        .unwrap();
    let mut last = first;
    for _ in 0..6 {
        world.wait(7 * DAY);
        world.rate(1, NodeKind::Compute, 1_000);
        let next = base(&world);
        assert!(next * 10 >= last * 9 && next * 10 <= last * 11, "{last} {next}");
        assert!(world.see(node, |n| n.qualified));
        last = next;
    }
    world.agrees();
}

#[test]
fn a_rise_is_in_force_after_thirty_days_and_who_does_not_follow_is_not_qualified() {
    // E-0.6, E-6.2. The first base is low because nothing circulates; bonds make N and S move it up afterwards.
    let params = with(|params| {
        params.target_nodes = 2;
        params.hardware_pass_days = 90;
        params.circulating_units = 0;
        params.next_emission_units *= 40;
    });
    let mut world = World::new(&params);
    let nodes = [world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 2, NodeKind::Compute, 1_000)];
    let required =
        |world: &World| world.look(|s| s.nodes.get(&nodes[0]).unwrap().required(&s.params, s.at).units());
    let first = required(&world);
    world.bond(1, nodes[0], first);
    world.bond(2, nodes[1], 1_000_000 * HOL); // N = N_target now: g goes from 0.5 to 1
    world.wait(7 * DAY);
    let told = world.see(nodes[0], |n| n.bases.rises_after(world.rig.now()).count());
    assert_eq!((told, required(&world)), (1, first));
    world.wait(29 * DAY);
    assert!(world.see(nodes[0], |n| n.qualified) && required(&world) == first);
    world.wait(DAY);
    assert!(required(&world).abs_diff(first / 10 * 11) < 100);
    assert!(world.see(nodes[0], |n| !n.qualified) && world.see(nodes[1], |n| n.qualified));
    world.agrees();
}

#[test]
fn a_job_takes_more_nodes_than_fit_one_frame() {
    // E-6.2
    let mut world = World::new(&with(|params| params.epoch_s = 45));
    for n in 0..300 {
        let register = registration(n, owner(1), NodeKind::Compute, 500);
        world.ask(owner(1), Command::RegisterNode(register)).unwrap();
    }
    world.wait(7 * Duration::from_secs(45));
    assert!(world.look(|s| s.base.job.is_none() && s.nodes.len() == 300));
    world.agrees();
}

#[test]
fn epochs_are_sealed_while_time_passes() {
    // E-0.5
    let mut world = defaults();
    let first = world.look(|s| s.seals_next);
    world.wait(3 * DAY + 6 * SECOND);
    assert_eq!(world.look(|s| s.seals_next), first + 3);
    world.agrees();
}

#[test]
fn a_tombstone_is_the_owners_and_its_stake_can_still_be_unbonded() {
    // E-6.1, E-14.3
    let mut world = defaults();
    let (compute, verifier) =
        (world.node(1, 1, NodeKind::Compute, 1_000), world.node(2, 1, NodeKind::Verifier, 0));
    world.bond(1, compute, 1_000 * HOL);
    let cause = "evidence 7".to_owned();
    assert_eq!(
        world.refused(owner(1), Command::Tombstone { node: compute, cause: cause.clone() }),
        "FORBIDDEN"
    );
    world.ask(STAFF, Command::Tombstone { node: verifier, cause }).unwrap();
    for node in [compute, verifier] {
        assert_eq!(world.see(node, |n| n.state()), NodeState::Tombstoned);
    }
    let another = registration(3, owner(1), NodeKind::Compute, 1_000);
    assert_eq!(world.refused(owner(1), Command::RegisterNode(another)), "OWNER_TOMBSTONED");
    let hold = world.hold(1, compute, HOL);
    assert_eq!(world.refused(owner(1), Command::Bond { node: compute, hold }), "WRONG_STATE");
    world.unbond(1, compute, None);
    world.wait(15 * DAY);
    assert_eq!(world.balance(world.account(1)), 10_000_000 * HOL);
    assert_eq!(world.see(node_id(1), |n| n.state()), NodeState::Tombstoned);
}

#[test]
fn a_frozen_owner_gets_its_bond_back_but_cannot_bond() {
    // E-2.5: only what leaves an account is stopped.
    let mut world = defaults();
    let node = world.node(1, 1, NodeKind::Compute, 1_000);
    world.bond(1, node, 1_000 * HOL);
    world.unbond(1, node, None);
    let account = world.account(1);
    world.ask_ledger(STAFF, ledger::Command::SetFrozen { account, frozen_out: true }).unwrap();
    world.wait(14 * DAY + SECOND);
    assert_eq!(world.balance(account), 10_000_000 * HOL);
}
