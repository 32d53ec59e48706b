//! What the ledger's entries mean here: the answers to our sends. What else happens in the ledger is not ours to know.

use holmes_kernel::{Sighted, Unknown};
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, TransferCode};
use prost::Message;

use crate::command::{Command, Outcome};
use crate::wire::{LEDGER, US};

/// The answer that an entry of the ledger holds for us.
///
/// # Errors
/// [`Unknown`] when the answer holds an event that this build does not know, or the entry is another service's send: the
/// source is parked.
pub fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    if entry.send.is_some() {
        let what = format!("entry {} sends to the treasury, which carries out no sends", entry.seq);
        return Err(Unknown { service: entry.log.svc, what });
    }
    if entry.log.svc != LEDGER {
        return Ok(None);
    }
    let Some(sent) = entry.answers(US) else { return Ok(None) };
    let outcome = match &entry.entry.refused {
        Some(refused) => Outcome::Refused(refused.reason.clone()),
        None => outcome(entry)?,
    };
    Ok(Some(Command::Answered { sent, outcome }))
}

/// An entry without events says that it is so already, as opening an account again does.
fn outcome(entry: &Sighted<'_>) -> Result<Outcome, Unknown> {
    let unknown = |what: String| Unknown { service: entry.log.svc, what };
    for bytes in &entry.entry.events {
        let event = Event::decode(bytes.clone()).map_err(|why| unknown(format!("an answer: {why}")))?;
        let kind = event.event.ok_or_else(|| unknown(format!("an answer at {}", entry.seq)))?;
        if let Kind::TransfersRecorded(recorded) = kind
            && let Some(code) = failure(&recorded.codes)
        {
            return Ok(Outcome::Refused(reason(code)));
        }
    }
    Ok(Outcome::Done)
}

/// Why a chain failed: the code that is not merely the others' failure. E-2.3: what exists is a success.
fn failure(codes: &[u8]) -> Option<TransferCode> {
    let failed = |code: &TransferCode| !matches!(code, TransferCode::Ok | TransferCode::Exists);
    let codes = codes
        .iter()
        .map(|code| TransferCode::try_from(i32::from(*code)).unwrap_or(TransferCode::Unspecified));
    let mut failures = codes.filter(failed).peekable();
    let first = failures.peek().copied();
    failures.find(|code| *code != TransferCode::LinkedFailed).or(first)
}

fn reason(code: TransferCode) -> String {
    let name = code.as_str_name();
    name.strip_prefix("TRANSFER_CODE_").unwrap_or(name).to_owned()
}
