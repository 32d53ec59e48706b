//! Who was there in an epoch, and its seal.

use super::*;

#[test]
fn presence_is_taken_of_ones_own_nodes_in_its_epoch_only() {
    // E-0.6
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000)]);
    desk.wait(8_000);
    let report = |epoch, first_beat, beats: u32, nodes: &[u16]| {
        let nodes = nodes.iter().map(|n| (node(*n), vec![1; beats.div_ceil(8) as usize])).collect();
        Command::ReportPresence(Presence { epoch, first_beat, beats, nodes })
    };
    let reply = desk.told(GATEWAY, report(1, 0, 5, &[1, 2, 7]));
    assert_eq!(reply, Reply::Present { not_attached: vec![node(7)] });
    assert_eq!(desk.state.beats_seen(&node(1)), 1);
    desk.start(OTHER_GATEWAY);
    let reply = desk.told(OTHER_GATEWAY, report(1, 0, 5, &[1]));
    assert_eq!(reply, Reply::Present { not_attached: vec![node(1)] });
    assert_eq!(desk.refused(GATEWAY, report(0, 0, 5, &[1])), "EPOCH_NOT_RUNNING");
    assert_eq!(desk.refused(GATEWAY, report(2, 0, 5, &[1])), "EPOCH_NOT_RUNNING");
    assert_eq!(desk.refused(GATEWAY, report(1, 5, 5, &[1])), "BEATS_OUT_OF_RANGE", "beat 9 has not begun");
    assert_eq!(
        desk.refused(GATEWAY, report(1, 40, 6, &[1])),
        "BEATS_OUT_OF_RANGE",
        "beat 45 is not of the epoch"
    );
    assert_eq!(desk.refused(RENTER, report(1, 0, 5, &[1])), "FORBIDDEN");
    desk.stay(desk::EPOCH_MS + 3_000 - 8_000);
    desk.told(GATEWAY, report(1, 40, 5, &[1]));
    desk.stay(3_000);
    assert_eq!(desk.refused(GATEWAY, report(1, 40, 5, &[1])), "EPOCH_NOT_RUNNING", "it is sealed");
}

#[test]
fn a_node_is_active_when_it_was_there_in_half_of_the_beats_that_count() {
    // E-0.6
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000), (3, 3, 1_000)]);
    for (n, required) in [(1, 60), (2, 40), (3, 1_000)] {
        desk.staking(vec![NodeFact::Required { node: node(n), required }]);
    }
    desk.stay(desk::EPOCH_MS);
    // The first epoch: all 45 beats count. Nodes 1 and 2 were there in 23 of them, node 3 in 22.
    desk.seen(1, &[(1, 0..23), (2, 10..33), (3, 0..22)]);
    desk.stay(5_000);
    assert_eq!(desk.sealed(), (1, 45));
    assert_eq!(desk.active(), [1, 2].map(node));
    desk.stay(desk::EPOCH_MS - 5_000);
    // Node 1 alone holds 60 % of what counts: the beats without it count for nobody.
    desk.seen(2, &[(1, 0..10), (2, 0..45), (3, 0..4)]);
    desk.stay(5_000);
    assert_eq!(desk.sealed(), (2, 10));
    assert_eq!(desk.active(), [1, 2].map(node));
}

#[test]
fn a_node_disqualified_after_the_epochs_end_was_qualified_in_it() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000)]);
    desk.note(2, |fact| fact.0 = false);
    desk.stay(desk::EPOCH_MS);
    desk.seen(1, &[(1, 0..45), (2, 0..45)]);
    desk.stay(1);
    desk.note(1, |fact| fact.0 = false);
    desk.note(2, |fact| fact.0 = true);
    desk.stay(5_000);
    assert_eq!(desk.active(), [node(1)]);
}

#[test]
fn epochs_in_which_nothing_happened_are_sealed_one_by_one() {
    let mut desk = Desk::with_nodes(&[]);
    desk.wait(5 * desk::EPOCH_MS + 4_999);
    assert_eq!(desk.seals, [(1, 45), (2, 45), (3, 45), (4, 45)]);
    desk.wait(1);
    assert_eq!(desk.sealed(), (5, 45));
}

#[test]
fn the_first_epoch_that_is_sealed_is_that_of_the_logs_first_event() {
    // E-0.5: with TGE at the Unix epoch, epochs of 45 s before this log are tens of millions.
    let params = with(|params| params.tge_at_ms = 0);
    let opened = Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() };
    let fresh = Scheduling::init(&opened).unwrap();
    assert_eq!(Scheduling::due(&fresh), None, "nobody knows yet when the log begins");
    let mut desk = Desk::with(params, &[]);
    desk.wait(desk::EPOCH_MS + 5_000);
    assert_eq!(desk.seals.first(), Some(&(1_000_000 / desk::EPOCH_MS + 1, 45)));
}
