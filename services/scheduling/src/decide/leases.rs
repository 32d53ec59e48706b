//! Leases: granted by the matcher, renewed, ended.

use holmes_kernel::{Ctx, Id, PrincipalKind, Time};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{LeaseEnd, LeaseEnded, LeaseGranted, LeaseRenewed, Placement};

use super::{Decided, bytes, column, forbidden, found, held, live, only_time, owned, refuse_if};
use crate::command::{Place, Rejection};
use crate::explain;
use crate::matching::{self, Choice, Pool, Rank};
use crate::params::MOST_PER_STEP;
use crate::state::{Attachment, Lease, LeaseId, Model, Node, Session, Stand, State};

pub(super) fn place(state: &State, place: &Place, ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let session = open_session(state, place.session, ctx)?;
    let model = state.models.get(&place.model).filter(|model| !model.withdrawn);
    let model = model.ok_or_else(|| Rejection::ModelNotOffered(place.model.clone()))?;
    let until = lasting(state, place.duration_ms, session, ctx)?;
    allowable(state, place.allowance)?;
    affordable(session, place.session, place.allowance)?;
    let (of_session, of_all) = (state.params.most_leases_per_session, state.params.most_leases);
    refuse_if(session.leases.len() >= of_session, || Rejection::TooManyLeasesOfSession(place.session))?;
    refuse_if(state.open_leases() >= of_all, || Rejection::TooManyLeases)?;
    let pool = state.pools.get(&place.model).ok_or_else(|| Rejection::ModelNotServed(place.model.clone()))?;
    let best = candidates(state, pool, place)?;
    let chosen = best.first().and_then(|rank| state.nodes.get(&rank.node).map(|node| (rank.node, node)));
    let Some((id, node)) = chosen else { return Err(nobody(pool, place)) };
    let attached = node.attached.ok_or_else(|| nobody(pool, place))?;
    let choice = choice(state, pool, place, session, node);
    let placement = placement(state, pool, place, &best, &choice);
    let winner = (id, node, attached);
    Ok(vec![Kind::LeaseGranted(granted(
        state,
        place,
        (session, model, until),
        winner,
        (choice, placement),
        ctx,
    ))])
}

fn granted(
    state: &State,
    place: &Place,
    (session, model, until): (&Session, &Model, Time),
    (id, node, attached): (Id, &Node, Attachment),
    (choice, placement): (Choice, Placement),
    ctx: &Ctx,
) -> LeaseGranted {
    let lease = LeaseId { cell: state.network.cell, term: ctx.term, seq: ctx.seq };
    let credit = matching::credit(&choice, state.params.least_owners, state.params.owner_share);
    LeaseGranted {
        session: bytes(place.session),
        renter: owned(session.renter),
        node: bytes(id),
        owner: owned(node.owner),
        gateway: bytes(attached.gateway),
        generation: attached.generation,
        model: place.model.clone(),
        input_pico_usd: model.prices.input_pico,
        output_pico_usd: model.prices.output_pico,
        input_micro_units: model.prices.input_micro_units,
        output_micro_units: model.prices.output_micro_units,
        credit: credit.into(),
        allowance_pico_usd: place.allowance,
        expires_at_us: until.micros(),
        placement: Some(placement),
        lease: lease.to_bytes().to_vec().into(),
    }
}

/// A session that takes calls.
fn open_session<'a>(state: &'a State, id: Id, ctx: &Ctx) -> Result<&'a Session, Rejection> {
    let session = state.sessions.get(&id).ok_or(Rejection::SessionNotFound(id))?;
    refuse_if(session.closed, || Rejection::SessionClosed(id))?;
    refuse_if(session.drains_until.is_some(), || Rejection::SessionClosing(id))?;
    refuse_if(session.expires_at <= ctx.now, || Rejection::SessionExpired(id))?;
    Ok(session)
}

/// When a lease ends that is asked for now: never after its session.
fn lasting(state: &State, found: u64, session: &Session, ctx: &Ctx) -> Result<Time, Rejection> {
    let most = state.params.longest_lease_ms;
    refuse_if(found > most, || Rejection::DurationOutOfRange { found, most })?;
    let ms = if found == 0 { most } else { found };
    Ok(ctx.now.after_millis(ms).min(session.expires_at))
}

fn allowable(state: &State, found: u64) -> Result<(), Rejection> {
    let most = state.params.most_allowance;
    refuse_if(found == 0 || found > most, || Rejection::AllowanceOutOfRange { found, most })
}

fn affordable(session: &Session, id: Id, asked: u64) -> Result<(), Rejection> {
    let free = session.free();
    refuse_if(u128::from(asked) > free, || Rejection::SessionBudgetExceeded { session: id, free, asked })
}

/// The best nodes, the winner first. A node that the renter names is the only one.
fn candidates(state: &State, pool: &Pool, place: &Place) -> Result<Vec<Rank>, Rejection> {
    let Some(id) = place.named else { return Ok(pool.best(place.context, &place.avoid)) };
    let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
    let why = explain::unfit(node, &place.model, place.context);
    let why = why.or_else(|| place.avoid.contains(&id).then_some(explain::AVOIDED));
    match (why, node.rank(id, state.params.score)) {
        (Some(why), _) => Err(Rejection::NamedNodeUnavailable { node: id, why }),
        (None, rank) => Ok(rank.into_iter().collect()),
    }
}

fn nobody(pool: &Pool, place: &Place) -> Rejection {
    let model = place.model.clone();
    if pool.is_empty() {
        Rejection::ModelNotServed(model)
    } else if !pool.serves(place.context) {
        Rejection::ContextLengthExceeded { model, asked: place.context, longest: pool.longest() }
    } else if pool.owners() == 0 {
        Rejection::NoNodeQualified(model)
    } else {
        Rejection::NoNodeFree(model)
    }
}

/// E-3.2: what the credit hangs on. Nodes that are avoided count as excluded, unless they are by their context already.
fn choice(state: &State, pool: &Pool, place: &Place, session: &Session, node: &Node) -> Choice {
    let avoided = place.avoid.iter().filter_map(|id| {
        let node = state.nodes.get(id).filter(|node| node.qualified)?;
        let served = node.serving().iter().find(|served| served.name == place.model)?;
        (served.class >= place.context).then_some(u64::from(node.rating_milli_cu))
    });
    let excluded = avoided.fold(pool.too_short(place.context), u64::saturating_add);
    Choice {
        same_owner: node.owner == session.renter,
        named: place.named.is_some(),
        owners: pool.owners(),
        largest_ppb: pool.largest_ppb(),
        excluded_ppb: pool.part_ppb(excluded),
    }
}

fn placement(state: &State, pool: &Pool, place: &Place, best: &[Rank], choice: &Choice) -> Placement {
    let best = best.iter().filter_map(|rank| Some((rank.node, state.nodes.get(&rank.node)?)));
    Placement {
        matcher_version: matching::VERSION,
        serving: pool.serving,
        able: pool.able,
        owners: choice.owners,
        largest_owner_ppb: choice.largest_ppb,
        best: best.map(|(id, node)| explain::candidate(state, id, node)).collect(),
        named_node: place.named.map(bytes).unwrap_or_default(),
        avoided_nodes: column(place.avoid.iter().copied()),
        context: place.context,
    }
}

/// An allowance counts from the lease's beginning, and never falls: what was promised to the node stays promised.
pub(super) fn renew(state: &State, id: LeaseId, allowance: u64, duration_ms: u64, ctx: &Ctx) -> Decided {
    live(state, ctx)?;
    let lease = found(state, id, ctx)?;
    held(lease, ctx)?;
    refuse_if(!lease.is_open() || lease.expires_at <= ctx.now, || Rejection::LeaseOver(id))?;
    let session = open_session(state, lease.session, ctx)?;
    let until = lasting(state, duration_ms, session, ctx)?;
    allowable(state, allowance)?;
    let most = state.params.most_allowance;
    let falls = allowance < lease.allowance;
    refuse_if(falls, || Rejection::AllowanceOutOfRange { found: allowance, most })?;
    affordable(session, lease.session, allowance - lease.allowance)?;
    let renewed = wire::Lease {
        allowance_pico_usd: allowance,
        expires_at_us: until.max(lease.expires_at).micros(),
        ..message(id, lease)
    };
    Ok(vec![Kind::LeaseRenewed(LeaseRenewed { renewed: Some(renewed) })])
}

/// A lease as its token carries it.
pub(crate) fn message(id: LeaseId, lease: &Lease) -> wire::Lease {
    wire::Lease {
        lease: id.to_bytes().to_vec().into(),
        session: bytes(lease.session),
        node: bytes(lease.node),
        gateway: bytes(lease.gateway),
        generation: lease.generation,
        model: lease.model.clone(),
        expires_at_us: lease.expires_at.micros(),
        allowance_pico_usd: lease.allowance,
        input_pico_usd: lease.prices.input_pico,
        output_pico_usd: lease.prices.output_pico,
    }
}

/// One that has ended, or ends already, stays as it is.
pub(super) fn end(state: &State, id: LeaseId, reason: i32, ctx: &Ctx) -> Decided {
    let may = [PrincipalKind::Gateway, PrincipalKind::Staff, PrincipalKind::Service];
    refuse_if(!may.contains(&ctx.principal.kind), || forbidden(ctx, "gateways, staff and services may"))?;
    let lease = found(state, id, ctx)?;
    if ctx.principal.kind == PrincipalKind::Gateway {
        live(state, ctx)?;
        held(lease, ctx)?;
        let own = [LeaseEnd::Released, LeaseEnd::NodeLost].map(i32::from).contains(&reason);
        refuse_if(!own, || forbidden(ctx, "a gateway ends a lease as RELEASED or NODE_LOST"))?;
    }
    if !lease.is_open() {
        return Ok(Vec::new());
    }
    Ok(vec![ended(id, lease, reason)])
}

pub(super) fn ended(id: LeaseId, lease: &Lease, reason: i32) -> Kind {
    let (session, node) = (bytes(lease.session), bytes(lease.node));
    Kind::LeaseEnded(LeaseEnded { lease: id.to_bytes().to_vec().into(), session, node, reason })
}

/// The next of the leases whose node or session is gone.
pub(super) fn end_doomed(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let doomed = state.ending.iter().take(MOST_PER_STEP).filter_map(|seq| {
        let lease = state.leases.get(seq)?;
        let Stand::Ending(reason) = lease.stand else { return None };
        Some(ended(id_of(state, *seq, lease), lease, reason))
    });
    Ok(doomed.collect())
}

/// The next of the leases whose time is over.
pub(super) fn expire(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let over = state.expiries.iter().take_while(|(at, _)| *at <= ctx.now).take(MOST_PER_STEP);
    let expired = over.filter_map(|(_, seq)| {
        let lease = state.leases.get(seq)?;
        Some(ended(id_of(state, *seq, lease), lease, LeaseEnd::Expired.into()))
    });
    Ok(expired.collect())
}

pub(super) fn id_of(state: &State, seq: u64, lease: &Lease) -> LeaseId {
    LeaseId { cell: state.network.cell, term: lease.term, seq }
}
