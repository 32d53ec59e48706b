//! What is locked of rewards: what work unlocks of it, and what an exit burns (E-5).

use std::collections::BTreeMap;

use holmes_proto::columns::ids;
use holmes_proto::emission::v1::{GrantExited, GrantsUnlocked};

use super::super::{Seen, Wrong, ceiled, divided, raw};
use super::Rewards;

/// E-5.1: all is unlocked after so many days, and none faster than over so many.
const ALL_DAYS: u64 = 540;
const LINEAR_DAYS: u64 = 30;
/// E-5.3: unseen for so many days its clocks stop, for so many days of presence in a row.
const OFFLINE_DAYS: u64 = 3;
const RETURN_DAYS: u64 = 7;

/// A node's clocks, and the grants that they run for.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    last_seen: u64,
    frozen: u64,
    work: u128,
    days: u64,
    grants: BTreeMap<u64, Grant>,
}

#[derive(Debug)]
struct Grant {
    /// Locked at first, and unlocked since.
    units: u64,
    unlocked: u64,
    full_work: u128,
    /// Where the clocks stood.
    work: u128,
    days: u64,
}

impl Clocks {
    /// E-5.1, E-5.3: both run in an epoch in which the node is active and not frozen.
    pub(super) fn seen(&mut self, epoch: u64, active: bool, units: u128) {
        let unseen = if self.last_seen == 0 { 0 } else { epoch.saturating_sub(self.last_seen + 1) };
        if unseen >= OFFLINE_DAYS || (self.frozen > 0 && unseen > 0) {
            self.frozen = RETURN_DAYS;
        }
        if self.frozen == 0 && active {
            self.work += units;
            self.days += 1;
        }
        self.frozen = self.frozen.saturating_sub(1);
        self.last_seen = epoch;
    }

    pub(super) fn grant(&mut self, epoch: u64, units: u64, full_work: u128) {
        if units > 0 {
            let (work, days) = (self.work, self.days);
            self.grants.insert(epoch, Grant { units, unlocked: 0, full_work, work, days });
        }
    }

    /// E-5.1: what of a grant is to be unlocked, in all.
    fn unlocked(&self, grant: &Grant) -> u64 {
        let (work, days) = (self.work - grant.work, self.days - grant.days);
        if days >= ALL_DAYS {
            return grant.units;
        }
        let part = |done: u128, of: u128| divided(grant.units.into(), done.min(of), of).0 as u64;
        part(work, grant.full_work.max(1)).min(part(days.into(), LINEAR_DAYS.into()))
    }

    /// E-5.2: `ceil(locked · 50 % · max((N − n) / N, (30 − d) / 30))`.
    fn burned(&self, grant: &Grant) -> u64 {
        let (work, days) = (self.work - grant.work, self.days - grant.days);
        let locked = u128::from(grant.units.saturating_sub(grant.unlocked));
        let burn = |left: u128, of: u128| ceiled(locked, left, 2 * of) as u64;
        let by_work = burn(grant.full_work.saturating_sub(work), grant.full_work.max(1));
        by_work.max(burn(LINEAR_DAYS.saturating_sub(days).into(), LINEAR_DAYS.into()))
    }
}

impl Rewards {
    pub(super) fn unlocked(&mut self, event: &GrantsUnlocked) -> Wrong {
        let mut wrong = Wrong::new();
        for ((id, epoch), units) in ids(&event.nodes).zip(&event.epochs).zip(&event.units) {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let right = node
                .clocks
                .grants
                .get(epoch)
                .map(|grant| node.clocks.unlocked(grant).saturating_sub(grant.unlocked));
            if right != Some(*units) || node.barred {
                wrong.push(format!(
                    "E-5.1: of node {id}'s grant of epoch {epoch}, {units} are unlocked, not {right:?}"
                ));
            }
            node.owed += u128::from(*units);
            node.clocks.grants.get_mut(epoch).into_iter().for_each(|grant| grant.unlocked += units);
        }
        wrong
    }

    /// E-5.1: at the end of a close nothing is locked that work has unlocked, of nodes that it has looked at.
    pub(super) fn still_locked(&self) -> Wrong {
        let Some(close) = &self.close else { return Wrong::new() };
        let mut wrong = Wrong::new();
        for (id, node) in self.nodes.iter().filter(|(id, node)| !node.barred && close.has(id)) {
            let due = |(_, grant): &(&u64, &Grant)| node.clocks.unlocked(grant) > grant.unlocked;
            wrong.extend(node.clocks.grants.iter().find(due).map(|(epoch, _)| {
                format!("E-5.1: of node {id}'s grant of epoch {epoch} less is unlocked than its work has")
            }));
        }
        wrong
    }

    /// E-5.2: its owner takes what is locked, less what is burnt.
    pub(super) fn exited(&mut self, seen: &Seen, event: &GrantExited) -> Wrong {
        let id = raw(&event.node);
        let Some(node) = self.nodes.get_mut(&id) else {
            return vec![format!("node {id} exits and is not known")];
        };
        let mut wrong = Wrong::new();
        if node.owner != seen.who {
            wrong.push(format!("E-5.2: {} exits a grant of node {id}, which is not its own", seen.who));
        }
        let grant = node.clocks.grants.remove(&event.epoch);
        let right = grant.map(|grant| {
            let burned = node.clocks.burned(&grant);
            (grant.units.saturating_sub(grant.unlocked + burned), burned)
        });
        let has = (event.paid_units, event.burned_units);
        if right != Some(has) {
            wrong.push(format!("E-5.2: an exit of node {id} pays and burns {has:?}, not {right:?}"));
        }
        node.owed += u128::from(event.paid_units);
        wrong
    }
}
