//! What a table is made of, so that it grows to tens of millions of rows without a pause: a slab in pieces that are never
//! moved, and an index in parts of which one at a time is made anew.

use std::ops;

use hashbrown::HashTable;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::Place;

/// Rows of a piece.
const PIECE: usize = 1 << 12;
/// From so many rows on an index has [`PARTS`]: to make one with so many anew takes a few milliseconds.
const SPLIT: usize = 1 << 16;
const PARTS: usize = 1 << 8;

/// A vector that does not move what it holds once it is longer than a piece.
pub(super) struct Slab<T> {
    /// All full but the last.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { pieces: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    pub(super) fn get(&self, place: Place) -> Option<&T> {
        self.pieces.get(place as usize / PIECE)?.get(place as usize % PIECE)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.pieces.get_mut(place as usize / PIECE)?.get_mut(place as usize % PIECE)
    }

    pub(super) fn push(&mut self, value: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(value),
            // Most tables are small: the first piece grows as any vector.
            None => self.pieces.push(vec![value]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(value);
                self.pieces.push(piece);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }
}

impl<T> ops::Index<Place> for Slab<T> {
    type Output = T;

    fn index(&self, place: Place) -> &T {
        &self.pieces[place as usize / PIECE][place as usize % PIECE]
    }
}

impl<T> ops::IndexMut<Place> for Slab<T> {
    fn index_mut(&mut self, place: Place) -> &mut T {
        &mut self.pieces[place as usize / PIECE][place as usize % PIECE]
    }
}

/// As a vector is written.
impl<T: Serialize> Serialize for Slab<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut seq = s.serialize_seq(Some(self.len()))?;
        self.iter().try_for_each(|value| seq.serialize_element(value))?;
        seq.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Slab<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Slab<T>, D::Error> {
        d.deserialize_seq(Values(Slab::default()))
    }
}

struct Values<T>(Slab<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
    type Value = Slab<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the slots of a table")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Slab<T>, A::Error> {
        while let Some(value) = seq.next_element()? {
            self.0.push(value);
        }
        Ok(self.0)
    }
}

/// Places by their rows' hashes.
#[derive(Default)]
pub(super) struct Index {
    /// All of them, until there are [`SPLIT`].
    whole: HashTable<Place>,
    /// Then [`PARTS`], by eight bits of the hash that the parts themselves make no use of.
    parts: Vec<HashTable<Place>>,
    len: usize,
}

impl Index {
    /// Of so many rows to come.
    pub(super) fn with_capacity(rows: usize) -> Index {
        if rows < SPLIT {
            return Index { whole: HashTable::with_capacity(rows), ..Index::default() };
        }
        let each = rows / PARTS + rows / PARTS / 8; // hashes do not spread evenly to the row
        Index { parts: (0..PARTS).map(|_| HashTable::with_capacity(each)).collect(), ..Index::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn part(&self, hash: u64) -> &HashTable<Place> {
        self.parts.get((hash >> 48) as usize % PARTS).unwrap_or(&self.whole)
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<Place> {
        self.parts.get_mut((hash >> 48) as usize % PARTS).unwrap_or(&mut self.whole)
    }

    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(Place) -> bool) -> Option<Place> {
        self.part(hash).find(hash, |place| is_it(*place)).copied()
    }

    /// Takes in a place that is not there.
    pub(super) fn insert(&mut self, hash: u64, place: Place, hash_of: impl Fn(Place) -> u64) {
        if self.parts.is_empty() && self.len >= SPLIT {
            self.split(&hash_of);
        }
        self.part_mut(hash).insert_unique(hash, place, |place| hash_of(*place));
        self.len += 1;
    }

    pub(super) fn remove(&mut self, hash: u64, mut is_it: impl FnMut(Place) -> bool) -> Option<Place> {
        let (place, _) = self.part_mut(hash).find_entry(hash, |place| is_it(*place)).ok()?.remove();
        self.len -= 1;
        Some(place)
    }

    fn split(&mut self, hash_of: impl Fn(Place) -> u64) {
        let before = std::mem::replace(self, Index::with_capacity(2 * SPLIT));
        for place in before.whole {
            let hash = hash_of(place);
            self.part_mut(hash).insert_unique(hash, place, |place| hash_of(*place));
        }
        self.len = before.len;
    }
}
