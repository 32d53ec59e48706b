//! Who serves, and what leaves with a bond, as far as the logs of staking, market and scheduling know of each other: leases go
//! to nodes that may serve and to sessions that go on (E-6.1, E-10.2), and no node with a lease unbonds (E-6.5).

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Id, Principal, Time};
use holmes_proto::columns::ids;
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1 as staking;
use holmes_proto::staking::v1::NodeState;
use holmes_proto::staking::v1::event::Event as Staked;
use prost::bytes::Bytes;

use super::{Books, Heard, MARKET, SCHEDULING, STAKING, Seen, Wrong, asked_of_ledger, id, owner, raw};
use crate::world::EPOCH_S;

/// E-6.5: for so many days a compute node's bond stays.
const UNBONDING_DAYS: u64 = 14;
/// E-3.2: with fewer owners able to serve work counts a quarter.
const OWNERS_FOR_FULL: usize = 3;

/// Nodes, their leases and what unbonds of them.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<Id, Node>,
    /// By the place of their grants.
    leases: BTreeMap<Bytes, Lease>,
    /// Sessions, and which entry of the market's log has closed them.
    sessions: BTreeMap<Id, Option<u64>>,
    unbondings: BTreeMap<u64, Unbonding>,
    /// Nodes that staking has called tombstoned, behind which entry of its log.
    tombstoned: BTreeMap<Id, u64>,
    /// Models' prices and work a token, read and written, behind entries of the market's log.
    models: BTreeMap<String, BTreeMap<u64, [u64; 4]>>,
}

#[derive(Debug)]
struct Node {
    owner: Principal,
    /// Whether it may serve, behind which entries of staking's log.
    serves: BTreeMap<u64, bool>,
}

#[derive(Debug)]
struct Lease {
    node: Id,
    /// The entries of scheduling's log that have granted and ended it.
    granted: u64,
    ended: Option<u64>,
}

#[derive(Debug)]
struct Unbonding {
    node: Id,
    left: u64,
    ready_at: Time,
}

impl Nodes {
    /// Whose a node is.
    pub(super) fn owner(&self, node: Id) -> Option<Principal> {
        self.nodes.get(&node).map(|node| node.owner)
    }

    /// Whether a node may serve for who knows so much of staking's log.
    fn serves(&self, node: Id, known: u64) -> bool {
        let said = self.nodes.get(&node).and_then(|node| node.serves.range(..=known).next_back());
        said.is_some_and(|(_, serves)| *serves)
    }

    /// Whether who knows so much of staking's log may call a node tombstoned (E-6.1).
    pub(super) fn is_tombstoned(&self, node: Id, known: u64) -> bool {
        self.tombstoned.get(&node).is_some_and(|said| *said <= known)
    }

    /// E-6.5: what unbonds and was not paid long after its time. A day may pay as much as all bonds of a day here.
    pub(super) fn unpaid(&self, now: Time) -> impl Iterator<Item = String> + '_ {
        let late = move |unbonding: &&Unbonding| {
            unbonding.left > 0 && unbonding.ready_at.after_millis(2 * EPOCH_S * 1_000) < now
        };
        let late = self.unbondings.values().filter(late);
        late.map(|unbonding| format!("E-6.5: {} of node {} were not paid", unbonding.left, unbonding.node))
    }

    pub(super) fn staked(&mut self, seen: &Seen, event: Staked, books: &Books, heard: &Heard) -> Wrong {
        match event {
            Staked::NodeRegistered(e) => {
                let owner = owner(&e.owner);
                let serves = BTreeMap::from([(seen.first, false)]);
                self.nodes.insert(raw(&e.node), Node { owner, serves });
            }
            Staked::BondChanged(e) => {
                if e.state() == NodeState::Tombstoned {
                    self.tombstoned.entry(raw(&e.node)).or_insert(seen.first);
                }
                let serves = e.qualified && e.state() == NodeState::Active;
                if let Some(node) = self.nodes.get_mut(&raw(&e.node)) {
                    node.serves.insert(seen.first, serves);
                }
            }
            Staked::OwnerTombstoned(e) => {
                for node in ids(&e.nodes) {
                    self.tombstoned.entry(node).or_insert(seen.first);
                }
            }
            Staked::UnbondingStarted(e) => return self.unbonds(seen, &e, heard).into_iter().collect(),
            Staked::PayoutSent(e) => return self.paid_out(seen, &e, books).into_iter().collect(),
            Staked::PayoutMade(e) => {
                if let Some(unbonding) = self.unbondings.get_mut(&e.unbonding) {
                    unbonding.left = unbonding.left.saturating_sub(e.amount_units);
                }
            }
            _ => {}
        }
        Wrong::new()
    }

    /// E-6.5: its owner asks, no lease is open as far as staking can know, and the time is full.
    fn unbonds(&mut self, seen: &Seen, event: &staking::UnbondingStarted, heard: &Heard) -> Option<String> {
        let (node, known) = (raw(&event.node), heard.upto(STAKING, SCHEDULING));
        let ready_at = Time::from_micros(event.ready_at_us);
        let unbonding = Unbonding { node, left: event.amount_units, ready_at };
        self.unbondings.insert(event.unbonding, unbonding);
        let is_open = |lease: &&Lease| {
            lease.node == node && lease.granted <= known && lease.ended.is_none_or(|ended| ended > known)
        };
        if self.owner(node) != Some(seen.who) {
            return Some(format!("E-6.5: {} unbonds node {node}, which is not its own", seen.who));
        }
        if let Some(lease) = self.leases.values().find(is_open) {
            let granted = lease.granted;
            return Some(format!("E-6.5: node {node} unbonds with the lease of {granted} open"));
        }
        let due = seen.at.after_millis(UNBONDING_DAYS * EPOCH_S * 1_000);
        (ready_at != due).then(|| {
            format!("E-6.5: what unbonds of node {node} is ready at {ready_at:?}, its {UNBONDING_DAYS} days end at {due:?}")
        })
    }

    /// E-6.5: nothing is paid before its time, more than unbonds, or to anybody but the owner.
    fn paid_out(&mut self, seen: &Seen, event: &staking::PayoutSent, books: &Books) -> Option<String> {
        let Some(unbonding) = self.unbondings.get(&event.unbonding) else {
            return Some(format!("unbonding {} is paid and was not asked for", event.unbonding));
        };
        let (node, owner) = (unbonding.node, self.owner(unbonding.node));
        if seen.at < unbonding.ready_at {
            return Some(format!("E-6.5: an unbonding of node {node} is paid before its time"));
        }
        if event.amount_units > unbonding.left {
            return Some(format!(
                "E-6.5: of node {node}, {} unbond and {} are paid",
                unbonding.left, event.amount_units
            ));
        }
        let astray = |transfer: &holmes_proto::ledger::v1::Transfer| {
            books.owner(id(&transfer.credit_account_id)) != owner
                || transfer.amount_units != event.amount_units
        };
        let transfers = asked_of_ledger(&event.send);
        (transfers.len() != 1 || transfers.iter().any(astray))
            .then(|| format!("E-6.5: what unbonds of node {node} does not go to its owner"))
    }

    pub(super) fn sold(&mut self, seen: &Seen, event: &Sold) {
        match event {
            Sold::SessionFunded(e) => drop(self.sessions.entry(raw(&e.session)).or_default()),
            Sold::ModelPriced(e) => {
                let each = [e.input_pico_usd, e.output_pico_usd, e.input_micro_units, e.output_micro_units];
                self.models.entry(e.model.clone()).or_default().insert(seen.first, each);
            }
            Sold::SessionClosing(e) => self.closed(seen, &e.session),
            Sold::SessionClosed(e) => self.closed(seen, &e.session),
            _ => {}
        }
    }

    fn closed(&mut self, seen: &Seen, session: &[u8]) {
        self.sessions.entry(raw(session)).or_default().get_or_insert(seen.first);
    }

    pub(super) fn scheduled(&mut self, seen: &Seen, event: Placed, heard: &Heard) -> Wrong {
        match event {
            Placed::LeaseGranted(e) => return self.granted(seen, e, heard),
            Placed::LeaseEnded(e) => {
                if let Some(lease) = self.leases.get_mut(&e.lease) {
                    lease.ended = Some(seen.first);
                }
            }
            _ => {}
        }
        Wrong::new()
    }

    fn granted(&mut self, seen: &Seen, event: scheduling::LeaseGranted, heard: &Heard) -> Wrong {
        let mut wrong = Wrong::new();
        let (node, known) = (raw(&event.node), heard.upto(SCHEDULING, STAKING));
        let serves = |node: &Id| self.serves(*node, known);
        if !serves(&node) {
            wrong.push(format!("E-6.1: node {node} has a lease and may not serve"));
        }
        let able: BTreeSet<_> =
            self.nodes.iter().filter(|(id, _)| serves(id)).map(|(_, node)| node.owner).collect();
        if event.credit() == WorkCredit::Full && able.len() < OWNERS_FOR_FULL {
            wrong.push(format!("E-3.2: work counts in full with {} owners able", able.len()));
        }
        if (event.credit() == WorkCredit::None) != (event.renter == event.owner) {
            let credit = event.credit();
            wrong.push(format!("E-3.2: work for {} at node {node} is {credit:?}", owner(&event.renter)));
        }
        let known = heard.upto(SCHEDULING, MARKET);
        let each =
            [event.input_pico_usd, event.output_pico_usd, event.input_micro_units, event.output_micro_units];
        let priced = self.models.get(&event.model).and_then(|priced| priced.range(..=known).next_back());
        if priced.map(|(_, each)| *each) != Some(each) {
            wrong.push(format!("E-0.5: a lease of {} has {each:?} a token, not {priced:?}", event.model));
        }
        let goes_on =
            self.sessions.get(&raw(&event.session)).is_some_and(|closed| closed.is_none_or(|at| at > known));
        if !goes_on {
            wrong.push(format!("E-10.2: session {} has a lease and does not go on", raw(&event.session)));
        }
        if self.owner(node) != Some(owner(&event.owner)) {
            wrong.push(format!("a lease names another owner of node {node}"));
        }
        let lease = Lease { node, granted: seen.first, ended: None };
        self.leases.insert(event.lease, lease);
        wrong
    }
}
