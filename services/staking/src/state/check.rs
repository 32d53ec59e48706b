//! The invariants of staking as code.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Amount, Broken, Id};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{Event, NodeState};

use super::evolve::ids;
use super::{Awaited, Class, Node, State, class_of};

/// What one command's events can break: the sums, and the nodes that they name.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    check_vault(state)?;
    state.classes.iter().try_for_each(|class| check_day(state, class))?;
    let node = |bytes: &[u8]| check_named(state, Id::from_slice(bytes));
    for event in events {
        match &event.event {
            Some(Kind::NodeRegistered(e)) => node(&e.node)?,
            Some(Kind::BondRequested(e)) => node(&e.node)?,
            Some(Kind::BondPosted(e)) => node(&e.node)?,
            Some(Kind::BondRefused(e)) => node(&e.node)?,
            Some(Kind::BondChanged(e)) => node(&e.node)?,
            Some(Kind::PayoutAccountSet(e)) => node(&e.node)?,
            Some(Kind::UnbondingStarted(e)) => node(&e.node)?,
            Some(Kind::PayoutMade(e)) => node(&e.node)?,
            Some(Kind::PayoutRefused(e)) => node(&e.node)?,
            Some(Kind::OwnerTombstoned(e)) => {
                ids(&e.nodes).try_for_each(|id| check_named(state, Some(id)))?
            }
            Some(Kind::RequiredRecomputed(e)) => {
                ids(&e.nodes).try_for_each(|id| check_named(state, Some(id)))?;
            }
            Some(Kind::HoldsOffered(_) | Kind::PayoutSent(_) | Kind::RecomputeStarted(_)) => {}
            Some(Kind::VaultRequested(_) | Kind::VaultOpened(_) | Kind::VaultRefused(_)) | None => {}
            Some(Kind::EpochSealed(_) | Kind::EmissionNoted(_)) => check_sealed(state)?,
            Some(Kind::LeasesNoted(e)) => ids(&e.nodes).try_for_each(|id| check_leases(state, &id))?,
        }
    }
    Ok(())
}

fn check_named(state: &State, id: Option<Id>) -> Result<(), Broken> {
    match id.and_then(|id| Some((id, state.nodes.get(&id)?))) {
        Some((id, node)) => check_node(state, &id, node),
        None => Err(Broken(format!("an event names node {id:?}, which is not there"))),
    }
}

/// E-6.5: who is among those that hold leases holds one; else it could never unbond.
fn check_leases(state: &State, node: &Id) -> Result<(), Broken> {
    match state.leases.get(node) {
        Some(leases) if leases.is_empty() => {
            Err(Broken(format!("E-6.5: node {node} holds a lease that is none")))
        }
        _ => Ok(()),
    }
}

/// E-6.5: all stake is what lies in `bonds/<asset>`.
fn check_vault(state: &State) -> Result<(), Broken> {
    let stake: u128 =
        state.classes.iter().map(|class| u128::from(class.bonds) + u128::from(class.unbonding)).sum();
    let units = state.vault.units;
    if stake == u128::from(units) {
        return Ok(());
    }
    Err(Broken(format!("E-6.5: bonds and unbondings are {stake}, and {units} lie in the bonds account")))
}

/// E-0.5: what is sealed is over.
fn check_sealed(state: &State) -> Result<(), Broken> {
    let sealed = state.seals_next.saturating_sub(1);
    if sealed < state.params.calendar.epoch(state.at) {
        return Ok(());
    }
    Err(Broken(format!("E-0.5: epoch {sealed} is sealed and not over")))
}

/// E-6.5: no more has left than may in a day.
fn check_day(state: &State, class: &Class) -> Result<(), Broken> {
    let most = state.params.throttle.most(Amount::new(class.stake_at_midnight));
    if class.sent_today <= most.units() {
        return Ok(());
    }
    Err(Broken(format!("E-6.5: {} left a class in a day; {most} may", class.sent_today)))
}

/// One node by itself (E-6.1, E-6.2).
fn check_node(state: &State, id: &Id, node: &Node) -> Result<(), Broken> {
    let broken = |what: &str| Err(Broken(format!("{what}: node {id} {node:?}")));
    let (bonded, unbonds) = (node.bond > 0, node.unbonding > 0);
    let stands = match node.state() {
        NodeState::Registered | NodeState::Tombstoned => true,
        NodeState::Active | NodeState::Jailed => bonded,
        NodeState::Unbonding => !bonded && unbonds,
        NodeState::Exited => !bonded && !unbonds,
        NodeState::Unspecified => false,
    };
    if !stands {
        return broken("E-6.1: bond and state do not fit");
    }
    if (node.state() == NodeState::Tombstoned) != state.is_tombstoned(&node.owner) {
        return broken("E-6.1: the tombstone is the owner's");
    }
    if !node.bases.is_rising() {
        return broken("E-6.2: rises come one above another");
    }
    let late = node.lapses_at.is_some_and(|at| at <= state.at);
    if node.qualified != node.is_qualified(&state.params, state.at) && !late {
        return broken("E-6.2: bond, rating and time say otherwise");
    }
    if node.qualified && node.state() == NodeState::Registered {
        return broken("E-6.1: a qualified node is active");
    }
    if node.lapses_at.is_some_and(|at| !state.lapses.contains(&(at, *id))) {
        return broken("E-6.2: it lapses and nobody waits for it");
    }
    Ok(())
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    broken.extend(check_vault(state).err());
    broken.extend(check_sealed(state).err());
    broken.extend(state.classes.iter().filter_map(|class| check_day(state, class).err()));
    broken.extend(state.nodes.iter().filter_map(|(id, node)| check_node(state, id, node).err()));
    broken.extend(state.leases.keys().filter_map(|node| check_leases(state, node).err()));
    check_sums(state, &mut broken);
    check_unbondings(state, &mut broken);
    check_awaited(state, &mut broken);
    check_owners(state, &mut broken);
    check_job(state, &mut broken);
    broken
}

/// E-6.2: S, N and the network's power are those of the nodes.
fn check_sums(state: &State, broken: &mut Vec<Broken>) {
    let mut sums = [[0u128; 4]; 2];
    let mut lapsing = 0;
    for node in state.nodes.values() {
        let counts = u128::from(node.counts());
        let row =
            [node.bond.into(), node.unbonding.into(), counts, counts * u128::from(node.rating_milli_cu)];
        sums[class_of(node.kind())].iter_mut().zip(row).for_each(|(sum, more)| *sum += more);
        lapsing += usize::from(node.lapses_at.is_some());
    }
    for (class, sum) in state.classes.iter().zip(sums) {
        let known = [class.bonds, class.unbonding, class.active, class.active_milli_cu].map(u128::from);
        if known != sum {
            broken.push(Broken(format!("E-6.2: a class sums to {sum:?}, not {known:?}")));
        }
    }
    if lapsing != state.lapses.len() {
        broken.push(Broken(format!("E-6.2: {lapsing} nodes lapse, {} awaited", state.lapses.len())));
    }
}

/// E-6.5: what unbonds of a node is its unbondings, and each waits in the queue or is being paid.
fn check_unbondings(state: &State, broken: &mut Vec<Broken>) {
    let mut wrong = |what: String| broken.push(Broken(what));
    let mut left: BTreeMap<Id, (u64, Vec<u64>)> = BTreeMap::new();
    let paying: BTreeSet<u64> = state
        .awaited
        .values()
        .filter_map(|awaited| match awaited {
            Awaited::Payout { unbonding, .. } => Some(*unbonding),
            _ => None,
        })
        .collect();
    for (number, unbonding) in &state.unbondings {
        let row = left.entry(unbonding.node).or_default();
        row.0 = row.0.saturating_add(unbonding.left);
        row.1.push(*number);
        let class = state.nodes.get(&unbonding.node).map(|node| &state.classes[class_of(node.kind())]);
        let waits = |at| class.is_some_and(|class| class.queue.contains(&(at, *number)));
        let placed = match unbonding.queued_at {
            Some(at) => waits(at) && unbonding.paying == 0 && at >= unbonding.ready_at,
            None => paying.contains(number) && unbonding.paying > 0,
        };
        if !placed || unbonding.left == 0 || unbonding.paying > unbonding.left {
            wrong(format!("E-6.5: unbonding {number} is neither in its place nor on its way: {unbonding:?}"));
        }
    }
    let queued: usize = state.classes.iter().map(|class| class.queue.len()).sum();
    if queued + paying.len() != state.unbondings.len() {
        wrong(format!("E-6.5: {queued} wait and {} are paid of {}", paying.len(), state.unbondings.len()));
    }
    for (id, node) in state.nodes.iter() {
        let (units, numbers) = left.remove(id).unwrap_or_default();
        if units != node.unbonding || numbers != node.unbondings {
            wrong(format!("E-6.5: node {id} unbonds {}, its unbondings sum to {units}", node.unbonding));
        }
    }
}

/// What was asked of the ledger and not answered is what nodes and the bonds account wait for.
fn check_awaited(state: &State, broken: &mut Vec<Broken>) {
    let mut pending: BTreeMap<Id, u32> = BTreeMap::new();
    let mut vault = 0;
    for awaited in state.awaited.values() {
        match awaited {
            Awaited::Bond { node, .. } => *pending.entry(*node).or_default() += 1,
            Awaited::Vault => vault += 1,
            Awaited::Payout { .. } => {}
        }
    }
    for (id, node) in state.nodes.iter() {
        if pending.get(id).copied().unwrap_or_default() != node.pending {
            broken.push(Broken(format!("node {id} waits for {} bonds that nobody asked for", node.pending)));
        }
    }
    let asked = usize::from(!state.vault.open && state.vault.ask_at.is_none());
    if vault != asked {
        broken.push(Broken(format!("the bonds account was asked for {vault} times: {:?}", state.vault)));
    }
}

fn check_owners(state: &State, broken: &mut Vec<Broken>) {
    let owned: usize = state.owners.values().map(|owner| owner.nodes.len()).sum();
    if owned != state.nodes.len() {
        broken.push(Broken(format!("{} nodes, {owned} owned", state.nodes.len())));
    }
    for (principal, owner) in state.owners.iter() {
        let theirs = |place: &u32| state.nodes.at(*place).is_some_and(|(_, node)| node.owner == *principal);
        if !owner.nodes.iter().all(theirs) {
            broken.push(Broken(format!("{principal} is said to own another's node")));
        }
    }
}

/// E-6.2: nodes that no job is still to reach were told of the base.
fn check_job(state: &State, broken: &mut Vec<Broken>) {
    let reached = state.base.job.map_or(u32::MAX, |job| job.next);
    let end = state.base.job.map_or(0, |job| job.end);
    for (place, (id, node)) in (0..).zip(state.nodes.iter()) {
        let told = node.bases.last();
        if (place < reached || place >= end) && told != state.base.units {
            broken.push(Broken(format!("E-6.2: node {id} was told of {told}, not of {}", state.base.units)));
        }
    }
}
