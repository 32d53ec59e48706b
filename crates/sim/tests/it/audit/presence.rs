//! Who was there otherwise than the rules say is told (E-0.6).

use super::*;

#[test]
fn presence_that_is_not_as_the_rules_say_is_told() {
    // E-0.6
    let read = Read(day());
    read.placed(
        "was seen in",
        only!(Placed::EpochAttendance, e => e.beats_seen.first_mut().map(|beats| *beats += 1)),
    );
    read.placed(
        "active is true",
        only!(Placed::EpochAttendance, e => e.active.first_mut().map(|active| *active = !*active)),
    );
    read.placed(
        "is told twice",
        only!(Placed::EpochAttendance, e => {
            let mut nodes = e.nodes.to_vec();
            nodes.extend_from_within(..16);
            e.beats_seen.push(*e.beats_seen.first()?);
            e.active.push(*e.active.first()?);
            e.nodes = nodes.into();
            Some(())
        }),
    );
    read.placed(
        "not of everybody was told",
        only!(Placed::EpochAttendance, e => {
            e.nodes = e.nodes.slice(16..);
            e.beats_seen.remove(0);
            e.active.remove(0);
            Some(())
        }),
    );
    read.placed("E-0.5: epoch 9 is sealed", |event| match event {
        Placed::EpochSealed(e) if e.epoch > 1 => now_is(&mut e.epoch, 9),
        _ => None,
    });
    read.placed(
        "count, not",
        only!(Placed::EpochSealed, e => {
            e.beats -= 1;
            Some(())
        }),
    );
    // The last of its epoch: each tells of all beats up to then.
    read.placed(
        "was seen in",
        only!(Placed::PresenceRecorded, e => (e.beats > 40).then(|| e.bitmaps = vec![0; e.bitmaps.len()].into())),
    );
    read.placed("tells of node", only!(Placed::PresenceRecorded, e => turned(&mut e.nodes)));
    read.placed("are told at", only!(Placed::PresenceRecorded, e => now_is(&mut e.epoch, 99)));
    read.placed("tells of node", only!(Placed::NodeAttached, e => turned(&mut e.gateway)));
}
