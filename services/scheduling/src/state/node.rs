//! A node as scheduling knows it, and its place in the index.

use std::collections::BTreeSet;

use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Id, Principal, Time};
use serde::{Deserialize, Serialize};

use crate::matching::{Entry, Rank};
use crate::offer::{Offer, Served};

/// A compute node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Whose it is.
    pub owner: Principal,
    /// Ed25519.
    pub public_key: [u8; 32],
    /// Bonded as required, its hardware passed, and not jailed (staking).
    pub qualified: bool,
    /// When that last changed.
    pub qualified_at: Time,
    /// Its rating, milli-CU (staking).
    pub rating_milli_cu: u32,
    /// Required collateral, base units (staking).
    pub required: u64,
    /// What it declared when it last attached.
    pub offer: Option<Offer>,
    /// Where it can be reached.
    pub attached: Option<Attachment>,
    /// The question that its last attachment answered.
    pub nonce: [u8; 16],
    /// Its open leases, by the sequence number of their grants.
    pub leases: BTreeSet<u64>,
    /// Sequence number of its last lease; 0 for none.
    pub last_lease: u64,
    /// Sequence number of the event that last changed what the matcher sees of it.
    pub changed: u64,
}

/// Where a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The gateway.
    pub gateway: Id,
    /// Sequence number of its NodeAttached.
    pub generation: u64,
}

impl Node {
    /// A node that staking has made known.
    pub fn new(owner: Principal, public_key: [u8; 32]) -> Node {
        Node {
            owner,
            public_key,
            qualified: false,
            qualified_at: Time::default(),
            rating_milli_cu: 0,
            required: 0,
            offer: None,
            attached: None,
            nonce: [0; 16],
            leases: BTreeSet::new(),
            last_lease: 0,
            changed: 0,
        }
    }

    /// Slots in use: what is ending counts until it has ended.
    pub fn used(&self) -> u32 {
        self.leases.len() as u32 // at most as many as there are slots
    }

    /// Slots; 0 of a node that never attached.
    pub fn slots(&self) -> u32 {
        self.offer.as_ref().map_or(0, |offer| offer.slots)
    }

    /// The models that it serves now: none while it is not attached.
    pub fn serving(&self) -> &[Served] {
        match (&self.attached, &self.offer) {
            (Some(_), Some(offer)) => &offer.models,
            _ => &[],
        }
    }

    /// Whether it may be given a call.
    pub fn is_able(&self) -> bool {
        self.attached.is_some() && (self.qualified || is_off(Guard::Serves)) && self.used() < self.slots()
    }

    /// Its place in the order of choice; `None` while it is not able.
    pub fn rank(&self, id: Id, score: u32) -> Option<Rank> {
        let used = (self.used(), self.slots());
        self.is_able().then(|| Rank::new(id, used, score, self.rating_milli_cu, self.last_lease))
    }

    /// How the index of a model holds it.
    pub fn entry(&self, id: Id, class: u32, score: u32) -> Entry {
        let capacity = self.qualified.then_some((self.owner, u64::from(self.rating_milli_cu)));
        Entry { class, capacity, rank: self.rank(id, score) }
    }

    /// It may serve from now on, or not.
    pub fn qualify(&mut self, qualified: bool, now: Time) {
        if self.qualified != qualified {
            self.qualified = qualified;
            self.qualified_at = now;
        }
    }

    /// Whether it was qualified at a moment, as far as one change since can be told.
    pub fn was_qualified(&self, at: Time) -> bool {
        self.qualified != (self.qualified_at > at)
    }
}
