//! What other services' logs mean here: bonds and payout accounts of staking, attendance of scheduling, work, fees and
//! price of the market, and the ledger's answers to our own sends.

use holmes_kernel::{Amount, Entry, Event, Id, Principal, Sighted, Unknown};
use holmes_proto::emission::v1::Event as Ours;
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::ledger::v1::TransferCode;
use holmes_proto::market::v1 as market;
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::staking::v1 as staking;
use holmes_proto::staking::v1::NodeState;

use crate::command::{Command, Fact, Outcome, WorkRow};
use crate::{LEDGER, MARKET, SCHEDULING, STAKING};

/// The command that an entry of another log causes, if any.
///
/// # Errors
/// [`Unknown`] when the entry holds an event that this build does not know, or a send to emission, which carries out
/// none: the source is parked.
pub fn command(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    let service = entry.log.svc;
    if entry.send.is_some() {
        let what = format!("entry {} sends to emission, which carries out no sends", entry.seq);
        return Err(Unknown { service, what });
    }
    let facts = match service {
        LEDGER => return answer(entry),
        STAKING => events::<staking::Event>(entry.entry)?.iter().filter_map(of_staking).collect(),
        SCHEDULING => events::<scheduling::Event>(entry.entry)?.iter().filter_map(of_scheduling).collect(),
        MARKET => events::<market::Event>(entry.entry)?.iter().filter_map(of_market).collect(),
        _ => Vec::new(),
    };
    Ok((!facts.is_empty()).then_some(Command::Note { source: service, at: entry.ts, facts }))
}

fn events<E: Event>(entry: &Entry) -> Result<Vec<E>, Unknown> {
    let unknown = |what: String| Unknown { service: E::SERVICE, what };
    let read = |bytes: &prost::bytes::Bytes| {
        let event = E::decode(bytes.clone()).map_err(|why| unknown(why.to_string()))?;
        if event.name().is_some() {
            Ok(event)
        } else {
            Err(unknown("an event without a known variant".into()))
        }
    };
    entry.events.iter().map(read).collect()
}

/// The answer to a send: refused as a whole, or what became of each transfer.
fn answer(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    let Some(seq) = entry.answers(Ours::SERVICE) else { return Ok(None) };
    if let Some(refused) = &entry.entry.refused {
        return Ok(Some(Command::Answered { seq, outcome: Outcome::Refused(refused.reason.clone()) }));
    }
    let codes = |event: &ledger::Event| match &event.event {
        Some(ledger::event::Event::TransfersRecorded(recorded)) => recorded.codes.to_vec(),
        _ => Vec::new(),
    };
    let reasons = events::<ledger::Event>(entry.entry)?.iter().flat_map(codes).map(reason).collect();
    Ok(Some(Command::Answered { seq, outcome: Outcome::Done(reasons) }))
}

/// Why a transfer did not happen; empty where it did. A transfer that exists has happened.
fn reason(code: u8) -> String {
    let code = TransferCode::try_from(i32::from(code)).unwrap_or(TransferCode::Unspecified);
    if matches!(code, TransferCode::Ok | TransferCode::Exists) {
        return String::new();
    }
    code.as_str_name().trim_start_matches("TRANSFER_CODE_").to_owned()
}

fn ids(column: &[u8]) -> impl Iterator<Item = Id> + '_ {
    column.chunks_exact(16).filter_map(Id::from_slice)
}

fn of_staking(event: &staking::Event) -> Option<Fact> {
    use staking::event::Event as Kind;
    let payout = |node: &[u8], account: &[u8], posted| {
        Some(Fact::Payout { node: Id::from_slice(node)?, account: Id::from_slice(account)?, posted })
    };
    match event.event.as_ref()? {
        Kind::NodeRegistered(e) => Some(Fact::Node {
            node: Id::from_slice(&e.node)?,
            owner: Principal::from_slice(&e.owner)?,
            kind: u8::try_from(e.kind).unwrap_or_default(),
            slashable: Amount::ZERO,
            required: Amount::MAX, // nothing is enough until staking says what is
            rating_milli_cu: 0,
            barred: false,
            registered: true,
        }),
        Kind::BondChanged(e) => Some(Fact::Node {
            node: Id::from_slice(&e.node)?,
            owner: Principal::from_slice(&e.owner)?,
            kind: u8::try_from(e.kind).unwrap_or_default(),
            slashable: Amount::new(e.bond_units.saturating_add(e.unbonding_units)),
            required: Amount::new(e.required_units),
            rating_milli_cu: e.rating_milli_cu,
            barred: e.state == NodeState::Tombstoned as i32,
            registered: false,
        }),
        Kind::RequiredRecomputed(e) => {
            Some(Fact::Required(ids(&e.nodes).zip(e.required_units.iter().copied()).collect()))
        }
        Kind::BondPosted(e) => payout(&e.node, &e.account, true),
        Kind::PayoutAccountSet(e) => payout(&e.node, &e.account, false),
        Kind::UnbondingStarted(e) => payout(&e.node, &e.account, false),
        Kind::OwnerTombstoned(e) => Some(Fact::Barred(ids(&e.nodes).collect())),
        Kind::EpochSealed(e) => Some(Fact::Sealed(e.epoch)),
        _ => None,
    }
}

fn of_scheduling(event: &scheduling::Event) -> Option<Fact> {
    use scheduling::event::Event as Kind;
    match event.event.as_ref()? {
        Kind::EpochAttendance(e) => {
            let seen = e.beats_seen.iter().copied().zip(e.active.iter().copied());
            let rows: Vec<_> =
                ids(&e.nodes).zip(seen).map(|(node, (beats, active))| (node, beats, active)).collect();
            (!rows.is_empty()).then_some(Fact::Attendance { epoch: e.epoch, rows })
        }
        Kind::EpochSealed(e) => Some(Fact::Sealed(e.epoch)),
        _ => None,
    }
}

fn of_market(event: &market::Event) -> Option<Fact> {
    use market::event::Event as Kind;
    match event.event.as_ref()? {
        Kind::Settled(e) => work(e),
        Kind::PriceSealed(e) => (e.token_price_micro_usd > 0)
            .then_some(Fact::Price { epoch: e.epoch, micro_usd: e.token_price_micro_usd }),
        Kind::EpochSealed(e) => Some(Fact::Sealed(e.epoch)),
        _ => None,
    }
}

/// E-3.2: work between the same owner counts nothing, and neither do its fees.
fn work(event: &market::Settled) -> Option<Fact> {
    let owners = event.owners.chunks_exact(17).filter_map(Principal::from_slice);
    let mut rows = Vec::new();
    for (at, (node, owner)) in ids(&event.nodes).zip(owners).enumerate() {
        let full = match event.credits.get(at).and_then(|credit| WorkCredit::try_from(*credit).ok()) {
            Some(WorkCredit::Full) => true,
            Some(WorkCredit::Quarter) => false,
            _ => continue,
        };
        let (Some(units), Some(fees)) = (event.units.get(at), event.fees_micro_usd.get(at)) else { continue };
        rows.push(WorkRow { node, owner, full, units: *units, fees_micro_usd: *fees });
    }
    (!rows.is_empty()).then_some(Fact::Work { epoch: event.epoch, rows })
}
