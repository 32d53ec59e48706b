//! E-6.5 over staking and scheduling: who holds a lease does not unbond, and who unbonds gets no lease.

use std::collections::BTreeSet;

use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1::NodeState;
use proptest::prelude::*;

use holmes_sim::world::{BOND, DOLLAR, OWNERS, RENTERS, USD, World, node};

#[derive(Clone, Debug)]
enum Deed {
    Open(u8),
    Place(usize),
    Renew(usize),
    End(usize),
    Lose(u8),
    Attach(u8),
    Close(usize),
    Wait(u64),
    Unbond(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => RENTERS.prop_map(Deed::Open),
        6 => any::<usize>().prop_map(Deed::Place),
        2 => any::<usize>().prop_map(Deed::Renew),
        3 => any::<usize>().prop_map(Deed::End),
        1 => OWNERS.prop_map(Deed::Lose),
        1 => OWNERS.prop_map(Deed::Attach),
        1 => any::<usize>().prop_map(Deed::Close),
        2 => (1u64..40).prop_map(Deed::Wait),
        3 => OWNERS.prop_map(Deed::Unbond),
    ]
}

/// What a node holds, as scheduling has granted it.
fn held(world: &World, n: u8) -> BTreeSet<u64> {
    world
        .scheduling
        .look(|state| state.nodes.get(&node(n)).map(|node| node.leases.clone()))
        .unwrap_or_default()
}

fn stands(world: &World, n: u8) -> NodeState {
    world.staking.look(|state| state.nodes.get(&node(n)).unwrap().state())
}

/// What staking has heard of is what scheduling has granted.
fn both_agree(world: &World) {
    for n in OWNERS {
        let heard = world.staking.look(|state| state.leases.get(&node(n)).cloned()).unwrap_or_default();
        assert_eq!(heard.into_keys().collect::<BTreeSet<_>>(), held(world, n), "leases of node {n}");
        assert!(stands(world, n) == NodeState::Active || held(world, n).is_empty(), "node {n} unbonds");
    }
}

fn live(world: &mut World, deed: &Deed) {
    match deed {
        Deed::Open(n) => world.open(*n, USD, DOLLAR),
        Deed::Place(at) => drop(world.place(*at)),
        Deed::Renew(at) => world.renew(*at),
        Deed::End(at) => world.end(*at),
        Deed::Lose(n) => world.lose(*n),
        Deed::Attach(n) if stands(world, *n) == NodeState::Active => world.attach(*n),
        Deed::Attach(_) => {}
        Deed::Close(at) => world.close(*at),
        Deed::Wait(seconds) => world.wait(*seconds),
        Deed::Unbond(n) => {
            let expected = match (stands(world, *n), held(world, *n).is_empty()) {
                (NodeState::Active, true) => Ok(()),
                (NodeState::Active, false) => Err("NODE_HOLDS_LEASE".to_owned()),
                _ => Err("WRONG_STATE".to_owned()),
            };
            assert_eq!(world.unbond(*n), expected, "E-6.5");
            world.rig.settle();
        }
    }
}

/// A network with a session, and a node of it.
fn rented() -> (World, u8) {
    let mut world = World::peopled();
    world.open(4, USD, DOLLAR);
    (world, 1)
}

#[test]
fn an_operator_leaves_by_ending_the_executor_and_nobody_who_serves_does() {
    let (mut world, n) = rented();
    world.place_on(0, Some(n)).unwrap();
    world.rig.settle();
    assert_eq!(world.unbond(n), Err("NODE_HOLDS_LEASE".to_owned()));
    for _ in 0..3 {
        world.wait(40);
        world.renew(0);
    }
    assert_eq!(world.unbond(n), Err("NODE_HOLDS_LEASE".to_owned()), "a lease that is renewed has not ended");
    world.lose(n);
    world.wait(1);
    assert_eq!(world.unbond(n), Ok(()));
    world.rig.settle();
    both_agree(&world);
}

#[test]
fn a_lease_that_is_not_renewed_lets_its_node_go_within_a_minute() {
    let (mut world, n) = rented();
    world.place_on(0, Some(n)).unwrap();
    world.wait(59);
    assert_eq!(world.unbond(n), Err("NODE_HOLDS_LEASE".to_owned()));
    world.wait(2);
    assert_eq!(world.unbond(n), Ok(()));
}

#[test]
fn a_lease_and_an_unbonding_that_cross_leave_no_lease_and_all_of_the_stake() {
    for lease_first in [true, false] {
        let (mut world, n) = rented();
        // Neither service has heard of the other's event: both say yes.
        if lease_first {
            world.place_on(0, Some(n)).unwrap();
            assert_eq!(world.unbond(n), Ok(()));
        } else {
            assert_eq!(world.unbond(n), Ok(()));
            world.place_on(0, Some(n)).unwrap();
        }
        world.wait(1);
        both_agree(&world);
        let ended = world.events().into_iter().find_map(|event: holmes_proto::scheduling::v1::Event| {
            if let Some(Placed::LeaseEnded(ended)) = event.event { Some(ended.reason()) } else { None }
        });
        assert_eq!(ended, Some(LeaseEnd::NodeUnqualified));
        assert_eq!(world.place_on(0, Some(n)), None, "it gets no lease any more");
        let unbonding = world.staking.look(|state| state.nodes.get(&node(n)).unwrap().unbonding);
        assert_eq!(unbonding, BOND, "slashable until it is paid, 14 days later");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn who_holds_a_lease_does_not_unbond_and_who_unbonds_holds_none(
        deeds in prop::collection::vec(deed(), 1..40),
    ) {
        let mut world = World::peopled();
        world.open(4, USD, DOLLAR);
        for deed in &deeds {
            live(&mut world, deed);
            both_agree(&world);
        }
        prop_assert_eq!(world.rig.check(), []);
        prop_assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new(), "the logs tell it all again");
    }
}
