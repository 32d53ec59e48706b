//! All that the treasury knows, as a function of its log.

mod check;
mod errand;
mod evolve;

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Calendar, Opened, Time};
use holmes_proto::treasury::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

pub use check::{check, check_step};
pub use errand::Errand;
pub use evolve::evolve;

use crate::command::Command;
use crate::params::{self, Params};
use crate::vesting::Schedule;

/// The treasury's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// What the profile says.
    pub params: Params,
    /// How far genesis is.
    pub genesis: Genesis,
    /// The allocations that vest, in their order (E-1.5).
    pub vestings: Vec<Vesting>,
}

/// How far genesis is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Genesis {
    /// E-0.5: when day 0 begins; `None` before the log is first run.
    pub tge_at: Option<Time>,
    /// The step that is next.
    pub step: u32,
    /// Its send.
    pub errand: Errand,
    /// Whether it waits for a person.
    pub stalled: bool,
    /// When the last step was done.
    pub completed_at: Option<Time>,
}

/// What has vested of one allocation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Vesting {
    /// Place of the allocation.
    pub allocation: u32,
    /// When it vests.
    pub schedule: Schedule,
    /// All of it.
    pub granted: Amount,
    /// The last day up to which a release was asked for.
    pub day: u64,
    /// What was moved to where it is spent from.
    pub released: Amount,
    /// The release that is being asked for.
    pub errand: Errand,
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or do not add up.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.treasury.v1.Params: {why}")))?;
    let params = params::read(&wire)?;
    let vesting = |(at, allocation): (u32, &params::Allocation)| {
        allocation.schedule.map(|schedule| Vesting {
            allocation: at,
            schedule,
            granted: allocation.amount,
            day: 0,
            released: Amount::ZERO,
            errand: Errand::default(),
        })
    };
    let vestings = (0..).zip(&params.allocations).filter_map(vesting).collect();
    Ok(State { params, genesis: Genesis::default(), vestings })
}

impl State {
    /// An allocation's name by its place.
    pub fn name_of(&self, allocation: u32) -> &str {
        self.params.allocations.get(allocation as usize).map_or("", |allocation| &allocation.name)
    }

    /// The vesting of an allocation.
    pub fn vesting(&self, allocation: u32) -> Option<&Vesting> {
        self.vestings.iter().find(|vesting| vesting.allocation == allocation)
    }

    /// E-0.5: whole days since token generation; 0 before it.
    pub fn day_at(&self, at: Time) -> u64 {
        self.calendar(self.genesis.tge_at.unwrap_or_default()).day(at)
    }

    fn calendar(&self, tge_at: Time) -> Calendar {
        Calendar::new(tge_at, self.params.epoch_s.into())
    }

    /// When more of a vesting can be released, and its allocation; `None` when all is, when a release is under way, and
    /// until genesis has put the allocation in its account.
    pub fn next_release(&self, vesting: &Vesting) -> Option<(Time, u32)> {
        let tge_at = self.genesis.completed_at.and(self.genesis.tge_at)?;
        if vesting.errand.awaits.is_some() {
            return None;
        }
        let day = vesting.schedule.next_day(vesting.granted, vesting.released)?;
        Some((self.calendar(tge_at).day_begins(day).max(vesting.errand.not_before), vesting.allocation))
    }
}

/// What time alone causes next: the beginning, then genesis step by step, then each day's releases. Missed days come as
/// one release: the formula knows what they sum to (E-1.5).
pub fn due(state: &State) -> Option<(Time, Command)> {
    let Genesis { tge_at, errand, stalled, completed_at, .. } = &state.genesis;
    if tge_at.is_none() {
        return Some((Time::default(), Command::Begin));
    }
    if completed_at.is_none() {
        let waits = *stalled || errand.awaits.is_some();
        return (!waits).then_some((errand.not_before, Command::Continue));
    }
    let releases = state.vestings.iter().filter_map(|vesting| state.next_release(vesting));
    releases.min().map(|(at, allocation)| (at, Command::Release { allocation }))
}
