//! What other logs mean here: calls that scheduling has metered, leases under which some run, and the ledger's answers to the market's sends.

use holmes_kernel::{Event as _, Id, Principal, Sighted, Time, Unknown};
use holmes_proto::heard;
use holmes_proto::market::v1::Event as Ours;
use holmes_proto::scheduling::v1::event::Event as Seen;
use holmes_proto::scheduling::v1::{self as scheduling, CallsMetered};

use crate::command::{Command, Metered};
use crate::{LEDGER, SCHEDULING};

/// The command that an entry of another log causes, if any.
///
/// # Errors
/// [`Unknown`] when it holds an event that this build does not know: it may be one that matters.
pub fn command(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    if entry.log.svc == LEDGER {
        let Some(seq) = entry.answers(Ours::SERVICE) else { return Ok(None) };
        return Ok(Some(Command::Answered { seq, refused: heard::refused(entry)? }));
    }
    if entry.log.svc == SCHEDULING {
        let events: Vec<scheduling::Event> = heard::events(entry)?;
        let metered: Vec<Metered> = events.iter().filter_map(metered).collect();
        let drained: Vec<Id> = events.iter().filter_map(drained).collect();
        let leased: Vec<(Id, Time)> = events.iter().filter_map(leased).collect();
        let said = !metered.is_empty() || !drained.is_empty() || !leased.is_empty();
        return Ok(said.then_some(Command::NoteCalls { metered, drained, leased }));
    }
    Ok(None)
}

/// What a lease's lines come to together. Sums that would not fit stay at the largest number, which no hold covers.
fn metered(event: &scheduling::Event) -> Option<Metered> {
    let Some(Seen::CallsMetered(event)) = &event.event else { return None };
    let sum = |of: fn(&scheduling::CallLine) -> u64| {
        event.lines.iter().map(of).fold(0u64, |sum, tokens| sum.saturating_add(tokens))
    };
    let (input_tokens, output_tokens) = (sum(|line| line.input_tokens), sum(|line| line.output_tokens));
    let of = |input: u64, output: u64| {
        let part = |tokens: u64, each: u64| u128::from(tokens) * u128::from(each);
        part(input_tokens, input).saturating_add(part(output_tokens, output))
    };
    let CallsMetered { input_pico_usd, output_pico_usd, input_micro_units, output_micro_units, .. } = *event;
    Some(Metered {
        session: Id::from_slice(&event.session)?,
        node: Id::from_slice(&event.node)?,
        owner: Principal::from_slice(&event.owner)?,
        credit: u8::try_from(event.credit).ok()?,
        calls: event.lines.len() as u64,
        input_tokens,
        output_tokens,
        pico: of(input_pico_usd, output_pico_usd),
        micro_units: of(input_micro_units, output_micro_units),
    })
}

/// The session that has a lease, and when that ends.
fn leased(event: &scheduling::Event) -> Option<(Id, Time)> {
    let (session, until_us) = match &event.event {
        Some(Seen::LeaseGranted(event)) => (&event.session, event.expires_at_us),
        Some(Seen::LeaseRenewed(event)) => {
            let lease = event.renewed.as_ref()?;
            (&lease.session, lease.expires_at_us)
        }
        _ => return None,
    };
    Some((Id::from_slice(session)?, Time::from_micros(until_us)))
}

/// The session on which nothing more is metered.
fn drained(event: &scheduling::Event) -> Option<Id> {
    match &event.event {
        Some(Seen::SessionDrained(event)) => Id::from_slice(&event.session),
        _ => None,
    }
}
