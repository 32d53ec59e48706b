//! Emission: what the pools pay for an epoch, to whom, and what stays locked until work unlocks it.
//!
//! **Commands** ([`Command`]): `ExitGrant`, `CloseWithout`; from staking, scheduling and the market `Note`; from the
//! ledger `Answered`; time's own `Close`, `Continue`, `Burn`, `OpenAccount`, `Move`, `Pay`.
//!
//! **Events**: `EpochClosed`, public; the facts `NodeNoted`, `RequiredNoted`, `PayoutNoted`, `NodesBarred`, `WorkNoted`,
//! `AttendanceNoted`, `PriceNoted`, `SourceSealed`, `SourceSkipped`; the steps of a close `CloseBegun`, `NodesWeighed`,
//! `SharesFloored`, `SharesRounded`, `OwnerCut`, `RewardsGranted`, `GrantsUnlocked`, `CloseEnded`; of grants
//! `GrantExited`, `LockedBurned`; towards the ledger `AccountRequested`, `AccountOpened`, `AccountRefused`, `MoveSent`,
//! `MoveMade`, `MoveRefused`, `PaymentsSent`, `PaymentsAnswered`.
//!
//! **Listens to** staking (bonds, payout accounts, tombstones), scheduling (attendance), the market (work, fees, price),
//! each until it seals the epoch; to the ledger for the answers to its own sends.
//!
//! **A close** (E-0.5, E-4) is a job in [`state::Closing`]: every source has sealed the epoch, so its facts stand still;
//! steps of at most 256 nodes weigh them, floor their shares, give the largest remainders a unit each, hold operators
//! to κ, then grant, then unlock older grants. A pool's R falls by what is paid; `EpochClosed` says everything that
//! went in. What moves between the ledger's accounts is one chain of transfers; then nodes are paid out of the pot.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-4.1: what the pools held at first is what remains in them, what is being granted, what is owed, what is locked,
//!   what was paid and what was burnt; at every position of the log.
//! - The ledger's accounts hold what the books say, less what is on its way.
//! - E-4.7: scheduled never rises; no epoch pays more than its ceiling.
//! - E-5.4: of every node, all that was granted is liquid, unlocked, locked, paid at an exit, or burnt.
//!
//! **A fact of an epoch whose close has begun** (possible only after a close without its source) counts in the next.
//!
//! Deliberately absent: early join (E-4.4), re-emission (E-9.6), delegators' part of BR (E-6.6), checks (E-4.5: m = 0).
//!
//! In reading order: [`command`], [`state`], [`decide`], the formulas [`decay`], [`trr`], [`br`], [`verifier`],
//! [`vesting`], [`params`], then the edges [`sends`], [`react`], [`wire`], [`api`].

pub mod api;
pub mod br;
pub mod command;
pub mod decay;
pub mod decide;
pub mod params;
pub mod react;
pub mod sends;
pub mod state;
pub mod trr;
pub mod verifier;
pub mod vesting;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, ServiceId, Sighted, Time, Unknown};
use holmes_proto::emission::v1::Event;

pub use command::{Command, Rejection, Reply};
pub use state::State;

/// The ledger, which is sent to.
pub const LEDGER: ServiceId = ServiceId(1);
/// Staking, a source.
pub const STAKING: ServiceId = ServiceId(3);
/// Scheduling, a source.
pub const SCHEDULING: ServiceId = ServiceId(4);
/// The market, a source.
pub const MARKET: ServiceId = ServiceId(5);

/// The machine.
#[derive(Debug)]
pub struct Emission;

impl Machine for Emission {
    const NAME: &'static str = "emission";
    const STATE: u32 = 2;
    const LISTENS: &'static [ServiceId] = &[LEDGER, STAKING, SCHEDULING, MARKET];

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

    fn reply(_: &Command, events: &[Event]) -> Reply {
        command::reply(events)
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
