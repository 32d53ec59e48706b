//! What a service hears from others' logs: what every `react.rs` needs to read an entry, in one way for all.

use holmes_kernel::{Event, Sighted, Unknown};
use serde::Serialize;

use crate::ledger::v1::{self as ledger, TransferCode, TransfersRecorded};

/// The events of an entry of another service's log.
///
/// # Errors
/// [`Unknown`] when one of them is none that this build knows: it may be one that matters, so the source is parked.
pub fn events<E: Event>(entry: &Sighted<'_>) -> Result<Vec<E>, Unknown> {
    let unknown = |what: String| Unknown { service: entry.log.svc, what };
    let read = |bytes: &bytes::Bytes| {
        let event = E::decode(bytes.clone()).map_err(|why| unknown(why.to_string()))?;
        match event.name() {
            Some(_) => Ok(event),
            None => Err(unknown(format!("an event without a known variant in the entry at {}", entry.seq))),
        }
    };
    entry.entry.events.iter().map(read).collect()
}

/// For a service that carries out no sends.
///
/// # Errors
/// [`Unknown`] when the entry sends to it: a newer build must have meant it, so the source is parked, never skipped.
pub fn no_send(entry: &Sighted<'_>) -> Result<(), Unknown> {
    if entry.send.is_none() {
        return Ok(());
    }
    let what = format!("the entry at {} sends to a service that carries out no sends", entry.seq);
    Err(Unknown { service: entry.log.svc, what })
}

/// Why the ledger did not carry a send out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The stable reason.
    pub reason: String,
    /// The transfer that its chain failed for; `None` when the send was refused as a whole.
    pub at: Option<u32>,
}

impl Refused {
    /// Whether the transfer's id was at fault, and neither an account nor a hold: somebody else has taken it (E-2.3). Ids
    /// can be guessed, so nothing follows from it but that it is asked again, under another one.
    pub fn is_of_the_id(&self) -> bool {
        self.reason == "EXISTS_DIFFERENT"
    }
}

/// What the ledger's answer to a send of one account or one chain of transfers says: `None` when it is so now, or was so
/// before.
///
/// # Errors
/// [`Unknown`] as [`events`].
pub fn refused(answer: &Sighted<'_>) -> Result<Option<Refused>, Unknown> {
    if let Some(refused) = &answer.entry.refused {
        return Ok(Some(Refused { reason: refused.reason.clone(), at: None }));
    }
    let events: Vec<ledger::Event> = events(answer)?;
    Ok(events.iter().find_map(|event| match &event.event {
        Some(ledger::event::Event::TransfersRecorded(recorded)) => of_chain(recorded),
        _ => None,
    }))
}

/// What a chain failed for: all but one of its transfers only failed with it.
fn of_chain(recorded: &TransfersRecorded) -> Option<Refused> {
    let failures = recorded.codes.iter().enumerate().filter_map(|(at, code)| Some((at, *code, why(*code)?)));
    let behind_it = |(at, code, _): &(usize, u8, String)| (*code == TransferCode::LinkedFailed as u8, *at);
    let (at, _, reason) = failures.min_by_key(behind_it)?;
    Some(Refused { reason, at: u32::try_from(at).ok() })
}

/// Why a transfer did not happen; `None` where it did. E-2.3: what exists is a success.
pub fn why(code: u8) -> Option<String> {
    let code = TransferCode::try_from(i32::from(code)).unwrap_or_default();
    let failed = !matches!(code, TransferCode::Ok | TransferCode::Exists);
    failed.then(|| code.as_str_name().trim_start_matches("TRANSFER_CODE_").to_owned())
}

#[cfg(test)]
mod tests {
    use holmes_kernel::entry;
    use holmes_kernel::{Entry, LogId, ServiceId, Time};
    use prost::Message as _;

    use super::*;

    fn heard<T>(entry: &Entry, send: Option<&[u8]>, read: impl Fn(&Sighted<'_>) -> T) -> T {
        read(&Sighted { log: LogId::new(1, ServiceId(1)), seq: 3, ts: Time::default(), send, entry })
    }

    fn with(events: Vec<Vec<u8>>) -> Entry {
        Entry { events: events.into_iter().map(Into::into).collect(), ..Entry::default() }
    }

    fn recorded(codes: &[TransferCode]) -> Entry {
        let codes = codes.iter().map(|code| *code as u8).collect::<Vec<u8>>().into();
        let recorded = TransfersRecorded { codes, ..TransfersRecorded::default() };
        let event = ledger::Event { event: Some(ledger::event::Event::TransfersRecorded(recorded)) };
        with(vec![event.encode_to_vec()])
    }

    fn failed(entry: &Entry) -> Option<(String, Option<u32>)> {
        heard(entry, None, refused).unwrap().map(|refused| (refused.reason, refused.at))
    }

    #[test]
    fn what_is_so_now_or_was_before_is_a_success() {
        use TransferCode::{Exists, Ok as Moved};
        let opened = ledger::event::Event::AccountOpened(ledger::AccountOpened::default());
        let opened = ledger::Event { event: Some(opened) }.encode_to_vec();
        for entry in
            [with(vec![]), with(vec![opened]), recorded(&[Moved, Moved]), recorded(&[Exists, Exists])]
        {
            assert_eq!(failed(&entry), None);
        }
    }

    #[test]
    fn a_refusal_is_told_by_the_reason_behind_it_and_where_it_is() {
        use TransferCode::{AccountFrozen, Exists, LinkedFailed};
        let refused = Some(entry::Refused { reason: "ASSET_NOT_FOUND".into(), ..Default::default() });
        assert_eq!(
            failed(&Entry { refused, ..Entry::default() }),
            Some(("ASSET_NOT_FOUND".to_owned(), None))
        );
        let chain = recorded(&[LinkedFailed, AccountFrozen, LinkedFailed]);
        assert_eq!(failed(&chain), Some(("ACCOUNT_FROZEN".to_owned(), Some(1))));
        assert_eq!(failed(&recorded(&[Exists, LinkedFailed])), Some(("LINKED_FAILED".to_owned(), Some(1))));
    }

    #[test]
    fn what_this_build_does_not_know_and_a_send_to_nobody_park_the_source() {
        assert!(heard(&with(vec![vec![0xfa, 0x3f, 0x00]]), None, refused).is_err(), "field 1023");
        assert!(heard(&with(vec![vec![0xff]]), None, events::<ledger::Event>).is_err(), "no message");
        assert!(heard(&Entry::default(), Some(&[1]), no_send).is_err());
        assert!(heard(&Entry::default(), None, no_send).is_ok());
    }
}
