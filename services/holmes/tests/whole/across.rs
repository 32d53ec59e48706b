//! The checks across services that `holmes verify` prints, with differences planted one at a time.

use holmes_emission::state::Awaited as Rewarded;
use holmes_kernel::{Amount, Id, Machine, canon};
use holmes_ledger::{Ledger, system_account};
use holmes_runtime::rig::Seat;
use holmes_sim::Journal;
use holmes_staking::state::Awaited as Staked;

use super::checks::{self, Agreement};
use holmes_sim::world::{DOLLAR, EPOCH_S, HOL, USD, World};

/// The states of a network in which much has happened, each to be changed by itself.
struct States {
    ledger: holmes_ledger::State,
    treasury: holmes_treasury::State,
    staking: holmes_staking::State,
    market: holmes_market::State,
    emission: holmes_emission::State,
    at: holmes_kernel::Time,
}

fn copy<M: Machine>(seat: &Seat<M, Journal>) -> M::State {
    canon::decode(&seat.look(canon::encode)).unwrap()
}

impl States {
    fn lived() -> States {
        let mut world = World::peopled();
        world.wait(EPOCH_S);
        world.open(4, USD, DOLLAR);
        world.open(5, HOL, DOLLAR);
        for at in 0..4 {
            world.place(at).unwrap();
            world.report(at, &[(at as u8, 1_000)]);
        }
        world.wait(2 * EPOCH_S);
        States {
            ledger: copy(&world.ledger),
            treasury: copy(&world.treasury),
            staking: copy(&world.staking),
            market: copy(&world.market),
            emission: copy(&world.emission),
            at: world.rig.now(),
        }
    }

    fn told(&self) -> [(&'static str, Agreement); 6] {
        [
            ("supply", checks::supply(&self.ledger, &self.treasury)),
            ("allocations", checks::allocations(&self.ledger, &self.treasury)),
            ("bonds", checks::bonds(&self.ledger, &self.staking)),
            ("holds", checks::holds(&self.ledger, self.at, &self.market)),
            ("purses", checks::purses(&self.ledger, &self.market)),
            ("pools", checks::pools(&self.ledger, &self.emission)),
        ]
    }

    /// Which checks say that something differs.
    fn differing(&self) -> Vec<&'static str> {
        self.told().into_iter().filter(|(_, told)| !told.is_ok()).map(|(name, _)| name).collect()
    }

    /// Money that appears in the ledger.
    fn credit(&mut self, name: &str, units: u128) {
        self.ledger.accounts.get_mut(&system_account(name)).unwrap().balance.credits_posted += units;
    }

    fn session(&mut self) -> (Id, &mut holmes_market::state::Session) {
        let held = |(id, session): (&Id, &mut holmes_market::state::Session)| {
            if session.hold.is_some() { Some(*id) } else { None }
        };
        let id = self.market.sessions.iter_mut().find_map(held).unwrap();
        (id, self.market.sessions.get_mut(&id).unwrap())
    }
}

#[test]
fn a_network_that_lives_agrees_with_itself() {
    let states = States::lived();
    assert!(states.emission.books.paid > 0 && states.market.sessions.values().any(|it| it.hold.is_some()));
    for (name, told) in states.told() {
        assert_eq!(told, Agreement::Holds, "{name}");
    }
}

#[test]
fn a_unit_too_much_is_found_where_it_lies() {
    let cases = [
        ("bonds/HOL", ["supply", "bonds"].as_slice()),
        ("trr_pool/HOL", &["supply", "allocations", "pools"]),
        ("vesting_work/HOL", &["supply", "pools"]),
        ("emission_pot/HOL", &["supply", "pools"]),
        ("reserve/HOL", &["supply", "allocations"]),
        ("vesting_team/HOL", &["supply", "allocations"]),
        ("team/HOL", &["supply", "allocations"]),
        ("fees/HOL", &["supply"]),
        ("market/HOL", &["supply", "purses"]),
        ("market/USD", &["purses"]),
        ("unclaimed/USD", &["purses"]),
    ];
    for (name, expected) in cases {
        let mut states = States::lived();
        states.credit(name, 1);
        assert_eq!(states.differing(), expected, "{name}: {:?}", states.told());
    }
}

#[test]
fn a_hold_without_a_session_a_session_without_a_hold_and_another_amount_are_found() {
    let mut states = States::lived();
    states.session().1.hold.as_mut().unwrap().units += 1;
    assert_eq!(states.differing(), ["holds"]);

    let mut states = States::lived();
    states.session().1.hold = None;
    assert_eq!(states.differing(), ["holds"]);

    let mut states = States::lived();
    let id = states.session().1.hold.unwrap().id;
    states.ledger.holds.remove(&id);
    assert_eq!(states.differing(), ["holds"]);
    let (_, session) = states.session();
    session.expires_at = holmes_kernel::Time::default();
    states.at = states.at.after_millis(states.market.params.hold_grace_ms);
    assert_eq!(states.differing(), [""; 0], "it has expired, which the market is still to hear");
}

#[test]
fn what_is_in_flight_explains_its_own_amount_and_no_more() {
    let mut states = States::lived();
    let (node, bond) = states.staking.nodes.iter().map(|(id, _)| *id).zip([7]).next().unwrap();
    let offer = holmes_staking::state::Offer { hold: node, account: node, amount: bond };
    states.staking.awaited.insert(u64::MAX, Staked::Bond { node, offer });
    assert_eq!(checks::bonds(&states.ledger, &states.staking), Agreement::Holds);
    states.credit("bonds/HOL", 7);
    let told = checks::bonds(&states.ledger, &states.staking);
    assert_eq!(told, Agreement::Waits("in flight: 1".into()));
    states.credit("bonds/HOL", 1);
    assert_eq!(states.differing(), ["supply", "bonds"]);

    let mut states = States::lived();
    states.emission.awaited.insert(u64::MAX, Rewarded::Payments(vec![(node, 5)]));
    states.emission.held[4] += 5;
    assert_eq!(checks::pools(&states.ledger, &states.emission), Agreement::Waits("in flight: 1".into()));
    states.emission.held[4] += 1;
    assert_eq!(states.differing(), ["pools"]);

    let mut states = States::lived();
    let (_, session) = states.session();
    session.asked = Some(u64::MAX);
    session.hold = None;
    let told = checks::holds(&states.ledger, states.at, &states.market);
    assert_eq!(told, Agreement::Waits("in flight: 1".into()));
}

#[test]
fn another_cap_differs_and_before_genesis_nothing_does() {
    let mut states = States::lived();
    states.treasury.params.cap = Amount::new(states.treasury.params.cap.units() - 1);
    assert_eq!(states.differing(), ["supply"]);

    let world = World::begun();
    let ledger = copy::<Ledger>(&world.ledger);
    assert!(matches!(checks::allocations(&ledger, &copy(&world.treasury)), Agreement::Waits(_)));
    assert!(matches!(checks::pools(&ledger, &copy(&world.emission)), Agreement::Waits(_)));
    assert_eq!(checks::supply(&ledger, &copy(&world.treasury)), Agreement::Holds);
}
