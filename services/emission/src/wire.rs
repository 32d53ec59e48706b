//! Between the wire's messages and the types of emission.

use holmes_kernel::{Amount, Id, Principal, PrincipalKind, ServiceId};
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Parsed, malformed};
use holmes_proto::emission::v1 as wire;
use holmes_proto::emission::v1::{EpochClosed, Pool};
use prost::Message;

use crate::command::Command;
use crate::state::{BR, Closed, Grant, Node, Row, State, TRR};
use crate::trr;

/// Most nodes that one page of grants looks at.
const MOST_LOOKED_AT: usize = 10_000;

/// An owner of nodes in a text field, as it prints.
pub fn owner(field: &'static str, text: &str) -> Parsed<Principal> {
    let id = text.strip_prefix("account/").and_then(|id| id.parse().ok());
    id.map_or_else(|| malformed(field, "account/<id>"), |id| Ok(Principal::new(PrincipalKind::Account, id)))
}

/// A grant to leave early.
pub fn exit_grant(request: &wire::ExitGrantRequest) -> Parsed<Command> {
    Ok(Command::ExitGrant { node: id("node_id", &request.node_id)?, epoch: epoch("epoch", request.epoch)? })
}

/// An epoch to close without a source.
pub fn close_without(request: &wire::CloseEpochWithoutRequest) -> Parsed<Command> {
    let Ok(number) = u16::try_from(request.service) else {
        return malformed("service", "a service's number, as GetPools names them");
    };
    Ok(Command::CloseWithout { epoch: epoch("epoch", request.epoch)?, source: ServiceId(number) })
}

/// The number of an epoch.
pub fn epoch(field: &'static str, number: u64) -> Parsed<u64> {
    if number == 0 { malformed(field, "an epoch, counted from 1") } else { Ok(number) }
}

fn published(closed: &Closed) -> EpochClosed {
    EpochClosed::decode(closed.published.as_slice()).unwrap_or_default() // written by us; `check` reads it too
}

/// A closed epoch.
pub fn closed(closed: &Closed) -> wire::Epoch {
    let told = published(closed);
    wire::Epoch {
        epoch: told.epoch,
        pools: told.pools,
        scheduled_units: told.scheduled_units,
        next_scheduled_units: told.next_scheduled_units,
        ceiling_units: told.ceiling_units,
        active_nodes: told.active_nodes,
        token_price_micro_usd: told.token_price_micro_usd,
        circulating_units: told.circulating_units,
        full_units: told.full_units,
        quarter_units: told.quarter_units,
        cut_units: told.cut_units,
        nodes: told.nodes,
        closed_at_us: closed.at.micros(),
    }
}

/// A page of closed epochs, the newest first, from before an epoch on; and before which the next page begins.
pub fn epochs(state: &State, before: u64, size: usize) -> (Vec<wire::Epoch>, Option<u64>) {
    let mut rows = state.closed.range(..before).rev();
    let page: Vec<(u64, wire::Epoch)> =
        rows.by_ref().take(size).map(|(epoch, row)| (*epoch, closed(row))).collect();
    let next = rows.next().and(page.last()).map(|(epoch, _)| *epoch);
    (page.into_iter().map(|(_, epoch)| epoch).collect(), next)
}

/// The pools as they stand.
pub fn pools(state: &State) -> wire::GetPoolsResponse {
    let targets = state.targets();
    let names = [Pool::Trr, Pool::Br, Pool::Verifier];
    let pool = |(at, pool): (usize, Pool)| wire::PoolStanding {
        pool: pool.into(),
        initial_units: state.params.pools[at].initial.units(),
        remaining_units: state.remaining[at],
        target_units: targets[at],
    };
    let source = |source: &crate::state::Source| wire::SourceStanding {
        service: source.service.0.into(),
        first_epoch: source.first_epoch,
        sealed_epoch: source.sealed,
    };
    wire::GetPoolsResponse {
        pools: names.into_iter().enumerate().map(pool).collect(),
        scheduled_units: Amount::sum(targets.map(Amount::new)).unwrap_or(Amount::MAX).units(),
        owed_units: state.books.owed,
        locked_units: state.books.locked,
        paid_units: state.books.paid,
        burned_units: state.books.burned,
        next_epoch: state.next,
        closing_epoch: state.closing.as_ref().map_or(0, |closing| closing.epoch),
        sources: state.sources.iter().map(source).collect(),
        refused: state.moves.values().next().map(|begun| begun.refused.clone()).unwrap_or_default(),
    }
}

/// What a node earned in the epochs that are kept, the newest first.
pub fn rewards(state: &State, id: Id, node: &Node) -> wire::GetNodeRewardsResponse {
    let first = state.next.saturating_sub(state.params.keep_rewards.saturating_add(1));
    let rows = state.closed.range(first..).rev();
    let reward = |(epoch, closed): (&u64, &Closed)| {
        let row = closed.rows.as_ref()?.get(&id)?;
        Some(reward(state, *epoch, node, row, published(closed).token_price_micro_usd))
    };
    wire::GetNodeRewardsResponse {
        rewards: rows.filter_map(reward).collect(),
        owed_units: node.owed,
        locked_units: node.totals.locked,
        paid_units: node.totals.paid,
        payout_account_id: node.payout.map(|account| account.to_string()).unwrap_or_default(),
        refused: node.refused.clone(),
        frozen_days: node.frozen_days,
    }
}

fn reward(state: &State, epoch: u64, node: &Node, row: &Row, price: u64) -> wire::NodeReward {
    let (trr_units, br_units) = (row.shares[TRR], row.shares[BR]);
    wire::NodeReward {
        epoch,
        full_units: row.full.to_string(),
        quarter_units: row.quarter.to_string(),
        beats_seen: row.beats,
        active: row.active,
        trr_weight: row.weights[TRR].to_string(),
        br_weight: row.weights[BR].to_string(),
        trr_units,
        br_units,
        cut_units: row.cut,
        no_trr_reason: no_trr(state, node, row, price).into(),
        no_br_reason: no_br(node, row).into(),
    }
}

/// Why a row has no task reward; stable.
fn no_trr(state: &State, node: &Node, row: &Row, price: u64) -> &'static str {
    let counted = trr::counted(row.full, row.quarter, state.params.quarter);
    match row {
        _ if row.shares[TRR] > 0 => "",
        Row { full: 0, quarter: 0, .. } => "NO_WORK",
        _ if counted == 0 => "TOO_SMALL", // it has worked, but a quarter of that is less than one unit
        Row { weights: [0, _], .. } if node.barred => "TOMBSTONED",
        Row { weights: [0, _], .. } => "NO_STAKE",
        _ if price == 0 => "NO_PRICE",
        Row { cut: 1.., .. } => "KAPPA",
        _ => "TOO_SMALL",
    }
}

/// Why a row has no base reward; stable.
fn no_br(node: &Node, row: &Row) -> &'static str {
    match row {
        _ if row.shares[BR] > 0 => "",
        Row { active: false, .. } => "NOT_ACTIVE",
        Row { weights: [_, 0], .. } if node.barred => "TOMBSTONED",
        Row { weights: [_, 0], .. } if !node.compute => "NOT_COMPUTE",
        Row { weights: [_, 0], .. } => "NO_STAKE",
        _ => "TOO_SMALL",
    }
}

/// A grant as it stands.
pub fn grant(state: &State, id: Id, node: &Node, epoch: u64, grant: &Grant) -> wire::Grant {
    let (locked, clocks) = (grant.locked(), grant.clocks(node));
    wire::Grant {
        node_id: id.to_string(),
        epoch,
        amount_units: grant.amount,
        unlocked_units: grant.unlocked,
        locked_units: locked.units(),
        work_units: clocks.work.to_string(),
        full_work_units: clocks.full_work.to_string(),
        days: clocks.days,
        exit_burn_units: state.params.terms.exit_burn(locked, clocks).units(),
    }
}

/// Where a page of grants begins: a node's place among those asked for, and the first epoch that counts.
pub type From = (usize, u64);

/// A page's beginning in a token, as [`token`] writes it.
pub fn from(text: &str) -> Parsed<From> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let parts = text.split_once('.').and_then(|(at, epoch)| Some((at.parse().ok()?, epoch.parse().ok()?)));
    parts.map_or_else(|| malformed("page_token", "the next_page_token of the page before"), Ok)
}

/// The token of a page.
pub fn token((at, epoch): From) -> String {
    format!("{at}.{epoch}")
}

/// A page of grants: of a node, or of an owner's nodes.
pub fn grants(
    state: &State,
    node: Option<Id>,
    owner: Principal,
    from: From,
    size: usize,
) -> (Vec<wire::Grant>, Option<From>) {
    let places: Vec<u32> = match node {
        Some(id) => state.nodes.place(&id).into_iter().collect(),
        None => state.owners.get(&owner).cloned().unwrap_or_default(),
    };
    let (first, mut least) = from;
    let mut page = Vec::new();
    for (at, place) in places.iter().enumerate().skip(first) {
        if at - first >= MOST_LOOKED_AT {
            return (page, Some((at, 0)));
        }
        let Some((id, node)) = state.nodes.at(*place) else { continue };
        for (epoch, row) in node.grants.range(least..) {
            if page.len() >= size {
                return (page, Some((at, *epoch)));
            }
            page.push(grant(state, *id, node, *epoch, row));
        }
        least = 0;
    }
    (page, None)
}
