//! The close of an epoch as a job: its facts stand still, and every step does a bounded part.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::Place;
use holmes_kernel::{Amount, Id};
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::decay::{self, Throttle};

/// Pools that nodes are paid from, in the order of all that has two columns.
pub const TRR: usize = 0;
/// The base rewards' pool.
pub const BR: usize = 1;

/// An epoch that is being closed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Closing {
    /// The epoch.
    pub epoch: u64,
    /// Its facts.
    pub facts: Facts,
    /// How far it is.
    pub phase: Phase,
    /// The next row, or in [`Phase::Bound`] the next owner.
    pub next: Place,
    /// The price that κ uses; 0 for none.
    pub price: u64,
    /// E-4.1: what each pool is to pay, base units.
    pub targets: [u64; 3],
    /// All weights of TRR and of BR; each is held below 2^104, so that they fit.
    pub weights: [u128; 2],
    /// E-4.1: what TRR and BR share out, base units; known behind [`Phase::Weigh`].
    pub actual: [u64; 2],
    /// What their shares come to so far, base units.
    pub shared: [u64; 2],
    /// What flooring left, the largest first: its complement, so that ties go to the smaller id (E-0.4).
    pub remainders: [BTreeSet<(u128, Id)>; 2],
    /// What κ cut, base units.
    pub cut: u64,
    /// The classes' work, for its median.
    pub medians: Vec<Median>,
    /// What is to be moved between accounts at the end.
    pub legs: Legs,
}

/// How far a close is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Nodes get their weights (E-4.6).
    Weigh,
    /// Nodes get the floors of their shares (E-0.4).
    Share,
    /// The largest remainders get one unit each (E-0.4).
    Round,
    /// Owners are held to κ (E-3.2).
    Bound,
    /// All is known: it is published.
    Publish,
    /// Nodes are granted what they get.
    Grant,
    /// Work unlocks older grants (E-5.1).
    Unlock,
    /// What moves between accounts is known.
    End,
}

impl Closing {
    /// A close that begins.
    pub fn begin(epoch: u64, facts: Facts, price: u64, targets: [u64; 3], classes: usize) -> Closing {
        let medians = std::iter::repeat_with(Median::default).take(classes).collect();
        Closing {
            epoch,
            facts,
            phase: Phase::Weigh,
            next: 0,
            price,
            targets,
            weights: [0; 2],
            actual: [0; 2],
            shared: [0; 2],
            remainders: Default::default(),
            cut: 0,
            medians,
            legs: Legs::default(),
        }
    }

    /// E-4.1 to E-4.3: m of TRR and of BR, once the weights are known.
    pub fn throttles(&self, target_nodes: u64) -> [Throttle; 2] {
        let pays = |at: usize, of: Throttle| if self.weights[at] == 0 { Throttle::NONE } else { of };
        let of_trr = if self.price == 0 { Throttle::NONE } else { Throttle::FULL }; // E-14.5
        [pays(TRR, of_trr), pays(BR, Throttle::of_crowd(self.facts.active, target_nodes))]
    }

    /// What rounding has left to give, base units; 0 before all is floored.
    pub fn left(&self) -> [u64; 2] {
        [TRR, BR].map(|at| self.actual[at].saturating_sub(self.shared[at]))
    }

    /// What is paid, base units: what was shared out, less what κ cut.
    pub fn paid(&self) -> [u64; 2] {
        [self.shared[TRR].saturating_sub(self.cut), self.shared[BR]]
    }

    /// Goes on to the first phase that has anything to do. A step calls it when it is done.
    pub fn settle(&mut self, target_nodes: u64) {
        while self.is_done() {
            self.phase = match self.phase {
                Phase::Weigh => {
                    let throttles = self.throttles(target_nodes);
                    self.actual = [TRR, BR]
                        .map(|at| decay::actual(Amount::new(self.targets[at]), throttles[at]).units());
                    Phase::Share
                }
                Phase::Share => Phase::Round,
                Phase::Round => Phase::Bound,
                Phase::Bound => Phase::Publish,
                Phase::Publish => Phase::Grant,
                Phase::Grant => Phase::Unlock,
                Phase::Unlock | Phase::End => Phase::End,
            };
            self.next = 0;
        }
    }

    fn is_done(&self) -> bool {
        let rows = self.next as usize >= self.facts.rows.len();
        match self.phase {
            Phase::Weigh | Phase::Unlock => rows,
            Phase::Share => rows || self.actual == [0; 2],
            Phase::Round => self.left() == [0; 2],
            Phase::Bound => self.shared[TRR] == 0 || self.next as usize >= self.facts.owners.len(),
            Phase::Grant => rows || self.paid() == [0; 2],
            Phase::Publish | Phase::End => false,
        }
    }
}

/// The median of a row of numbers that grows, each named by its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Median {
    low: BTreeSet<(u128, Id)>,
    high: BTreeSet<(u128, Id)>,
}

impl Median {
    /// One more.
    pub fn add(&mut self, number: u128, id: Id) {
        let row = (number, id);
        if self.high.first().is_some_and(|least| row >= *least) {
            self.high.insert(row);
        } else {
            self.low.insert(row);
        }
        while self.low.len() > self.high.len() + 1 {
            self.high.extend(self.low.pop_last());
        }
        while self.high.len() > self.low.len() {
            self.low.extend(self.high.pop_first());
        }
    }

    /// The middle one, or of two the middle between them, floored; 0 of none.
    pub fn get(&self) -> u128 {
        let (below, above) = (self.low.last().map_or(0, |row| row.0), self.high.first().map(|row| row.0));
        match above {
            Some(above) if self.low.len() == self.high.len() => below + (above - below) / 2,
            _ => below,
        }
    }
}

/// Accounts in the ledger between which rewards move. Their order is the order in a chain of transfers: what is locked
/// arrives before anything is unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// The TRR pool.
    Trr,
    /// The BR pool.
    Br,
    /// The verifiers' pool.
    Verifier,
    /// What is locked in grants.
    Vesting,
    /// What is owed to nodes.
    Pot,
    /// What is burnt.
    Burn,
}

/// All of them.
pub const ACCOUNTS: [Account; 6] =
    [Account::Trr, Account::Br, Account::Verifier, Account::Vesting, Account::Pot, Account::Burn];

/// Amounts to move: from, to, base units. Never 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legs(#[serde(with = "holmes_kernel::pairs")] BTreeMap<(Account, Account), u64>);

impl Legs {
    /// So much more.
    pub fn add(&mut self, from: Account, to: Account, units: u64) {
        if units > 0 {
            let leg = self.0.entry((from, to)).or_default();
            *leg = leg.saturating_add(units);
        }
    }

    /// All of others more.
    pub fn add_all(&mut self, others: &Legs) {
        others.iter().for_each(|(from, to, units)| self.add(from, to, units));
    }

    /// All of others less.
    pub fn take_all(&mut self, others: &Legs) {
        for (from, to, units) in others.iter() {
            if let Some(leg) = self.0.get_mut(&(from, to)) {
                *leg = leg.saturating_sub(units);
            }
        }
        self.0.retain(|_, units| *units > 0);
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = (Account, Account, u64)> + '_ {
        self.0.iter().map(|((from, to), units)| (*from, *to, *units))
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to arrive at an account, and what is to leave it, base units.
    pub fn of(&self, account: Account) -> (u128, u128) {
        let sum = |is: fn(&(Account, Account), Account) -> bool| {
            self.0.iter().filter(|(leg, _)| is(leg, account)).map(|(_, units)| u128::from(*units)).sum()
        };
        (sum(|leg, account| leg.1 == account), sum(|leg, account| leg.0 == account))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_median_is_that_of_the_sorted_row(numbers in proptest::collection::vec(0..50u128, 0..40)) {
            let mut median = Median::default();
            for (at, number) in numbers.iter().enumerate() {
                median.add(*number, Id::from_bytes([at as u8; 16]));
            }
            let mut sorted = numbers;
            sorted.sort_unstable();
            let n = sorted.len();
            let expected = match n {
                0 => 0,
                n if n % 2 == 1 => sorted[n / 2],
                n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2,
            };
            prop_assert_eq!(median.get(), expected);
        }
    }
}
