//! Scheduling: which nodes can be reached, which session may use which of them and why, and what calls they have
//! finished.
//!
//! **Commands** ([`Command`]): of gateways `StartGateway`, `Attach`, `Detach`, `ReportPresence`, `Place`, `RenewLease`,
//! `EndLease`, `ReportCalls`, `Checkpoint`; from staking `NoteNodes`, from the market `NoteMarket`; time's own
//! `DropNodes`, `EndLeases`, `Expire`, `MeterRunning`, `EndDrains`, `LoseGateway`, `Seal`.
//!
//! **Events**, public: `LeaseGranted`, `LeaseEnded`, `CallsMetered`, `NodeAttached`, `NodeDetached`, `PresenceRecorded`,
//! `EpochAttendance`, `EpochSealed`, `SessionDrained`, `LeaseRenewed`. Its own: `GatewayStarted`, `GatewayHeard`, `GatewayLost`,
//! `LinesAnswered`, `CallsCheckpointed`, `BeatsWeighed`, `NodesNoted`, `ModelNoted`, `SessionNoted`, `SessionDraining`,
//! `SessionEnded`.
//!
//! **Listens to** staking, for what it says of compute nodes, and to the market, for prices and funded sessions. It
//! sends nothing.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-9.1: what is metered on a session, what its open leases may still meter and what was checkpointed under the
//!   others is never more than its cap; what is metered or checkpointed under a lease is never more than its allowance.
//! - E-9.2: a call under a lease has one receipt; what was checkpointed of it counts only until it has, and is metered
//!   when it never gets one.
//! - A node has an open lease for every slot in use, and never more than slots may be; a session knows its open leases.
//! - E-10.4: the index that placements are made of is what the nodes say, rank by rank.
//! - What is attached to a gateway says so, and the other way round.
//! - E-0.6: who was Active in the last sealed epoch adds up; no beats are kept of an epoch that is sealed.
//! - Every open lease ends by itself; every lease that has ended is forgotten; every closing session drains.
//!
//! **A session that the market closes** gets no new lease and no renewal from then on, one that has expired neither. What
//! their leases report is metered until `SessionDrained`; nothing is behind it, so the market keeps the hold until then.
//!
//! **A call whose gateway is gone** is metered as far as it was checkpointed: when its lease is forgotten, or before its
//! session is drained. **A call's id** is known beyond its lease for as long as it can come again, so that a gateway that
//! has restarted does not run it again.
//!
//! **What is taken from outside until its owner exists**: a node's score is a parameter (reputation will publish it,
//! E-8.1). Value at risk (E-6.3) needs verification's audit rates and is not enforced: the greatest allowance of a lease
//! bounds what one lease puts at risk.
//!
//! In reading order: [`command`], [`state`], [`decide`], the formulas [`matching`] and [`attendance`], what nodes say
//! ([`offer`], [`signatures`]), [`explain`], [`params`], then the edges [`react`], [`wire`], [`api`].

pub mod api;
pub mod attendance;
pub mod command;
pub mod decide;
pub mod explain;
pub mod matching;
pub mod offer;
pub mod params;
pub mod react;
pub mod signatures;
pub mod state;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, ServiceId, Sighted, Time, Unknown};
use holmes_proto::scheduling::v1::Event;

pub use command::{Command, Rejection, Reply};
pub use state::State;

/// Ourselves.
pub const US: ServiceId = ServiceId(4);
/// Staking, which is listened to.
pub const STAKING: ServiceId = ServiceId(3);
/// The market, which is listened to.
pub const MARKET: ServiceId = ServiceId(5);

/// The machine.
#[derive(Debug)]
pub struct Scheduling;

impl Machine for Scheduling {
    const NAME: &'static str = "scheduling";
    const STATE: u32 = 3;
    const LISTENS: &'static [ServiceId] = &[STAKING, MARKET];

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
