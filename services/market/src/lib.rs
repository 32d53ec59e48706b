//! The market: models and their prices, renters' sessions, what was metered and who is paid.
//!
//! **Commands** ([`Command`]): `SetModel`, `SetAccount`, `OpenSession`, `CloseSession`; from scheduling `NoteCalls`, from
//! the ledger `Answered`; time's own `Begin`, `OpenAccounts`, `Attend`, `PayOwed`, `Seal`.
//!
//! **Events**, public: `ModelPriced`, `SessionFunded`, `SessionClosing`, `SessionClosed`, `Settled`, `PriceSealed`,
//! `EpochSealed`. Internal: `MarketOpened`, `SystemAccountRequested`, `SystemAccountOpened`, `SystemAccountRefused`,
//! `AccountSet`, `SessionOpened`, `HoldMade`, `CallsNoted`, `CallsUnbilled`, `WindowEnded`, `SettlementSent`,
//! `SettlementRefused`, `SessionLimited`, `HoldLost`, `OwedSent`, `OwedPaid`, `OwedRefused`, `SessionForgotten`, `CallsEnded`,
//! `HoldSent`, `SessionLeased`.
//!
//! **Listens to** scheduling, for calls that were metered and for leases under which some run, and to the ledger, for the answers to its own sends.
//!
//! A session holds its budget in the ledger. What is metered on it is paid window by window: one linked chain posts the
//! hold to `market/<asset>`, pays every node's owner, the fees and the surcharge from there, and makes the next hold. So
//! either everybody is paid or nobody is, and the renter's money is never held twice.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-9.1: what a session comes to never exceeds what its hold covers; the renter is charged the ceil of its bill, owners,
//!   fees and surcharge get the floor of theirs, and the difference, at most two base units, goes to `rounding/<asset>`.
//! - E-9.2: what was posted is the floor of what was metered; nothing metered is lost between windows.
//! - Every session can be found, is counted once, and something waits for it: time, or an answer of the ledger.
//!
//! **E-0.5**: a window belongs to the epoch in which the ledger's payment is recorded. Windows that run are settled
//! `seal_after_ms` before an epoch's end, so that the answer falls into it; what is metered after that, and what the
//! ledger answers later, counts in the next epoch. **E-14.4**: so a lease that spans an epoch's end counts in each for what
//! was settled in it. What is billed by the second (E-10.2) will have to be split by the second; nothing is yet.
//!
//! Deliberately absent: orders, auctions, the desk (E-10.1, E-9.7), subscriptions and data sets (E-10.3), a price feed of
//! more than one fixed source; so no price is ever stale (E-14.5).
//!
//! In reading order: [`command`], [`state`], [`decide`], the formulas [`fees`] and [`settlement`], [`model`],
//! [`params`], then the edges [`sends`], [`react`], [`wire`], [`api`].

pub mod api;
pub mod command;
pub mod decide;
pub mod fees;
pub mod model;
pub mod params;
pub mod react;
pub mod sends;
pub mod settlement;
pub mod state;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, ServiceId, Sighted, Time, Unknown};
use holmes_proto::market::v1::Event;

pub use command::{Command, Rejection, Reply};
pub use state::State;

/// The ledger, which is sent to and listened to.
pub const LEDGER: ServiceId = ServiceId(1);
/// Scheduling, which is listened to.
pub const SCHEDULING: ServiceId = ServiceId(4);

/// The machine.
#[derive(Debug)]
pub struct Market;

impl Machine for Market {
    const NAME: &'static str = "market";
    const STATE: u32 = 4;
    const LISTENS: &'static [ServiceId] = &[LEDGER, SCHEDULING];

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
