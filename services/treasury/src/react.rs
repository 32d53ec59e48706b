//! What the ledger's entries mean here: the answers to our sends. What else happens in the ledger is not ours to know.

use holmes_kernel::{Sighted, Unknown};
use holmes_proto::heard;

use crate::command::{Command, Outcome};
use crate::wire::{LEDGER, US};

/// The answer that an entry of the ledger holds for us.
///
/// # Errors
/// [`Unknown`] when the answer holds an event that this build does not know, or the entry is another service's send: the
/// source is parked.
pub fn react(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    heard::no_send(entry)?;
    if entry.log.svc != LEDGER {
        return Ok(None);
    }
    let Some(sent) = entry.answers(US) else { return Ok(None) };
    let outcome = heard::refused(entry)?.map_or(Outcome::Done, |refused| Outcome::Refused(refused.reason));
    Ok(Some(Command::Answered { sent, outcome }))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::entry::{Origin, Refused, SourceOrigin};
    use holmes_kernel::{Entry, LogId, Position, ServiceId, Time};
    use holmes_proto::ledger::v1::event::Event as Kind;
    use holmes_proto::ledger::v1::{AccountOpened, Event, TransferCode, TransfersRecorded};
    use prost::Message as _;

    use super::*;

    /// What an entry of the ledger causes that answers our event 7.
    fn answer(events: Vec<Vec<u8>>, refused: Option<&str>) -> Result<Option<Command>, Unknown> {
        let to = Position { seq: 7, ..Position::default() };
        let entry = Entry {
            origin: Some(Origin::Source(SourceOrigin::new(LogId::new(1, US), to))),
            refused: refused.map(|reason| Refused { reason: reason.into(), ..Refused::default() }),
            events: events.into_iter().map(Into::into).collect(),
            ..Entry::default()
        };
        seen(&entry, LEDGER, None)
    }

    fn seen(entry: &Entry, svc: ServiceId, send: Option<&[u8]>) -> Result<Option<Command>, Unknown> {
        react(&Sighted { log: LogId::new(1, svc), seq: 3, ts: Time::default(), send, entry })
    }

    fn answered(outcome: Outcome) -> Result<Option<Command>, Unknown> {
        Ok(Some(Command::Answered { sent: 7, outcome }))
    }

    fn refused(reason: &str) -> Result<Option<Command>, Unknown> {
        answered(Outcome::Refused(reason.into()))
    }

    fn recorded(codes: &[TransferCode]) -> Vec<u8> {
        let codes = codes.iter().map(|code| *code as u8).collect::<Vec<u8>>().into();
        let recorded = TransfersRecorded { codes, ..TransfersRecorded::default() };
        Event { event: Some(Kind::TransfersRecorded(recorded)) }.encode_to_vec()
    }

    #[test]
    fn what_is_so_now_or_was_before_is_a_success() {
        use TransferCode::{Exists, Ok as Moved};
        let opened = Event { event: Some(Kind::AccountOpened(AccountOpened::default())) };
        let events = [
            vec![],
            vec![opened.encode_to_vec()],
            vec![recorded(&[Moved, Moved])],
            vec![recorded(&[Exists, Exists])],
        ];
        for events in events {
            assert_eq!(answer(events, None), answered(Outcome::Done));
        }
    }

    #[test]
    fn a_refusal_is_told_by_the_reason_behind_it() {
        use TransferCode::{AccountFrozen, Exists, LinkedFailed};
        assert_eq!(answer(vec![], Some("ASSET_NOT_FOUND")), refused("ASSET_NOT_FOUND"));
        let chain = recorded(&[LinkedFailed, AccountFrozen, LinkedFailed]);
        assert_eq!(answer(vec![chain], None), refused("ACCOUNT_FROZEN"));
        assert_eq!(answer(vec![recorded(&[Exists, LinkedFailed])], None), refused("LINKED_FAILED"));
    }

    #[test]
    fn what_this_build_does_not_know_parks_the_source() {
        assert!(answer(vec![vec![0xfa, 0x3f, 0x00]], None).is_err(), "field 1023");
        assert!(answer(vec![vec![0xff]], None).is_err(), "no message");
        assert!(seen(&Entry::default(), LEDGER, Some(&[1])).is_err(), "a send to the treasury");
    }

    #[test]
    fn what_others_do_in_the_ledger_causes_nothing() {
        assert_eq!(seen(&Entry::default(), LEDGER, None), Ok(None));
        let to = Position::default();
        let origin = Some(Origin::Source(SourceOrigin::new(LogId::new(1, ServiceId(9)), to)));
        let events = vec![vec![0xff].into()];
        assert_eq!(seen(&Entry { origin, events, ..Entry::default() }, LEDGER, None), Ok(None));
        assert_eq!(seen(&Entry::default(), ServiceId(9), None), Ok(None));
    }
}
