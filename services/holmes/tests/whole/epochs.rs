//! What belongs to which epoch, and that nothing in it changes while it runs (E-0.5, E-14.4, E-14.6).

use holmes_emission::state::Closed;
use holmes_proto::emission::v1::EpochClosed;
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::market::v1::{self as market, Settled};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, Kind};

use holmes_sim::world::{DOLLAR, EPOCH_S, USD, World};

fn settled(world: &World) -> Vec<Settled> {
    let events = world.events::<market::Event>().into_iter();
    events.filter_map(|event| if let Some(Sold::Settled(e)) = event.event { Some(e) } else { None }).collect()
}

/// The work of a closed epoch, of any credit.
fn worked(closed: &Closed) -> u128 {
    let told = EpochClosed::decode(closed.published.as_slice()).unwrap();
    let wide = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
    wide(&told.full_units) + wide(&told.quarter_units)
}

#[test]
fn a_lease_across_an_epochs_end_counts_in_each_for_what_was_done_in_it() {
    // E-14.4: nothing of a lease is measured by its length, what was done under it is, window by window; no window lies in
    // two epochs.
    let mut world = World::peopled();
    world.open(4, USD, DOLLAR);
    let epoch = |world: &World| world.market.look(|state| state.params.calendar.epoch(world.rig.now()));
    let first = epoch(&world);
    world.wait(30);
    world.place(0);
    world.report(0, &[(1, 100_000)]);
    world.wait(EPOCH_S - 25);
    assert_eq!(epoch(&world), first + 1, "the lease was granted in the epoch before");
    world.report(0, &[(2, 200_000)]);
    world.wait(2 * EPOCH_S);
    let told = settled(&world);
    let units: Vec<_> = told.iter().map(|e| (e.epoch, e.calls, e.units.iter().sum::<u64>())).collect();
    let [(in_first, 1, one), (in_second, 1, two)] = units[..] else { panic!("{units:?}") };
    assert_eq!((in_first, in_second), (first, first + 1));
    assert!(0 < one && one < two, "{units:?}");
    let closed = |epoch: u64| world.emission.look(|state| state.closed.get(&epoch).map(worked));
    assert_eq!([closed(first), closed(first + 1)], [Some(u128::from(one)), Some(u128::from(two))]);
}

#[test]
fn no_event_changes_a_parameter() {
    // E-14.6: parameters are given when a log is opened (E-0.5). Governance will change them by an event that says from which
    // epoch on; until it is there, an event that carried one could change it in mid-epoch.
    let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap();
    let mut looked_at = 0;
    for (_, service) in holmes_proto::SERVICES {
        let package = format!("holmes.{service}.v1");
        let (Some(event), Some(params)) = (
            pool.get_message_by_name(&format!("{package}.Event")),
            pool.get_message_by_name(&format!("{package}.Params")),
        ) else {
            continue;
        };
        looked_at += 1;
        let mut messages = vec![event.clone()];
        let mut at = 0;
        while let Some(message) = messages.get(at).cloned() {
            assert_ne!(message, params, "an event of {service} carries its parameters");
            for kind in message.fields().map(|field| field.kind()) {
                if let Kind::Message(inner) = kind
                    && !messages.contains(&inner)
                {
                    messages.push(inner);
                }
            }
            at += 1;
        }
    }
    assert_eq!(looked_at, 7, "the services with a log");
}

#[test]
fn what_a_network_was_opened_with_is_what_every_epoch_is_computed_with() {
    // E-14.6
    let mut world = World::peopled();
    let params = |world: &World| {
        (
            world.staking.look(|state| state.params.clone()),
            world.scheduling.look(|state| state.params.clone()),
            world.market.look(|state| state.params.clone()),
            world.emission.look(|state| state.params.clone()),
        )
    };
    let before = params(&world);
    world.open(4, USD, DOLLAR);
    world.place(0);
    world.report(0, &[(1, 300)]);
    world.wait(8 * EPOCH_S); // beyond a recomputation of what is required (E-6.2)
    assert_eq!(params(&world), before);
}
