//! What the shard itself refuses, in words.

use crate::frame::{ENTRY_BYTES, ENTRY_EVENTS};
use crate::id::{Id, Principal};
use crate::machine::{Code, Refusal};
use crate::window::NotTaken;

pub(super) fn id_reused(id: Id) -> Refusal {
    let message =
        format!("request id {id} was used for another command: take a new UUIDv7 for every new request");
    Refusal::new(Code::AlreadyExists, "REQUEST_ID_REUSED", message)
}

pub(super) fn not_taken(why: NotTaken, id: Id) -> Refusal {
    match why {
        NotTaken::NotAnId => {
            let message =
                format!("request id {id} is not a UUIDv7: its time is needed to keep it from running twice");
            Refusal::new(Code::Invalid, "REQUEST_ID_INVALID", message)
        }
        NotTaken::Expired => {
            let message = format!(
                "request id {id} is older than 1 h or more than 5 min ahead of log time: check the clock, look up \
                 whether the request was carried out, and take a new id if it was not"
            );
            Refusal::new(Code::Precondition, "ID_EXPIRED", message)
        }
        NotTaken::Full => {
            let message = "too many requests in the last hour; ids are never forgotten early. Wait, spread the load \
                           over principals, or register as a bulk submitter";
            Refusal::new(Code::Exhausted, "WINDOW_FULL", message).retry_after(10_000)
        }
    }
}

pub(super) fn not_a_submitter(principal: &Principal) -> Refusal {
    let message =
        format!("{principal} is not registered as a bulk submitter: register it, or send requests with ids");
    Refusal::new(Code::Forbidden, "NOT_A_SUBMITTER", message)
}

pub(super) fn gap(number: u64, expected: u64) -> Refusal {
    let message = format!("number {number} is not the next one: expected {expected}");
    Refusal::new(Code::Precondition, "SUBMITTER_GAP", message)
}

pub(super) fn forgotten(number: u64) -> Refusal {
    let message =
        format!("number {number} was carried out, but so long ago that its answer is no longer kept");
    Refusal::new(Code::Precondition, "SUBMITTER_FORGOTTEN", message)
}

pub(super) fn too_large(events: usize, bytes: usize) -> Refusal {
    let message = format!(
        "the command's {events} events take {bytes} bytes; one command may have {ENTRY_EVENTS} events of {ENTRY_BYTES} \
         bytes together: split it"
    );
    Refusal::new(Code::Invalid, "COMMAND_TOO_LARGE", message)
}

pub(super) fn poisoned() -> Refusal {
    let message = "this command made the service fail and is refused until it is restarted; please report it";
    Refusal::new(Code::Internal, "POISONED", message)
}

pub(super) fn restarting() -> Refusal {
    let message = "the service is rebuilding its state: try again with the same request id";
    Refusal::new(Code::Unavailable, "RESTARTING", message).retry_after(200)
}

pub(super) fn number_reused(number: u64) -> Refusal {
    let message =
        format!("number {number} was another command: numbers are dense, each names one command for ever");
    Refusal::new(Code::AlreadyExists, "SUBMITTER_NUMBER_REUSED", message)
}

pub(super) fn halted() -> Refusal {
    let message = "the service has halted and needs a person: see its log and its health";
    Refusal::new(Code::Unavailable, "LOG_HALTED", message)
}
