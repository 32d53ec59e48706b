//! What other services' entries mean here: nothing. Accounts listens to no log and knows no sends.

use holmes_kernel::{Sighted, Unknown};

use crate::command::Command;

/// The command that another service's entry causes.
///
/// # Errors
/// Always: an entry that comes here nevertheless was meant for a newer build, so its source is parked, never skipped.
pub fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    Err(Unknown { service: entry.log.svc, what: format!("entry {} sent to accounts", entry.seq) })
}
