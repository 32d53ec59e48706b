//! All that scheduling knows, how events change it, and what must always hold.

use holmes_kernel::{BadParams, Broken, Meta, Opened};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::event::Event as Kind;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::params::{self, Params};

/// All that scheduling knows; a function of its log.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// How often it has begun.
    pub beginnings: u64,
}

/// The state before the first command.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice()).map_err(|why| BadParams(why.to_string()))?;
    Ok(State { params: params::read(&wire)?, beginnings: 0 })
}

/// Lets an event have happened. Total: it never fails and never panics.
pub fn evolve(state: &mut State, event: &wire::Event, _: &Meta) {
    match &event.event {
        Some(Kind::Begun(_)) => state.beginnings = state.beginnings.saturating_add(1),
        None => {} // the shard refuses what has no variant, and replay halts at it
    }
}

/// The invariants that one command's events can break.
///
/// # Errors
/// The first that does not hold.
pub fn check_step(state: &State, _: &[wire::Event]) -> Result<(), Broken> {
    within_bounds(state)
}

/// Every invariant that does not hold.
pub fn check(state: &State) -> Vec<Broken> {
    within_bounds(state).err().into_iter().collect()
}

fn within_bounds(state: &State) -> Result<(), Broken> {
    let most = state.params.most_beginnings;
    if state.beginnings <= most {
        return Ok(());
    }
    Err(Broken(format!("{} beginnings, at most {most}", state.beginnings)))
}
