//! What a command would do. Pure; at most two events each, the send last.

#[cfg(test)]
mod tests;

use holmes_kernel::{Amount, Calendar, Ctx, Id, Principal, PrincipalKind, Time};
use holmes_proto::treasury::v1::event::Event as Kind;
use holmes_proto::treasury::v1::{
    Allocated, Event, GenesisBegun, GenesisCompleted, GenesisResumed, GenesisStalled, GenesisStepDone,
    GenesisStepRefused, GenesisStepSent, VestingRefused, VestingReleased, VestingSent,
};

use crate::command::{Command, Outcome, Rejection};
use crate::genesis;
use crate::params::Allocation;
use crate::state::{State, Vesting};
use crate::wire::{self, LEDGER, Transfer};

/// What would happen.
///
/// # Errors
/// With a stable reason.
pub fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
    let events = match command {
        Command::Begin => by_time(ctx).map(|()| vec![begin(state, ctx)]),
        Command::Continue => by_time(ctx).map(|()| next_step(state, ctx).into_iter().collect()),
        Command::Release { allocation } => {
            by_time(ctx).map(|()| release(state, *allocation, ctx).into_iter().collect())
        }
        Command::Answered { sent, outcome } => {
            let from_ledger = ctx.principal == Principal::service(LEDGER);
            allow(from_ledger, ctx, "only the ledger answers").map(|()| answered(state, *sent, outcome, ctx))
        }
        Command::RetryGenesis => retry(state, ctx),
    }?;
    out.extend(events.into_iter().map(|event| Event { event: Some(event) }));
    Ok(())
}

fn allow(allowed: bool, ctx: &Ctx, needs: &'static str) -> Result<(), Rejection> {
    if allowed { Ok(()) } else { Err(Rejection::Forbidden { who: ctx.principal, needs }) }
}

fn by_time(ctx: &Ctx) -> Result<(), Rejection> {
    allow(ctx.principal == Principal::SYSTEM, ctx, "only time itself asks for it")
}

/// E-0.5: days count from the moment that the profile names, or from the epoch's beginning before: with epochs of a
/// day that is 00:00 UTC, with the short ones of a demo the network is not born days old.
fn begin(state: &State, ctx: &Ctx) -> Kind {
    let since_1970 = Calendar::new(Time::default(), state.params.epoch_s.into());
    let midnight = since_1970.day_begins(since_1970.day(ctx.now));
    Kind::GenesisBegun(GenesisBegun {
        asset: state.params.asset,
        tge_at_us: state.params.tge_at.unwrap_or(midnight).micros(),
        epoch_s: state.params.epoch_s,
    })
}

fn next_step(state: &State, ctx: &Ctx) -> Option<Kind> {
    let (params, genesis) = (&state.params, &state.genesis);
    let step = genesis::step(params, genesis.step)?;
    let attempt = genesis.errand.attempt;
    let command = genesis::command(params, &step, genesis.tge_at?, ctx.now, attempt).into();
    Some(Kind::GenesisStepSent(GenesisStepSent { step: genesis.step, attempt, command }))
}

/// E-1.5: all that has vested by now and was not released yet, as one transfer.
fn release(state: &State, allocation: u32, ctx: &Ctx) -> Option<Kind> {
    let vesting = state.vesting(allocation)?;
    let of = state.params.allocations.get(allocation as usize)?;
    let day = state.day_at(ctx.now);
    let amount = newly_vested(vesting, day);
    let attempt = vesting.errand.attempt;
    // What was released before names the release: it grows with every one.
    let key = format!("holmes treasury vesting {} behind {}", of.name, vesting.released);
    let transfer = Transfer {
        id: Id::derive(ctx.now, key.as_bytes(), attempt),
        debit: wire::account_id(&genesis::first_account(&state.params, of)),
        credit: wire::account_id(&genesis::spending_account(&state.params, of)),
        amount,
    };
    let command = wire::chain(&[transfer]).into();
    Some(Kind::VestingSent(VestingSent { allocation, day, amount_units: amount.units(), attempt, command }))
}

fn newly_vested(vesting: &Vesting, day: u64) -> Amount {
    vesting.schedule.vested(vesting.granted, day).saturating_sub(vesting.released)
}

/// An answer is that of the step, or of the release, whose send it names; any other was taken in before.
fn answered(state: &State, sent: u64, outcome: &Outcome, ctx: &Ctx) -> Vec<Kind> {
    if state.genesis.errand.awaits == Some(sent) {
        return step_answered(state, outcome, ctx);
    }
    let vesting = state.vestings.iter().find(|vesting| vesting.errand.awaits == Some(sent));
    vesting.map(|vesting| release_answered(state, vesting, outcome, ctx)).into_iter().collect()
}

fn step_answered(state: &State, outcome: &Outcome, ctx: &Ctx) -> Vec<Kind> {
    let step = state.genesis.step;
    match outcome {
        Outcome::Done => {
            let done = Kind::GenesisStepDone(GenesisStepDone { step });
            let is_last = step + 1 == genesis::steps(&state.params);
            [done].into_iter().chain(is_last.then(|| completed(state))).collect()
        }
        Outcome::Refused(reason) if may_pass(reason) => {
            let retry_at_us = state.genesis.errand.retry_at(ctx.now).micros();
            vec![Kind::GenesisStepRefused(GenesisStepRefused { step, reason: reason.clone(), retry_at_us })]
        }
        Outcome::Refused(reason) => {
            vec![Kind::GenesisStalled(GenesisStalled { step, reason: reason.clone() })]
        }
    }
}

/// Whether the ledger may say yes to the same question later, without anybody mending the parameters: an account that is
/// frozen or limited, a transfer id that somebody else has taken, since the next try has another, and a failure of the
/// ledger's own. Everything else is a contradiction between two services.
fn may_pass(reason: &str) -> bool {
    matches!(reason, "ACCOUNT_FROZEN" | "RATE_LIMITED" | "EXISTS_DIFFERENT" | "POISONED" | "INTERNAL")
}

fn completed(state: &State) -> Kind {
    let params = &state.params;
    let allocated = |allocation: &Allocation| Allocated {
        name: allocation.name.clone(),
        account: wire::account_id(&genesis::first_account(params, allocation)).to_bytes().to_vec().into(),
        amount_units: allocation.amount.units(),
    };
    Kind::GenesisCompleted(GenesisCompleted {
        asset: params.asset,
        cap_units: params.cap.units(),
        allocations: params.allocations.iter().map(allocated).collect(),
        granted_units: params.granted().units(),
    })
}

/// What has vested is owed: whatever the ledger's reason, it is asked again.
fn release_answered(state: &State, vesting: &Vesting, outcome: &Outcome, ctx: &Ctx) -> Kind {
    let allocation = vesting.allocation;
    match outcome {
        Outcome::Done => {
            let vested = vesting.schedule.vested(vesting.granted, vesting.day);
            Kind::VestingReleased(VestingReleased {
                allocation,
                name: state.name_of(allocation).to_owned(),
                day: vesting.day,
                amount_units: newly_vested(vesting, vesting.day).units(),
                released_units: vested.units(),
            })
        }
        Outcome::Refused(reason) => Kind::VestingRefused(VestingRefused {
            allocation,
            reason: reason.clone(),
            retry_at_us: vesting.errand.retry_at(ctx.now).micros(),
        }),
    }
}

fn retry(state: &State, ctx: &Ctx) -> Result<Vec<Kind>, Rejection> {
    allow(ctx.principal.kind == PrincipalKind::Staff, ctx, "only staff try genesis again")?;
    let genesis = &state.genesis;
    if genesis.completed_at.is_some() {
        return Err(Rejection::GenesisCompleted);
    }
    if genesis.errand.awaits.is_some() || genesis.errand.attempt == 0 {
        return Err(Rejection::GenesisUnderWay);
    }
    Ok(vec![Kind::GenesisResumed(GenesisResumed { step: genesis.step })])
}
