//! The invariants of scheduling as code.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Broken, Id};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::Event;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::statements::LEASE_BYTES;

use super::{Lease, LeaseId, Node, Session, Stand, State};
use crate::matching::Pool;

/// What one command's events can break: the nodes, leases and sessions that they name.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    events.iter().filter_map(|event| event.event.as_ref()).try_for_each(|event| match event {
        Kind::LeaseGranted(e) => named_lease(state, &e.lease, true),
        Kind::LeaseEnded(e) => named_lease(state, &e.lease, false),
        Kind::CallsMetered(e) => {
            let calls = e.lines.iter().filter_map(|line| Id::from_slice(&line.call));
            let known = calls.into_iter().all(|call| state.calls.find(&call).is_some());
            must(known, || "a call that was metered could run again".into())?;
            named_lease(state, &e.lease, false)
        }
        Kind::LeaseRenewed(e) => {
            e.renewed.as_ref().map_or(Ok(()), |lease| named_lease(state, &lease.lease, true))
        }
        Kind::NodeAttached(e) => {
            let node = Id::from_slice(&e.node).and_then(|id| state.nodes.get(&id));
            let attached = node.and_then(|node| node.attached);
            let counted = attached.is_some_and(|attached| attached.generation == e.generation);
            must(counted, || format!("attachment {} is not its event's number", e.generation))?;
            named_node(state, &e.node)
        }
        Kind::NodeDetached(e) => named_node(state, &e.node),
        Kind::NodesNoted(e) => {
            e.nodes.iter().try_for_each(|noted| named_node(state, &noted.node))?;
            ids(&e.unqualified).try_for_each(|node| named_node(state, &node.to_bytes()))
        }
        Kind::SessionNoted(e) => {
            let session = Id::from_slice(&e.session).and_then(|id| Some((id, state.sessions.get(&id)?)));
            session.map_or(Ok(()), |(id, session)| check_budget(&id, session))
        }
        Kind::PresenceRecorded(e) => {
            let (end, beats) = (u64::from(e.first_beat) + u64::from(e.beats), state.params.beats());
            must(end <= beats.into(), || {
                format!("E-0.6: beats up to {end} are told, and an epoch has {beats}")
            })
        }
        Kind::BeatsWeighed(_) | Kind::EpochAttendance(_) | Kind::EpochSealed(_) => Ok(()),
        Kind::GatewayStarted(_) | Kind::GatewayHeard(_) | Kind::GatewayLost(_) => Ok(()),
        Kind::CallsCheckpointed(e) => {
            let mut leases = e.leases.chunks_exact(LEASE_BYTES);
            leases.try_for_each(|lease| named_lease(state, lease, true))
        }
        Kind::LinesAnswered(_) | Kind::ModelNoted(_) => Ok(()),
        Kind::SessionDraining(_) | Kind::SessionDrained(_) | Kind::SessionEnded(_) => Ok(()),
    })
}

/// A lease that an event names. One that has ended may be forgotten already: where memory is short, or as soon as what
/// was checkpointed under it is metered.
fn named_lease(state: &State, id: &[u8], must_be_there: bool) -> Result<(), Broken> {
    let Some(id) = LeaseId::from_slice(id) else {
        return Err(Broken(format!("an event names lease {id:?}")));
    };
    let Some(lease) = state.leases.get(&id.seq) else {
        return must(!must_be_there, || format!("an event names lease {id:?}, which is not there"));
    };
    must(lease.term == id.term && id.cell == state.network.cell, || format!("lease {id:?} has another id"))?;
    check_lease(&id.seq, lease)?;
    let session = state.sessions.get(&lease.session);
    session.map_or(Ok(()), |session| check_budget(&lease.session, session))?;
    named_node(state, &lease.node.to_bytes())
}

fn named_node(state: &State, id: &[u8]) -> Result<(), Broken> {
    match Id::from_slice(id).and_then(|id| Some((id, state.nodes.get(&id)?))) {
        Some((id, node)) => check_node(state, &id, node),
        None => Err(Broken(format!("an event names node {id:?}, which is not there"))),
    }
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(why())) }
}

fn check_lease(seq: &u64, lease: &Lease) -> Result<(), Broken> {
    let Lease { metered, pending, allowance, .. } = *lease;
    let holds = metered.checked_add(pending).is_some_and(|both| both <= allowance);
    must(holds, || {
        format!("E-9.1: lease {seq} has metered {metered} and {pending} pending, and allows {allowance}")
    })?;
    let checkpointed: u128 = lease.running.values().map(|running| u128::from(running.price)).sum();
    must(checkpointed == u128::from(pending), || format!("lease {seq}: what is pending does not add up"))?;
    let once = lease.running.keys().all(|call| !lease.calls.contains_key(call));
    must(once, || format!("E-9.2: a call of lease {seq} has a receipt and is to be metered again"))
}

fn check_budget(id: &Id, session: &Session) -> Result<(), Broken> {
    let Session { cap, metered, reserved, .. } = session;
    let holds = metered.checked_add(*reserved).is_some_and(|both| both <= *cap);
    must(holds, || format!("E-9.1: session {id} has metered {metered} and reserved {reserved} of {cap}"))
}

/// A node's slots, its attachment, and its place in the index.
fn check_node(state: &State, id: &Id, node: &Node) -> Result<(), Broken> {
    let most = state.params.most_slots;
    must(node.used() <= most && node.slots() <= most, || {
        format!("node {id} uses {} of {} slots, at most {most}", node.used(), node.slots())
    })?;
    if let Some(attached) = node.attached {
        let gateway = state.gateways.get(&attached.gateway);
        let known = gateway.and_then(|gateway| gateway.nodes.get(&attached.generation)) == Some(id);
        must(known, || format!("node {id} is attached where the gateway knows nothing of it"))?;
    }
    let rank = node.rank(*id, state.params.score);
    for served in node.serving() {
        let pool = state.pools.get(&served.name);
        let holds = pool.is_some_and(|pool| rank.is_none_or(|rank| pool.has(served.class, &rank)));
        must(holds, || format!("E-10.4: node {id} is not in its place among those of {}", served.name))?;
    }
    Ok(())
}

/// Every invariant that does not hold.
pub fn check(state: &State) -> Vec<Broken> {
    let nodes = state.nodes.iter().map(|(id, node)| check_node(state, id, node));
    let leases = state.leases.iter().map(|(seq, lease)| check_lease(seq, lease));
    let budgets = state.sessions.iter().map(|(id, session)| check_budget(id, session));
    let wholes = [
        check_pools(state),
        check_gateways(state),
        check_open_leases(state),
        check_ended_leases(state),
        check_unsettled(state),
        check_drains(state),
        check_epochs(state),
    ];
    nodes.chain(leases).chain(budgets).chain(wholes).filter_map(Result::err).collect()
}

/// E-10.4: the index is what the nodes say.
fn check_pools(state: &State) -> Result<(), Broken> {
    let mut pools: BTreeMap<&str, Pool> = BTreeMap::new();
    for (id, node) in state.nodes.iter() {
        for served in node.serving() {
            let entry = node.entry(*id, served.class, state.params.score);
            pools.entry(&served.name).or_default().add(&entry);
        }
    }
    let equal = pools.iter().map(|(name, pool)| (*name, pool));
    let known = state.pools.iter().map(|(name, pool)| (name.as_str(), pool));
    must(equal.eq(known), || "E-10.4: the index is not what the nodes say".into())
}

fn check_gateways(state: &State) -> Result<(), Broken> {
    let mut silences = BTreeSet::new();
    for (id, gateway) in state.gateways.iter() {
        for (generation, node) in &gateway.nodes {
            let attached = state.nodes.get(node).and_then(|node| node.attached);
            let holds = attached.is_some_and(|it| it.gateway == *id && it.generation == *generation);
            must(holds, || format!("gateway {id} holds node {node}, which says otherwise"))?;
        }
        must(gateway.drops.is_some() == state.dropping.contains(id), || {
            format!("gateway {id} drops unseen")
        })?;
        if gateway.live {
            silences.insert((gateway.heard_at.after_millis(state.params.gateway_timeout_ms), *id));
        }
    }
    must(silences == state.silences, || "the silences are not those of the gateways".into())
}

/// Nodes and sessions know their open leases, sessions what they reserve, and every open lease ends by itself.
fn check_open_leases(state: &State) -> Result<(), Broken> {
    let mut nodes: BTreeMap<Id, BTreeSet<u64>> = BTreeMap::new();
    let mut sessions: BTreeMap<Id, (BTreeSet<u64>, u128)> = BTreeMap::new();
    let (mut expiries, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for (seq, lease) in state.leases.iter() {
        if lease.reserved() > 0 || !lease.has_ended() {
            let (_, reserved) = sessions.entry(lease.session).or_default();
            *reserved = reserved.saturating_add(lease.reserved().into());
        }
        if lease.has_ended() {
            continue;
        }
        nodes.entry(lease.node).or_default().insert(*seq);
        sessions.entry(lease.session).or_default().0.insert(*seq);
        match lease.stand {
            Stand::Open => expiries.insert((lease.expires_at, *seq)),
            _ => ending.insert(*seq),
        };
    }
    must(expiries == state.expiries && ending == state.ending, || "open leases do not all end".into())?;
    for (id, node) in state.nodes.iter() {
        must(nodes.remove(id).unwrap_or_default() == node.leases, || {
            format!("node {id} has other open leases")
        })?;
    }
    for (id, session) in state.sessions.iter() {
        let (leases, reserved) = sessions.remove(id).unwrap_or_default();
        let holds = leases == session.leases && reserved == session.reserved;
        must(holds, || format!("session {id} has other open leases, or reserves another sum"))?;
        must(!session.closed || !leases.is_empty(), || {
            format!("session {id} is closed and has nothing open")
        })?;
    }
    must(nodes.is_empty() && sessions.is_empty(), || {
        "open leases of nodes or sessions that are not there".into()
    })
}

fn check_ended_leases(state: &State) -> Result<(), Broken> {
    let forget = state.leases.iter().filter_map(|(seq, lease)| match lease.stand {
        Stand::Ended { forget_at, .. } => Some((forget_at, *seq)),
        _ => None,
    });
    must(forget.collect::<BTreeSet<_>>() == state.forget, || "ended leases that are never forgotten".into())?;
    let (kept, most) = (state.forget.len().saturating_sub(state.unsettled.len()), state.params.most_leases);
    must(kept <= most, || format!("{kept} ended leases are remembered, at most {most}"))
}

/// What was checkpointed of leases that have ended is metered some time, and their sessions know of it.
fn check_unsettled(state: &State) -> Result<(), Broken> {
    let mut sessions: BTreeMap<Id, BTreeSet<u64>> = BTreeMap::new();
    let mut unsettled = BTreeSet::new();
    for (seq, lease) in state.leases.iter().filter(|(_, lease)| !lease.running.is_empty()) {
        if let Stand::Ended { forget_at, .. } = lease.stand {
            unsettled.insert((forget_at, *seq));
            sessions.entry(lease.session).or_default().insert(*seq);
        }
    }
    must(unsettled == state.unsettled, || "checkpoints of ended leases are never metered".into())?;
    for (id, session) in state.sessions.iter() {
        must(sessions.remove(id).unwrap_or_default() == session.unsettled, || {
            format!("session {id} does not know what is to be metered on it")
        })?;
    }
    must(sessions.is_empty(), || "checkpoints are to be metered on sessions that are not there".into())
}

/// Of every closing session it is said some time that nothing more is metered on it.
fn check_drains(state: &State) -> Result<(), Broken> {
    let drains = state.sessions.iter().filter_map(|(id, session)| Some((session.drained_at?, *id)));
    must(drains.collect::<BTreeSet<_>>() == state.drains, || "closing sessions do not all drain".into())?;
    let closing = state.sessions.values().filter(|session| session.drains_until.is_some() && !session.closed);
    must(closing.count() == state.drains.len(), || "a closing session never drains".into())
}

/// E-0.6.
fn check_epochs(state: &State) -> Result<(), Broken> {
    let attendances = [Some(&state.attendance), state.seal.as_ref().map(|seal| &seal.attendance)];
    for attendance in attendances.into_iter().flatten() {
        let total: u128 = attendance.active.values().map(|required| u128::from(*required)).sum();
        must(total == attendance.total, || "E-0.6: the Active nodes' collateral does not add up".into())?;
    }
    let sealed = state.sealed;
    let kept = state.presence.first_key_value().is_none_or(|(epoch, _)| Some(*epoch) > sealed);
    must(kept, || format!("E-0.6: beats are kept of an epoch up to {sealed:?}, which is sealed"))
}
