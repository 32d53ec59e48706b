//! A node as emission knows it: how it stood in each open epoch, what it is owed, what is locked.

use std::collections::BTreeMap;

use holmes_kernel::{Amount, Id, Principal, Time};
use serde::{Deserialize, Serialize};

use crate::params::Params;
use crate::vesting::Clocks;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Whose it is.
    pub owner: Principal,
    /// Whether it serves renters: verifiers bond separately (E-6.1).
    pub compute: bool,
    /// Its owner is tombstoned.
    pub barred: bool,
    /// Where it is paid.
    pub payout: Option<Id>,
    /// Whether that was named since the node was registered last.
    pub is_named: bool,
    /// How it stood, by epoch: the last one goes on; none older than an open epoch needs.
    pub stands: Vec<Stand>,
    /// What it is owed and was not paid, base units; what is being paid is in it.
    pub owed: u64,
    /// What the ledger was asked to pay.
    pub paying: u64,
    /// How often the ledger was asked to pay it.
    pub payments: u64,
    /// When it is paid next; `None` while nothing is owed, it is being paid, or no account is known.
    pub pays_at: Option<Time>,
    /// How often the ledger refused since it last paid.
    pub refusals: u32,
    /// The ledger's last reason; empty when it paid.
    pub refused: String,
    /// The last epoch in which it was seen; 0 for none.
    pub seen: u64,
    /// E-5.3: days of presence in a row until its clocks run again.
    pub frozen_days: u64,
    /// Work while its clocks ran, units.
    pub work: u128,
    /// Days on which they ran.
    pub days: u64,
    /// Its grants with anything locked, by epoch.
    pub grants: BTreeMap<u64, Grant>,
    /// E-5.4: what became of all that it was granted.
    pub totals: Totals,
}

/// How a node stood in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stand {
    /// The epoch, and those behind it until the next one.
    pub epoch: u64,
    /// The least that could be slashed in that epoch, base units.
    pub least: u64,
    /// What could be slashed at its end, base units.
    pub slashable: u64,
    /// What was required, base units.
    pub required: u64,
    /// Rating, milli-CU.
    pub rating_milli_cu: u32,
}

/// What is locked of a task reward (E-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// G_l, base units.
    pub amount: u64,
    /// Unlocked since, base units.
    pub unlocked: u64,
    /// N, units.
    pub full_work: u128,
    /// The node's work when it was granted.
    pub work: u128,
    /// The node's days when it was granted.
    pub days: u64,
}

/// E-5.4, base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All task rewards.
    pub granted: u64,
    /// Liquid at once.
    pub liquid: u64,
    /// Unlocked by work.
    pub unlocked: u64,
    /// Paid at exits.
    pub exited: u64,
    /// Burnt at exits, or with a tombstone.
    pub burned: u64,
    /// Still locked.
    pub locked: u64,
    /// Paid to its account, base rewards in it.
    pub paid: u64,
}

impl Grant {
    /// What is locked, base units.
    pub fn locked(&self) -> Amount {
        Amount::new(self.amount.saturating_sub(self.unlocked))
    }

    /// Its clocks, as the node's stand.
    pub fn clocks(&self, node: &Node) -> Clocks {
        Clocks {
            work: node.work.saturating_sub(self.work),
            full_work: self.full_work,
            days: node.days.saturating_sub(self.days),
        }
    }

    /// E-5.1: what of it is to be unlocked now, base units.
    pub fn unlocks(&self, node: &Node, params: &Params) -> Amount {
        let unlocked = params.terms.unlocked(Amount::new(self.amount), self.clocks(node));
        unlocked.saturating_sub(Amount::new(self.unlocked))
    }
}

impl Node {
    /// A node that nothing is known of but its owner.
    pub fn new(owner: Principal, compute: bool) -> Node {
        Node {
            owner,
            compute,
            barred: false,
            payout: None,
            is_named: false,
            stands: Vec::new(),
            owed: 0,
            paying: 0,
            payments: 0,
            pays_at: None,
            refusals: 0,
            refused: String::new(),
            seen: 0,
            frozen_days: 0,
            work: 0,
            days: 0,
            grants: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// How it stood in an epoch: with the least of the whole epoch.
    pub fn stand(&self, epoch: u64) -> Stand {
        match self.stands.iter().rev().find(|stand| stand.epoch <= epoch) {
            Some(stand) if stand.epoch == epoch => *stand,
            Some(stand) => Stand { epoch, least: stand.slashable, ..*stand },
            None => Stand { epoch, ..Stand::default() },
        }
    }

    /// Lets it stand otherwise from an epoch on; epochs before `first_open` are looked at no more.
    pub fn stands_now(&mut self, epoch: u64, first_open: u64, change: impl FnOnce(&mut Stand)) {
        let epoch = self.stands.last().map_or(epoch, |last| last.epoch.max(epoch));
        let mut stand = self.stand(epoch);
        change(&mut stand);
        stand.least = stand.least.min(stand.slashable);
        match self.stands.last_mut() {
            Some(last) if last.epoch == epoch => *last = stand,
            _ => self.stands.push(stand),
        }
        // Of those that ended before the first open epoch only the last one goes on into it.
        let ended = self.stands.iter().take_while(|stand| stand.epoch <= first_open).count();
        self.stands.drain(..ended.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(node: &mut Node, epoch: u64, first_open: u64, slashable: u64) {
        node.stands_now(epoch, first_open, |stand| stand.slashable = slashable);
    }

    #[test]
    fn the_stake_of_an_epoch_is_its_least_and_goes_on_into_the_next() {
        // E-4.6
        let mut node = Node::new(Principal::SYSTEM, true);
        assert_eq!(node.stand(5).least, 0);
        note(&mut node, 5, 5, 100);
        assert_eq!(
            (node.stand(5).least, node.stand(5).slashable),
            (0, 100),
            "it had none when the epoch began"
        );
        assert_eq!((node.stand(6).least, node.stand(6).slashable), (100, 100));
        note(&mut node, 7, 5, 40);
        note(&mut node, 7, 5, 90);
        assert_eq!([5, 6, 7, 8].map(|epoch| node.stand(epoch).least), [0, 100, 40, 90]);
        note(&mut node, 6, 7, 80);
        assert_eq!(node.stand(7).slashable, 80, "a late fact counts in what is open");
    }

    #[test]
    fn what_no_open_epoch_needs_is_forgotten() {
        let mut node = Node::new(Principal::SYSTEM, true);
        (1..100).for_each(|epoch| note(&mut node, epoch, epoch.saturating_sub(2), epoch));
        assert_eq!(node.stands.iter().map(|stand| stand.epoch).collect::<Vec<_>>(), [97, 98, 99]);
    }
}
