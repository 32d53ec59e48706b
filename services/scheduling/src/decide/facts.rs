//! What staking and the market say becomes ordinary state.

use std::collections::BTreeMap;

use holmes_kernel::{Ctx, Id};
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{
    ModelNoted, NodeNoted, NodesNoted, SessionDraining, SessionEnded, SessionNoted,
};

use super::{Decided, bytes, column, only_from, owned};
use crate::command::{MarketFact, NodeFact};
use crate::state::State;
use crate::{MARKET, STAKING};

/// Many facts of one entry become one event; what is so already is left out. A node beyond the limit stays unknown.
pub(super) fn nodes(state: &State, facts: &[NodeFact], ctx: &Ctx) -> Decided {
    only_from(STAKING, ctx)?;
    let (mut noted, mut unqualified) = (BTreeMap::new(), Vec::new());
    let mut room = state.params.most_nodes.saturating_sub(state.nodes.len());
    for fact in facts {
        match fact {
            NodeFact::Registered { node, owner, public_key } => {
                if state.nodes.get(node).is_none() && !noted.contains_key(node) {
                    if room == 0 {
                        continue;
                    }
                    room -= 1;
                    let public_key = public_key.to_vec().into();
                    let fresh = NodeNoted { node: bytes(*node), public_key, ..NodeNoted::default() };
                    noted.insert(*node, fresh);
                }
                change(state, &mut noted, *node, |known| known.owner = owned(*owner));
            }
            NodeFact::Stands { node, owner, qualified, rating_milli_cu, required } => {
                change(state, &mut noted, *node, |known| {
                    known.owner = owned(*owner);
                    known.qualified = *qualified;
                    known.rating_milli_cu = *rating_milli_cu;
                    known.required_units = *required;
                });
            }
            NodeFact::Required { node, required } => {
                change(state, &mut noted, *node, |known| known.required_units = *required);
            }
            NodeFact::Tombstoned { node } => {
                unqualified.extend(state.nodes.get(node).filter(|known| known.qualified).map(|_| *node));
            }
        }
    }
    noted.retain(|id, noted| told(state, *id).as_ref() != Some(noted));
    if noted.is_empty() && unqualified.is_empty() {
        return Ok(Vec::new());
    }
    let nodes = noted.into_values().collect();
    Ok(vec![Kind::NodesNoted(NodesNoted { nodes, unqualified: column(unqualified) })])
}

/// Changes what will be said of a node; one that is not known stays so.
fn change(state: &State, noted: &mut BTreeMap<Id, NodeNoted>, id: Id, change: impl FnOnce(&mut NodeNoted)) {
    if let Some(known) = noted.remove(&id).or_else(|| told(state, id)) {
        let mut known = known;
        change(&mut known);
        noted.insert(id, known);
    }
}

/// A node as it would be told now.
fn told(state: &State, id: Id) -> Option<NodeNoted> {
    state.nodes.get(&id).map(|node| NodeNoted {
        node: bytes(id),
        owner: owned(node.owner),
        public_key: node.public_key.to_vec().into(),
        qualified: node.qualified,
        rating_milli_cu: node.rating_milli_cu,
        required_units: node.required,
    })
}

pub(super) fn market(state: &State, facts: &[MarketFact], ctx: &Ctx) -> Decided {
    only_from(MARKET, ctx)?;
    Ok(facts.iter().filter_map(|fact| market_fact(state, fact)).collect())
}

fn market_fact(state: &State, fact: &MarketFact) -> Option<Kind> {
    match fact {
        MarketFact::Model { name, prices, withdrawn } => Some(Kind::ModelNoted(ModelNoted {
            model: name.clone(),
            input_pico_usd: prices.input_pico,
            output_pico_usd: prices.output_pico,
            input_micro_units: prices.input_micro_units,
            output_micro_units: prices.output_micro_units,
            withdrawn: *withdrawn,
        })),
        MarketFact::Funded { session, renter, cap, expires_at } => Some(Kind::SessionNoted(SessionNoted {
            session: bytes(*session),
            renter: owned(*renter),
            cap_pico_usd: cap.to_be_bytes().to_vec().into(),
            expires_at_us: expires_at.micros(),
        })),
        MarketFact::Closing { session, drains_until } => {
            let known = state.sessions.get(session);
            known.filter(|session| session.drains_until.is_none() && !session.closed).map(|_| {
                let (session, drains_until_us) = (bytes(*session), drains_until.micros());
                Kind::SessionDraining(SessionDraining { session, drains_until_us })
            })
        }
        // One that was never funded has nothing to end here.
        MarketFact::Closed { session } => {
            let known = state.sessions.get(session).filter(|session| !session.closed);
            known.map(|_| Kind::SessionEnded(SessionEnded { session: bytes(*session) }))
        }
    }
}
