//! Grants: what work unlocks (E-5.1), what an exit burns (E-5.2), what a tombstone burns.

use holmes_kernel::{Amount, Ctx, Id, PrincipalKind};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{GrantExited, GrantsUnlocked, LockedBurned};

use super::{Decided, bytes, column, forbidden, only_time, refuse_if};
use crate::command::Rejection;
use crate::params::{MOST_GRANTS_PER_STEP, MOST_NODES_PER_STEP};
use crate::state::{Closing, State};

/// The next nodes' grants. Only who was there has moved its clocks, but a grant that a step before could not reach is
/// looked at all the same.
pub(super) fn unlock(state: &State, closing: &Closing) -> Kind {
    let mut unlocked = GrantsUnlocked::default();
    let (mut nodes, mut looked_at) = (Vec::new(), 0);
    let places = (closing.next..).take(MOST_NODES_PER_STEP);
    for (id, _) in places.map_while(|place| closing.facts.rows.at(place)) {
        unlocked.looked_at += 1;
        let Some(node) = state.nodes.get(id).filter(|node| !node.barred) else { continue };
        for (epoch, grant) in &node.grants {
            let units = grant.unlocks(node, &state.params);
            if !units.is_zero() {
                nodes.push(*id);
                unlocked.epochs.push(*epoch);
                unlocked.units.push(units.units());
            }
        }
        looked_at += node.grants.len();
        if looked_at >= MOST_GRANTS_PER_STEP {
            break;
        }
    }
    unlocked.nodes = column(nodes);
    Kind::GrantsUnlocked(unlocked)
}

/// E-5.2: the node's owner takes what is locked, less what is burnt.
pub(super) fn exit(state: &State, id: Id, epoch: u64, ctx: &Ctx) -> Decided {
    refuse_if(ctx.principal.kind != PrincipalKind::Account, || forbidden(ctx, "an account owns nodes"))?;
    let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
    refuse_if(node.owner != ctx.principal, || forbidden(ctx, "only the node's owner may"))?;
    refuse_if(node.barred, || Rejection::Tombstoned(id))?;
    let grant = node.grants.get(&epoch).ok_or(Rejection::GrantNotFound { node: id, epoch })?;
    let locked = grant.locked();
    let burned = state.params.terms.exit_burn(locked, grant.clocks(node));
    Ok(vec![Kind::GrantExited(GrantExited {
        node: bytes(id),
        epoch,
        paid_units: locked.saturating_sub(burned).units(),
        burned_units: burned.units(),
    })])
}

/// E-5.2: all that is locked of the next tombstoned nodes.
pub(super) fn burn(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let nodes: Vec<Id> = state.barred.iter().take(MOST_NODES_PER_STEP).copied().collect();
    let locked = |id: &Id| state.nodes.get(id).map_or(Amount::ZERO, |node| Amount::new(node.totals.locked));
    let units = nodes.iter().map(|id| locked(id).units()).collect();
    Ok(vec![Kind::LockedBurned(LockedBurned { nodes: column(nodes), units })])
}
