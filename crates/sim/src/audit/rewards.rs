//! What the network pays its nodes: pools that run down (E-4.1 to E-4.7), work that weighs by its factor and the collateral
//! behind it (E-0.6, E-3.2, E-4.6), κ (E-3.2), grants and what an early exit burns (E-5), and whom all that is paid to.

mod close;
mod grants;

use std::collections::BTreeMap;

use holmes_kernel::{Id, Principal};
use holmes_proto::columns::ids;
use holmes_proto::emission::v1::event::Event as Emitted;
use holmes_proto::emission::v1::{
    AttendanceNoted, NodeNoted, PaymentsAnswered, PaymentsSent, PriceNoted, WorkNoted,
};
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1::NodeKind;

use close::Close;
use grants::Clocks;

use super::{
    EMISSION, Heard, MARKET, Others, SCHEDULING, STAKING, Seen, Wrong, asked_of_ledger, id, owner, owners,
    raw,
};

/// What every pool has left, and what every node was promised.
#[derive(Debug, Default)]
pub(super) struct Rewards {
    /// Facts by the epoch that they count in.
    facts: BTreeMap<u64, Facts>,
    nodes: BTreeMap<Id, Node>,
    /// The price of the token last heard of, micro-dollars.
    price: u64,
    close: Option<Close>,
    /// What the last close has left: of each pool, and what was scheduled.
    pools: close::Pools,
    /// Payments that the ledger has not answered.
    asked: BTreeMap<u64, Vec<(Id, u64)>>,
    /// The last epoch whose close has begun.
    last: u64,
    /// Of which epoch work, presence and prices were said, behind which entries of their logs.
    work: Epochs,
    presence: Epochs,
    priced: Epochs,
    /// Prices behind the same entries.
    prices: BTreeMap<u64, u64>,
}

/// Epochs by the entries of a log that speak of them.
type Epochs = BTreeMap<u64, u64>;

/// What was said last before who knows so much of a log.
fn last(said: &BTreeMap<u64, u64>, known: u64) -> Option<u64> {
    said.range(..=known).next_back().map(|(_, said)| *said)
}

/// What counts in an epoch.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// Units in full and a quarter, by node.
    work: BTreeMap<Id, [u128; 2]>,
    /// Fees of the two, by owner, micro-dollars.
    fees: BTreeMap<Principal, [u128; 2]>,
    /// Beats, and whether it was active.
    seen: BTreeMap<Id, (u32, bool)>,
    price: Option<u64>,
}

#[derive(Debug)]
struct Node {
    owner: Principal,
    compute: bool,
    barred: bool,
    stands: Vec<Stand>,
    clocks: Clocks,
    /// Promised and paid, base units.
    owed: u128,
    paid: u128,
}

/// How a node stands from an epoch on.
#[derive(Clone, Copy, Debug, Default)]
struct Stand {
    epoch: u64,
    /// The least of that epoch.
    least: u64,
    slashable: u64,
    required: u64,
    rating: u32,
}

impl Node {
    fn stand(&self, epoch: u64) -> Stand {
        match self.stands.iter().rev().find(|stand| stand.epoch <= epoch) {
            Some(stand) if stand.epoch == epoch => *stand,
            Some(stand) => Stand { epoch, least: stand.slashable, ..*stand },
            None => Stand { epoch, ..Stand::default() },
        }
    }

    fn stands(&mut self, epoch: u64, change: impl FnOnce(&mut Stand)) {
        let epoch = self.stands.last().map_or(epoch, |last| last.epoch.max(epoch));
        let mut stand = self.stand(epoch);
        change(&mut stand);
        stand.least = stand.least.min(stand.slashable);
        self.stands.retain(|stand| stand.epoch < epoch);
        self.stands.push(stand);
    }
}

/// E-5.2: only a tombstone takes from a node what it has earned, and staking has said so.
fn lost(node: Id, others: &Others<'_>) -> Option<String> {
    let known = others.heard.upto(EMISSION, STAKING);
    (!others.nodes.is_tombstoned(node, known))
        .then(|| format!("E-5.2: node {node} loses its rewards, and staking knows of no tombstone"))
}

impl Rewards {
    /// What scheduling says of presence.
    pub(super) fn attended(&mut self, seen: &Seen, event: &Placed) {
        if let Placed::EpochAttendance(e) = event {
            self.presence.insert(seen.first, e.epoch);
        }
    }

    /// What the market says of work and of the price.
    pub(super) fn sold(&mut self, seen: &Seen, event: &Sold) {
        if let Sold::PriceSealed(e) = event {
            self.priced.insert(seen.first, e.epoch);
            self.prices.insert(seen.first, e.token_price_micro_usd);
        }
        if let Sold::Settled(e) = event {
            self.work.insert(seen.first, e.epoch);
        }
    }

    /// What nodes were promised and not paid.
    pub(super) fn unpaid(&self) -> impl Iterator<Item = String> + '_ {
        let left = self.nodes.iter().filter(|(_, node)| node.owed > node.paid);
        left.map(|(id, node)| format!("E-5.1: node {id} is owed {} and was paid {}", node.owed, node.paid))
    }

    /// E-0.5: a fact counts in the epoch of which it was said, or in the first that is open.
    fn counts(&self, said: Option<u64>, epoch: u64) -> Option<String> {
        let said = said.map(|said| said.max(self.last + 1));
        (said != Some(epoch)).then(|| format!("E-0.5: what is of epoch {said:?} counts in {epoch}"))
    }

    pub(super) fn emitted(&mut self, seen: &Seen, event: Emitted, others: &Others<'_>) -> Wrong {
        match event {
            Emitted::NodeNoted(e) => return self.node_noted(&e, others),
            Emitted::RequiredNoted(e) => {
                for (id, required) in ids(&e.nodes).zip(&e.required_units) {
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.stands(e.epoch, |stand| stand.required = *required);
                    }
                }
            }
            Emitted::NodesBarred(e) => {
                for id in ids(&e.nodes) {
                    self.nodes.get_mut(&id).into_iter().for_each(|node| node.barred = true);
                }
                return ids(&e.nodes).filter_map(|id| lost(id, others)).collect();
            }
            Emitted::LockedBurned(e) => return ids(&e.nodes).filter_map(|id| lost(id, others)).collect(),
            Emitted::WorkNoted(e) => return self.work_noted(&e, others.heard),
            Emitted::AttendanceNoted(e) => return self.attendance_noted(&e, others.heard),
            Emitted::PriceNoted(e) => return self.price_noted(&e, others.heard),
            Emitted::CloseBegun(e) => return self.begun(e.epoch),
            Emitted::NodesWeighed(e) => return self.weighed(&e),
            Emitted::SharesFloored(e) => self.close.iter_mut().for_each(|close| close.floored(&e)),
            Emitted::SharesRounded(e) => self.close.iter_mut().for_each(|close| close.rounded(&e)),
            Emitted::OwnerCut(e) => self.close.iter_mut().for_each(|close| close.cut(&e)),
            Emitted::EpochClosed(e) => return self.closed(&e),
            Emitted::RewardsGranted(e) => return self.granted(&e),
            Emitted::GrantsUnlocked(e) => return self.unlocked(&e),
            Emitted::CloseEnded(_) => return self.still_locked(),
            Emitted::GrantExited(e) => return self.exited(seen, &e),
            Emitted::PaymentsSent(e) => return self.pays(seen, &e, others),
            Emitted::PaymentsAnswered(e) => self.answered(&e),
            _ => {}
        }
        Wrong::new()
    }

    fn node_noted(&mut self, event: &NodeNoted, others: &Others<'_>) -> Wrong {
        let new = || Node {
            owner: owner(&event.owner),
            compute: true,
            barred: false,
            stands: Vec::new(),
            clocks: Clocks::default(),
            owed: 0,
            paid: 0,
        };
        let node = self.nodes.entry(raw(&event.node)).or_insert_with(new);
        node.compute = event.kind() == NodeKind::Compute;
        node.barred |= event.barred;
        node.stands(event.epoch, |stand| {
            stand.slashable = event.slashable_units;
            stand.required = event.required_units;
            stand.rating = event.rating_milli_cu;
        });
        event.barred.then(|| lost(raw(&event.node), others)).flatten().into_iter().collect()
    }

    fn work_noted(&mut self, event: &WorkNoted, heard: &Heard) -> Wrong {
        let rows = ids(&event.nodes).zip(owners(&event.owners)).zip(event.credits());
        for (((id, owner), credit), (units, fees)) in rows.zip(event.units.iter().zip(&event.fees_micro_usd))
        {
            let (facts, at) =
                (self.facts.entry(event.epoch).or_default(), usize::from(credit != WorkCredit::Full));
            facts.work.entry(id).or_default()[at] += u128::from(*units);
            facts.fees.entry(owner).or_default()[at] += u128::from(*fees);
        }
        self.counts(last(&self.work, heard.upto(EMISSION, MARKET)), event.epoch).into_iter().collect()
    }

    fn attendance_noted(&mut self, event: &AttendanceNoted, heard: &Heard) -> Wrong {
        for ((id, beats), active) in ids(&event.nodes).zip(&event.beats_seen).zip(&event.active) {
            let seen = self.facts.entry(event.epoch).or_default().seen.entry(id).or_default();
            *seen = (seen.0 + beats, seen.1 || *active);
        }
        self.counts(last(&self.presence, heard.upto(EMISSION, SCHEDULING)), event.epoch).into_iter().collect()
    }

    /// E-3.2: the price that bounds rewards is the one that the market has sealed.
    fn price_noted(&mut self, event: &PriceNoted, heard: &Heard) -> Wrong {
        let (price, known) = (event.token_price_micro_usd, heard.upto(EMISSION, MARKET));
        self.facts.entry(event.epoch).or_default().price = Some(price);
        let sealed = last(&self.prices, known);
        let other =
            (sealed != Some(price)).then(|| format!("E-3.2: the price is {price}, sealed was {sealed:?}"));
        other.into_iter().chain(self.counts(last(&self.priced, known), event.epoch)).collect()
    }

    /// E-0.5: epochs close in order.
    fn begun(&mut self, epoch: u64) -> Wrong {
        let wrong =
            (epoch != self.last + 1).then(|| format!("E-0.5: epoch {epoch} closes behind {}", self.last));
        self.last = epoch;
        let facts = self.facts.remove(&epoch).unwrap_or_default();
        self.price = facts.price.unwrap_or(self.price);
        self.close = Some(Close::begin(epoch, facts, self.price));
        wrong.into_iter().collect()
    }

    fn answered(&mut self, event: &PaymentsAnswered) {
        let payments = self.asked.remove(&event.cause_seq).unwrap_or_default();
        for ((id, units), _) in payments.iter().zip(&event.reasons).filter(|(_, reason)| reason.is_empty()) {
            self.nodes.get_mut(id).into_iter().for_each(|node| node.paid += u128::from(*units));
        }
    }

    /// What is paid is owed, and goes to the node's owner.
    fn pays(&mut self, seen: &Seen, event: &PaymentsSent, others: &Others<'_>) -> Wrong {
        let mut wrong = Wrong::new();
        let transfers = asked_of_ledger(&event.send);
        if transfers.len() != event.units.len() {
            wrong.push(format!(
                "{} payments are asked for by {} transfers",
                event.units.len(),
                transfers.len()
            ));
        }
        for ((node, units), transfer) in ids(&event.nodes).zip(&event.units).zip(&transfers) {
            let account = id(&transfer.credit_account_id);
            let (to, named) = (others.books.owner(account), others.seams.payout(node) == Some(account));
            if to.is_none() || to != others.nodes.owner(node) || !named || transfer.amount_units != *units {
                wrong.push(format!("E-5.1: {units} of node {node} are paid to {to:?} by {transfer:?}"));
            }
            let left = self.nodes.get(&node).map_or(0, |node| node.owed.saturating_sub(node.paid));
            if u128::from(*units) > left {
                wrong.push(format!("E-5.1: node {node} is owed {left} and paid {units}"));
            }
        }
        self.asked.insert(seen.first, ids(&event.nodes).zip(event.units.iter().copied()).collect());
        wrong
    }
}
