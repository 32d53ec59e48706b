//! What others' logs mean here: the ledger's holds of which staking is the coordinator, and its answers to staking's own
//! sends; what emission says of the pools and of the supply.

use holmes_kernel::{Amount, Event as _, Id, Sighted, Unknown};
use holmes_proto::emission::v1 as emission;
use holmes_proto::heard;
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, TransferCode, TransferKind, TransfersRecorded};
use holmes_proto::staking::v1::Event as Ours;

use crate::command::{Command, SeenHold};
use crate::{EMISSION, LEDGER};

/// The command that an entry of another log causes, if any.
///
/// # Errors
/// [`Unknown`] when the log holds an event that this build does not know: it may be an answer.
pub fn command(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    match entry.log.svc {
        LEDGER => of_ledger(entry),
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
