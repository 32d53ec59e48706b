//! What others' logs mean here: the ledger's holds of which staking is the coordinator, and its answers to staking's own
//! sends; what emission says of the pools and of the supply; the leases that scheduling grants and ends.

use holmes_kernel::{Amount, Event as _, Id, Sighted, Time, Unknown};
use holmes_proto::emission::v1 as emission;
use holmes_proto::heard;
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, TransferCode, TransferKind, TransfersRecorded};
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1::Event as Ours;

use crate::command::{Command, LeaseFact, SeenHold};
use crate::{EMISSION, LEDGER, SCHEDULING};

/// The command that an entry of another log causes, if any.
///
/// # Errors
/// [`Unknown`] when the log holds an event that this build does not know: it may be an answer.
pub fn command(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    match entry.log.svc {
        LEDGER => of_ledger(entry),
        SCHEDULING => of_scheduling(entry),
        EMISSION => of_emission(entry),
        _ => Ok(None),
    }
}

/// The last epoch of an entry counts.
fn of_emission(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    let mut command = None;
    for event in heard::events::<emission::Event>(entry)? {
        if let Some(emission::event::Event::EpochClosed(closed)) = event.event {
            let circulating = Amount::new(closed.circulating_units);
            command = Some(Command::NoteEmission {
                next_emission: Amount::new(closed.next_scheduled_units),
                circulating: (!circulating.is_zero()).then_some(circulating),
            });
        }
    }
    Ok(command)
}

/// E-6.5: leases, in their order. A renewal is not public, and changes nothing: a lease that is renewed has not ended.
fn of_scheduling(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    let mut facts = Vec::new();
    for event in heard::events::<scheduling::Event>(entry)? {
        let fact = match event.event {
            Some(Placed::LeaseGranted(e)) => lease(&e.lease, &e.node, Some(e.expires_at_us)),
            Some(Placed::LeaseEnded(e)) => lease(&e.lease, &e.node, None),
            _ => continue,
        };
        let unreadable = || Unknown { service: SCHEDULING, what: "a lease whose ids are none".into() };
        facts.push(fact.ok_or_else(unreadable)?);
    }
    Ok((!facts.is_empty()).then_some(Command::NoteLeases(facts)))
}

/// A lease's id is 20 bytes; the last 8 are the place of its grant in scheduling's log.
fn lease(id: &[u8], node: &[u8], until_us: Option<u64>) -> Option<LeaseFact> {
    let (_, seq) = <&[u8; 20]>::try_from(id).ok()?.split_last_chunk()?;
    let until = until_us.map(Time::from_micros);
    Some(LeaseFact { grant: u64::from_be_bytes(*seq), node: Id::from_slice(node)?, until })
}

fn of_ledger(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    if let Some(seq) = entry.answers(Ours::SERVICE) {
        let refused = heard::refused(entry)?.map(|refused| refused.reason);
        return Ok(Some(Command::Answered { seq, refused }));
    }
    let holds: Vec<SeenHold> = heard::events::<Event>(entry)?.iter().flat_map(holds).collect();
    let opener = entry.entry.asked_by();
    Ok((!holds.is_empty()).then_some(Command::NoteHolds { opener, holds }))
}

/// The holds that an event opened with staking as their coordinator.
fn holds(event: &Event) -> Vec<SeenHold> {
    let Some(Kind::TransfersRecorded(recorded)) = &event.event else { return Vec::new() };
    if recorded.coordinators.is_empty() {
        return Vec::new(); // nearly all batches: looked at no further
    }
    let is_hold = |at: &usize| recorded.kinds.get(*at) == Some(&(TransferKind::Hold as u8));
    let opened = (0..recorded.kinds.len()).filter(is_hold).enumerate();
    opened.filter_map(|(nth, at)| hold_at(recorded, at, nth)).collect()
}

/// The hold at a position of its batch, the `nth` hold of it.
fn hold_at(recorded: &TransfersRecorded, at: usize, nth: usize) -> Option<SeenHold> {
    let id = |column: &[u8]| Id::from_slice(column.get(at * 16..(at + 1) * 16)?);
    let (service, coordination) = recorded.coordinators.get(nth * 18..(nth + 1) * 18)?.split_at(2);
    let ours = service == Ours::SERVICE.0.to_be_bytes();
    let done = recorded.codes.get(at) == Some(&(TransferCode::Ok as u8));
    (ours && done).then_some(())?;
    Some(SeenHold {
        hold: id(&recorded.ids)?,
        debit: id(&recorded.debits)?,
        credit: id(&recorded.credits)?,
        amount: Amount::new(*recorded.amounts_units.get(at)?),
        coordination: Id::from_slice(coordination)?,
    })
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{Entry, LogId, ServiceId};
    use prost::Message;

    use super::*;

    const NODE: Id = Id::from_bytes([1; 16]);

    fn seen(svc: ServiceId, events: Vec<Vec<u8>>) -> Result<Option<Command>, Unknown> {
        let entry = Entry { events: events.into_iter().map(Into::into).collect(), ..Entry::default() };
        command(&Sighted { log: LogId::new(1, svc), seq: 3, ts: Time::default(), send: None, entry: &entry })
    }

    fn placed(kinds: impl IntoIterator<Item = Placed>) -> Result<Option<Command>, Unknown> {
        let events = kinds.into_iter().map(|kind| scheduling::Event { event: Some(kind) }.encode_to_vec());
        seen(SCHEDULING, events.collect())
    }

    /// Cell, service, term and place of the grant.
    fn id(seq: u64) -> prost::bytes::Bytes {
        let rest = [&7u64.to_be_bytes()[..], &seq.to_be_bytes()].concat();
        [&[0, 1, 0, 4][..], &rest].concat().into()
    }

    fn granted(lease: prost::bytes::Bytes, node: &[u8]) -> Placed {
        let node = node.to_vec().into();
        Placed::LeaseGranted(scheduling::LeaseGranted {
            lease,
            node,
            expires_at_us: 60,
            ..Default::default()
        })
    }

    fn ended(lease: prost::bytes::Bytes) -> Placed {
        let node = NODE.to_bytes().to_vec().into();
        Placed::LeaseEnded(scheduling::LeaseEnded { lease, node, ..Default::default() })
    }

    #[test]
    fn leases_of_an_entry_are_told_in_their_order() {
        // E-6.5
        let fact = |grant, until| LeaseFact { grant, node: NODE, until };
        let expected = vec![fact(9, Some(Time::from_micros(60))), fact(8, None)];
        let told = placed([granted(id(9), &NODE.to_bytes()), ended(id(8))]);
        assert_eq!(told, Ok(Some(Command::NoteLeases(expected))));
    }

    #[test]
    fn what_else_scheduling_says_causes_nothing() {
        let sealed = Placed::EpochSealed(scheduling::EpochSealed { epoch: 1, beats: 2 });
        let metered = Placed::CallsMetered(scheduling::CallsMetered { lease: id(9), ..Default::default() });
        assert_eq!(placed([sealed, metered]), Ok(None));
        assert_eq!(seen(ServiceId(9), vec![vec![0xff]]), Ok(None));
    }

    #[test]
    fn a_lease_that_cannot_be_read_parks_the_source() {
        assert!(placed([granted(id(9).slice(1..), &NODE.to_bytes())]).is_err(), "a lease's id has 20 bytes");
        assert!(placed([granted(id(9), &[1; 15])]).is_err(), "a node's id has 16 bytes");
        assert!(placed([ended(Default::default())]).is_err());
        assert!(seen(SCHEDULING, vec![vec![0xfa, 0x3f, 0x00]]).is_err(), "field 1023");
        assert!(seen(SCHEDULING, vec![vec![0xff]]).is_err(), "no message");
    }
}
