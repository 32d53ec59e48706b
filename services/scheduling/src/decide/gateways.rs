//! Gateways that start and fall silent; nodes that attach and detach.

use holmes_kernel::{Ctx, Id, PrincipalKind};
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{DetachReason, GatewayLost, GatewayStarted, NodeAttached, NodeDetached};

use super::{Decided, bytes, forbidden, live, only_time, refuse_if};
use crate::command::{Attach, Rejection};
use crate::params::{MOST_GATEWAYS, MOST_PER_STEP};
use crate::state::State;

pub(super) fn start(state: &State, public_key: &[u8; 32], ctx: &Ctx) -> Decided {
    refuse_if(ctx.principal.kind != PrincipalKind::Gateway, || forbidden(ctx, "only gateways may"))?;
    let id = Id::of_key(public_key);
    refuse_if(ctx.principal.id != id, || forbidden(ctx, "a gateway starts with its own key"))?;
    let is_new = state.gateways.get(&id).is_none();
    refuse_if(is_new && state.gateways.len() >= MOST_GATEWAYS, || Rejection::TooManyGateways)?;
    let public_key = public_key.to_vec().into();
    Ok(vec![Kind::GatewayStarted(GatewayStarted { gateway: bytes(id), public_key })])
}

/// A node that is attached already is superseded: only its newest stream counts.
pub(super) fn attach(state: &State, attach: &Attach, ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let id = attach.node;
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    refuse_if(!node.qualified, || Rejection::NodeUnqualified(id))?;
    refuse_if(node.nonce == attach.nonce, || Rejection::NonceReused(id))?;
    let (found, most) = (attach.offer.slots, state.params.most_slots);
    refuse_if(found > most, || Rejection::TooManySlots { found, most })?;
    let superseded = node.attached.map(|attached| {
        let reason = DetachReason::Superseded.into();
        Kind::NodeDetached(NodeDetached { node: bytes(id), generation: attached.generation, reason })
    });
    // It stands behind the end of the older one.
    let generation = ctx.seq + u64::from(superseded.is_some());
    let attached = Kind::NodeAttached(NodeAttached {
        node: bytes(id),
        gateway: bytes(ctx.principal.id),
        capabilities: attach.offer.bytes.clone().into(),
        nonce: attach.nonce.to_vec().into(),
        signature: attach.signature.concat().into(),
        generation,
    });
    Ok(superseded.into_iter().chain([attached]).collect())
}

/// An older attachment is gone already.
pub(super) fn detach(state: &State, id: Id, generation: u64, reason: i32, ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
    refuse_if(generation >= ctx.seq, || Rejection::GenerationUnknown { node: id, generation })?;
    let Some(attached) = node.attached.filter(|attached| attached.generation == generation) else {
        return Ok(Vec::new());
    };
    let own = attached.gateway == ctx.principal.id;
    refuse_if(!own, || forbidden(ctx, "the gateway that the node is attached to says so"))?;
    Ok(vec![Kind::NodeDetached(NodeDetached { node: bytes(id), generation, reason })])
}

/// The next of the attachments that a gateway has lost.
pub(super) fn drop_nodes(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let dropping = state.dropping.first().and_then(|id| state.gateways.get(id));
    let Some((gateway, (before, reason))) = dropping.and_then(|gateway| Some((gateway, gateway.drops?)))
    else {
        return Ok(Vec::new());
    };
    let older = gateway.nodes.range(..before).take(MOST_PER_STEP);
    let detached = older.map(|(generation, node)| {
        Kind::NodeDetached(NodeDetached { node: bytes(*node), generation: *generation, reason })
    });
    Ok(detached.collect())
}

pub(super) fn lose(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let silent = state.silences.first().filter(|(at, _)| *at <= ctx.now);
    Ok(silent.map(|(_, id)| Kind::GatewayLost(GatewayLost { gateway: bytes(*id) })).into_iter().collect())
}
