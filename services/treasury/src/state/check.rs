//! The treasury's invariants as code.

use holmes_kernel::{Amount, Broken};
use holmes_proto::treasury::v1::Event;
use holmes_proto::treasury::v1::event::Event as Kind;

use super::{Genesis, State, Vesting};
use crate::genesis;

/// What one command's events can break: genesis' place, and the vestings that they name.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    check_genesis(state)?;
    for event in events {
        let allocation = match &event.event {
            Some(Kind::VestingSent(e)) => e.allocation,
            Some(Kind::VestingReleased(e)) => e.allocation,
            Some(Kind::VestingRefused(e)) => e.allocation,
            _ => continue,
        };
        let vesting = state.vesting(allocation);
        let missing = || Broken(format!("an event names allocation {allocation}, which does not vest"));
        check_vesting(state, vesting.ok_or_else(missing)?)?;
    }
    Ok(())
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let vestings = state.vestings.iter().map(|vesting| check_vesting(state, vesting));
    let all = [check_allocations(state), check_genesis(state)].into_iter().chain(vestings);
    all.filter_map(Result::err).collect()
}

/// E-1.1: what is shared out is the cap; what is granted is there.
fn check_allocations(state: &State) -> Result<(), Broken> {
    let params = &state.params;
    let sum = Amount::sum(params.allocations.iter().map(|allocation| allocation.amount));
    if sum != Some(params.cap) {
        return Err(Broken(format!("E-1.1: the allocations of {} come to {sum:?}", params.cap)));
    }
    let payer = params.allocations.get(params.grants_from as usize);
    if payer.is_none_or(|payer| payer.amount < params.granted()) {
        return Err(Broken("the grants come to more than the allocation that pays them".into()));
    }
    Ok(())
}

fn check_genesis(state: &State) -> Result<(), Broken> {
    let Genesis { tge_at, step, errand, stalled, completed_at } = &state.genesis;
    let steps = genesis::steps(&state.params);
    let wrong = |what: &str| Err(Broken(format!("genesis at step {step} of {steps} {what}")));
    if *step > steps || completed_at.is_some() != (*step == steps) {
        return wrong("is complete at another step than the last");
    }
    if tge_at.is_none() && (*step > 0 || errand.awaits.is_some()) {
        return wrong("has not begun");
    }
    if errand.awaits.is_some() && (*stalled || completed_at.is_some()) {
        return wrong("awaits an answer that it has no use for");
    }
    if *stalled && errand.attempt == 0 {
        return wrong("is stalled without a refusal");
    }
    Ok(())
}

/// E-1.5: released ≤ vested ≤ granted, and what has vested is released unless its release is under way or was refused.
fn check_vesting(state: &State, vesting: &Vesting) -> Result<(), Broken> {
    let Vesting { schedule, granted, day, released, errand, .. } = vesting;
    let vested = schedule.vested(*granted, *day);
    let rests = errand.awaits.is_none() && errand.attempt == 0;
    if *released <= vested && vested <= *granted && (!rests || *released == vested) {
        return Ok(());
    }
    let name = state.name_of(vesting.allocation);
    Err(Broken(format!(
        "E-1.5: of {name}, {released} released, {vested} vested on day {day}, {granted} granted"
    )))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{Opened, Time};

    use super::*;
    use crate::params::encoded_defaults;
    use crate::state;

    /// What is found after a change of a state that has just been opened.
    fn found(change: fn(&mut State)) -> usize {
        let opened = Opened { cell: 1, params: encoded_defaults(), ..Opened::default() };
        let mut state = state::init(&opened).expect("the defaults are good");
        change(&mut state);
        check(&state).len()
    }

    #[test]
    fn every_broken_invariant_is_found() {
        assert_eq!(found(|_| ()), 0);
        let broken: [fn(&mut State); 10] = [
            |state| state.params.allocations[0].amount = Amount::new(1),
            |state| state.params.grants_from = 99,
            |state| state.genesis.step = 1,
            |state| state.genesis.step = 99,
            |state| state.genesis.completed_at = Some(Time::default()),
            |state| state.genesis.errand.awaits = Some(1),
            |state| state.genesis.stalled = true,
            |state| state.vestings[0].released = Amount::new(1),
            |state| state.vestings[0].day = 365,
            |state| {
                state.vestings[0].errand.attempt = 1;
                state.vestings[0].released = Amount::MAX;
            },
        ];
        for (at, change) in broken.into_iter().enumerate() {
            assert_eq!(found(change), 1, "change {at}");
        }
    }
}
