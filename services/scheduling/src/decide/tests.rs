//! Given a state that commands have led to, when a command comes, then these events follow, or this reason.

mod closing;
mod desk;
mod epochs;
mod running;

use holmes_kernel::{Code, Id, Machine as _, Opened, Refusal};
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{DetachReason, LeaseEnd};
use prost::Message as _;

use crate::Scheduling;
use crate::command::{Command, MarketFact, NodeFact, Presence, Reply, Told};
use crate::state::Stand;
use desk::{Desk, GATEWAY, MODEL, OTHER_GATEWAY, RENTER, STAFF, line, node, owner, with};

#[test]
fn a_session_gets_the_first_by_load_then_rating_then_rest() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 2_000), (3, 3, 1_000)]);
    let winners: Vec<Id> = (0..6).map(|_| desk.grant().1).collect();
    // Each has two slots: the strongest first, then all by rest, never one twice while another is emptier.
    assert_eq!(winners, [2, 1, 3, 2, 1, 3].map(node));
    let refused = desk.place(|_| {}).unwrap_err();
    assert_eq!(refused, "NO_NODE_FREE");
}

#[test]
fn a_placement_keeps_its_inputs_and_the_best_three() {
    // E-10.4
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 900), (3, 3, 800), (4, 4, 700)]);
    desk.note(4, |fact| fact.0 = false);
    let granted = desk.place(|place| place.avoid = vec![node(1)]).unwrap();
    let placement = granted.placement.unwrap();
    let best: Vec<Id> = placement.best.iter().filter_map(|c| Id::from_slice(&c.node)).collect();
    assert_eq!(best, [2, 3].map(node));
    assert_eq!((placement.serving, placement.able, placement.owners), (4, 3, 3));
    assert_eq!(placement.largest_owner_ppb, 370_370_371); // 1,000 of 2,700
    assert_eq!(placement.avoided_nodes.as_ref(), node(1).to_bytes());
}

#[test]
fn work_counts_in_full_only_where_there_was_a_choice() {
    // E-3.2
    let credit = |nodes: &[(u16, u8, u32)], change: fn(&mut crate::command::Place)| {
        let mut desk = Desk::with_nodes(nodes);
        WorkCredit::try_from(desk.place(change).unwrap().credit).unwrap()
    };
    let fair = [(1, 1, 1_000), (2, 2, 1_000), (3, 3, 1_000)];
    assert_eq!(credit(&fair, |_| {}), WorkCredit::Full);
    assert_eq!(credit(&fair[..2], |_| {}), WorkCredit::Quarter, "two owners");
    assert_eq!(
        credit(&[(1, 1, 3_000), (2, 2, 1_000), (3, 3, 1_000)], |_| {}),
        WorkCredit::Quarter,
        "one has 60 %"
    );
    assert_eq!(credit(&fair, |place| place.named = Some(node(2))), WorkCredit::Quarter, "named");
    assert_eq!(
        credit(&fair, |place| place.avoid = vec![node(1), node(2)]),
        WorkCredit::Quarter,
        "67 % avoided"
    );
    assert_eq!(credit(&fair, |place| place.avoid = vec![node(1)]), WorkCredit::Full, "33 % avoided");
    let own = [(1, desk::RENTER_NUMBER, 9_000), (2, 2, 1_000), (3, 3, 1_000)];
    assert_eq!(credit(&own, |_| {}), WorkCredit::None, "the renter's own node");
}

#[test]
fn owners_count_whose_nodes_are_busy() {
    // E-3.2: all Active nodes able to run the model, whatever else was demanded.
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000), (3, 3, 1_000)]);
    for _ in 0..5 {
        desk.grant();
    }
    let granted = desk.place(|_| {}).unwrap();
    assert_eq!((granted.credit, granted.placement.unwrap().able), (WorkCredit::Full.into(), 1));
}

#[test]
fn a_call_goes_only_where_its_context_fits() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    assert!(desk.place(|place| place.context = 8_192).is_ok());
    assert_eq!(desk.place(|place| place.context = 8_193).unwrap_err(), "CONTEXT_LENGTH_EXCEEDED");
    let wish = desk.wish(|place| place.context = 8_193);
    let told = desk.decide(GATEWAY, &wish).unwrap_err();
    assert!(told.message.contains("8192 tokens") && told.message.contains("8193"), "{told}");
}

#[test]
fn a_placement_is_refused_with_its_reason() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    desk.market(vec![MarketFact::Model { name: "gone".into(), prices: desk::PRICES, withdrawn: true }]);
    desk.market(vec![MarketFact::Model { name: "unserved".into(), prices: desk::PRICES, withdrawn: false }]);
    let reasons = [
        desk.place(|place| place.session = Id::from_bytes([9; 16])).unwrap_err(),
        desk.place(|place| place.model = "gone".into()).unwrap_err(),
        desk.place(|place| place.model = "never".into()).unwrap_err(),
        desk.place(|place| place.model = "unserved".into()).unwrap_err(),
        desk.place(|place| place.allowance = 0).unwrap_err(),
        desk.place(|place| place.allowance = 10_000_000_000_001).unwrap_err(),
        desk.place(|place| place.allowance = desk::CAP as u64 + 1).unwrap_err(),
        desk.place(|place| place.duration_ms = 60_001).unwrap_err(),
        desk.place(|place| place.named = Some(node(9))).unwrap_err(),
        desk.place(|place| (place.named, place.avoid) = (Some(node(1)), vec![node(1)])).unwrap_err(),
        desk.refused(RENTER, desk.wish(|_| {})),
        desk.refused(OTHER_GATEWAY, desk.wish(|_| {})),
    ];
    let expected = [
        "SESSION_NOT_FOUND",
        "MODEL_NOT_OFFERED",
        "MODEL_NOT_OFFERED",
        "MODEL_NOT_SERVED",
        "ALLOWANCE_OUT_OF_RANGE",
        "ALLOWANCE_OUT_OF_RANGE",
        "SESSION_BUDGET_EXCEEDED",
        "DURATION_OUT_OF_RANGE",
        "NODE_NOT_FOUND",
        "NAMED_NODE_UNAVAILABLE",
        "FORBIDDEN",
        "GATEWAY_UNKNOWN",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn open_leases_reserve_what_they_allow_until_they_end() {
    // E-9.1
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(desk::CAP as u64 - 10);
    assert_eq!(desk.place(|place| place.allowance = 11).unwrap_err(), "SESSION_BUDGET_EXCEEDED");
    assert!(desk.place(|place| place.allowance = 10).is_ok());
    desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::Released.into() }).unwrap();
    assert!(desk.place(|place| place.allowance = 11).is_ok());
}

#[test]
fn a_session_and_the_network_have_so_many_leases_at_most() {
    let mut desk =
        Desk::with(with(|params| params.most_leases_per_session = 2), &[(1, 1, 1_000), (2, 2, 1_000)]);
    for _ in 0..2 {
        desk.grant();
    }
    assert_eq!(desk.place(|_| {}).unwrap_err(), "TOO_MANY_LEASES_OF_SESSION");
    let mut desk = Desk::with(with(|params| params.most_leases = 2), &[(1, 1, 1_000), (2, 2, 1_000)]);
    for _ in 0..2 {
        desk.grant();
    }
    assert_eq!(desk.place(|_| {}).unwrap_err(), "TOO_MANY_LEASES");
}

#[test]
fn a_lease_is_renewed_for_longer_and_for_more_and_never_for_less() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(100);
    desk.stay(30_000);
    let renew = |allowance, duration_ms| Command::RenewLease { lease, allowance, duration_ms };
    assert_eq!(desk.refused(GATEWAY, renew(99, 0)), "ALLOWANCE_OUT_OF_RANGE");
    assert_eq!(desk.refused(GATEWAY, renew(desk::CAP as u64 + 1, 0)), "SESSION_BUDGET_EXCEEDED");
    let Reply::Renewed(renewed) = desk.told(GATEWAY, renew(200, 0)) else { panic!("it is renewed") };
    assert_eq!(renewed.allowance_pico_usd, 200);
    desk.stay(59_999);
    assert!(desk.state.leases.get(&lease.seq).unwrap().is_open());
    desk.wait(1);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::Expired);
    assert_eq!(desk.refused(GATEWAY, renew(300, 0)), "LEASE_OVER");
}

#[test]
fn a_lease_ends_by_its_gateway_or_the_platform_and_for_their_reasons() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    let end = |reason: LeaseEnd| Command::EndLease { lease, reason: reason.into() };
    desk.start(OTHER_GATEWAY);
    assert_eq!(desk.refused(OTHER_GATEWAY, end(LeaseEnd::Released)), "FORBIDDEN");
    assert_eq!(desk.refused(RENTER, end(LeaseEnd::Released)), "FORBIDDEN");
    assert_eq!(desk.refused(GATEWAY, end(LeaseEnd::NodeUnqualified)), "FORBIDDEN");
    assert_eq!(desk.ask(STAFF, end(LeaseEnd::NodeUnqualified)).unwrap().len(), 1);
    assert_eq!(desk.ask(GATEWAY, end(LeaseEnd::Released)), Ok(vec![]), "it has ended already");
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::NodeUnqualified);
}

#[test]
fn a_node_that_detaches_takes_its_leases_with_it_and_gets_no_more() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000), (3, 3, 1_000)]);
    let leases: Vec<_> = (0..3).map(|_| desk.grant()).collect();
    let generation = desk.generation(1);
    let detach =
        |generation| Command::Detach { node: node(1), generation, reason: DetachReason::Left.into() };
    desk.start(OTHER_GATEWAY);
    assert_eq!(desk.refused(OTHER_GATEWAY, detach(generation)), "FORBIDDEN");
    assert_eq!(desk.refused(GATEWAY, detach(generation + 1_000)), "GENERATION_UNKNOWN");
    assert_eq!(desk.ask(GATEWAY, detach(generation - 1)), Ok(vec![]), "an older one is gone already");
    desk.ask(GATEWAY, detach(generation)).unwrap();
    desk.wait(0);
    for (lease, on) in leases {
        let reason = desk.state.leases.get(&lease.seq).unwrap().reason();
        assert_eq!(reason == LeaseEnd::NodeLost, on == node(1));
    }
    let winners: Vec<Id> = (0..2).map(|_| desk.grant().1).collect();
    assert!(!winners.contains(&node(1)));
}

#[test]
fn attaching_again_supersedes_and_needs_another_question() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    let again = desk.attachment(1, 1, 2);
    assert_eq!(desk.refused(GATEWAY, again), "NONCE_REUSED");
    let again = desk.attachment(1, 2, 1);
    let events = desk.ask(GATEWAY, again).unwrap();
    let [Kind::NodeDetached(detached), Kind::NodeAttached(attached)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((detached.reason(), attached.generation), (DetachReason::Superseded, desk.seq));
    desk.wait(0);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::NodeLost);
    desk.note(1, |fact| fact.0 = false);
    let unqualified = desk.attachment(1, 3, 2);
    assert_eq!(desk.refused(GATEWAY, unqualified), "NODE_NOT_QUALIFIED");
    desk.note(1, |fact| fact.0 = true);
    let unknown = desk.attachment(9, 1, 2);
    assert_eq!(desk.refused(GATEWAY, unknown), "NODE_UNKNOWN");
    let many = desk.attachment(1, 3, 257);
    assert_eq!(desk.refused(GATEWAY, many), "TOO_MANY_SLOTS");
}

#[test]
fn a_node_that_staking_disqualifies_loses_its_leases_and_stays_attached() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    desk.note(1, |fact| fact.0 = false);
    desk.wait(0);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::NodeUnqualified);
    assert_eq!(desk.place(|_| {}).unwrap_err(), "NO_NODE_QUALIFIED");
    desk.note(1, |fact| fact.0 = true);
    desk.grant();
    desk.staking(vec![NodeFact::Tombstoned { node: node(1) }]);
    assert_eq!(desk.place(|_| {}).unwrap_err(), "NO_NODE_QUALIFIED");
    assert!(desk.state.nodes.get(&node(1)).unwrap().attached.is_some());
}

#[test]
fn what_staking_says_twice_is_written_once() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let required = vec![
        NodeFact::Required { node: node(1), required: 77 },
        NodeFact::Required { node: node(8), required: 1 },
    ];
    assert_eq!(desk.staking(required.clone()).len(), 1);
    assert_eq!(desk.staking(required), []);
    assert_eq!(desk.state.nodes.get(&node(1)).unwrap().required, 77);
    let facts = Command::NoteNodes(vec![NodeFact::Tombstoned { node: node(1) }]);
    assert_eq!(desk.refused(GATEWAY, facts), "FORBIDDEN");
}

#[test]
fn a_closed_session_loses_its_leases_and_is_forgotten() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    desk.market(vec![MarketFact::Closed { session: desk::SESSION }]);
    assert_eq!(desk.place(|_| {}).unwrap_err(), "SESSION_CLOSED");
    desk.wait(0);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::SessionClosed);
    assert!(desk.state.sessions.is_empty());
    let late = Command::ReportCalls { lease, lines: vec![line(1, 1, 1)] };
    assert_eq!(desk.refused(GATEWAY, late), "SESSION_CLOSED");
}

#[test]
fn a_call_is_metered_once_and_its_first_receipt_is_told_again() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    let report = |lines| Command::ReportCalls { lease, lines };
    let Reply::Reported(first) = desk.told(GATEWAY, report(vec![line(1, 2, 3), line(2, 0, 0)])) else {
        panic!()
    };
    assert_eq!((first.metered_seq, first.lines), (None, vec![Told::Metered(0), Told::Metered(1)]));
    let metered_at = desk.seq;
    let Reply::Reported(second) =
        desk.told(GATEWAY, report(vec![line(2, 9, 9), line(3, 1, 1), line(1, 2, 3)]))
    else {
        panic!()
    };
    let told = [Told::Before(metered_at, 1), Told::Metered(0), Told::Before(metered_at, 0)];
    assert_eq!((second.metered_seq, second.lines.as_slice()), (Some(desk.seq - 1), told.as_slice()));
    assert_eq!(second.receipt(&Told::Metered(0), desk.seq), format!("receipts/{}.0", desk.seq - 1));
    let price = 2 * 10 + 3 * 20 + 10 + 20;
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().metered, price);
    assert_eq!(desk.state.sessions.get(&desk::SESSION).unwrap().metered, u128::from(price));
}

#[test]
fn a_line_beyond_the_allowance_is_refused_and_costs_the_others_nothing() {
    // E-9.1
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(100);
    let lines = vec![line(1, 7, 0), line(2, 4, 0), line(3, 3, 0), line(4, u64::MAX, u64::MAX)];
    let Reply::Reported(reported) = desk.told(GATEWAY, Command::ReportCalls { lease, lines }) else {
        panic!()
    };
    let refused = || Told::Refused("ALLOWANCE_EXCEEDED".into());
    assert_eq!(reported.lines, [Told::Metered(0), refused(), Told::Metered(1), refused()]);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().left(), 0);
}

#[test]
fn late_calls_count_while_the_lease_is_remembered_and_the_session_can_pay() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(1_000);
    desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::Released.into() }).unwrap();
    desk.grant_of(desk::CAP as u64 - 15); // 15 are left
    let report = |n| Command::ReportCalls { lease, lines: vec![line(n, 1, 0)] };
    let told = |reply| match reply {
        Reply::Reported(reported) => reported.lines,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(desk.told(GATEWAY, report(1))), [Told::Metered(0)]);
    assert_eq!(told(desk.told(GATEWAY, report(2))), [Told::Refused("SESSION_BUDGET_EXCEEDED".into())]);
    desk.wait(600_000);
    desk.start(GATEWAY);
    assert_eq!(desk.refused(GATEWAY, report(3)), "LEASE_NOT_FOUND");
}

#[test]
fn what_ended_first_is_forgotten_first_where_memory_is_short() {
    let mut desk = Desk::with(with(|params| params.most_leases = 3), &[(1, 1, 1_000)]);
    let leases: Vec<_> = (0..5)
        .map(|_| {
            let (lease, _) = desk.grant();
            desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::Released.into() }).unwrap();
            lease
        })
        .collect();
    let kept: Vec<bool> = leases.iter().map(|lease| desk.state.leases.get(&lease.seq).is_some()).collect();
    assert_eq!(kept, [false, false, true, true, true]);
}

#[test]
fn a_gateway_that_falls_silent_or_restarts_loses_its_nodes() {
    for restart in [false, true] {
        let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000)]);
        let (lease, _) = desk.grant();
        let generations = [1, 2].map(|n| desk.generation(n));
        if restart {
            desk.start(GATEWAY);
        } else {
            desk.wait(14_999);
            assert!(desk.state.nodes.get(&node(1)).unwrap().attached.is_some());
        }
        desk.wait(1);
        assert!([1, 2].iter().all(|n| desk.state.nodes.get(&node(*n)).unwrap().attached.is_none()));
        assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::NodeLost);
        let again = desk.attachment(1, 5, 2);
        if restart {
            desk.ask(GATEWAY, again).unwrap();
            desk.wait(1_000);
            assert!(desk.generation(1) > generations[1], "what attaches after the restart stays");
        } else {
            assert_eq!(desk.refused(GATEWAY, again), "GATEWAY_UNKNOWN");
        }
    }
}

#[test]
fn a_gateway_is_heard_by_an_empty_report_and_starts_only_with_its_own_key() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    for _ in 0..3 {
        desk.wait(10_000);
        desk.ask(
            GATEWAY,
            Command::ReportPresence(Presence { epoch: 0, first_beat: 0, beats: 0, nodes: vec![] }),
        )
        .unwrap();
    }
    assert!(desk.state.nodes.get(&node(1)).unwrap().attached.is_some());
    assert_eq!(desk.refused(GATEWAY, Command::StartGateway { public_key: [9; 32] }), "FORBIDDEN");
}

#[test]
fn a_lost_gateways_nodes_go_in_steps_that_fit_a_frame() {
    let nodes: Vec<(u16, u8, u32)> = (0..600).map(|n| (n, 1, 1_000)).collect();
    let mut desk = Desk::with(with(|_| {}), &nodes);
    desk.start(GATEWAY);
    let steps = [255, 255, 90].map(|_| desk.step().len());
    assert_eq!(steps, [255, 255, 90]);
    assert!(desk.state.dropping.is_empty() && desk.state.pools.is_empty());
}

#[test]
fn a_node_may_ask_why_it_was_not_chosen() {
    // E-10.4
    let mut desk = Desk::with_nodes(&[(1, 1, 2_000), (2, 2, 1_000), (3, 3, 900), (4, 4, 800), (5, 5, 700)]);
    desk.note(5, |fact| fact.0 = false);
    let (lease, winner) = desk.grant();
    let explained = |desk: &Desk, n| {
        let granted = desk.state.leases.get(&lease.seq).unwrap();
        let told = crate::explain::explain(&desk.state, lease, granted, node(n)).unwrap();
        (told.reason, told.changed_since)
    };
    assert_eq!(winner, node(1));
    let reasons: Vec<_> = (1..=5).map(|n| explained(&desk, n)).collect();
    let expected = ["WON", "RANKED_LOWER", "RANKED_LOWER", "RANKED_LOWER", "NOT_QUALIFIED"];
    assert_eq!(reasons, expected.map(|reason| (reason.to_owned(), false)));
    desk.note(5, |fact| fact.0 = true);
    assert_eq!(explained(&desk, 5), ("RANKED_LOWER".into(), true));
    let granted = desk.state.leases.get(&lease.seq).unwrap();
    let unknown = crate::explain::explain(&desk.state, lease, granted, node(99)).unwrap_err();
    assert_eq!(Refusal::of(&unknown).code, Code::NotFound);
}

#[test]
fn explanations_name_what_the_order_itself_ruled_out() {
    let mut desk = Desk::with_nodes(&[(1, 1, 2_000), (2, 2, 1_000)]);
    let reason = |desk: &Desk, lease: crate::state::LeaseId, n| {
        let granted = desk.state.leases.get(&lease.seq).unwrap();
        crate::explain::explain(&desk.state, lease, granted, node(n)).unwrap().reason
    };
    let (lease, _) = desk.grant_with(|place| place.avoid = vec![node(1)]);
    assert_eq!(reason(&desk, lease, 1), "AVOIDED");
    let (lease, _) = desk.grant_with(|place| place.named = Some(node(2)));
    assert_eq!(reason(&desk, lease, 1), "NOT_NAMED");
    assert_eq!(reason(&desk, lease, 2), "WON");
    let long = desk.wish(|place| (place.named, place.context) = (Some(node(1)), 9_000));
    assert_eq!(desk.refused(GATEWAY, long), "NAMED_NODE_UNAVAILABLE");
    assert!(matches!(desk.state.leases.get(&lease.seq).unwrap().stand, Stand::Open));
    assert_eq!(desk.state.pools.get(MODEL).unwrap().serving, 2);
    assert_eq!(owner(1).id, Id::from_bytes([1; 16]));
}
