//! Who was there in an epoch (E-0.6): which beats count, in how many of them a node was seen, and whether it was Active.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Id, PrincipalKind, Time};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::scheduling::v1::{EpochAttendance, EpochSealed, NodesNoted, PresenceRecorded};

use super::{Leases, Seen, Wrong, raw};
use crate::world::{EPOCH_S, START};

/// A beat is a second here.
const BEATS: u32 = EPOCH_S as u32;

/// Nodes, and in which beats they were seen.
#[derive(Debug, Default)]
pub(super) struct Presence {
    nodes: BTreeMap<Id, Node>,
    /// In which beats of an epoch that is not sealed each node was seen.
    seen: BTreeMap<u64, BTreeMap<Id, BTreeSet<u32>>>,
    /// What was required of the Active nodes of the epoch that was sealed last.
    active: BTreeMap<Id, u64>,
    /// The nodes of the epoch that is being sealed, told so far: what is required of those that were Active.
    told: BTreeMap<Id, Option<u64>>,
    sealed: Option<u64>,
}

#[derive(Debug, Default)]
struct Node {
    required: u64,
    /// From when on it may serve, or not.
    qualified: Vec<(Time, bool)>,
}

impl Node {
    fn qualify(&mut self, at: Time, qualified: bool) {
        if self.qualified.last().is_none_or(|(_, is)| *is != qualified) {
            self.qualified.push((at, qualified));
        }
    }

    /// Whether it might serve at a moment. `None` where it has changed more than once since: then nobody says.
    fn was_qualified(&self, at: Time) -> Option<bool> {
        let since = self.qualified.iter().filter(|(from, _)| *from > at).count();
        let before = self.qualified.iter().rev().find(|(from, _)| *from <= at);
        (since <= 1).then(|| before.is_some_and(|(_, is)| *is))
    }
}

impl Presence {
    pub(super) fn happened(&mut self, seen: &Seen, event: &Placed, leases: &Leases) -> Wrong {
        match event {
            Placed::NodesNoted(e) => self.noted(seen, e),
            Placed::PresenceRecorded(e) => return self.reported(seen, e, leases),
            Placed::EpochAttendance(e) => return self.attended(e),
            Placed::EpochSealed(e) => return self.sealed(e),
            _ => {}
        }
        Wrong::new()
    }

    fn noted(&mut self, seen: &Seen, event: &NodesNoted) {
        for noted in &event.nodes {
            let node = self.nodes.entry(raw(&noted.node)).or_default();
            node.required = noted.required_units;
            node.qualify(seen.at, noted.qualified);
        }
        for id in ids(&event.unqualified) {
            self.nodes.entry(id).or_default().qualify(seen.at, false);
        }
    }

    /// A gateway tells of nodes that are attached to it, of beats that have begun, of an epoch that is not sealed.
    fn reported(&mut self, seen: &Seen, event: &PresenceRecorded, leases: &Leases) -> Wrong {
        let mut wrong = Wrong::new();
        let last = u64::from(event.first_beat) + u64::from(event.beats.max(1)) - 1;
        let begins = START.after_millis((event.epoch.saturating_sub(1) * EPOCH_S + last) * 1_000);
        let is_open = event.beats == 0 || self.sealed.is_none_or(|sealed| event.epoch > sealed);
        if !is_open || last >= u64::from(BEATS) || begins > seen.at {
            wrong.push(format!(
                "E-0.6: beats up to {last} of epoch {} are told at {:?}",
                event.epoch, seen.at
            ));
        }
        let epoch = self.seen.entry(event.epoch).or_default();
        let bytes = event.beats.div_ceil(8).max(1) as usize;
        for (id, bitmap) in ids(&event.nodes).zip(event.bitmaps.chunks_exact(bytes)) {
            let gateway = leases.gateway_of(id);
            if gateway != Some(seen.who.id) || seen.who.kind != PrincipalKind::Gateway {
                wrong.push(format!("E-0.6: {} tells of node {id}, which is at {gateway:?}", seen.who));
            }
            let is_set = |beat: &u32| bitmap[*beat as usize / 8] >> (beat % 8) & 1 == 1;
            let beats: Vec<u32> =
                (0..event.beats).filter(is_set).map(|beat| event.first_beat + beat).collect();
            if !beats.is_empty() {
                epoch.entry(id).or_default().extend(beats);
            }
        }
        wrong
    }

    /// The beats in which at least half of what was required of the last Active nodes was seen.
    fn counted(&self, epoch: u64) -> BTreeSet<u32> {
        let all: u128 = self.active.values().map(|required| u128::from(*required)).sum();
        let there = |beat: &u32| -> u128 {
            let seen = self.seen.get(&epoch).into_iter().flatten();
            let seen = seen.filter(|(_, beats)| beats.contains(beat));
            seen.filter_map(|(id, _)| self.active.get(id)).map(|required| u128::from(*required)).sum()
        };
        (0..BEATS).filter(|beat| 2 * there(beat) >= all).collect()
    }

    fn attended(&mut self, event: &EpochAttendance) -> Wrong {
        let (mut wrong, counted) = (Wrong::new(), self.counted(event.epoch));
        let end = START.after_millis(event.epoch * EPOCH_S * 1_000);
        for ((id, told), active) in ids(&event.nodes).zip(&event.beats_seen).zip(&event.active) {
            let beats = self.seen.get(&event.epoch).and_then(|nodes| nodes.get(&id));
            let seen = beats.map_or(0, |beats| beats.intersection(&counted).count());
            let online = !counted.is_empty() && 2 * seen >= counted.len();
            let node = self.nodes.get(&id);
            let qualified = node.map_or(Some(false), |node| node.was_qualified(end));
            let is_active = qualified.map_or(*active, |qualified| qualified && online);
            if (seen, is_active) != (*told as usize, *active) {
                wrong.push(format!(
                    "E-0.6: node {id} was seen in {seen} of {} beats and active is {is_active}: told are {told} and {active}",
                    counted.len()
                ));
            }
            let required = node.map_or(0, |node| node.required);
            if self.told.insert(id, active.then_some(required)).is_some() {
                wrong.push(format!("E-0.6: node {id} is told twice of epoch {}", event.epoch));
            }
        }
        wrong
    }

    /// Epochs are sealed one behind the other, when everybody was told.
    fn sealed(&mut self, event: &EpochSealed) -> Wrong {
        let mut wrong = Wrong::new();
        let counted = self.counted(event.epoch).len();
        if counted != event.beats as usize {
            wrong.push(format!("E-0.6: {counted} beats of epoch {} count, not {}", event.epoch, event.beats));
        }
        let told = std::mem::take(&mut self.told);
        let seen = self.seen.remove(&event.epoch).unwrap_or_default();
        if !told.keys().eq(seen.keys()) {
            wrong.push(format!("E-0.6: epoch {} is sealed, and not of everybody was told", event.epoch));
        }
        if self.sealed.is_some_and(|sealed| event.epoch != sealed + 1) {
            wrong.push(format!("E-0.5: epoch {} is sealed behind {:?}", event.epoch, self.sealed));
        }
        self.active = told.into_iter().filter_map(|(id, required)| Some((id, required?))).collect();
        self.sealed = Some(event.epoch);
        wrong
    }
}
