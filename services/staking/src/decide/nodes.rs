//! Nodes: registered, rated, jailed, released, tombstoned (E-6.1).

use holmes_kernel::{Ctx, Id, PrincipalKind};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{
    BondCause, NodeKind, NodeRegistered, NodeState, OwnerTombstoned, PayoutAccountSet,
};

use super::{
    Decided, bytes, changed, checked, column, forbidden, found, of_a_party, only_from, only_platform, own,
    refuse_if,
};
use crate::command::{RegisterNode, Rejection};
use crate::params::MOST_RATING_MILLI_CU;
use crate::possession;
use crate::state::{Node, State};

pub(super) fn register(state: &State, register: &RegisterNode, ctx: &Ctx) -> Decided {
    let (id, owner) = (Id::of_key(&register.public_key), ctx.principal);
    refuse_if(owner.kind != PrincipalKind::Account, || forbidden(ctx, "an account owns nodes"))?;
    refuse_if(state.is_tombstoned(&owner), || Rejection::OwnerTombstoned(owner))?; // E-14.3: either kind
    match register.kind() {
        NodeKind::Verifier => {
            refuse_if(register.claim_milli_cu > 0, || out_of_range(state, register.claim_milli_cu))?
        }
        _ => in_range(state, register.claim_milli_cu)?,
    }
    possession::check(&state.network, owner, &register.public_key, register.possession)?;
    if let Some(node) = state.nodes.get(&id) {
        refuse_if(node.owner != owner, || Rejection::NodeExists(id))?;
        if node.state() != NodeState::Exited {
            let same = node.kind() == register.kind() && is_claimed(node, register.claim_milli_cu);
            return if same { Ok(Vec::new()) } else { Err(Rejection::NodeExists(id)) };
        }
    } else {
        let owned = state.owners.get(&owner).map_or(0, |owner| owner.nodes.len()) as u64;
        let params = &state.params;
        refuse_if(owned >= params.most_nodes_per_owner, || Rejection::TooManyNodesOfOwner(owner))?;
        refuse_if(state.nodes.len() as u64 >= params.most_nodes, || Rejection::TooManyNodes)?;
    }
    Ok(vec![Kind::NodeRegistered(NodeRegistered {
        node: bytes(id),
        owner: owner.to_bytes().to_vec().into(),
        public_key: register.public_key.to_vec().into(),
        kind: register.kind().into(),
        claim_milli_cu: register.claim_milli_cu,
    })])
}

/// Whether a claim is the known one; once the hardware has passed, no claim matters any more.
fn is_claimed(node: &Node, claim: u32) -> bool {
    node.rating_milli_cu == claim || node.hardware_until.micros() > 0
}

fn in_range(state: &State, rating: u32) -> Result<(), Rejection> {
    let fits = u64::from(rating) >= state.params.least_rating_milli_cu && rating <= MOST_RATING_MILLI_CU;
    refuse_if(!fits, || out_of_range(state, rating))
}

fn out_of_range(state: &State, found: u32) -> Rejection {
    let (least, most) = (state.params.least_rating_milli_cu, MOST_RATING_MILLI_CU.into());
    Rejection::RatingOutOfRange { found, least, most }
}

/// E-0.6, E-6.2: a hardware pass for some days, at the rating attested. A rating that rose asks for its collateral at
/// once: the days to follow are for rises of the base.
pub(super) fn set_rating(state: &State, id: Id, rating: u32, ctx: &Ctx) -> Decided {
    only_platform(ctx)?;
    let node = found(state, id)?;
    refuse_if(node.kind() == NodeKind::Verifier, || out_of_range(state, rating))?;
    in_range(state, rating)?;
    let from = [NodeState::Registered, NodeState::Active, NodeState::Jailed];
    only_from(id, node, &from, "only a node that can serve again is rated")?;
    let hardware_until = state.params.calendar.after(ctx.now, state.params.hardware_pass_days);
    let node = Node { rating_milli_cu: rating, hardware_until, ..node.clone() };
    Ok(vec![changed(state, id, node, BondCause::Rated, ctx)])
}

pub(super) fn set_payout(state: &State, id: Id, account: Id, ctx: &Ctx) -> Decided {
    let node = own(state, id, ctx)?;
    of_a_party(account)?;
    if node.payout == Some(account) {
        return Ok(Vec::new());
    }
    Ok(vec![Kind::PayoutAccountSet(PayoutAccountSet { node: bytes(id), account: bytes(account) })])
}

pub(super) fn jail(state: &State, id: Id, cause: &str, ctx: &Ctx) -> Decided {
    only_platform(ctx)?;
    checked(cause)?;
    let node = found(state, id)?;
    if node.state() == NodeState::Jailed {
        return Ok(Vec::new());
    }
    only_from(id, node, &[NodeState::Active], "only an active node is jailed")?;
    let node = Node { note: cause.to_owned(), ..node.clone() }.at(NodeState::Jailed);
    Ok(vec![changed(state, id, node, BondCause::Jailed, ctx)])
}

pub(super) fn unjail(state: &State, id: Id, ctx: &Ctx) -> Decided {
    only_platform(ctx)?;
    let node = found(state, id)?;
    only_from(id, node, &[NodeState::Jailed], "only a jailed node is released")?;
    refuse_if(!node.is_qualified(&state.params, ctx.now), || Rejection::NotQualified(id))?;
    let node = Node { note: String::new(), ..node.clone() }.at(NodeState::Active);
    Ok(vec![changed(state, id, node, BondCause::Unjailed, ctx)])
}

/// E-6.1: the tombstone is the owner's: every node, of either kind (E-14.3). The stake stays slashable, and its own.
pub(super) fn tombstone(state: &State, id: Id, cause: &str, ctx: &Ctx) -> Decided {
    only_platform(ctx)?;
    checked(cause)?;
    let owner = found(state, id)?.owner;
    if state.is_tombstoned(&owner) {
        return Ok(Vec::new());
    }
    let places = state.owners.get(&owner).map(|owner| owner.nodes.as_slice()).unwrap_or_default();
    let nodes = places.iter().filter_map(|place| state.nodes.at(*place).map(|(id, _)| *id));
    Ok(vec![Kind::OwnerTombstoned(OwnerTombstoned {
        owner: owner.to_bytes().to_vec().into(),
        nodes: column(nodes),
        cause: cause.to_owned(),
    })])
}
