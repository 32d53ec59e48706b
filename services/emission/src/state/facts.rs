//! What the sources say of an epoch, node by node and owner by owner.

use holmes_kernel::Place;
use holmes_kernel::{Id, Principal, Table};
use serde::{Deserialize, Serialize};

use crate::command::WorkRow;

/// The facts of an epoch.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Every node of which anything is known; never removed, so a place is a cursor.
    pub rows: Table<Id, Row>,
    /// Owners that were paid for work, or whose nodes have a task reward; never removed.
    pub owners: Table<Principal, OwnerRow>,
    /// N: active nodes.
    pub active: u64,
    /// The token's price, micro-dollars for a whole one; `None` where there was none.
    pub price: Option<u64>,
    /// Work that counts in full, units.
    pub full: u128,
    /// Work that counts a quarter, units.
    pub quarter: u128,
}

/// A node in an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Work that counts in full, units.
    pub full: u128,
    /// Work that counts a quarter, units.
    pub quarter: u128,
    /// Beats in which it was seen.
    pub beats: u32,
    /// E-0.6.
    pub active: bool,
    /// E-4.6: of TRR and of BR.
    pub weights: [u128; 2],
    /// Its shares, base units: TRR after κ, and BR.
    pub shares: [u64; 2],
    /// What κ cut from its TRR, base units.
    pub cut: u64,
}

/// An owner in an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRow {
    /// Fees of work that counts in full, micro-dollars.
    pub fees_full: u128,
    /// Fees of other work, micro-dollars.
    pub fees_quarter: u128,
    /// Its nodes that weigh anything in TRR.
    pub nodes: Vec<Place>,
}

impl Facts {
    /// Work that was paid for.
    pub fn work(&mut self, work: &WorkRow) {
        let (units, fees) = (u128::from(work.units), u128::from(work.fees_micro_usd));
        let row = self.rows.get_or_insert_with(work.node, Row::default);
        let owner = self.owners.get_or_insert_with(work.owner, OwnerRow::default);
        let (of_node, of_owner, of_all) = if work.full {
            (&mut row.full, &mut owner.fees_full, &mut self.full)
        } else {
            (&mut row.quarter, &mut owner.fees_quarter, &mut self.quarter)
        };
        *of_node = of_node.saturating_add(units);
        *of_all = of_all.saturating_add(units);
        *of_owner = of_owner.saturating_add(fees);
    }

    /// Beats that were seen. What comes late is added: it counts in the epoch after its own.
    pub fn attendance(&mut self, node: Id, beats: u32, active: bool) {
        let row = self.rows.get_or_insert_with(node, Row::default);
        row.beats = row.beats.saturating_add(beats);
        self.active = self.active.saturating_add(u64::from(active && !row.active));
        row.active |= active;
    }
}
