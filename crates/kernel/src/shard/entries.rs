//! What an entry holds beside the events, and the answer that can be made of it later.

use prost::bytes::Bytes;

use super::guarded;
use super::refusals::poisoned;
use crate::entry::{Entry, Origin};
use crate::id::Principal;
use crate::machine::{Code, Machine, Refusal};
use crate::weak::{Guard, is_off};

/// Longest refusal in words, in bytes: it may stand in the log.
const MOST_WORDS: usize = 1_024;
/// Longest trace context, in bytes (W3C's has 55); a longer one is dropped.
const MOST_TRACE: usize = 128;

/// The answer to a command that was carried out before, from its entry in the log.
pub fn recall<M: Machine>(entry: &Entry, command: &M::Command) -> Result<M::Reply, Refusal> {
    if let Some(refused) = &entry.refused
        && !is_off(Guard::Refused)
    {
        return Err(refused.into());
    }
    let decoded: Result<Vec<M::Event>, _> =
        entry.events.iter().map(|bytes| <M::Event as prost::Message>::decode(bytes.clone())).collect();
    match decoded {
        Ok(events) => guarded(|| M::reply(command, &events)).map_err(|_| poisoned()),
        Err(why) => {
            Err(Refusal::new(Code::DataLoss, "ENTRY_DAMAGED", format!("an event cannot be read: {why}")))
        }
    }
}

pub(super) fn head(origin: Origin, principal: &Principal, traceparent: String) -> Entry {
    let principal = Bytes::copy_from_slice(&principal.to_bytes());
    let traceparent = if traceparent.len() > MOST_TRACE { String::new() } else { traceparent };
    Entry { origin: Some(origin), principal, traceparent, ..Entry::default() }
}

pub(super) fn shorten(words: &mut String) {
    if let Some(end) = (0..=MOST_WORDS).rev().find(|end| words.is_char_boundary(*end)) {
        words.truncate(end);
    }
}
