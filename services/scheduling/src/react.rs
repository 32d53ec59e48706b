//! What staking's and the market's logs mean here: facts of nodes, models and sessions.

use holmes_kernel::{Event as Named, Id, Principal, Sighted, Time, Unknown};
use holmes_proto::columns::{ids, wide};
use holmes_proto::heard;
use holmes_proto::market::v1 as market;
use holmes_proto::market::v1::event::Event as Market;
use holmes_proto::staking::v1 as staking;
use holmes_proto::staking::v1::event::Event as Staking;
use holmes_proto::staking::v1::{NodeKind, NodeState};

use crate::command::{Command, MarketFact, NodeFact};
use crate::state::Prices;
use crate::{MARKET, STAKING};

/// The command that an entry of another log causes, if any.
///
/// # Errors
/// [`Unknown`] when the entry holds an event that this build does not know or cannot read, or is a send to scheduling,
/// which carries out none: the source is parked.
pub fn command(entry: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
    let service = entry.log.svc;
    heard::no_send(entry)?;
    let command = match service {
        STAKING => {
            let facts = read(entry, |event: staking::Event| event.event.and_then(of_staking))?;
            (!facts.is_empty()).then_some(Command::NoteNodes(facts))
        }
        MARKET => {
            let facts = read(entry, |event: market::Event| event.event.and_then(of_market))?;
            (!facts.is_empty()).then_some(Command::NoteMarket(facts))
        }
        _ => None,
    };
    Ok(command)
}

/// The facts of an entry's events; an event whose ids are none is another build's.
fn read<E: Named, F>(entry: &Sighted<'_>, facts: impl Fn(E) -> Option<Vec<F>>) -> Result<Vec<F>, Unknown> {
    let mut all = Vec::new();
    for event in heard::events::<E>(entry)? {
        let name = event.name().unwrap_or_default();
        let unknown =
            || Unknown { service: entry.log.svc, what: format!("an event {name} that cannot be read") };
        all.extend(facts(event).ok_or_else(unknown)?);
    }
    Ok(all)
}

/// What an event of staking says of compute nodes; `None` when it cannot be read.
fn of_staking(event: Staking) -> Option<Vec<NodeFact>> {
    let facts = match event {
        Staking::NodeRegistered(e) if e.kind() == NodeKind::Compute => vec![NodeFact::Registered {
            node: Id::from_slice(&e.node)?,
            owner: Principal::from_slice(&e.owner)?,
            public_key: e.public_key.as_ref().try_into().ok()?,
        }],
        Staking::BondChanged(e) if e.kind() == NodeKind::Compute => vec![NodeFact::Stands {
            node: Id::from_slice(&e.node)?,
            owner: Principal::from_slice(&e.owner)?,
            qualified: e.qualified && e.state() == NodeState::Active,
            rating_milli_cu: e.rating_milli_cu,
            required: e.required_units,
        }],
        Staking::RequiredRecomputed(e) => {
            let nodes = ids(&e.nodes).zip(e.required_units);
            nodes.map(|(node, required)| NodeFact::Required { node, required }).collect()
        }
        Staking::OwnerTombstoned(e) => ids(&e.nodes).map(|node| NodeFact::Tombstoned { node }).collect(),
        _ => Vec::new(),
    };
    Some(facts)
}

/// What an event of the market says of models and sessions; `None` when it cannot be read.
fn of_market(event: Market) -> Option<Vec<MarketFact>> {
    let facts = match event {
        Market::ModelPriced(e) => vec![MarketFact::Model {
            prices: Prices {
                input_pico: e.input_pico_usd,
                output_pico: e.output_pico_usd,
                input_micro_units: e.input_micro_units,
                output_micro_units: e.output_micro_units,
            },
            name: e.model,
            withdrawn: e.withdrawn,
        }],
        Market::SessionFunded(e) => vec![MarketFact::Funded {
            session: Id::from_slice(&e.session)?,
            renter: Principal::from_slice(&e.renter)?,
            cap: wide(&e.cap_pico_usd)?,
            expires_at: Time::from_micros(e.expires_at_us),
        }],
        Market::SessionClosing(e) => vec![MarketFact::Closing {
            session: Id::from_slice(&e.session)?,
            drains_until: Time::from_micros(e.drains_until_us),
        }],
        Market::SessionClosed(e) => vec![MarketFact::Closed { session: Id::from_slice(&e.session)? }],
        _ => Vec::new(),
    };
    Some(facts)
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{Entry, LogId, PrincipalKind, ServiceId};
    use prost::Message;

    use super::*;

    fn seen(svc: ServiceId, events: Vec<Vec<u8>>, send: Option<&[u8]>) -> Result<Option<Command>, Unknown> {
        let entry = Entry { events: events.into_iter().map(Into::into).collect(), ..Entry::default() };
        command(&Sighted { log: LogId::new(1, svc), seq: 3, ts: Time::default(), send, entry: &entry })
    }

    fn of_staking(kind: Staking) -> Result<Option<Command>, Unknown> {
        seen(STAKING, vec![staking::Event { event: Some(kind) }.encode_to_vec()], None)
    }

    fn of_market(kind: Market) -> Result<Option<Command>, Unknown> {
        seen(MARKET, vec![market::Event { event: Some(kind) }.encode_to_vec()], None)
    }

    const NODE: Id = Id::from_bytes([1; 16]);
    const OWNER: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([2; 16]));

    fn changed(kind: NodeKind, state: NodeState) -> Staking {
        Staking::BondChanged(staking::BondChanged {
            node: NODE.to_bytes().to_vec().into(),
            owner: OWNER.to_bytes().to_vec().into(),
            kind: kind.into(),
            state: state.into(),
            qualified: true,
            rating_milli_cu: 7,
            required_units: 8,
            ..staking::BondChanged::default()
        })
    }

    #[test]
    fn a_compute_node_that_is_bonded_as_required_may_serve_only_while_it_is_active() {
        for (state, qualified) in
            [(NodeState::Active, true), (NodeState::Jailed, false), (NodeState::Unbonding, false)]
        {
            let stands =
                NodeFact::Stands { node: NODE, owner: OWNER, qualified, rating_milli_cu: 7, required: 8 };
            let command = of_staking(changed(NodeKind::Compute, state)).unwrap();
            assert_eq!(command, Some(Command::NoteNodes(vec![stands])));
        }
        assert_eq!(of_staking(changed(NodeKind::Verifier, NodeState::Active)), Ok(None));
    }

    #[test]
    fn requirements_and_tombstones_reach_every_node_that_they_name() {
        let nodes = [[1; 16], [2; 16]].concat();
        let required = Staking::RequiredRecomputed(staking::RequiredRecomputed {
            nodes: nodes.clone().into(),
            required_units: vec![5, 6],
        });
        let Ok(Some(Command::NoteNodes(facts))) = of_staking(required) else { panic!("facts follow") };
        assert_eq!(facts[1], NodeFact::Required { node: Id::from_bytes([2; 16]), required: 6 });
        let tombstoned =
            Staking::OwnerTombstoned(staking::OwnerTombstoned { nodes: nodes.into(), ..Default::default() });
        let Ok(Some(Command::NoteNodes(facts))) = of_staking(tombstoned) else { panic!("facts follow") };
        assert_eq!(facts[0], NodeFact::Tombstoned { node: NODE });
    }

    #[test]
    fn a_funded_session_carries_its_cap_in_full() {
        let funded = market::SessionFunded {
            session: vec![3; 16].into(),
            renter: OWNER.to_bytes().to_vec().into(),
            cap_pico_usd: (1u128 << 70).to_be_bytes().to_vec().into(),
            expires_at_us: 9,
        };
        let (session, expires_at) = (Id::from_bytes([3; 16]), Time::from_micros(9));
        let fact = MarketFact::Funded { session, renter: OWNER, cap: 1 << 70, expires_at };
        assert_eq!(
            of_market(Market::SessionFunded(funded.clone())),
            Ok(Some(Command::NoteMarket(vec![fact])))
        );
        let short = market::SessionFunded { cap_pico_usd: vec![1].into(), ..funded };
        assert!(of_market(Market::SessionFunded(short)).is_err(), "a cap is 16 bytes");
    }

    #[test]
    fn what_this_build_does_not_know_parks_the_source() {
        assert!(seen(STAKING, vec![vec![0xfa, 0x3f, 0x00]], None).is_err(), "field 1023");
        assert!(seen(MARKET, vec![vec![0xff]], None).is_err(), "no message");
        assert!(seen(STAKING, vec![], Some(&[1])).is_err(), "a send to scheduling");
    }

    #[test]
    fn what_does_not_concern_nodes_or_sessions_causes_nothing() {
        assert_eq!(of_staking(Staking::VaultOpened(staking::VaultOpened {})), Ok(None));
        assert_eq!(of_market(Market::EpochSealed(market::EpochSealed { epoch: 1 })), Ok(None));
        assert_eq!(seen(ServiceId(9), vec![vec![0xff]], None), Ok(None));
    }
}
