//! The pages of the cache: who holds them, and which hold a prefix that may serve again.

use std::collections::{BTreeMap, HashMap};

use crate::backend::PageId;

/// The hash of a page's tokens and of all tokens before it.
pub(super) type Hash = [u8; 32];

/// What the chains of a tenant start from: no other tenant's prompt can hit them, or be timed against them.
pub(super) fn root(tenant: &[u8]) -> Hash {
    blake3::derive_key("holmes-engine prefix cache v1", tenant)
}

/// The hash of a full page after `parent`.
pub(super) fn chain(parent: &Hash, tokens: &[u32]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parent);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A page's state.
#[derive(Clone, Default)]
struct Page {
    holders: usize,
    /// Set while the page can be found.
    hash: Option<Hash>,
    /// When it was last let go; the key in `idle`.
    released: u64,
}

/// All pages.
pub(super) struct Pages {
    pages: Vec<Page>,
    /// Not held, nothing worth keeping.
    free: Vec<PageId>,
    /// Not held, findable; the least recently released first.
    idle: BTreeMap<u64, PageId>,
    found_by: HashMap<Hash, PageId>,
    clock: u64,
}

impl Pages {
    pub(super) fn new(count: usize) -> Pages {
        Pages {
            pages: vec![Page::default(); count],
            free: (0..count as u32).rev().map(PageId).collect(),
            idle: BTreeMap::new(),
            found_by: HashMap::new(),
            clock: 0,
        }
    }

    /// Pages that nobody holds.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// A page to write; forgets the prefix that was not used for the longest time if it must.
    pub(super) fn take(&mut self) -> Option<PageId> {
        let page = self.free.pop().or_else(|| {
            let (_, page) = self.idle.pop_first()?;
            let hash = self.pages[page.0 as usize].hash.take()?;
            self.found_by.remove(&hash);
            Some(page)
        })?;
        self.pages[page.0 as usize].holders = 1;
        Some(page)
    }

    /// The pages of the longest known prefix, now held.
    pub(super) fn find(&mut self, hashes: &[Hash]) -> Vec<PageId> {
        let known = hashes.iter().map_while(|hash| self.found_by.get(hash).copied());
        let found: Vec<PageId> = known.collect();
        for id in &found {
            let page = &mut self.pages[id.0 as usize];
            if page.holders == 0 {
                self.idle.remove(&page.released);
            }
            page.holders += 1;
        }
        found
    }

    /// Makes a full, computed page findable. Where another page has the same prefix already, that one serves.
    pub(super) fn publish(&mut self, page: PageId, hash: Hash) {
        let state = &mut self.pages[page.0 as usize];
        if state.hash.is_none() && !self.found_by.contains_key(&hash) {
            state.hash = Some(hash);
            self.found_by.insert(hash, page);
        }
    }

    /// Lets a sequence's pages go, the last first: a prefix is of use without its end, not the other way round.
    pub(super) fn release(&mut self, pages: &[PageId]) {
        for &id in pages.iter().rev() {
            let page = &mut self.pages[id.0 as usize];
            page.holders -= 1;
            if page.holders > 0 {
                continue;
            }
            if page.hash.is_some() {
                self.clock += 1;
                page.released = self.clock;
                self.idle.insert(self.clock, id);
            } else {
                self.free.push(id);
            }
        }
    }
}
