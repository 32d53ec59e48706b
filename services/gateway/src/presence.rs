//! Which nodes were there in which beat of the network (E-0.6). Marks are gathered here and reported to scheduling every
//! few beats and at an epoch's end; what was not reported yet is reported next time.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Calendar, Id, Time};
use holmes_proto::scheduling::v1::{NodeBeats, ReportPresenceRequest, StartGatewayResponse};

/// Most nodes of one report.
const MOST_NODES: usize = 256;
/// Most beats of one report: an hour of seconds.
const MOST_BEATS: u32 = 3_600;

/// The network's epochs, and the beats that they consist of (E-0.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beats {
    epochs: Calendar,
    beat_s: u64,
}

/// A beat: its epoch, from 1, and its number in the epoch, from 0.
pub(crate) type Beat = (u64, u32);

impl Beats {
    /// As scheduling says it.
    pub(crate) fn of(started: &StartGatewayResponse) -> Beats {
        let epochs = Calendar::new(Time::from_millis(started.tge_at_ms), started.epoch_s);
        Beats { epochs, beat_s: started.beat_s.clamp(1, epochs.epoch_s()) }
    }

    /// The beat of a moment; `None` before the first epoch, which has no beats yet.
    pub(crate) fn at(&self, now: Time) -> Option<Beat> {
        let epoch = self.epochs.epoch(now);
        let since_ms = now.millis().checked_sub(self.epochs.begins(epoch).millis())?;
        Some((epoch, u32::try_from(since_ms / self.beat_ms()).ok()?))
    }

    /// Length of a beat, ms.
    pub(crate) fn beat_ms(&self) -> u64 {
        self.beat_s.saturating_mul(1_000)
    }
}

/// Marks that were not reported yet.
#[derive(Debug, Default)]
pub(crate) struct Marks(BTreeMap<u64, BTreeMap<Id, BTreeSet<u32>>>);

impl Marks {
    /// A node was there.
    pub(crate) fn mark(&mut self, node: Id, (epoch, beat): Beat) {
        self.0.entry(epoch).or_default().entry(node).or_default().insert(beat);
    }

    /// Takes everything out, as requests that say it.
    pub(crate) fn take(&mut self) -> Vec<ReportPresenceRequest> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().flat_map(|(epoch, nodes)| requests(epoch, nodes)).collect()
    }

    /// Takes out what is known of one node.
    pub(crate) fn take_node(&mut self, node: Id) -> Vec<ReportPresenceRequest> {
        let mut found = Vec::new();
        for (epoch, nodes) in &mut self.0 {
            if let Some(beats) = nodes.remove(&node) {
                found.extend(requests(*epoch, BTreeMap::from([(node, beats)])));
            }
        }
        found
    }

    /// Puts back what could not be reported.
    pub(crate) fn put_back(&mut self, request: &ReportPresenceRequest) {
        for node in &request.nodes {
            let Ok(id) = node.node_id.parse() else { continue };
            for beat in 0..request.beats {
                if node.bitmap.get(beat as usize / 8).is_some_and(|byte| byte & 1 << (beat % 8) != 0) {
                    self.mark(id, (request.epoch, request.first_beat + beat));
                }
            }
        }
    }
}

/// One epoch's marks as requests, each with its own id.
fn requests(epoch: u64, nodes: BTreeMap<Id, BTreeSet<u32>>) -> Vec<ReportPresenceRequest> {
    let mut windows: BTreeMap<u32, Vec<(Id, BTreeSet<u32>)>> = BTreeMap::new();
    for (node, beats) in nodes {
        let mut of_node: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for beat in beats {
            of_node.entry(beat / MOST_BEATS).or_default().insert(beat);
        }
        for (window, beats) in of_node {
            windows.entry(window).or_default().push((node, beats));
        }
    }
    let mut requests = Vec::new();
    for nodes in windows.values() {
        requests.extend(nodes.chunks(MOST_NODES).filter_map(|nodes| request(epoch, nodes)));
    }
    requests
}

fn request(epoch: u64, nodes: &[(Id, BTreeSet<u32>)]) -> Option<ReportPresenceRequest> {
    let first = *nodes.iter().filter_map(|(_, beats)| beats.first()).min()?;
    let last = *nodes.iter().filter_map(|(_, beats)| beats.last()).max()?;
    let beats = last - first + 1;
    let bitmap = |marked: &BTreeSet<u32>| {
        let mut bytes = vec![0u8; beats.div_ceil(8) as usize];
        for beat in marked {
            bytes[(beat - first) as usize / 8] |= 1 << ((beat - first) % 8);
        }
        bytes
    };
    let nodes = nodes
        .iter()
        .map(|(node, marked)| NodeBeats { node_id: node.to_string(), bitmap: bitmap(marked).into() })
        .collect();
    Some(ReportPresenceRequest {
        request_id: crate::upstream::request_id(),
        epoch,
        first_beat: first,
        beats,
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u16) -> Id {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Id::from_bytes(bytes)
    }

    #[test]
    fn epochs_count_from_one_and_beats_from_zero() {
        let beats = Beats { epochs: Calendar::new(Time::from_millis(10_000), 86_400), beat_s: 60 };
        let beat = |ms| beats.at(Time::from_millis(ms));
        assert_eq!(beat(9_999), None);
        assert_eq!(beat(10_000), Some((1, 0)));
        assert_eq!(beat(10_000 + 60_000), Some((1, 1)));
        assert_eq!(beat(10_000 + 86_400_000 - 1), Some((1, 1_439)));
        assert_eq!(beat(10_000 + 86_400_000), Some((2, 0)));
    }

    #[test]
    fn a_report_speaks_of_at_most_256_nodes() {
        let mut marks = Marks::default();
        for number in 0..300 {
            marks.mark(node(number), (1, 4));
        }
        let requests = marks.take();
        assert_eq!(requests.iter().map(|r| r.nodes.len()).collect::<Vec<_>>(), [256, 44]);
        assert_ne!(requests[0].request_id, requests[1].request_id);
        assert!(marks.take().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_taken_out_and_put_back_is_the_same(
            seen in proptest::collection::vec((0..400u16, 1..4u64, 0..9_000u32), 0..200)
        ) {
            let (mut marks, mut expected) = (Marks::default(), Marks::default());
            for (number, epoch, beat) in seen {
                marks.mark(node(number), (epoch, beat));
                expected.mark(node(number), (epoch, beat));
            }
            let requests = marks.take();
            for request in &requests {
                prop_assert!(request.nodes.len() <= MOST_NODES && request.beats <= MOST_BEATS);
                marks.put_back(request);
            }
            prop_assert_eq!(marks.0, expected.0);
        }
    }
}
