//! Which node a session gets, and how its work counts (E-3.2). An index of every model's nodes keeps them in the order
//! in which they are chosen, so that a placement costs a few look-ups, however many nodes there are.
//!
//! Nodes are grouped by context: what a node declares counts rounded down to a quarter of its greatest power of two, so
//! that there are at most 124 groups whatever nodes say. A placement merges the groups that are long enough and looks
//! at no more than three nodes and those that it is told to avoid.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Id, Principal, Ratio};
use holmes_proto::market::v1::WorkCredit;
use serde::{Deserialize, Serialize};

/// Number of the rules below, recorded with every placement.
pub const VERSION: u32 = 1;
/// How many candidates a placement records.
pub const BEST: usize = 3;

const PPB: u128 = 1_000_000_000;

/// A node's place in the order of choice; the least is chosen: fewest calls per slot, then score descending, then
/// rating descending, then longest not used, then id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    load: u64,
    worse_score: u32,
    worse_rating: u32,
    last_lease: u64,
    /// The node.
    pub node: Id,
}

impl Rank {
    /// Of a node. Slots are below 2^16: then calls per slot, in 2^-40, rise and are equal exactly as the fractions do.
    pub fn new(node: Id, (used, slots): (u32, u32), score: u32, rating: u32, last_lease: u64) -> Rank {
        let load = (u64::from(used) << 40) / u64::from(slots.max(1));
        Rank { load, worse_score: !score, worse_rating: !rating, last_lease, node }
    }
}

/// A node's context as the index groups it: rounded down to a quarter of its greatest power of two.
pub fn context_class(context: u32) -> u32 {
    match context.checked_ilog2() {
        None => 0,
        Some(power) => context & !((1u32 << power.saturating_sub(2)) - 1),
    }
}

/// The nodes of one model that are attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many serve it, whether they may or not.
    pub serving: u32,
    /// How many may, and have a free slot.
    pub able: u32,
    /// Nodes by context.
    groups: BTreeMap<u32, Group>,
    /// E-3.2: what each owner has of the capacity.
    owners: BTreeMap<Principal, Share>,
    /// The same by size.
    largest: BTreeSet<(u64, Principal)>,
    /// All capacity, milli-CU.
    capacity: u64,
}

/// Nodes of one context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// Those that are able, in the order of choice.
    able: BTreeSet<Rank>,
    /// How many are in the group, able or not.
    nodes: u32,
    /// Capacity of the qualified ones, milli-CU.
    capacity: u64,
}

/// What an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Share {
    nodes: u32,
    capacity: u64,
}

/// A node as a pool holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Context, as the index groups it.
    pub class: u32,
    /// Whose it is, and its capacity in milli-CU; `None` while it is not qualified.
    pub capacity: Option<(Principal, u64)>,
    /// Its place; `None` while it is not able.
    pub rank: Option<Rank>,
}

impl Pool {
    /// Whether nobody serves the model.
    pub fn is_empty(&self) -> bool {
        self.serving == 0
    }

    /// Whether anybody serves it with such a context.
    pub fn serves(&self, context: u32) -> bool {
        self.groups.range(context..).next().is_some()
    }

    /// The longest context that anybody serves it with, as the index groups it; 0 where nobody does.
    pub fn longest(&self) -> u32 {
        self.groups.last_key_value().map_or(0, |(class, _)| *class)
    }

    /// Whether a node stands there in the order of choice.
    pub fn has(&self, class: u32, rank: &Rank) -> bool {
        self.groups.get(&class).is_some_and(|group| group.able.contains(rank))
    }

    /// Takes a node in.
    pub fn add(&mut self, entry: &Entry) {
        self.serving = self.serving.saturating_add(1);
        let group = self.groups.entry(entry.class).or_default();
        group.nodes = group.nodes.saturating_add(1);
        if let Some((owner, capacity)) = entry.capacity {
            group.capacity = group.capacity.saturating_add(capacity);
            self.capacity = self.capacity.saturating_add(capacity);
            self.own(owner, |share| Share {
                nodes: share.nodes.saturating_add(1),
                capacity: share.capacity.saturating_add(capacity),
            });
        }
        self.rank(entry.class, None, entry.rank);
    }

    /// Takes a node out: the same entry as was taken in, or as was ranked last.
    pub fn remove(&mut self, entry: &Entry) {
        self.rank(entry.class, entry.rank, None);
        self.serving = self.serving.saturating_sub(1);
        if let Some(group) = self.groups.get_mut(&entry.class) {
            group.nodes = group.nodes.saturating_sub(1);
            group.capacity =
                group.capacity.saturating_sub(entry.capacity.map_or(0, |(_, capacity)| capacity));
            if group.nodes == 0 {
                self.groups.remove(&entry.class);
            }
        }
        if let Some((owner, capacity)) = entry.capacity {
            self.capacity = self.capacity.saturating_sub(capacity);
            self.own(owner, |share| Share {
                nodes: share.nodes.saturating_sub(1),
                capacity: share.capacity.saturating_sub(capacity),
            });
        }
    }

    /// Moves a node within its group.
    pub fn rank(&mut self, class: u32, from: Option<Rank>, to: Option<Rank>) {
        let Some(group) = self.groups.get_mut(&class) else { return };
        if from.is_some_and(|rank| group.able.remove(&rank)) {
            self.able = self.able.saturating_sub(1);
        }
        if to.is_some_and(|rank| group.able.insert(rank)) {
            self.able = self.able.saturating_add(1);
        }
    }

    fn own(&mut self, owner: Principal, change: impl FnOnce(Share) -> Share) {
        let before = self.owners.get(&owner).copied().unwrap_or_default();
        let after = change(before);
        self.largest.remove(&(before.capacity, owner));
        if after.nodes == 0 {
            self.owners.remove(&owner);
        } else {
            self.owners.insert(owner, after);
            self.largest.insert((after.capacity, owner));
        }
    }

    /// The first nodes by the order of choice, whose context is long enough and that are not avoided: at most
    /// [`BEST`].
    pub fn best(&self, context: u32, avoid: &[Id]) -> Vec<Rank> {
        let long_enough = self.groups.range(context..);
        // Of every group its first node and those behind it.
        let heads = long_enough.filter_map(|(_, group)| {
            let mut nodes = group.able.iter();
            nodes.next().map(|first| (first, nodes))
        });
        let mut heads: Vec<_> = heads.collect();
        let mut best = Vec::with_capacity(BEST);
        while best.len() < BEST {
            let first = heads.iter().enumerate().min_by_key(|(_, (rank, _))| *rank);
            let Some((at, rank)) = first.map(|(at, (rank, _))| (at, **rank)) else { break };
            match heads[at].1.next() {
                Some(next) => heads[at].0 = next,
                None => drop(heads.swap_remove(at)),
            }
            if !avoid.contains(&rank.node) {
                best.push(rank);
            }
        }
        best
    }

    /// How many owners have qualified nodes.
    pub fn owners(&self) -> u32 {
        self.owners.len() as u32
    }

    /// The largest owner's part of all capacity, parts per billion, ceiled: all of it where there is none.
    pub fn largest_ppb(&self) -> u32 {
        let largest = self.largest.last().map_or(0, |(capacity, _)| *capacity);
        share_ppb(largest, self.capacity)
    }

    /// The capacity that a call of a context cannot use, milli-CU.
    pub fn too_short(&self, context: u32) -> u64 {
        let short = self.groups.range(..context).map(|(_, group)| group.capacity);
        short.fold(0, u64::saturating_add)
    }

    /// The part that something is of all capacity, parts per billion, ceiled.
    pub fn part_ppb(&self, capacity: u64) -> u32 {
        share_ppb(capacity, self.capacity)
    }
}

fn share_ppb(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return PPB as u32;
    }
    (u128::from(part) * PPB).div_ceil(u128::from(whole)).min(PPB) as u32
}

/// What a placement's credit hangs on (E-3.2).
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The renter owns the node.
    pub same_owner: bool,
    /// The renter named the node.
    pub named: bool,
    /// Owners of nodes that were able to run the model.
    pub owners: u32,
    /// The largest owner's part of their capacity, parts per billion.
    pub largest_ppb: u32,
    /// The part of the capacity that the order's other constraints exclude, parts per billion.
    pub excluded_ppb: u32,
}

/// E-3.2: how work counts.
pub fn credit(choice: &Choice, least_owners: u32, owner_share: Ratio) -> WorkCredit {
    let half = |ppb: u32| u64::from(ppb) > owner_share.ppb();
    if choice.same_owner {
        WorkCredit::None
    } else if choice.named
        || choice.owners < least_owners
        || half(choice.largest_ppb)
        || half(choice.excluded_ppb)
    {
        WorkCredit::Quarter
    } else {
        WorkCredit::Full
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::PrincipalKind;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> Id {
        Id::from_bytes([n; 16])
    }

    fn owner(n: u8) -> Principal {
        Principal::new(PrincipalKind::Account, id(n))
    }

    fn entry(class: u32, owned: Option<(u8, u64)>, rank: Option<Rank>) -> Entry {
        Entry { class, capacity: owned.map(|(n, capacity)| (owner(n), capacity)), rank }
    }

    #[test]
    fn the_order_is_load_then_score_then_rating_then_rest_then_id() {
        let rank = |n, load, score, rating, last| Rank::new(id(n), load, score, rating, last);
        let ordered = [
            rank(9, (0, 1), 100, 1, 9),   // idle before all else
            rank(8, (1, 3), 900, 1, 9),   // a third used
            rank(7, (1, 2), 900, 1, 9),   // a half used: score
            rank(6, (2, 4), 800, 500, 9), // the same half: rating
            rank(5, (1, 2), 800, 400, 3), // longest not used
            rank(4, (1, 2), 800, 400, 4),
            rank(5, (1, 2), 800, 400, 4), // id
        ];
        assert!(ordered.is_sorted(), "{ordered:?}");
    }

    #[test]
    fn a_context_counts_down_to_a_quarter_of_its_power_of_two() {
        let classes = [0, 1, 3, 7, 8, 9, 2_048, 10_239, 10_240, 40_960, u32::MAX].map(context_class);
        assert_eq!(classes, [0, 1, 3, 7, 8, 8, 2_048, 8_192, 10_240, 40_960, 0xe000_0000]);
    }

    #[test]
    fn credit_is_full_only_where_there_was_a_choice() {
        // E-3.2
        let fair =
            Choice { same_owner: false, named: false, owners: 3, largest_ppb: 500_000_000, excluded_ppb: 0 };
        let of = |choice: Choice| credit(&choice, 3, Ratio::from_percent(50));
        assert_eq!(of(fair), WorkCredit::Full);
        assert_eq!(of(Choice { owners: 2, ..fair }), WorkCredit::Quarter);
        assert_eq!(of(Choice { largest_ppb: 500_000_001, ..fair }), WorkCredit::Quarter);
        assert_eq!(of(Choice { excluded_ppb: 500_000_001, ..fair }), WorkCredit::Quarter);
        assert_eq!(of(Choice { named: true, ..fair }), WorkCredit::Quarter);
        assert_eq!(of(Choice { same_owner: true, named: true, ..fair }), WorkCredit::None);
    }

    #[test]
    fn owners_share_what_is_qualified_whether_it_is_free_or_not() {
        // E-3.2: over all Active nodes able to run the model.
        let mut pool = Pool::default();
        pool.add(&entry(2_048, Some((1, 600)), None));
        pool.add(&entry(8_192, Some((1, 100)), None));
        pool.add(&entry(8_192, Some((2, 300)), Some(Rank::new(id(2), (0, 1), 1, 1, 0))));
        pool.add(&entry(8_192, None, None)); // not qualified
        assert_eq!((pool.serving, pool.able, pool.owners(), pool.largest_ppb()), (4, 1, 2, 700_000_000));
        assert_eq!((pool.too_short(4_096), pool.part_ppb(600)), (600, 600_000_000));
        pool.remove(&entry(2_048, Some((1, 600)), None));
        assert_eq!((pool.serving, pool.owners(), pool.largest_ppb()), (3, 2, 750_000_000));
    }

    proptest! {
        #[test]
        fn loads_compare_as_their_fractions_do(a in 0u32..5_000, b in 1u32..4_097, c in 0u32..5_000, d in 1u32..4_097) {
            let exact = (u64::from(a) * u64::from(d)).cmp(&(u64::from(c) * u64::from(b)));
            let rank = |used, slots| Rank::new(id(1), (used, slots), 1, 1, 0);
            prop_assert_eq!(rank(a, b).cmp(&rank(c, d)), exact);
        }

        #[test]
        fn the_best_are_those_that_sorting_all_would_find(
            nodes in prop::collection::vec((1u32..20_000, 0u32..4, any::<bool>()), 0..60),
            context in 0u32..20_000,
            avoid in prop::collection::vec(0u8..60, 0..8),
        ) {
            let mut pool = Pool::default();
            let mut all = Vec::new();
            for (n, (context, used, able)) in nodes.iter().enumerate() {
                let rank = Rank::new(id(n as u8), (*used, 4), 1, 1, u64::from(*context) % 3);
                let class = context_class(*context);
                pool.add(&entry(class, Some((n as u8 % 5, 1)), able.then_some(rank)));
                all.extend(able.then_some((class, rank)));
            }
            let avoid: Vec<Id> = avoid.into_iter().map(id).collect();
            let fits = |(class, rank): &(u32, Rank)| (*class >= context && !avoid.contains(&rank.node)).then_some(*rank);
            let mut expected: Vec<Rank> = all.iter().filter_map(fits).collect();
            expected.sort();
            expected.truncate(BEST);
            prop_assert_eq!(pool.best(context, &avoid), expected);
        }

        #[test]
        fn what_was_taken_in_and_out_leaves_nothing(
            nodes in prop::collection::vec((1u32..20_000, 0u8..4, 0u64..9, any::<bool>()), 0..40),
        ) {
            let entries = nodes.iter().enumerate().map(|(n, (context, of, capacity, able))| {
                let rank = able.then_some(Rank::new(id(n as u8), (0, 1), 1, 1, 0));
                entry(context_class(*context), Some((*of, *capacity)), rank)
            });
            let entries: Vec<Entry> = entries.collect();
            let mut pool = Pool::default();
            entries.iter().for_each(|entry| pool.add(entry));
            entries.iter().for_each(|entry| pool.remove(entry));
            prop_assert_eq!(pool, Pool::default());
        }
    }
}
