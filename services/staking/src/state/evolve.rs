//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Amount, Id, Meta, Principal, Time};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{
    BondChanged, BondPosted, BondRefused, BondRequested, CollateralInputs, Event, HoldsOffered, LeasesNoted,
    NodeRegistered, NodeState, OwnerTombstoned, PayoutMade, PayoutRefused, PayoutSent, RecomputeStarted,
    RequiredRecomputed, UnbondingStarted,
};

use super::{Awaited, Class, Computed, Job, Node, Offer, Published, State, Unbonding, class_of};
use crate::collateral::Inputs;
use crate::params::{MOST_OFFERS_PER_NODE, Params};

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    state.begin_day(meta.ts);
    if state.seals_next == 0 {
        state.seals_next = state.params.calendar.epoch(meta.ts); // of what lies before, nobody knows anything here (E-0.5)
    }
    state.at = meta.ts;
    match &event.event {
        Some(Kind::VaultRequested(_)) => {
            state.vault.ask_at = None;
            state.awaited.insert(meta.seq, Awaited::Vault);
        }
        Some(Kind::VaultOpened(_)) => {
            state.forget_vault_request();
            state.vault.open = true;
        }
        Some(Kind::VaultRefused(e)) => {
            state.forget_vault_request();
            state.vault.refusals = state.vault.refusals.saturating_add(1);
            state.vault.ask_at = Some(Time::from_micros(e.retry_at_us));
        }
        Some(Kind::NodeRegistered(e)) => state.node_registered(e),
        Some(Kind::HoldsOffered(e)) => state.holds_offered(e),
        Some(Kind::BondRequested(e)) => state.bond_requested(e, meta),
        Some(Kind::BondPosted(e)) => state.bond_posted(e),
        Some(Kind::BondRefused(e)) => state.bond_refused(e),
        Some(Kind::BondChanged(e)) => state.bond_changed(e, meta.ts),
        Some(Kind::PayoutAccountSet(e)) => {
            state.change(&e.node, meta.ts, |node, _| node.payout = Id::from_slice(&e.account));
        }
        Some(Kind::UnbondingStarted(e)) => state.unbonding_started(e, meta.ts),
        Some(Kind::PayoutSent(e)) => state.payout_sent(e, meta),
        Some(Kind::PayoutMade(e)) => state.payout_made(e, meta.ts),
        Some(Kind::PayoutRefused(e)) => state.payout_refused(e),
        Some(Kind::OwnerTombstoned(e)) => state.owner_tombstoned(e, meta.ts),
        Some(Kind::RecomputeStarted(e)) => state.recompute_started(e, meta.ts),
        Some(Kind::RequiredRecomputed(e)) => state.required_recomputed(e, meta.ts),
        Some(Kind::EpochSealed(e)) => state.seals_next = e.epoch.saturating_add(1),
        Some(Kind::EmissionNoted(e)) => {
            state.emission = Some(Published {
                next_emission: Amount::new(e.next_emission_units),
                circulating: Amount::new(e.circulating_units),
            });
        }
        Some(Kind::LeasesNoted(e)) => state.leases_noted(e),
        None => {}
    }
}

/// The ids of a column.
pub(crate) fn ids(column: &[u8]) -> impl Iterator<Item = Id> + '_ {
    column.chunks_exact(16).filter_map(Id::from_slice)
}

impl State {
    /// E-6.5: the first event of a day finds every class as it stood at midnight.
    fn begin_day(&mut self, now: Time) {
        let day = self.params.calendar.day(now);
        for class in self.classes.iter_mut().filter(|class| day > class.day) {
            class.day = day;
            class.stake_at_midnight = class.stake();
            class.sent_today = 0;
        }
    }

    fn forget_vault_request(&mut self) {
        self.awaited.retain(|_, awaited| *awaited != Awaited::Vault);
    }

    /// Changes a node, and what is summed over nodes with it.
    fn change(&mut self, node: &[u8], now: Time, change: impl FnOnce(&mut Node, &Params)) {
        let Some(id) = Id::from_slice(node) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if let Some(at) = node.lapses_at {
            self.lapses.remove(&(at, id));
        }
        self.classes[class_of(node.kind())].without(node);
        change(node, &self.params);
        node.lapses_at = node.next_lapse(&self.params, now);
        self.classes[class_of(node.kind())].with(node);
        self.lapses.extend(node.lapses_at.map(|at| (at, id)));
    }

    fn node_registered(&mut self, event: &NodeRegistered) {
        let (Some(id), Some(owner)) = (Id::from_slice(&event.node), Principal::from_slice(&event.owner))
        else {
            return;
        };
        let Ok(key) = event.public_key.as_ref().try_into() else { return };
        let node = Node::registered(event, owner, key, self.base.units);
        // One that comes back has nothing bonded and nothing pending: it begins anew in its old place.
        if self.nodes.insert(id, node).is_none()
            && let Some(place) = self.nodes.place(&id)
        {
            self.owners.get_or_insert_with(owner, Default::default).nodes.push(place);
        }
    }

    fn holds_offered(&mut self, event: &HoldsOffered) {
        let columns = ids(&event.holds).zip(ids(&event.nodes)).zip(ids(&event.accounts));
        for (((hold, node), account), amount) in columns.zip(&event.amounts_units) {
            let Some(node) = self.nodes.get_mut(&node) else { continue };
            node.offer(Offer { hold, account, amount: *amount });
        }
    }

    fn bond_requested(&mut self, event: &BondRequested, meta: &Meta) {
        let ids = (Id::from_slice(&event.node), Id::from_slice(&event.hold), Id::from_slice(&event.account));
        let (Some(id), Some(hold), Some(account)) = ids else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.offers.retain(|offer| offer.hold != hold);
        node.pending = node.pending.saturating_add(1);
        let offer = Offer { hold, account, amount: event.amount_units };
        self.awaited.insert(meta.seq, Awaited::Bond { node: id, offer });
    }

    fn bond_posted(&mut self, event: &BondPosted) {
        self.awaited.remove(&event.cause_seq);
        self.vault.units = self.vault.units.saturating_add(event.amount_units);
        let Some(node) = Id::from_slice(&event.node).and_then(|id| self.nodes.get_mut(&id)) else { return };
        node.pending = node.pending.saturating_sub(1);
        node.bond_refused.clear();
        node.payout = node.payout.or(Id::from_slice(&event.account));
    }

    fn bond_refused(&mut self, event: &BondRefused) {
        let awaited = self.awaited.remove(&event.cause_seq);
        let Some(node) = Id::from_slice(&event.node).and_then(|id| self.nodes.get_mut(&id)) else { return };
        node.pending = node.pending.saturating_sub(1);
        node.bond_refused.clone_from(&event.reason);
        // What was not the hold's fault leaves it open, and its owner could not end it: it can be tried again.
        if let Some(Awaited::Bond { offer, .. }) = awaited
            && !event.reason.starts_with("HOLD_")
        {
            node.offer(offer);
        }
    }

    fn bond_changed(&mut self, event: &BondChanged, now: Time) {
        self.change(&event.node, now, |node, _| node.become_so(event));
    }

    fn unbonding_started(&mut self, event: &UnbondingStarted, now: Time) {
        let Some(id) = Id::from_slice(&event.node) else { return };
        let (number, ready_at) = (event.unbonding, Time::from_micros(event.ready_at_us));
        self.change(&event.node, now, |node, _| {
            node.payout = Id::from_slice(&event.account);
            node.unbondings.push(number);
        });
        self.last_unbonding = number;
        let unbonding = Unbonding {
            node: id,
            amount: event.amount_units,
            left: event.amount_units,
            ready_at,
            queued_at: None,
            paying: 0,
            refusals: 0,
            refused: String::new(),
        };
        self.unbondings.insert(number, unbonding);
        self.queue(number, ready_at);
    }

    /// The class of an unbonding's node, and the unbonding.
    fn leaving(&mut self, number: u64) -> Option<(&mut Class, &mut Unbonding)> {
        let unbonding = self.unbondings.get_mut(&number)?;
        let kind = self.nodes.get(&unbonding.node)?.kind();
        Some((&mut self.classes[class_of(kind)], unbonding))
    }

    fn queue(&mut self, number: u64, at: Time) {
        if let Some((class, unbonding)) = self.leaving(number) {
            unbonding.queued_at = Some(at);
            class.queue.insert((at, number));
        }
    }

    fn payout_sent(&mut self, event: &PayoutSent, meta: &Meta) {
        let number = event.unbonding;
        let Some((class, unbonding)) = self.leaving(number) else { return };
        if let Some(at) = unbonding.queued_at.take() {
            class.queue.remove(&(at, number));
        }
        unbonding.paying = event.amount_units;
        class.sent_today = class.sent_today.saturating_add(event.amount_units);
        let day = class.day;
        self.awaited.insert(meta.seq, Awaited::Payout { unbonding: number, day });
    }

    fn payout_made(&mut self, event: &PayoutMade, now: Time) {
        self.awaited.remove(&event.cause_seq);
        self.vault.units = self.vault.units.saturating_sub(event.amount_units);
        let number = event.unbonding;
        let Some((_, unbonding)) = self.leaving(number) else { return };
        unbonding.left = unbonding.left.saturating_sub(event.amount_units);
        unbonding.paying = 0;
        unbonding.refusals = 0;
        unbonding.refused.clear();
        if unbonding.left > 0 {
            let ready_at = unbonding.ready_at; // its old place: the rest is the first to leave tomorrow
            self.queue(number, ready_at);
        } else {
            self.unbondings.remove(&number);
            self.change(&event.node, now, |node, _| node.unbondings.retain(|known| *known != number));
        }
    }

    fn payout_refused(&mut self, event: &PayoutRefused) {
        let awaited = self.awaited.remove(&event.cause_seq);
        let number = event.unbonding;
        let Some((class, unbonding)) = self.leaving(number) else { return };
        if matches!(awaited, Some(Awaited::Payout { day, .. }) if day == class.day) {
            class.sent_today = class.sent_today.saturating_sub(unbonding.paying);
        }
        unbonding.paying = 0;
        unbonding.refusals = unbonding.refusals.saturating_add(1);
        unbonding.refused.clone_from(&event.reason);
        self.queue(number, Time::from_micros(event.retry_at_us));
    }

    fn owner_tombstoned(&mut self, event: &OwnerTombstoned, now: Time) {
        let Some(owner) = Principal::from_slice(&event.owner) else { return };
        self.owners.get_or_insert_with(owner, Default::default).tombstoned = true;
        for id in ids(&event.nodes) {
            self.change(&id.to_bytes(), now, |node, _| {
                *node = node.clone().at(NodeState::Tombstoned);
                node.note.clone_from(&event.cause);
            });
        }
    }

    fn recompute_started(&mut self, event: &RecomputeStarted, now: Time) {
        self.base.units = Amount::new(event.base_units);
        let inputs = event.inputs.as_ref().map(inputs_of).unwrap_or_default();
        let formula = Amount::new(event.formula_units);
        self.base.computed = Some(Computed { inputs, formula, at: now, period: event.period });
        let job = Job { next: 0, end: event.nodes, rise_at: Time::from_micros(event.rise_at_us) };
        self.base.job = (event.nodes > 0).then_some(job);
    }

    fn leases_noted(&mut self, event: &LeasesNoted) {
        let rows = event.grants.iter().zip(ids(&event.nodes)).zip(&event.granted_until_us);
        for ((grant, node), until) in rows {
            let leases = self.leases.entry(node).or_default();
            match until {
                0 => leases.remove(grant),
                until => leases.insert(*grant, Time::from_micros(*until)),
            };
            if leases.is_empty() {
                self.leases.remove(&node);
            }
        }
    }

    fn required_recomputed(&mut self, event: &RequiredRecomputed, now: Time) {
        let (Some(mut job), base) = (self.base.job, self.base.units) else { return };
        for id in ids(&event.nodes) {
            self.change(&id.to_bytes(), now, |node, _| node.bases.set(base, now, job.rise_at));
            job.next = job.next.saturating_add(1);
        }
        self.base.job = (job.next < job.end).then_some(job);
    }
}

impl Node {
    /// Keeps an offer; the oldest one gives way.
    fn offer(&mut self, offer: Offer) {
        if self.offers.len() >= MOST_OFFERS_PER_NODE {
            self.offers.pop_front();
        }
        self.offers.push_back(offer);
    }
}

impl Class {
    fn with(&mut self, node: &Node) {
        self.bonds = self.bonds.saturating_add(node.bond);
        self.unbonding = self.unbonding.saturating_add(node.unbonding);
        if node.counts() {
            self.active = self.active.saturating_add(1);
            self.active_milli_cu = self.active_milli_cu.saturating_add(node.rating_milli_cu.into());
        }
    }

    fn without(&mut self, node: &Node) {
        self.bonds = self.bonds.saturating_sub(node.bond);
        self.unbonding = self.unbonding.saturating_sub(node.unbonding);
        if node.counts() {
            self.active = self.active.saturating_sub(1);
            self.active_milli_cu = self.active_milli_cu.saturating_sub(node.rating_milli_cu.into());
        }
    }
}

fn inputs_of(wire: &CollateralInputs) -> Inputs {
    Inputs {
        next_emission: Amount::new(wire.next_emission_units),
        circulating: Amount::new(wire.circulating_units),
        bonded: Amount::new(wire.bonded_units),
        nodes: wire.nodes,
        network_milli_cu: wire.network_milli_cu,
        bonded_share: holmes_kernel::Ratio::from_ppb(wire.bonded_share_ppb),
        reward_days: wire.reward_days,
        target_nodes: wire.target_nodes,
        target_milli_cu: wire.target_milli_cu,
    }
}
