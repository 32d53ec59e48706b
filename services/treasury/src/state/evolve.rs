//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Amount, Meta, Time};
use holmes_proto::treasury::v1::Event;
use holmes_proto::treasury::v1::event::Event as Kind;

use super::{Errand, State, Vesting};

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    let genesis = &mut state.genesis;
    match &event.event {
        Some(Kind::GenesisBegun(e)) => genesis.tge_at = Some(Time::from_micros(e.tge_at_us)),
        Some(Kind::GenesisStepSent(_)) => genesis.errand.sent(meta.seq),
        Some(Kind::GenesisStepDone(e)) => {
            genesis.step = e.step.saturating_add(1);
            genesis.errand = Errand::default();
        }
        Some(Kind::GenesisStepRefused(e)) => {
            genesis.errand.refused(&e.reason, Time::from_micros(e.retry_at_us));
        }
        Some(Kind::GenesisStalled(e)) => {
            genesis.errand.refused(&e.reason, meta.ts);
            genesis.stalled = true;
        }
        Some(Kind::GenesisResumed(_)) => {
            genesis.errand.not_before = meta.ts;
            genesis.stalled = false;
        }
        Some(Kind::GenesisCompleted(_)) => genesis.completed_at = Some(meta.ts),
        Some(Kind::VestingSent(e)) => state.change(e.allocation, |vesting| {
            vesting.day = e.day;
            vesting.errand.sent(meta.seq);
        }),
        Some(Kind::VestingReleased(e)) => state.change(e.allocation, |vesting| {
            vesting.released = Amount::new(e.released_units);
            vesting.errand = Errand::default();
        }),
        Some(Kind::VestingRefused(e)) => state.change(e.allocation, |vesting| {
            vesting.errand.refused(&e.reason, Time::from_micros(e.retry_at_us));
        }),
        None => {}
    }
}

impl State {
    fn change(&mut self, allocation: u32, change: impl FnOnce(&mut Vesting)) {
        if let Some(vesting) = self.vestings.iter_mut().find(|vesting| vesting.allocation == allocation) {
            change(vesting);
        }
    }
}
