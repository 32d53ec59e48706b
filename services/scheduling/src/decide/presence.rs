//! Presence, and the sealing of epochs (E-0.6).

use holmes_kernel::{Ctx, Id, Table};
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{
    BeatsWeighed, EpochAttendance, EpochSealed, GatewayHeard, PresenceRecorded,
};

use super::{Decided, bytes, column, live, only_time, refuse_if};
use crate::attendance::{count, counted, seen, was_online};
use crate::command::{Presence, Rejection};
use crate::params::MOST_PER_STEP;
use crate::state::{Seal, State};

/// Nodes that are not attached to the gateway are left out: one that moved meanwhile must not cost the others theirs.
pub(super) fn report(state: &State, report: &Presence, ctx: &Ctx) -> Decided {
    let gateway = ctx.principal.id;
    live(state, ctx)?;
    if report.beats > 0 {
        in_time(state, report, ctx)?;
    }
    let here = |id: &Id| {
        let attached = state.nodes.get(id).and_then(|node| node.attached);
        attached.is_some_and(|attached| attached.gateway == gateway)
    };
    let (mut nodes, mut bitmaps) = (Vec::new(), Vec::new());
    for (node, bitmap) in report.nodes.iter().filter(|(node, _)| here(node)) {
        nodes.push(*node);
        bitmaps.extend(bitmap);
    }
    if nodes.is_empty() {
        return Ok(vec![Kind::GatewayHeard(GatewayHeard { gateway: bytes(gateway) })]);
    }
    Ok(vec![Kind::PresenceRecorded(PresenceRecorded {
        epoch: report.epoch,
        first_beat: report.first_beat,
        beats: report.beats,
        nodes: column(nodes),
        bitmaps: bitmaps.into(),
    })])
}

fn in_time(state: &State, report: &Presence, ctx: &Ctx) -> Result<(), Rejection> {
    let params = &state.params;
    let (found, running) = (report.epoch, params.calendar.epoch(ctx.now));
    let late = found.checked_add(1) == Some(running) && ctx.now < params.seals_at(found);
    let open = Some(found) > state.sealed && (found == running || late);
    refuse_if(!open, || Rejection::EpochNotRunning { found, running })?;
    let last = u64::from(report.first_beat) + u64::from(report.beats) - 1;
    let begun = last < u64::from(params.beats()) && params.beat_begins(found, last as u32) <= ctx.now;
    let (first, beats) = (report.first_beat, params.beats());
    refuse_if(!begun, || Rejection::BeatsOutOfRange { first, last, beats })
}

/// Epochs are sealed one after the other, also those in which nothing happened: first the nodes are weighed, then they
/// are told, then the epoch is sealed.
pub(super) fn seal(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let Some(epoch) = state.seals_next() else { return Ok(Vec::new()) };
    if state.params.seals_at(epoch) > ctx.now {
        return Ok(Vec::new());
    }
    let Some(nodes) = state.presence.get(&epoch).filter(|nodes| !nodes.is_empty()) else {
        let weights = vec![0; state.params.beats() as usize];
        let counted = counted(&weights, state.attendance.total, state.params.beat_quorum);
        return Ok(vec![Kind::EpochSealed(EpochSealed { epoch, beats: count(&counted) })]);
    };
    let event = match &state.seal {
        Some(Seal { counted: Some(counted), next, .. }) if (*next as usize) < nodes.len() => {
            Kind::EpochAttendance(attendance(state, epoch, nodes, *next, counted))
        }
        Some(Seal { counted: Some(counted), .. }) => {
            Kind::EpochSealed(EpochSealed { epoch, beats: count(counted) })
        }
        weighing => {
            let left = nodes.len() - weighing.as_ref().map_or(0, |seal| seal.next as usize);
            Kind::BeatsWeighed(BeatsWeighed { epoch, nodes: left.min(MOST_PER_STEP) as u32 })
        }
    };
    Ok(vec![event])
}

fn attendance(
    state: &State,
    epoch: u64,
    nodes: &Table<Id, Vec<u8>>,
    next: u32,
    counted: &[u8],
) -> EpochAttendance {
    let (end, beats) = (state.params.calendar.ends(epoch), count(counted));
    let mut told = EpochAttendance { epoch, ..EpochAttendance::default() };
    let mut column = Vec::new();
    for (id, bitmap) in (next..).take(MOST_PER_STEP).map_while(|place| nodes.at(place)) {
        let seen = seen(bitmap, counted);
        let qualified = state.nodes.get(id).is_some_and(|node| node.was_qualified(end));
        column.extend(id.to_bytes());
        told.beats_seen.push(seen);
        told.active.push(qualified && was_online(seen, beats));
    }
    told.nodes = column.into();
    told
}
