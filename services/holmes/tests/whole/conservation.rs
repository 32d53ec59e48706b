//! Random small lives of a network: whatever happens, nothing is lost or made between the services.

use std::collections::BTreeMap;

use holmes_market::state::{Purse, Session, Stage};
use holmes_proto::columns;
use holmes_proto::emission::v1::event::Event as Emitted;
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::market::v1::{Settled, WorkCredit};
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::{emission, market, scheduling};
use proptest::prelude::*;

use super::checks::{self, Agreement};
use holmes_sim::bills::misbilled;
use holmes_sim::world::{BOND, DOLLAR, EPOCH_S, HOL, OWNERS, RENTERS, USD, WEALTH, World, account};

#[derive(Clone, Debug)]
enum Deed {
    Open(u8, u32, u64),
    /// A lease of a session, and calls on it.
    Work(usize, Vec<(u8, u64)>),
    /// Calls of a lease, late or repeated perhaps.
    Report(usize, Vec<(u8, u64)>),
    /// What calls of a lease have come to that are reported later, or never.
    Checkpoint(usize, Vec<(u8, u64)>),
    End(usize),
    Lose(u8),
    Attach(u8),
    Close(usize),
    Wait(u64),
    Epoch,
}

fn calls() -> impl Strategy<Value = Vec<(u8, u64)>> {
    prop::collection::vec((any::<u8>(), 0u64..1_500_000), 1..4)
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (RENTERS, prop_oneof![Just(HOL), Just(USD)], 50_000..2 * DOLLAR).prop_map(|(n, asset, budget)| Deed::Open(n, asset, budget)),
        8 => (any::<usize>(), calls()).prop_map(|(at, calls)| Deed::Work(at, calls)),
        3 => (any::<usize>(), calls()).prop_map(|(at, calls)| Deed::Report(at, calls)),
        4 => (any::<usize>(), calls()).prop_map(|(at, calls)| Deed::Checkpoint(at, calls)),
        2 => any::<usize>().prop_map(Deed::End),
        1 => OWNERS.prop_map(Deed::Lose),
        2 => OWNERS.prop_map(Deed::Attach),
        1 => any::<usize>().prop_map(Deed::Close),
        3 => (1u64..20).prop_map(Deed::Wait),
        1 => Just(Deed::Epoch),
    ]
}

fn live(world: &mut World, deed: &Deed) {
    match deed {
        Deed::Open(n, asset, budget) => world.open(*n, *asset, *budget),
        Deed::Work(at, calls) => {
            if world.place(*at).is_some() {
                world.report(world.leases.len() - 1, calls);
            }
        }
        Deed::Report(at, calls) => world.report(*at, calls),
        Deed::Checkpoint(at, calls) => world.checkpoint(*at, calls),
        Deed::End(at) => world.end(*at),
        Deed::Lose(n) => world.lose(*n),
        Deed::Attach(n) => world.attach(*n),
        Deed::Close(at) => world.close(*at),
        Deed::Wait(seconds) => world.wait(*seconds),
        Deed::Epoch => world.wait(EPOCH_S),
    }
}

fn wide(bytes: &[u8]) -> u128 {
    columns::wide(bytes).unwrap()
}

/// What lies in the market's accounts is what its sessions are owed and what it has taken.
fn clearing_accounts_agree(world: &World) {
    world.ledger.look(|ledger| {
        world.market.look(|market| {
            assert_eq!(checks::purses(ledger, market), Agreement::Holds);
            assert_eq!(checks::holds(ledger, world.rig.now(), market), Agreement::Holds);
        });
    });
    for (asset, name) in [(HOL, "HOL"), (USD, "USD")] {
        let sum = |of: fn(&Session) -> u128| {
            world
                .market
                .look(|s| s.sessions.values().filter(|session| session.asset == asset).map(of).sum::<u128>())
        };
        let lies = |purse: Purse| u128::from(world.balance(purse.account(name)));
        assert_eq!(lies(Purse::Fees), sum(|it| it.totals.fees), "fees/{name}");
        assert_eq!(lies(Purse::Surcharges), sum(|it| it.totals.surcharges), "surcharges/{name}");
        assert_eq!(lies(Purse::Rounding), sum(|it| it.totals.rounding), "rounding/{name}");
        assert_eq!(lies(Purse::Unclaimed), 0, "unclaimed/{name}");
    }
}

/// What was settled is what owners have, with their rewards and without their bonds, and what renters have not any more.
fn owners_have_what_was_settled(world: &World, settled: &[Settled]) {
    let rewards = world.emission.look(|state| state.books.paid);
    for asset in [HOL, USD] {
        let of =
            |sum: fn(&Settled) -> u64| settled.iter().filter(|it| it.asset == asset).map(sum).sum::<u64>();
        let (at, first) = if asset == HOL { (rewards, WEALTH[0] - BOND) } else { (0, WEALTH[1]) };
        let have: u64 = OWNERS.map(|n| world.balance(account(n, asset))).sum();
        assert_eq!(have, 3 * first + at + of(|it| it.paid_units.iter().sum()), "owners, asset {asset}");
        let have: u64 = RENTERS.map(|n| world.balance(account(n, asset))).sum();
        assert_eq!(have, 2 * WEALTH[usize::from(asset == USD)] - of(|it| it.charged_units), "asset {asset}");
    }
    assert_eq!(world.of("bonds/HOL"), 3 * BOND);
}

/// Emission's books are its accounts, and they with what was paid and burnt are the pools of genesis.
fn emissions_books_agree(world: &World) {
    world.ledger.look(|ledger| {
        assert_eq!(world.emission.look(|state| checks::pools(ledger, state)), Agreement::Holds);
        assert_eq!(world.staking.look(|state| checks::bonds(ledger, state)), Agreement::Holds);
        assert_eq!(world.treasury.look(|state| checks::allocations(ledger, state)), Agreement::Holds);
        assert_eq!(world.treasury.look(|state| checks::supply(ledger, state)), Agreement::Holds);
    });
    let held = world.emission.look(|state| state.held);
    let (pools, paid) = world.emission.look(|state| {
        let pools: u64 = state.params.pools.iter().map(|pool| pool.initial.units()).sum();
        (pools, state.books.paid)
    });
    assert_eq!(held.iter().sum::<u64>() + paid, pools, "E-4.1");
}

/// E-3.2, E-9.2: calls that are metered are lines, windows and work units, each once.
fn every_line_counts_once(world: &World, settled: &[Settled]) {
    assert_eq!(misbilled(world.events(), world.events()), Vec::<String>::new());
    let mut lines = BTreeMap::new();
    for event in world.events::<scheduling::v1::Event>() {
        let Some(Placed::CallsMetered(e)) = event.event else { continue };
        for line in &e.lines {
            assert_eq!(lines.insert((e.lease.to_vec(), line.call.to_vec()), ()), None, "metered twice");
        }
    }
    for event in world.events::<scheduling::v1::Event>() {
        let Some(Placed::CallsCheckpointed(e)) = event.event else { continue };
        for (lease, line) in e.leases.chunks(20).zip(&e.lines) {
            let paid = lines.contains_key(&(lease.to_vec(), line.call.to_vec()));
            assert!(paid, "a call is not paid though it was delivered so far");
        }
    }
    let (mut noted, mut unbilled) = (0, 0u128);
    let mut work: BTreeMap<(Vec<u8>, Vec<u8>, i32), u128> = BTreeMap::new();
    for event in world.events::<market::v1::Event>() {
        match event.event {
            Some(Sold::CallsNoted(e)) => {
                noted += e.calls;
                unbilled += wide(&e.unbilled_pico_usd);
                let key = (e.session.to_vec(), e.node.to_vec(), e.credit);
                *work.entry(key).or_default() += wide(&e.billed_micro_units);
            }
            Some(Sold::CallsUnbilled(e)) => panic!("scheduling metered what no session takes: {e:?}"),
            _ => {}
        }
    }
    assert_eq!(noted, lines.len() as u64, "every line is noted once");
    assert_eq!(unbilled, 0, "E-9.1: scheduling meters nothing beyond a session's cap");
    let calls: u64 = settled.iter().map(|it| it.calls).sum();
    assert_eq!(calls, noted, "every line is settled once");
    let units: u128 = work.values().map(|micro| micro / 1_000_000).sum();
    let of_windows = |counts: fn(i32) -> bool| {
        let rows = settled.iter().flat_map(|it| it.credits.iter().zip(&it.units));
        rows.filter(|(credit, _)| counts(**credit)).map(|(_, units)| u128::from(*units)).sum::<u128>()
    };
    assert_eq!(of_windows(|_| true), units, "units of windows are those of lines");
    let in_emission: u128 = world
        .events::<emission::v1::Event>()
        .into_iter()
        .filter_map(|event| match event.event {
            Some(Emitted::WorkNoted(e)) => Some(e.units.iter().map(|units| u128::from(*units)).sum::<u128>()),
            _ => None,
        })
        .sum();
    assert_eq!(in_emission, of_windows(|credit| credit != WorkCredit::None as i32), "units of emission");
}

fn settled(world: &World) -> Vec<Settled> {
    let events = world.events::<market::v1::Event>().into_iter();
    events.filter_map(|event| if let Some(Sold::Settled(e)) = event.event { Some(e) } else { None }).collect()
}

/// A life, to its end: every session is closed, and the epochs of its work have passed.
fn lived(deeds: &[Deed]) -> World {
    let mut world = World::peopled();
    world.wait(EPOCH_S); // bonded since within it
    for deed in deeds {
        live(&mut world, deed);
        clearing_accounts_agree(&world);
    }
    (0..world.sessions.len()).for_each(|at| world.close(at));
    world.wait(4 * EPOCH_S);
    world
}

fn all_agrees(world: &mut World) {
    let settled = settled(world);
    let open = world.market.look(|s| s.sessions.values().filter(|it| it.stage != Stage::Closed).count());
    assert_eq!(open, 0, "every session is closed");
    assert_eq!([world.of("market/HOL"), world.of("market/USD")], [0, 0]);
    clearing_accounts_agree(world);
    owners_have_what_was_settled(world, &settled);
    emissions_books_agree(world);
    every_line_counts_once(world, &settled);
    assert_eq!(world.rig.check(), []);
    assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new(), "the logs tell it all again");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_made_between_services(deeds in prop::collection::vec(deed(), 1..40)) {
        all_agrees(&mut lived(&deeds));
    }
}

#[test]
fn work_is_paid_and_rewarded() {
    // The property would hold of a network in which nothing happens: here much does.
    let mut deeds = vec![Deed::Open(4, USD, DOLLAR), Deed::Open(5, HOL, DOLLAR)];
    deeds.extend((0..12).map(|n| Deed::Work(n, vec![(n as u8, 300), (100 + n as u8, 50)])));
    // Some are heard of again, some are not: theirs is what they had come to.
    deeds.extend((0..12).map(|n| Deed::Checkpoint(n, vec![(150 + n as u8, 10), (200, 3)])));
    deeds.extend([Deed::Lose(1), Deed::Report(0, vec![(0, 300), (200, 9)]), Deed::Epoch, Deed::Epoch]);
    let mut world = lived(&deeds);
    let settled = settled(&world);
    assert!(settled.iter().map(|it| it.calls).sum::<u64>() >= 24 + 12);
    assert!(world.emission.look(|state| state.books.paid) > 0);
    all_agrees(&mut world);
}
