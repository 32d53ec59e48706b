//! What presence and the sealing of epochs do to the state (E-0.6).

use holmes_kernel::Id;
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::{BeatsWeighed, EpochAttendance, EpochSealed, PresenceRecorded};

use super::{Seal, State};
use crate::attendance::{bytes_of, count, counted, set, unite};

impl State {
    /// Beats of the latest epoch of which something was reported, in which a node was seen.
    pub fn beats_seen(&self, node: &Id) -> u32 {
        let latest = self.presence.last_key_value();
        latest.and_then(|(_, nodes)| nodes.get(node)).map_or(0, |bitmap| count(bitmap))
    }

    pub(super) fn presence_recorded(&mut self, event: &PresenceRecorded) {
        let beats = self.params.beats();
        let nodes = self.presence.entry(event.epoch).or_default();
        let bitmaps = event.bitmaps.chunks_exact(bytes_of(event.beats).max(1));
        let seen = ids(&event.nodes).zip(bitmaps).filter(|(_, bitmap)| count(bitmap) > 0);
        for (node, bitmap) in seen {
            unite(nodes.get_or_insert_with(node, Vec::new), event.first_beat, bitmap, beats);
        }
    }

    pub(super) fn beats_weighed(&mut self, event: &BeatsWeighed) {
        let Some(nodes) = self.presence.get(&event.epoch) else { return };
        let seal = self.seal.get_or_insert_with(Seal::default);
        seal.weights.resize(self.params.beats() as usize, 0);
        // Whoever forges more of them must not keep a replay busy with places that nobody has.
        let end = seal.next.saturating_add(event.nodes).min(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
        for (node, bitmap) in (seal.next..end).filter_map(|place| nodes.at(place)) {
            let Some(required) = self.attendance.active.get(node) else { continue };
            for beat in set(bitmap) {
                if let Some(weight) = seal.weights.get_mut(beat as usize) {
                    *weight = weight.saturating_add(u128::from(*required));
                }
            }
        }
        seal.next = end;
        if end as usize >= nodes.len() {
            seal.next = 0;
            seal.counted = Some(counted(&seal.weights, self.attendance.total, self.params.beat_quorum));
        }
    }

    pub(super) fn epoch_attendance(&mut self, event: &EpochAttendance) {
        let Some(seal) = &mut self.seal else { return };
        for (node, active) in ids(&event.nodes).zip(&event.active) {
            seal.next = seal.next.saturating_add(1);
            if *active && let Some(known) = self.nodes.get(&node) {
                seal.attendance.active.insert(node, known.required);
                seal.attendance.total = seal.attendance.total.saturating_add(known.required.into());
            }
        }
    }

    pub(super) fn epoch_sealed(&mut self, event: &EpochSealed) {
        self.attendance = self.seal.take().map(|seal| seal.attendance).unwrap_or_default();
        self.presence.remove(&event.epoch);
        self.sealed = Some(event.epoch);
    }
}
