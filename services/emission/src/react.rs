//! What other services' logs mean here: bonds and payout accounts of staking, attendance of scheduling, work, fees and
//! price of the market, and the ledger's answers to our own sends.

use holmes_kernel::{Amount, Event as _, Id, Principal, Sighted, Unknown};
use holmes_proto::columns::ids;
use holmes_proto::emission::v1::Event as Ours;
use holmes_proto::heard;
use holmes_proto::ledger::v1 as ledger;
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
    heard::no_send(entry)?;
    let facts = match service {
        LEDGER => return answer(entry),
        STAKING => heard::events::<staking::Event>(entry)?.iter().filter_map(of_staking).collect(),
        SCHEDULING => heard::events::<scheduling::Event>(entry)?.iter().filter_map(of_scheduling).collect(),
        MARKET => heard::events::<market::Event>(entry)?.iter().filter_map(of_market).collect(),
        _ => Vec::new(),
    };
    Ok((!facts.is_empty()).then_some(Command::Note { source: service, at: entry.ts, facts }))
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
    let reasons = heard::events::<ledger::Event>(entry)?.iter().flat_map(codes).map(reason).collect();
    Ok(Some(Command::Answered { seq, outcome: Outcome::Done(reasons) }))
}

/// Why a transfer did not happen; empty where it did.
fn reason(code: u8) -> String {
    heard::why(code).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use holmes_kernel::entry::{Origin, Refused, SourceOrigin};
    use holmes_kernel::{Entry, LogId, Position, ServiceId, Time};
    use holmes_proto::ledger::v1::TransferCode;
    use holmes_proto::market::v1::Settled;
    use holmes_proto::staking::v1::{BondChanged, BondPosted, NodeRegistered, OwnerTombstoned};
    use prost::Message;

    use super::*;

    const NODE: Id = Id::from_bytes([1; 16]);

    fn seen(entry: &Entry, service: ServiceId, send: Option<&[u8]>) -> Result<Option<Command>, Unknown> {
        command(&Sighted { log: LogId::new(1, service), seq: 3, ts: Time::from_millis(9), send, entry })
    }

    fn facts(service: ServiceId, events: Vec<Vec<u8>>) -> Vec<Fact> {
        let entry = Entry { events: events.into_iter().map(Into::into).collect(), ..Entry::default() };
        match seen(&entry, service, None).unwrap() {
            Some(Command::Note { source, at, facts }) => {
                assert_eq!((source, at), (service, Time::from_millis(9)));
                facts
            }
            None => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    fn staked(event: staking::event::Event) -> Vec<u8> {
        staking::Event { event: Some(event) }.encode_to_vec()
    }

    fn id() -> prost::bytes::Bytes {
        NODE.to_bytes().to_vec().into()
    }

    #[test]
    fn work_between_one_owner_counts_nothing_and_neither_do_its_fees() {
        // E-3.2
        let nodes = [[1; 16], [2; 16], [3; 16]].concat();
        let settled = Settled {
            epoch: 5,
            nodes: nodes.into(),
            owners: Principal::SYSTEM.to_bytes().repeat(3).into(),
            credits: [WorkCredit::None, WorkCredit::Quarter, WorkCredit::Full].map(i32::from).to_vec(),
            units: vec![7, 8, 9],
            fees_micro_usd: vec![1, 2, 3],
            ..Default::default()
        };
        let event = market::Event { event: Some(market::event::Event::Settled(settled)) };
        let [Fact::Work { epoch: 5, rows }] = &facts(MARKET, vec![event.encode_to_vec()])[..] else {
            panic!("one fact of work")
        };
        let told: Vec<_> = rows.iter().map(|row| (row.full, row.units, row.fees_micro_usd)).collect();
        assert_eq!(told, [(false, 8, 2), (true, 9, 3)]);
    }

    #[test]
    fn a_node_is_what_staking_says_and_what_unbonds_can_still_be_slashed() {
        // E-0.6
        use staking::event::Event as Kind;
        let owner: prost::bytes::Bytes = Principal::SYSTEM.to_bytes().to_vec().into();
        let registered = NodeRegistered { node: id(), owner: owner.clone(), kind: 1, ..Default::default() };
        let posted = BondPosted { node: id(), account: id(), ..Default::default() };
        let changed = BondChanged {
            node: id(),
            owner: owner.clone(),
            kind: 1,
            bond_units: 5,
            unbonding_units: 2,
            required_units: 6,
            rating_milli_cu: 700,
            state: NodeState::Tombstoned.into(),
            ..Default::default()
        };
        let buried = OwnerTombstoned { owner, nodes: id(), cause: String::new() };
        let told = facts(
            STAKING,
            vec![
                staked(Kind::NodeRegistered(registered)),
                staked(Kind::BondPosted(posted)),
                staked(Kind::BondChanged(changed)),
                staked(Kind::OwnerTombstoned(buried)),
            ],
        );
        let node = |slashable, required, rating_milli_cu, barred, registered| Fact::Node {
            node: NODE,
            owner: Principal::SYSTEM,
            kind: 1,
            slashable: Amount::new(slashable),
            required: Amount::new(required),
            rating_milli_cu,
            barred,
            registered,
        };
        let expected = [
            node(0, u64::MAX, 0, false, true),
            Fact::Payout { node: NODE, account: NODE, posted: true },
            node(7, 6, 700, true, false),
            Fact::Barred(vec![NODE]),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_answer_tells_of_every_transfer_or_of_the_whole() {
        let to = Position { seq: 7, ..Position::default() };
        let origin = Some(Origin::Source(SourceOrigin::new(LogId::new(1, Ours::SERVICE), to)));
        let codes = [TransferCode::Ok, TransferCode::Exists, TransferCode::AccountClosed];
        let recorded = ledger::TransfersRecorded {
            codes: codes.map(|code| code as u8).to_vec().into(),
            ..Default::default()
        };
        let event = ledger::Event { event: Some(ledger::event::Event::TransfersRecorded(recorded)) };
        let entry =
            Entry { origin: origin.clone(), events: vec![event.encode_to_vec().into()], ..Entry::default() };
        let answered = |outcome| Ok(Some(Command::Answered { seq: 7, outcome }));
        let reasons = ["", "", "ACCOUNT_CLOSED"].map(str::to_owned).to_vec();
        assert_eq!(seen(&entry, LEDGER, None), answered(Outcome::Done(reasons)));
        let refused = Some(Refused { reason: "INTERNAL".into(), ..Refused::default() });
        let entry = Entry { origin, refused, ..Entry::default() };
        assert_eq!(seen(&entry, LEDGER, None), answered(Outcome::Refused("INTERNAL".into())));
        assert_eq!(seen(&Entry::default(), LEDGER, None), Ok(None));
    }

    #[test]
    fn what_this_build_does_not_know_parks_the_source() {
        let unknown = Entry { events: vec![vec![0xfa, 0x3f, 0x00].into()], ..Entry::default() };
        for service in [STAKING, SCHEDULING, MARKET] {
            assert!(seen(&unknown, service, None).is_err(), "field 1023 of {service:?}");
            assert!(seen(&Entry::default(), service, Some(&[1])).is_err(), "a send to emission");
        }
        assert_eq!(seen(&unknown, ServiceId(9), None), Ok(None), "others say nothing here");
    }
}
