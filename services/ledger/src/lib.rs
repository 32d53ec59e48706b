//! The ledger: double-entry accounts in one machine. It owns balances, holds and limits.
//!
//! **Commands** ([`Command`]): `OpenAccount`, `CloseAccount`, `CreateTransfers` (single, hold, post, void; linked,
//! balancing), `SetFrozen`, `SetLimits`, `RegisterSubmitter`, `RecordDeposit`, `RecordWithdrawal`, `Destroy`,
//! `ExpireHolds` (time's own).
//!
//! **Events**: `TransfersRecorded`, `HoldsExpired`, `AccountOpened`, `AccountClosed`, `AccountFrozen`, `LimitsSet`,
//! `SubmitterRegistered`, `DepositRecorded`, `WithdrawalRecorded`, `TokensDestroyed`.
//!
//! **Listens to** no log by name: what other services send arrives as [`react::command`]; the ledger knows none of
//! them.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - E-1.1: of the capped token, the cap is the sum of all balances and what was destroyed, at every position; of any
//!   other asset the sum is 0. No path mints.
//! - E-2.1: debits and credits only grow. No account but `external/<asset>` owes more than its credit limit, and
//!   `external/<asset>` moves only with an outside reference that is unique for ever.
//! - E-2.2: what accounts have pending is exactly what open holds reserve; a hold ends at most once; a chain happens
//!   whole or not at all.
//! - E-2.3: a transfer's id moves money at most once, whoever repeats it, however often.
//! - E-2.4: what a transfer takes from one account arrives at the other and in `burn_inbox`, to the unit.
//! - E-2.5: no account lets out more than its limits allow, open holds included; nothing but open holds leaves a
//!   frozen one.
//! - Of what the platform has its services dispose alone: staff debits only what the parameters name, and nobody pays in
//!   but its service, or by a hold that this service coordinates; into the ledger's own accounts any service does.
//!
//! Deliberately absent: fees, prices, epochs, conversions. They are transfers that other services ask for.
//!
//! In reading order: [`command`], [`state`], [`decide`], [`rows`] (how transfers stand in the log), the formulas
//! [`burn`] and [`rate`], [`params`], then the edges [`wire`], [`react`], [`api`].

pub mod api;
pub mod burn;
pub mod command;
pub mod decide;
pub mod params;
pub mod rate;
pub mod react;
pub mod rows;
pub mod state;
pub mod wire;

use holmes_kernel::{
    Amount, BadParams, Broken, Ctx, Machine, Meta, Opened, Principal, Sighted, Time, Unknown,
};
use holmes_proto::ledger::v1::Event;
use holmes_proto::ledger::v1::event::Event as Kind;

pub use command::{Command, Rejection, Reply, TransferResult};
pub use state::{State, system_account};

/// The machine.
#[derive(Debug)]
pub struct Ledger;

impl Machine for Ledger {
    const NAME: &'static str = "ledger";
    const STATE: u32 = 2;

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
        match command {
            Command::CreateTransfers { .. } => {}
            // What is so already has no event.
            Command::RecordDeposit(_) | Command::RecordWithdrawal(_) => {
                return Reply::Recorded { already: events.is_empty() };
            }
            _ => return Reply::Done,
        }
        let result = |row: rows::Row| TransferResult {
            code: row.code,
            amount: Amount::new(row.amount),
            burned: Amount::new(row.burned),
        };
        let recorded = events.iter().filter_map(|event| match &event.event {
            Some(Kind::TransfersRecorded(recorded)) => Some(recorded),
            _ => None,
        });
        Reply::Transfers(recorded.flat_map(rows::rows).map(result).collect())
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
        entry.send.map(|send| react::command(entry.log.svc, send)).transpose()
    }

    fn may_submit(state: &State, principal: &Principal) -> bool {
        state.submitters.contains(principal)
    }
}
