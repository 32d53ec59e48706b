//! Staking: what nodes have bonded, where they stand, and what is required of them.
//!
//! **Commands** ([`Command`]): `RegisterNode`, `SetRating`, `Bond`, `Unbond`, `SetPayoutAccount`, `Jail`, `Unjail`,
//! `Tombstone`; from the ledger `NoteHolds` and `Answered`; from emission `NoteEmission`; from scheduling `NoteLeases`;
//! time's own `OpenVault`, `Recompute`, `Continue`, `Lapse`, `Pay`, `Seal`.
//!
//! **Events**: `NodeRegistered`, `BondChanged` (a node as it stands from now on), `HoldsOffered`, `BondRequested`,
//! `BondPosted`, `BondRefused`, `UnbondingStarted`, `PayoutAccountSet`, `PayoutSent`, `PayoutMade`, `PayoutRefused`,
//! `OwnerTombstoned`, `RecomputeStarted`, `RequiredRecomputed`, `VaultRequested`, `VaultOpened`, `VaultRefused`,
//! `EpochSealed`, `EmissionNoted`, `LeasesNoted`.
//!
//! **Listens to** the ledger: for holds that name staking as their coordinator, and for the answers to its own sends.
//! A bond is a hold that the node's owner opened and staking posts: the ledger has seen the owner's consent, so staking
//! needs to know nothing of accounts. To emission: for what the pools pay next and what circulates (E-6.2). To scheduling:
//! for the leases that nodes hold (E-6.5).
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-6.1: a node is where its events have led it; of a tombstoned owner every node is tombstoned.
//! - E-6.2: a node's requirement follows from its rating and the bases that it was told of; a rise is in force only
//!   after its time. `qualified` says what bond, rating and time say.
//! - E-6.5: all bonds and all that unbonds is what the ledger has posted to `bonds/<asset>` less what it has paid out.
//!   In a day no more leaves a class than may, and what waits longest leaves first.
//!
//! **E-6.5, the race**: staking and scheduling hear of each other a moment late, so a lease can be granted just before an
//! unbonding that staking, which has not heard of it, accepts; or just after, before scheduling has heard of the
//! unbonding. Neither hurts: the stake stays slashable until it is paid out, days later, and as soon as scheduling hears
//! that the node unbonds, it ends its leases and grants it none.
//!
//! **What is taken from outside until its owner exists**: E_next and the circulating supply are parameters until
//! emission closes its first epoch; a hardware pass is a rating that staff or a service attest (verification will measure it); being
//! online is scheduling's to judge, so `qualified` here is E-0.6's *Active* without presence.
//!
//! Deliberately absent: value at risk, replenishing, delegation, priority stake (E-6.3, 6.4, 6.6, 6.7), slashing.
//!
//! In reading order: [`command`], [`state`], [`decide`], the formulas [`collateral`] and [`leaving`], [`possession`],
//! [`params`], then the edges [`sends`], [`react`], [`wire`], [`api`].

pub mod api;
pub mod collateral;
pub mod command;
pub mod decide;
pub mod leaving;
pub mod params;
pub mod possession;
pub mod react;
pub mod sends;
pub mod state;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, ServiceId, Sighted, Time, Unknown};
use holmes_proto::staking::v1::Event;

pub use command::{Command, Rejection, Reply};
pub use state::State;

/// The ledger, which is sent to and listened to.
pub const LEDGER: ServiceId = ServiceId(1);
/// Emission, which is listened to.
pub const EMISSION: ServiceId = ServiceId(6);

/// Scheduling, which is listened to.
pub const SCHEDULING: ServiceId = ServiceId(4);

/// The machine.
#[derive(Debug)]
pub struct Staking;

impl Machine for Staking {
    const NAME: &'static str = "staking";
    const STATE: u32 = 4;
    const LISTENS: &'static [ServiceId] = &[LEDGER, SCHEDULING, EMISSION];

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

    fn reply(command: &Command, events: &[Event]) -> Reply {
        command::reply(command, events)
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
        react::command(entry)
    }
}
