//! Epochs in which nothing happens, and epochs in which nothing ran (E-0.5, E-14.1).

use std::time::Duration;

use holmes_kernel::Event;
use holmes_proto::{emission, ledger, market, scheduling, staking};

use holmes_sim::world::{DOLLAR, EPOCH_S, USD, World};

/// Events of the ledger, staking, scheduling, the market and emission.
fn lengths(world: &World) -> [usize; 5] {
    fn of<E: Event>(world: &World) -> usize {
        world.events::<E>().len()
    }
    [
        of::<ledger::v1::Event>(world),
        of::<staking::v1::Event>(world),
        of::<scheduling::v1::Event>(world),
        of::<market::v1::Event>(world),
        of::<emission::v1::Event>(world),
    ]
}

fn grown(before: [usize; 5], after: [usize; 5]) -> [usize; 5] {
    std::array::from_fn(|at| after[at] - before[at])
}

/// What an epoch writes that nothing happens in: every source seals it, the market tells the price, emission notes that,
/// closes it in three steps, and staking notes the close. Nothing of it moves money.
const PER_IDLE_EPOCH: [usize; 5] = [0, 2, 1, 2, 7];

#[test]
fn an_idle_epoch_writes_a_dozen_events_and_no_more() {
    let mut world = World::empty();
    world.rig.advance(Duration::from_secs(2 * EPOCH_S));
    let before = lengths(&world);
    world.rig.advance(Duration::from_secs(100 * EPOCH_S));
    let mut written = grown(before, lengths(&world));
    written[1] -= 100 / 7; // E-6.2: what is required is recomputed every seventh epoch
    assert_eq!(written, PER_IDLE_EPOCH.map(|events| 100 * events));
    assert_eq!(world.rig.check(), []);
}

#[test]
fn a_thousand_missed_epochs_are_sealed_and_closed_at_once() {
    // E-14.1: in order, each with its own facts; those of an outage are none.
    let mut world = World::peopled();
    world.wait(EPOCH_S);
    world.open(4, USD, DOLLAR);
    world.place(0);
    world.report(0, &[(1, 300)]);
    world.wait(3 * EPOCH_S);
    let (before, next) = (lengths(&world), world.emission.look(|state| state.next));
    let mut world = world.down_for(Duration::from_secs(1_000 * EPOCH_S));
    world.rig.advance(Duration::from_secs(60));
    assert!(world.emission.look(|state| state.next) >= next + 1_000);
    // Work that waited to unlock adds a step a close; the rest is what the outage itself causes, once.
    let written = grown(before, lengths(&world));
    let most = PER_IDLE_EPOCH.map(|events| 1_000 * events + 50);
    assert!(written.iter().zip(&most).all(|(written, most)| written <= most), "{written:?}");
    assert_eq!(world.rig.check(), []);
}
