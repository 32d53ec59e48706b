//! Accounts: parties, what they may act as, and the keys that speak for them, their nodes and gateways, and services.
//!
//! **Commands** ([`Change`]): `CreateAccount`, `CreateApiKey`, `RevokeApiKey`, `AddPublicKey`, `RotateKey`,
//! `RevokePublicKey`, `RegisterKey` (of a node, gateway or service), `SetRoles`, `Suspend`, `Reinstate`. A [`Command`]
//! is a change and what proves who asks for it.
//!
//! **Events**: `AccountCreated`, `ApiKeyCreated`, `ApiKeyRevoked`, `KeyChanged`, `RolesChanged`, `AccountSuspended`,
//! `AccountReinstated`. The last four are public: what other services need to check signatures and rights.
//!
//! **Listens to** no log: rights come from people, not from other services.
//!
//! **Invariants**, each checked by [`state::check`]:
//! - A key belongs to one holder for ever: no public key and no API key's hash stands twice, and a revoked one never
//!   counts again.
//! - A key gives no rights that its account lacks, and nobody hands out more than he has: an API key without the scope
//!   `admin` changes nothing here, one with it grants at most its own roles.
//! - The id of a node or gateway is BLAKE3-128 of its only key.
//! - Nothing of a suspended account counts: neither its keys nor those of its nodes and gateways.
//! - No account but by staff's hand loses the last key that can administer it, and the cell never loses its last staff.
//! - Every limit of [`params`] is kept.
//!
//! Deliberately absent: secrets (callers make API keys and send hashes; key pairs never leave their possessors),
//! personal data, and the check of signatures on requests, which the edge does with what [`State::public_key`] says.
//!
//! In reading order: [`command`], [`state`], [`decide`], [`possession`] (the proof that a key comes from
//! who has it), [`params`], then the edges [`wire`], [`react`], [`api`].

pub mod api;
pub mod command;
pub mod decide;
pub mod params;
pub mod possession;
pub mod react;
pub mod state;
pub mod wire;

use holmes_kernel::{BadParams, Broken, Ctx, Machine, Meta, Opened, Sighted, Unknown};
use holmes_proto::accounts::v1::Event;

pub use command::{By, Change, Command, Done, Rejection};
pub use holmes_proto::edge::Roles;
pub use state::{Denied, State};

/// The machine.
#[derive(Debug)]
pub struct Accounts;

impl Machine for Accounts {
    const NAME: &'static str = "accounts";
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
