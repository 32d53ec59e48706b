//! What other services' entries mean here: nothing yet. {{Name}} listens to no log and knows no sends.

use holmes_kernel::{Sighted, Unknown};
use holmes_proto::heard;

use crate::command::Command;

/// The command that another service's entry causes.
///
/// # Errors
/// For a send, which a newer build must have meant: its source is parked, never skipped.
pub fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    heard::no_send(entry)?;
    Ok(None)
}
