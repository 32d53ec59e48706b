//! The invariants of emission as code.

use std::collections::BTreeMap;

use holmes_kernel::{Broken, Id};
use holmes_proto::emission::v1::{EpochClosed, Event};
use prost::Message;

use super::evolve::by_the_books;
use super::{ACCOUNTS, Awaited, Legs, Node, State};

/// What one command's events can break: the sums.
pub fn check_step(state: &State, _: &[Event]) -> Result<(), Broken> {
    check_conserved(state)?;
    check_held(state)?;
    check_scheduled(state)
}

/// E-4.1: nothing is lost, and nothing made.
fn check_conserved(state: &State) -> Result<(), Broken> {
    let books = &state.books;
    let [trr, br] = books.granting;
    let all =
        state.remaining.into_iter().chain([trr, br, books.owed, books.locked, books.paid, books.burned]);
    let all: u128 = all.map(u128::from).sum();
    let first: u128 = state.params.pools.iter().map(|pool| pool.initial.wide()).sum();
    if all == first {
        return Ok(());
    }
    Err(Broken(format!("E-4.1: {all} base units are accounted for, the pools began with {first}")))
}

/// The ledger's accounts hold what the books say, less what is to arrive, and what is to leave besides.
fn check_held(state: &State) -> Result<(), Broken> {
    for ((account, held), books) in ACCOUNTS.into_iter().zip(state.held).zip(by_the_books(state)) {
        let (arrives, leaves) = state.pending.of(account);
        if u128::from(held) + arrives != books.wide() + leaves {
            let name = state.account_name(account);
            return Err(Broken(format!(
                "{name} holds {held}, {arrives} arrive, {leaves} leave, and the books say {books}"
            )));
        }
    }
    Ok(())
}

/// E-4.7: what is to be paid next is no more than what was to be paid last.
fn check_scheduled(state: &State) -> Result<(), Broken> {
    let next: u128 = state.targets().into_iter().map(u128::from).sum();
    match state.scheduled {
        Some(last) if next > u128::from(last) => {
            Err(Broken(format!("E-4.7: {next} are scheduled after {last}")))
        }
        _ => Ok(()),
    }
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    broken.extend(check_step(state, &[]).err());
    broken.extend(state.nodes.iter().filter_map(|(id, node)| check_node(state, id, node).err()));
    check_sums(state, &mut broken);
    check_ways(state, &mut broken);
    check_closing(state, &mut broken);
    check_closed(state, &mut broken);
    broken
}

/// One node by itself.
fn check_node(state: &State, id: &Id, node: &Node) -> Result<(), Broken> {
    let broken = |what: &str| Err(Broken(format!("{what}: node {id} {node:?}")));
    let totals = &node.totals;
    let parts = [totals.liquid, totals.unlocked, totals.locked, totals.exited, totals.burned];
    if parts.into_iter().map(u128::from).sum::<u128>() != u128::from(totals.granted) {
        return broken("E-5.4: the parts of its grants do not come to the whole");
    }
    let locked: u128 = node.grants.values().map(|grant| grant.locked().wide()).sum();
    if locked != u128::from(totals.locked) || node.grants.values().any(|grant| grant.locked().is_zero()) {
        return broken("E-5.4: its grants do not come to what is locked");
    }
    if node.barred && !node.grants.is_empty() && !state.barred.contains(id) {
        return broken("E-5.2: what is locked of it is not to be burnt");
    }
    let waits = node.owed > 0 && node.paying == 0 && node.payout.is_some();
    if waits != node.pays_at.is_some() || node.paying > node.owed {
        return broken("it is owed and nobody pays it, or paid and not owed");
    }
    if node.pays_at.is_some_and(|at| !state.payable.contains(&(at, *id))) {
        return broken("it waits to be paid and is not in the row");
    }
    if !node.stands.windows(2).all(|pair| pair[0].epoch < pair[1].epoch) {
        return broken("its epochs do not rise");
    }
    Ok(())
}

fn check_sums(state: &State, broken: &mut Vec<Broken>) {
    let (mut owed, mut locked, mut paid, mut waiting) = (0u128, 0u128, 0u128, 0);
    for node in state.nodes.values() {
        owed += u128::from(node.owed);
        locked += u128::from(node.totals.locked);
        paid += u128::from(node.totals.paid);
        waiting += usize::from(node.pays_at.is_some());
    }
    let books = [state.books.owed, state.books.locked, state.books.paid].map(u128::from);
    if [owed, locked, paid] != books {
        broken.push(Broken(format!(
            "nodes are owed {owed}, lock {locked}, got {paid}; the books say {books:?}"
        )));
    }
    if waiting != state.payable.len() {
        broken
            .push(Broken(format!("{waiting} nodes wait to be paid, {} are in the row", state.payable.len())));
    }
    let owned: usize = state.owners.values().map(Vec::len).sum();
    if owned != state.nodes.len() {
        broken.push(Broken(format!("{} nodes, {owned} owned", state.nodes.len())));
    }
}

/// What is on its way is what moves, payments and openings wait for.
fn check_ways(state: &State, broken: &mut Vec<Broken>) {
    let mut pending = Legs::default();
    state.moves.values().for_each(|begun| pending.add_all(&begun.legs));
    state.closing.iter().for_each(|closing| pending.add_all(&closing.legs));
    if pending != state.pending {
        broken.push(Broken(format!("{pending:?} are on their way, not {:?}", state.pending)));
    }
    let (mut paying, mut moves, mut openings) = (BTreeMap::new(), 0, 0);
    for awaited in state.awaited.values() {
        match awaited {
            Awaited::Payments(rows) => paying.extend(rows.iter().copied()),
            Awaited::Move(_) => moves += 1,
            Awaited::Opening(_) => openings += 1,
        }
    }
    for (id, node) in state.nodes.iter() {
        if paying.get(id).copied().unwrap_or_default() != node.paying {
            broken.push(Broken(format!("node {id} waits for a payment of {} that nobody sent", node.paying)));
        }
    }
    let asked = state.moves.values().filter(|begun| begun.ask_at.is_none()).count();
    let opening = state.openings.iter().filter(|opening| !opening.open && opening.ask_at.is_none()).count();
    if (moves, openings) != (asked, opening) {
        broken.push(Broken(format!(
            "{moves} moves and {openings} openings are awaited, {asked} and {opening} asked"
        )));
    }
}

/// E-0.4: what was shared out is what the rows say, and never more than was to be.
fn check_closing(state: &State, broken: &mut Vec<Broken>) {
    let Some(closing) = &state.closing else { return };
    let mut shares = [0u128; 2];
    for row in closing.facts.rows.values() {
        shares[0] += u128::from(row.shares[0]);
        shares[1] += u128::from(row.shares[1]);
    }
    let too_much = [0, 1].into_iter().any(|at: usize| closing.shared[at] > closing.actual[at]);
    if shares != closing.paid().map(u128::from) || too_much {
        broken.push(Broken(format!("E-0.4: the shares come to {shares:?} of {:?}", closing.actual)));
    }
    if closing.epoch.saturating_add(1) != state.next {
        broken.push(Broken(format!("E-0.5: {} closes, then {}", closing.epoch, state.next)));
    }
}

/// E-4.7: scheduled never rises, nor does its ceiling; what was paid lies below it.
fn check_closed(state: &State, broken: &mut Vec<Broken>) {
    let mut before = (u64::MAX, u64::MAX);
    for (epoch, closed) in &state.closed {
        let Ok(told) = EpochClosed::decode(closed.published.as_slice()) else {
            broken.push(Broken(format!("what was published of epoch {epoch} cannot be read")));
            continue;
        };
        let paid: u128 = told.pools.iter().map(|pool| u128::from(pool.paid_units)).sum();
        if paid > u128::from(told.ceiling_units) {
            broken.push(Broken(format!("E-4.7: epoch {epoch} pays {paid}, above {}", told.ceiling_units)));
        }
        if told.scheduled_units > before.0 || told.ceiling_units > before.1 {
            broken.push(Broken(format!("E-4.7: scheduled or ceiling rise in epoch {epoch}")));
        }
        before = (told.scheduled_units, told.ceiling_units);
    }
}
