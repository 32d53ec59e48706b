//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Amount, Id, Meta, Principal, Time};
use holmes_proto::columns::{ids, wide};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{
    AttendanceNoted, EpochClosed, Event, GrantExited, GrantsUnlocked, LockedBurned, NodeNoted, NodesBarred,
    NodesWeighed, OwnerCut, RequiredNoted, RewardsGranted, SharesFloored, SharesRounded, WorkNoted,
};
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::staking::v1::NodeKind;
use prost::Message;

use super::{Account, BR, Closed, Closing, Facts, Grant, Legs, Move, Node, Phase, State, TRR};
use crate::command::WorkRow;
use crate::params::Params;
use crate::vesting;

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    if state.next == 0 {
        state.next = state.params.calendar.epoch(meta.ts); // what lies before has no facts here
    }
    state.at = meta.ts;
    match &event.event {
        Some(Kind::NodeNoted(e)) => state.node_noted(e, meta.ts),
        Some(Kind::RequiredNoted(e)) => state.required_noted(e),
        Some(Kind::PayoutNoted(e)) => {
            state.payout_noted(Id::from_slice(&e.node), Id::from_slice(&e.account), meta.ts)
        }
        Some(Kind::NodesBarred(e)) => state.nodes_barred(e),
        Some(Kind::WorkNoted(e)) => state.facts(e.epoch).work_noted(e),
        Some(Kind::AttendanceNoted(e)) => state.facts(e.epoch).attendance_noted(e),
        Some(Kind::PriceNoted(e)) => state.facts(e.epoch).price = Some(e.token_price_micro_usd),
        Some(Kind::SourceSealed(e)) => state.sealed(e.service, e.epoch),
        Some(Kind::SourceSkipped(e)) => state.sealed(e.service, e.epoch),
        Some(Kind::CloseBegun(e)) => state.close_begun(e.epoch),
        Some(Kind::EpochClosed(e)) => state.epoch_closed(e, meta.ts),
        Some(Kind::LockedBurned(e)) => state.locked_burned(e, meta.ts),
        Some(Kind::GrantExited(e)) => state.grant_exited(e, meta.ts),
        Some(Kind::CloseEnded(e)) => state.close_ended(e.epoch, meta.ts),
        Some(
            Kind::NodesWeighed(_)
            | Kind::SharesFloored(_)
            | Kind::SharesRounded(_)
            | Kind::OwnerCut(_)
            | Kind::OwnersChecked(_)
            | Kind::RewardsGranted(_)
            | Kind::GrantsUnlocked(_),
        ) => state.stepped(event, meta.ts),
        _ => state.moved(event, meta),
    }
}

/// The numbers of a column.
pub(crate) fn wides(column: &[u8]) -> impl Iterator<Item = u128> + '_ {
    column.chunks_exact(16).filter_map(wide)
}

impl Facts {
    fn work_noted(&mut self, event: &WorkNoted) {
        let owners = event.owners.chunks_exact(17).filter_map(Principal::from_slice);
        let numbers = event.units.iter().zip(&event.fees_micro_usd);
        for (((node, owner), credit), (units, fees)) in
            ids(&event.nodes).zip(owners).zip(&event.credits).zip(numbers)
        {
            let full = *credit == WorkCredit::Full as i32;
            self.work(&WorkRow { node, owner, full, units: *units, fees_micro_usd: *fees });
        }
    }

    fn attendance_noted(&mut self, event: &AttendanceNoted) {
        for ((node, beats), active) in ids(&event.nodes).zip(&event.beats_seen).zip(&event.active) {
            self.attendance(node, *beats, *active);
        }
    }
}

impl State {
    fn facts(&mut self, epoch: u64) -> &mut Facts {
        self.open.entry(epoch).or_default()
    }

    fn sealed(&mut self, service: u32, epoch: u64) {
        let of = |source: &&mut super::Source| u32::from(source.service.0) == service;
        if let Some(source) = self.sources.iter_mut().find(of) {
            source.sealed = source.sealed.max(epoch);
        }
    }

    fn node_noted(&mut self, event: &NodeNoted, now: Time) {
        let (Some(id), Some(owner)) = (Id::from_slice(&event.node), Principal::from_slice(&event.owner))
        else {
            return;
        };
        let compute = event.kind == NodeKind::Compute as i32;
        if !self.nodes.contains(&id) {
            self.nodes.insert(id, Node::new(owner, compute));
            let places = self.nodes.place(&id);
            self.owners.get_or_insert_with(owner, Vec::new).extend(places);
        }
        let next = self.next;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.compute = compute;
        node.barred |= event.barred;
        node.is_named &= !event.registered;
        node.stands_now(event.epoch, next, |stand| {
            stand.slashable = event.slashable_units;
            stand.required = event.required_units;
            stand.rating_milli_cu = event.rating_milli_cu;
        });
        if node.barred && !node.grants.is_empty() {
            self.barred.insert(id);
        }
        self.queue(id, now);
    }

    fn required_noted(&mut self, event: &RequiredNoted) {
        for (id, required) in ids(&event.nodes).zip(&event.required_units) {
            let next = self.next;
            if let Some(node) = self.nodes.get_mut(&id) {
                node.stands_now(event.epoch, next, |stand| stand.required = *required);
            }
        }
    }

    fn payout_noted(&mut self, node: Option<Id>, account: Option<Id>, now: Time) {
        let (Some(id), Some(account)) = (node, account) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.payout = Some(account);
        node.is_named = true;
        if let Some(at) = node.pays_at.take() {
            self.payable.remove(&(at, id)); // another account may take what the old one refused
        }
        self.queue(id, now);
    }

    fn nodes_barred(&mut self, event: &NodesBarred) {
        for id in ids(&event.nodes) {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.barred = true;
            if !node.grants.is_empty() {
                self.barred.insert(id);
            }
        }
    }

    /// Puts a node in the row of those that are paid, if it is owed anything, has an account and is not there already.
    pub(super) fn queue(&mut self, id: Id, at: Time) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.owed > 0 && node.paying == 0 && node.payout.is_some() && node.pays_at.is_none() {
            node.pays_at = Some(at);
            self.payable.insert((at, id));
        }
    }

    fn owe(&mut self, id: Id, units: u64, now: Time) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.owed = node.owed.saturating_add(units);
        self.books.owed = self.books.owed.saturating_add(units);
        self.queue(id, now);
    }

    fn close_begun(&mut self, epoch: u64) {
        let facts = self.open.remove(&epoch).unwrap_or_default();
        self.price = facts.price.unwrap_or(self.price); // E-14.5
        self.next = epoch.saturating_add(1);
        let mut closing = Closing::begin(epoch, facts, self.price, self.targets(), self.params.classes.len());
        closing.settle(self.params.target_nodes);
        self.closing = Some(Box::new(closing));
    }

    /// A step of the close; then it goes on to the next phase that has anything to do.
    fn stepped(&mut self, event: &Event, now: Time) {
        let Some(mut closing) = self.closing.take() else { return };
        match &event.event {
            Some(Kind::NodesWeighed(e)) => self.nodes_weighed(&mut closing, e),
            Some(Kind::SharesFloored(e)) => closing.shares_floored(e),
            Some(Kind::SharesRounded(e)) => closing.shares_rounded(e),
            Some(Kind::OwnerCut(e)) => closing.owner_cut(e),
            Some(Kind::OwnersChecked(e)) => closing.next = closing.next.saturating_add(e.owners),
            Some(Kind::RewardsGranted(e)) => self.rewards_granted(&mut closing, e, now),
            Some(Kind::GrantsUnlocked(e)) => self.grants_unlocked(&mut closing, e, now),
            _ => {}
        }
        closing.settle(self.params.target_nodes);
        self.closing = Some(closing);
    }

    fn nodes_weighed(&mut self, closing: &mut Closing, event: &NodesWeighed) {
        let weights = wides(&event.trr_weights).zip(wides(&event.br_weights));
        let work = wides(&event.units).zip(&event.classes);
        for ((id, (trr, br)), (units, class)) in ids(&event.nodes).zip(weights).zip(work) {
            let (place, epoch) = (closing.next, closing.epoch);
            closing.next = closing.next.saturating_add(1);
            let Some(row) = closing.facts.rows.at_mut(place) else { continue };
            row.weights = [trr, br];
            let (active, seen) = (row.active, row.beats > 0);
            closing.weights[TRR] = closing.weights[TRR].saturating_add(trr);
            closing.weights[BR] = closing.weights[BR].saturating_add(br);
            if let Some(median) = closing.medians.get_mut(*class as usize)
                && (active || units > 0)
            {
                median.add(units, id);
            }
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if trr > 0 {
                closing.facts.owners.get_or_insert_with(node.owner, Default::default).nodes.push(place);
            }
            if seen {
                node.was_seen(epoch, active, units, &self.params);
            }
        }
    }

    fn epoch_closed(&mut self, event: &EpochClosed, now: Time) {
        let Some(closing) = &mut self.closing else { return };
        let paid = closing.paid();
        for (at, paid) in paid.into_iter().enumerate() {
            self.remaining[at] = self.remaining[at].saturating_sub(paid);
            self.books.granting[at] = self.books.granting[at].saturating_add(paid);
        }
        self.scheduled = Some(event.scheduled_units);
        closing.phase = Phase::Grant;
        closing.next = 0;
        closing.settle(self.params.target_nodes);
        let published = event.encode_to_vec();
        self.closed.insert(event.epoch, Closed { published, at: now, rows: None });
    }

    fn rewards_granted(&mut self, closing: &mut Closing, event: &RewardsGranted, now: Time) {
        let numbers = event.liquid_units.iter().zip(&event.locked_units).zip(wides(&event.full_work_units));
        for (id, ((liquid, locked), full_work)) in ids(&event.nodes).zip(numbers) {
            let place = closing.next;
            closing.next = closing.next.saturating_add(1);
            let Some(row) = closing.facts.rows.at_mut(place) else { continue };
            let ([trr, br], epoch) = (row.shares, closing.epoch);
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.totals.granted = node.totals.granted.saturating_add(trr);
            node.totals.liquid = node.totals.liquid.saturating_add(trr.saturating_sub(*locked));
            if *locked > 0 {
                node.totals.locked = node.totals.locked.saturating_add(*locked);
                let (work, days) = (node.work, node.days);
                node.grants.insert(epoch, Grant { amount: *locked, unlocked: 0, full_work, work, days });
                if node.barred {
                    self.barred.insert(id); // tombstoned since it was weighed
                }
            }
            self.books.granting[TRR] = self.books.granting[TRR].saturating_sub(trr);
            self.books.granting[BR] = self.books.granting[BR].saturating_sub(br);
            self.books.locked = self.books.locked.saturating_add(*locked);
            self.legs(closing, Account::Trr, Account::Vesting, *locked);
            self.legs(closing, Account::Trr, Account::Pot, trr.saturating_sub(*locked));
            self.legs(closing, Account::Br, Account::Pot, br);
            self.owe(id, *liquid, now);
        }
    }

    fn legs(&mut self, closing: &mut Closing, from: Account, to: Account, units: u64) {
        closing.legs.add(from, to, units);
        self.pending.add(from, to, units);
    }

    fn grants_unlocked(&mut self, closing: &mut Closing, event: &GrantsUnlocked, now: Time) {
        closing.next = closing.next.saturating_add(event.looked_at);
        for ((id, epoch), units) in ids(&event.nodes).zip(&event.epochs).zip(&event.units) {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let Some(grant) = node.grants.get_mut(epoch) else { continue };
            grant.unlocked = grant.unlocked.saturating_add(*units);
            if grant.locked().is_zero() {
                node.grants.remove(epoch);
            }
            node.totals.unlocked = node.totals.unlocked.saturating_add(*units);
            node.totals.locked = node.totals.locked.saturating_sub(*units);
            self.books.locked = self.books.locked.saturating_sub(*units);
            self.legs(closing, Account::Vesting, Account::Pot, *units);
            self.owe(id, *units, now);
        }
    }

    fn close_ended(&mut self, epoch: u64, now: Time) {
        let Some(closing) = self.closing.take() else { return };
        let closing = *closing;
        if let Some(closed) = self.closed.get_mut(&epoch) {
            closed.rows = Some(closing.facts.rows);
        }
        if let Some(closed) = self.closed.get_mut(&epoch.saturating_sub(self.params.keep_rewards)) {
            closed.rows = None;
        }
        while self.closed.len() as u64 > self.params.keep_epochs {
            self.closed.pop_first();
        }
        if !closing.legs.is_empty() {
            self.pending.take_all(&closing.legs); // `begin_move` adds them again
            self.begin_move(closing.legs, now);
        }
    }

    fn begin_move(&mut self, legs: Legs, now: Time) {
        self.pending.add_all(&legs);
        self.last_move = self.last_move.saturating_add(1);
        let begun = Move { legs, ask_at: Some(now), refusals: 0, refused: String::new() };
        self.moves.insert(self.last_move, begun);
    }

    fn grant_exited(&mut self, event: &GrantExited, now: Time) {
        let Some(id) = Id::from_slice(&event.node) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.grants.remove(&event.epoch).is_none() {
            return;
        }
        let (paid, burned) = (event.paid_units, event.burned_units);
        let both = paid.saturating_add(burned);
        node.totals.locked = node.totals.locked.saturating_sub(both);
        node.totals.exited = node.totals.exited.saturating_add(paid);
        node.totals.burned = node.totals.burned.saturating_add(burned);
        self.books.locked = self.books.locked.saturating_sub(both);
        self.books.burned = self.books.burned.saturating_add(burned);
        self.owe(id, paid, now);
        let mut legs = Legs::default();
        legs.add(Account::Vesting, Account::Pot, paid);
        legs.add(Account::Vesting, Account::Burn, burned);
        self.begin_move(legs, now);
    }

    fn locked_burned(&mut self, event: &LockedBurned, now: Time) {
        let mut legs = Legs::default();
        for (id, units) in ids(&event.nodes).zip(&event.units) {
            self.barred.remove(&id);
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.grants.clear();
            node.totals.locked = node.totals.locked.saturating_sub(*units);
            node.totals.burned = node.totals.burned.saturating_add(*units);
            self.books.locked = self.books.locked.saturating_sub(*units);
            self.books.burned = self.books.burned.saturating_add(*units);
            legs.add(Account::Vesting, Account::Burn, *units);
        }
        self.begin_move(legs, now);
    }
}

impl Node {
    /// E-5.1, E-5.3: both clocks of its grants run while it is Active and not frozen.
    fn was_seen(&mut self, epoch: u64, active: bool, units: u128, params: &Params) {
        let unseen = if self.seen == 0 { 0 } else { epoch.saturating_sub(self.seen).saturating_sub(1) };
        let (runs, frozen_days) =
            vesting::presence(self.frozen_days, unseen, params.offline_days, params.return_days);
        (self.seen, self.frozen_days) = (epoch, frozen_days);
        if runs && active {
            self.work = self.work.saturating_add(units);
            self.days = self.days.saturating_add(1);
        }
    }
}

impl Closing {
    fn shares_floored(&mut self, event: &SharesFloored) {
        let trr = event.trr_units.iter().zip(wides(&event.trr_remainders));
        let br = event.br_units.iter().zip(wides(&event.br_remainders));
        for (id, (trr, br)) in ids(&event.nodes).zip(trr.zip(br)) {
            let place = self.next;
            self.next = self.next.saturating_add(1);
            let Some(row) = self.facts.rows.at_mut(place) else { continue };
            for (at, (units, remainder)) in [(TRR, trr), (BR, br)] {
                row.shares[at] = *units;
                self.shared[at] = self.shared[at].saturating_add(*units);
                if remainder > 0 {
                    self.remainders[at].insert((u128::MAX - remainder, id));
                }
            }
        }
    }

    fn shares_rounded(&mut self, event: &SharesRounded) {
        for (at, nodes) in [(TRR, &event.trr_nodes), (BR, &event.br_nodes)] {
            for id in ids(nodes) {
                self.remainders[at].pop_first();
                let Some(row) = self.facts.rows.get_mut(&id) else { continue };
                row.shares[at] = row.shares[at].saturating_add(1);
                self.shared[at] = self.shared[at].saturating_add(1);
            }
        }
    }

    fn owner_cut(&mut self, event: &OwnerCut) {
        for (id, cut) in ids(&event.nodes).zip(&event.cut_units) {
            let Some(row) = self.facts.rows.get_mut(&id) else { continue };
            row.shares[TRR] = row.shares[TRR].saturating_sub(*cut);
            row.cut = *cut;
            self.cut = self.cut.saturating_add(*cut);
        }
    }
}

/// What a pool's account is to hold by the books, in the order of [`ACCOUNTS`], base units, when nothing is on its way.
pub(super) fn by_the_books(state: &State) -> [Amount; 6] {
    let [trr, br, verifier] = state.remaining;
    let [granting_trr, granting_br] = state.books.granting;
    [
        trr.saturating_add(granting_trr),
        br.saturating_add(granting_br),
        verifier,
        state.books.locked,
        state.books.owed,
        state.books.burned,
    ]
    .map(Amount::new)
}
