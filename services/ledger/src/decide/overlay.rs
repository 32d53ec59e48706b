//! What a batch would have changed so far. The state itself stays as it is: balances and holds are copied on their
//! first change, and a chain that fails takes its changes back by an undo log.

use holmes_kernel::Place;
use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Id, Table};
use holmes_proto::ledger::v1::TransferCode;

use crate::rows::Row;
use crate::state::{Account, Balance, Hold, State};

pub(super) struct Overlay<'a> {
    state: &'a State,
    balances: Table<Place, Balance>,
    /// Holds opened (`Some`) or ended (`None`) by this batch.
    holds: Table<Id, Option<Hold>>,
    /// What became of this batch's transfers.
    seen: Table<Id, Seen>,
    undo: Vec<Undo>,
    /// Whether changes may have to be taken back.
    records: bool,
}

/// What became of a transfer, as far as a repetition must know.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) digest: u64,
    pub(super) amount: u64,
    pub(super) code: TransferCode,
}

enum Undo {
    Balance(Place, Balance),
    Hold(Id, Option<Option<Hold>>),
    Seen(Id),
}

impl<'a> Overlay<'a> {
    pub(super) fn new(state: &'a State) -> Overlay<'a> {
        Overlay {
            state,
            balances: Table::new(),
            holds: Table::new(),
            seen: Table::new(),
            undo: Vec::new(),
            records: false,
        }
    }

    /// The account at a place, and what would be in it now.
    pub(super) fn account(&self, place: Place) -> Option<(&'a Account, Balance)> {
        let (_, account) = self.state.accounts.at(place)?;
        Some((account, self.balances.get(&place).copied().unwrap_or(account.balance)))
    }

    pub(super) fn set(&mut self, place: Place, balance: Balance) {
        let before = self.balances.insert(place, balance);
        if self.records {
            let stored = || self.state.accounts.at(place).map(|(_, account)| account.balance);
            self.undo.extend(before.or_else(stored).map(|before| Undo::Balance(place, before)));
        }
    }

    /// Lets a balance that nobody has limited change.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut Balance)) {
        if let Some((_, mut balance)) = self.account(place) {
            change(&mut balance);
            self.set(place, balance);
        }
    }

    /// The hold, if it would be open now.
    pub(super) fn hold(&self, id: Id) -> Option<Hold> {
        match self.holds.get(&id) {
            Some(changed) => *changed,
            None => self.state.holds.get(&id).copied(),
        }
    }

    /// Whether this batch ended the hold.
    pub(super) fn has_ended(&self, id: Id) -> bool {
        matches!(self.holds.get(&id), Some(None))
    }

    /// Open holds, at most.
    pub(super) fn most_holds(&self) -> usize {
        self.state.holds.len() + self.holds.len()
    }

    pub(super) fn set_hold(&mut self, id: Id, hold: Option<Hold>) {
        if hold.is_none() && is_off(Guard::Hold) {
            return;
        }
        let before = self.holds.insert(id, hold);
        if self.records {
            self.undo.push(Undo::Hold(id, before));
        }
    }

    /// What became of a transfer of this batch.
    pub(super) fn seen(&self, id: Id) -> Option<Seen> {
        self.seen.get(&id).copied()
    }

    pub(super) fn remember(&mut self, row: &Row) {
        self.seen.insert(row.id, Seen { digest: row.digest, amount: row.amount, code: row.code });
        if self.records {
            self.undo.push(Undo::Seen(row.id));
        }
    }

    /// From now on changes can be taken back.
    pub(super) fn begin(&mut self) {
        self.records = true;
    }

    /// The changes since [`Overlay::begin`] stay.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
        self.records = false;
    }

    /// The changes since [`Overlay::begin`] never were.
    pub(super) fn take_back(&mut self) {
        self.records = false;
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Balance(place, before) => {
                    self.balances.insert(place, before);
                }
                Undo::Hold(id, Some(before)) => {
                    self.holds.insert(id, before);
                }
                Undo::Hold(id, None) => {
                    self.holds.remove(&id);
                }
                Undo::Seen(id) => {
                    self.seen.remove(&id);
                }
            }
        }
    }
}
