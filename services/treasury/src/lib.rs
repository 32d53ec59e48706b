//! The treasury: shares the cap out at genesis, and lets time vest what is not free at once. It owns the allocations.
//!
//! **Commands** ([`Command`]): `Begin`, `Continue`, `Release` (time's own), `Answered` (the ledger's), `RetryGenesis`.
//!
//! **Events**: `GenesisBegun`, `GenesisStepSent`, `GenesisStepDone`, `GenesisStepRefused`, `GenesisStalled`,
//! `GenesisResumed`, `GenesisCompleted`, `VestingSent`, `VestingReleased`, `VestingRefused`.
//!
//! **Listens to** the ledger, for the answers to what it sends there: accounts to open and transfers to carry out.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-1.1: the allocations come to the cap, to the unit, and the grants to no more than the allocation that pays them.
//!   Nothing is minted: the ledger's `genesis/<asset>` holds the cap from its own first entry on.
//! - Genesis is a row of steps that follows from the parameters; one step at a time is asked of the ledger, and the next
//!   only when it is done. A refusal is tried again when it may pass, and otherwise waits for a person, visibly.
//! - E-1.5: of every vesting, released ≤ vested ≤ granted; what has vested on the day of the last release is released,
//!   unless that release is under way or was refused. A refused release is tried again for ever: it is owed.
//!
//! Deliberately absent: spending tracks, multisig, milestones, the ecosystem account's own release (E-1.6), and deposits
//! into a vesting that has begun. The formula takes such a deposit as E-1.5 says; but a reaction sees no state, so it
//! cannot tell a vesting account among all that the ledger's entries name: they will come through a command of the
//! treasury, which then knows them.
//!
//! In reading order: [`command`], [`state`], [`decide`], [`genesis`] (the steps, and which ids they have), the formula
//! [`vesting`], [`params`], then the edges [`wire`], [`react`], [`api`].

pub mod api;
pub mod command;
pub mod decide;
pub mod genesis;
pub mod params;
pub mod react;
pub mod state;
pub mod vesting;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, ServiceId, Sighted, Time, Unknown};
use holmes_proto::treasury::v1::Event;

pub use command::{Command, Outcome, Rejection, Reply};
pub use state::State;

/// The machine.
#[derive(Debug)]
pub struct Treasury;

impl Machine for Treasury {
    const NAME: &'static str = "treasury";
    const STATE: u32 = 1;
    const LISTENS: &'static [ServiceId] = &[wire::LEDGER];

    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Rejection = Rejection;

    fn init(opened: &Opened) -> Result<State, BadParams> {
        state::init(opened)
    }

    fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Rejection> {
        decide::decide(state, command, ctx, out)
    }

    fn evolve(state: &mut State, event: &Event, meta: &Meta) {
        state::evolve(state, event, meta);
    }

    fn reply(_command: &Command, _events: &[Event]) -> Reply {
        Reply::Done
    }

    fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
        state::check_step(state, events)
    }

    fn check(state: &State) -> Vec<Broken> {
        state::check(state)
    }

    fn due(state: &State) -> Option<(Time, Command)> {
        state::due(state)
    }

    fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
        react::react(entry)
    }
}
