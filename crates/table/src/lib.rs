//! A map whose order is its history: rows live in a slab, iteration follows the slab, an index seeded afresh in every
//! process finds them. So nothing a machine does can depend on hashing, and ids that callers choose cannot be aimed
//! at one bucket.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

mod parts;

use parts::{Index, Slab};

/// A map from `K` to `V` with deterministic iteration. Rows keep their slot while they live; a freed slot is the next
/// one taken, so slots too are a function of the history. At most 2^32 − 2 rows.
pub struct Table<K, V> {
    slots: Slab<Slot<K, V>>,
    /// The slot freed last, or [`END`].
    free: u32,
    index: Index,
    hasher: RandomState,
}

/// A slot's number: what a machine may keep in place of a key where memory counts.
pub type Place = u32;

const END: u32 = u32::MAX;

#[derive(Serialize, serde::Deserialize)]
enum Slot<K, V> {
    Row(K, V),
    /// The slot freed before this one, or [`END`].
    Free(u32),
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// An empty table.
    pub fn new() -> Table<K, V> {
        Table { slots: Slab::default(), free: END, index: Index::default(), hasher: RandomState::default() }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// The place of a key.
    pub fn place<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Place>
    where
        K: Borrow<Q>,
    {
        self.find(self.hasher.hash_one(key), key)
    }

    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<Place>
    where
        K: Borrow<Q>,
    {
        self.index.find(hash, |at| self.slots[at].key().is_some_and(|k| k.borrow() == key))
    }

    /// The row at a place.
    pub fn at(&self, place: Place) -> Option<(&K, &V)> {
        match self.slots.get(place)? {
            Slot::Row(key, value) => Some((key, value)),
            Slot::Free(_) => None,
        }
    }

    /// The value at a place, to change.
    pub fn at_mut(&mut self, place: Place) -> Option<&mut V> {
        match self.slots.get_mut(place)? {
            Slot::Row(_, value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key).and_then(|place| self.at(place)).map(|(_, value)| value)
    }

    /// The value of a key, to change.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key)?;
        self.at_mut(place)
    }

    /// Whether the key has a row.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_some()
    }

    /// Sets a key's value; answers the one before. A key that is there keeps its slot.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        if let Some(place) = self.find(hash, &key) {
            return self.at_mut(place).map(|old| std::mem::replace(old, value));
        }
        self.add(hash, key, value);
        None
    }

    /// The value of a key, made when it is not there.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let hash = self.hasher.hash_one(&key);
        let place = match self.find(hash, &key) {
            Some(place) => place,
            None => self.add(hash, key, make()),
        };
        match &mut self.slots[place] {
            Slot::Row(_, value) => value,
            Slot::Free(_) => unreachable!("the index names rows only"),
        }
    }

    /// Takes a key's row out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let place = self.index.remove(hash, |at| slots[at].key().is_some_and(|k| k.borrow() == key))?;
        match std::mem::replace(&mut self.slots[place], Slot::Free(self.free)) {
            Slot::Row(_, value) => {
                self.free = place;
                Some(value)
            }
            Slot::Free(_) => unreachable!("the index names rows only"),
        }
    }

    /// The rows in slab order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Row(key, value) => Some((key, value)),
            Slot::Free(_) => None,
        })
    }

    /// The values in slab order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The rows in slab order, values to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Row(key, value) => Some((&*key, value)),
            Slot::Free(_) => None,
        })
    }

    fn add(&mut self, hash: u64, key: K, value: V) -> Place {
        let place = match self.slots.get(self.free) {
            Some(Slot::Free(before)) => {
                let place = self.free;
                self.free = *before;
                self.slots[place] = Slot::Row(key, value);
                place
            }
            _ => {
                let place = self.slots.len() as u32;
                assert!(place < END, "a table holds at most 2^32 - 2 rows");
                self.slots.push(Slot::Row(key, value));
                place
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert(hash, place, |at| match &slots[at] {
            Slot::Row(key, _) => hasher.hash_one(key),
            Slot::Free(_) => unreachable!("the index names rows only"),
        });
        place
    }

    /// The table of a slab, or what is wrong with it: bytes from a disk are not trusted to be one.
    fn from_slab(slots: Slab<Slot<K, V>>, free: u32) -> Result<Table<K, V>, &'static str> {
        let hasher = RandomState::default();
        let rows = slots.iter().filter(|slot| slot.key().is_some()).count();
        let mut index = Index::with_capacity(rows);
        for (place, slot) in (0..).zip(slots.iter()) {
            let Slot::Row(key, _) = slot else { continue };
            let hash = hasher.hash_one(key);
            if index.find(hash, |at| slots[at].key() == Some(key)).is_some() {
                return Err("a key stands twice in a table");
            }
            index.insert(hash, place, |at| slots[at].key().map_or(0, |k| hasher.hash_one(k)));
        }
        let (mut at, mut seen) = (free, 0);
        while at != END {
            let Some(Slot::Free(before)) = slots.get(at) else {
                return Err("a table's free list leads to a row or outside");
            };
            seen += 1;
            if seen > slots.len() {
                return Err("a table's free list runs in a circle");
            }
            at = *before;
        }
        if seen + rows != slots.len() {
            return Err("a table has free slots that its free list misses");
        }
        Ok(Table { slots, free, index, hasher })
    }
}

impl<K, V> Slot<K, V> {
    fn key(&self) -> Option<&K> {
        match self {
            Slot::Row(key, _) => Some(key),
            Slot::Free(_) => None,
        }
    }
}

impl<K: Hash + Eq, V> Default for Table<K, V> {
    fn default() -> Self {
        Table::new()
    }
}

impl<K: Hash + Eq + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            // People read rows; only the canonical form can be read back.
            let rows = self.slots.iter().filter_map(|slot| match slot {
                Slot::Row(key, value) => Some((key, value)),
                Slot::Free(_) => None,
            });
            return s.collect_seq(rows);
        }
        (self.free, &self.slots).serialize(s)
    }
}

impl<'de, K, V> Deserialize<'de> for Table<K, V>
where
    K: Deserialize<'de> + Hash + Eq,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Table<K, V>, D::Error> {
        let (free, slots) = <(u32, Slab<Slot<K, V>>)>::deserialize(d)?;
        Table::from_slab(slots, free).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The canonical form, whose hash is the digest.
    fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
        postcard::to_stdvec(value).unwrap()
    }

    fn slab<T>(values: impl IntoIterator<Item = T>) -> Slab<T> {
        let mut slab = Slab::default();
        values.into_iter().for_each(|value| slab.push(value));
        slab
    }

    /// Past the piece of a slab and the one part of an index, there and back.
    #[test]
    fn a_large_table_is_as_a_small_one() {
        let mut table: Table<u32, u32> = Table::new();
        (0..100_000).for_each(|n| assert_eq!(table.insert(n, n), None));
        (0..100_000).step_by(3).for_each(|n| assert_eq!(table.remove(&n), Some(n)));
        (0..100_000).step_by(6).for_each(|n| assert_eq!(table.insert(n, n + 1), None));
        let mut restored: Table<u32, u32> = postcard::from_bytes(&bytes(&table)).unwrap();
        for table in [&mut table, &mut restored] {
            assert_eq!(table.len(), 100_000 - 33_334 + 16_667);
            let gone = |n: u32| n.is_multiple_of(3);
            let kept = |n: u32| if gone(n) { n.is_multiple_of(2).then_some(n + 1) } else { Some(n) };
            assert!((0..100_000).all(|n| table.get(&n).copied() == kept(n)));
            assert_eq!(table.iter().count(), table.len());
            *table.get_mut(&1).unwrap() = 7;
        }
        assert!(table.iter().eq(restored.iter()));
        assert_eq!(bytes(&table), bytes(&restored));
    }

    #[test]
    fn a_slab_is_written_as_a_vector() {
        let rows: Vec<u16> = (0..9_000).collect();
        let slab = slab(rows.clone());
        assert_eq!(bytes(&slab), bytes(&rows));
        let again: Slab<u16> = postcard::from_bytes(&bytes(&slab)).unwrap();
        assert!(again.iter().eq(&rows) && again.len() == rows.len());
    }

    fn play(steps: &[(bool, u8, u16)]) -> (Table<u8, u16>, BTreeMap<u8, u16>) {
        let (mut table, mut model) = (Table::new(), BTreeMap::new());
        for (keep, key, value) in steps {
            if *keep {
                assert_eq!(table.insert(*key, *value), model.insert(*key, *value));
            } else {
                assert_eq!(table.remove(key), model.remove(key));
            }
        }
        (table, model)
    }

    #[test]
    fn a_freed_slot_is_the_next_one_taken() {
        let (mut table, _) = play(&[(true, 1, 1), (true, 2, 2), (true, 3, 3), (false, 2, 0), (false, 1, 0)]);
        table.insert(9, 9);
        assert_eq!(table.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [9, 3]);
        assert_eq!(table.place(&9), Some(0));
    }

    #[test]
    fn a_damaged_slab_is_refused() {
        let twice = [Slot::Row(1, 1), Slot::Row(1, 2)];
        let circle = [Slot::Free(1), Slot::Free(0)];
        let lost = [Slot::Free(END), Slot::Row(1, 1)];
        for (rows, free) in [(twice, END), (circle, 0), (lost, END)] {
            assert!(Table::<u8, u8>::from_slab(slab(rows), free).is_err());
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_sorted_map_holds(steps: Vec<(bool, u8, u16)>) {
            let (table, model) = play(&steps);
            prop_assert_eq!(table.len(), model.len());
            let rows: BTreeMap<u8, u16> = table.iter().map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(rows, model);
        }

        #[test]
        fn two_processes_with_one_history_have_one_digest_and_one_order(steps: Vec<(bool, u8, u16)>) {
            let ((a, _), (b, _)) = (play(&steps), play(&steps)); // each has its own hash seed
            prop_assert_eq!(bytes(&a), bytes(&b));
            prop_assert!(a.iter().eq(b.iter()));
        }

        #[test]
        fn a_restored_table_goes_on_as_the_original_would(steps: Vec<(bool, u8, u16)>, then: Vec<(bool, u8, u16)>) {
            let (mut live, _) = play(&steps);
            let mut restored: Table<u8, u16> = postcard::from_bytes(&bytes(&live)).unwrap();
            for (keep, key, value) in then {
                for table in [&mut live, &mut restored] {
                    if keep { table.insert(key, value); } else { table.remove(&key); }
                }
            }
            prop_assert_eq!(bytes(&live), bytes(&restored));
        }
    }
}
