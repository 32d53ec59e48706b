//! Emission: say in a sentence what it is for.
//!
//! **Commands** ([`Command`]): `Begin`.
//!
//! **Events**: `Begun`, public.
//!
//! **Listens to** no log.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - It never begins more often than [`params`] allow.
//!
//! In reading order: [`command`], [`state`], [`decide`], [`params`], then the edges [`react`], [`api`].

pub mod api;
pub mod command;
pub mod decide;
pub mod params;
pub mod react;
pub mod state;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, Sighted, Unknown};
use holmes_proto::emission::v1::Event;

pub use command::{Command, Done, Rejection};
pub use state::State;

/// The machine.
#[derive(Debug)]
pub struct Emission;

impl Machine for Emission {
    const NAME: &'static str = "emission";
    const STATE: u32 = 1;

    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = Done;
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

    fn reply(_: &Command, _: &[Event]) -> Done {
        Done
    }

    fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
        state::check_step(state, events)
    }

    fn check(state: &State) -> Vec<Broken> {
        state::check(state)
    }

    fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
        react::react(entry)
    }
}
