//! Calls that run: what was checkpointed of them is paid when nothing else is heard, and only then.

use holmes_kernel::Id;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{CallsMetered, DetachReason, Finish, LeaseEnd};

use super::desk::{self, Desk, GATEWAY, OTHER_GATEWAY, RENTER, line, node, with};
use crate::command::{Command, Line, MarketFact, Reply, Told};
use crate::state::LeaseId;

fn lost(n: u8, input: u64, output: u64) -> Line {
    Line { finish: Finish::NodeLost.into(), ..line(n, input, output) }
}

fn checkpoint(desk: &mut Desk, lease: LeaseId, line: Line) -> usize {
    desk.ask(GATEWAY, Command::Checkpoint(vec![(lease, line)])).unwrap().len()
}

fn end(desk: &mut Desk, lease: LeaseId) {
    desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::NodeLost.into() }).unwrap();
}

/// Lets time pass; what time alone has metered meanwhile.
fn metered(desk: &mut Desk, ms: u64) -> Vec<CallsMetered> {
    let before = desk.metered.len();
    desk.wait(ms);
    desk.metered.split_off(before)
}

fn session(desk: &Desk) -> (u128, u128) {
    let session = desk.state.sessions.get(&desk::SESSION).unwrap();
    (session.metered, session.reserved)
}

#[test]
fn the_last_checkpoint_is_metered_when_nothing_else_is_heard_of_a_call() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    assert_eq!(checkpoint(&mut desk, lease, lost(1, 5, 3)), 1);
    assert_eq!(checkpoint(&mut desk, lease, lost(1, 5, 9)), 1);
    assert_eq!(checkpoint(&mut desk, lease, lost(1, 5, 4)), 0, "an older one takes nothing back");
    assert_eq!(session(&desk), (0, 1_000));
    desk.start(GATEWAY); // it has crashed, and its nodes are detached
    desk.wait(0);
    assert!(desk.state.leases.get(&lease.seq).unwrap().has_ended());
    assert_eq!(session(&desk), (0, 5 * 10 + 9 * 20), "what is to be metered stays reserved, and no more");
    assert!(metered(&mut desk, 599_999).is_empty(), "the call's own line may come");
    let told = metered(&mut desk, 1);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].lines, [lost(1, 5, 9).message()]);
    assert_eq!(told[0].gateway, GATEWAY.id.to_bytes().as_slice());
    assert_eq!(session(&desk), (5 * 10 + 9 * 20, 0));
    assert!(desk.state.unsettled.is_empty());
}

#[test]
fn a_calls_own_line_takes_the_place_of_its_checkpoint() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    for ended in [false, true] {
        let (lease, _) = desk.grant();
        checkpoint(&mut desk, lease, lost(1, 5, 9));
        if ended {
            end(&mut desk, lease);
        }
        let Reply::Reported(told) =
            desk.told(GATEWAY, Command::ReportCalls { lease, lines: vec![line(1, 5, 20)] })
        else {
            panic!("a report is answered")
        };
        assert_eq!(told.lines, [Told::Metered(0)]);
        assert_eq!(desk.state.leases.get(&lease.seq).unwrap().pending, 0);
        assert_eq!(checkpoint(&mut desk, lease, lost(1, 5, 30)), 0, "it has its receipt");
        end(&mut desk, lease);
    }
    assert_eq!(session(&desk), (2 * (5 * 10 + 20 * 20), 0));
    assert!(metered(&mut desk, 700_000).is_empty(), "each call is paid once");
}

#[test]
fn a_call_that_a_report_or_a_checkpoint_names_twice_counts_once() {
    // E-9.2
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    for (outputs, most) in [([3, 2], 3), ([4, 9], 9)] {
        let both = Command::Checkpoint(outputs.map(|output| (lease, lost(1, 5, output))).to_vec());
        let [Kind::CallsCheckpointed(kept)] = &desk.ask(GATEWAY, both).unwrap()[..] else {
            panic!("it is kept")
        };
        assert_eq!(kept.lines, [lost(1, 5, most).message()]);
    }
    let lines = vec![line(2, 1, 1), line(1, 5, 4), line(1, 5, 9), line(2, 1, 1)];
    let Reply::Reported(told) = desk.told(GATEWAY, Command::ReportCalls { lease, lines }) else {
        panic!("a report is answered")
    };
    let seq = told.metered_seq.expect("its receipts' place");
    let again = |line| Told::Before(seq, line);
    assert_eq!(told.lines, [Told::Metered(0), Told::Metered(1), again(1), again(0)]);
    assert_eq!(session(&desk).0, 30 + (5 * 10 + 4 * 20));
    end(&mut desk, lease);
    assert!(metered(&mut desk, 700_000).is_empty());
}

#[test]
fn a_closing_session_pays_what_was_checkpointed_before_it_is_drained() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    checkpoint(&mut desk, lease, lost(1, 5, 9));
    desk.closing(1_000);
    checkpoint(&mut desk, lease, lost(1, 5, 12)); // while it drains
    let told = metered(&mut desk, 1_000 + 4_999);
    assert!(told.is_empty() && desk.drained.is_empty());
    let told = metered(&mut desk, 1);
    assert_eq!(told[0].lines, [lost(1, 5, 12).message()]);
    assert_eq!(desk.drained, [desk::SESSION]);
    assert!(desk.state.sessions.is_empty() && desk.state.unsettled.is_empty());
}

#[test]
fn what_is_to_be_metered_is_taken_by_nobody_else() {
    // E-9.1
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(300);
    checkpoint(&mut desk, lease, lost(1, 0, 10)); // 200
    assert_eq!(checkpoint(&mut desk, lease, lost(2, 0, 6)), 0, "320 are more than the lease allows");
    let Reply::Reported(told) =
        desk.told(GATEWAY, Command::ReportCalls { lease, lines: vec![line(2, 0, 6), line(3, 0, 5)] })
    else {
        panic!("a report is answered")
    };
    assert_eq!(told.lines, [Told::Refused("ALLOWANCE_EXCEEDED".into()), Told::Metered(0)]);
    end(&mut desk, lease);
    let free = desk::CAP as u64 - 300;
    assert_eq!(desk.place(|place| place.allowance = free + 1).unwrap_err(), "SESSION_BUDGET_EXCEEDED");
    desk.grant_of(free);
    let report = |output| Command::ReportCalls { lease, lines: vec![line(1, 0, output)] };
    let Reply::Reported(told) = desk.told(GATEWAY, report(11)) else { panic!("it is answered") };
    assert_eq!(told.lines, [Told::Refused("ALLOWANCE_EXCEEDED".into())]);
    let Reply::Reported(told) = desk.told(GATEWAY, report(10)) else { panic!("it is answered") };
    assert_eq!(told.lines, [Told::Metered(0)], "its own checkpoint has held that for it");
}

#[test]
fn only_the_gateway_that_delivers_a_call_checkpoints_it() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    let wish = Command::Checkpoint(vec![(lease, lost(1, 1, 1))]);
    assert_eq!(desk.refused(RENTER, wish.clone()), "FORBIDDEN");
    assert_eq!(desk.refused(OTHER_GATEWAY, wish.clone()), "GATEWAY_UNKNOWN");
    desk.start(OTHER_GATEWAY);
    assert_eq!(desk.ask(OTHER_GATEWAY, wish.clone()), Ok(vec![]));
    let unknown = LeaseId { seq: 9_999, ..lease };
    assert_eq!(checkpoint(&mut desk, unknown, lost(1, 1, 1)), 0);
    let both = Command::Checkpoint(vec![(unknown, lost(2, 1, 1)), (lease, lost(1, 1, 1))]);
    let [Kind::CallsCheckpointed(kept)] = &desk.ask(GATEWAY, both).unwrap()[..] else { panic!("it is kept") };
    assert_eq!((kept.lines.len(), kept.leases.as_ref()), (1, lease.to_bytes().as_slice()));
}

#[test]
fn checkpoints_of_a_session_that_the_market_has_closed_are_nobodys() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (open, _) = desk.grant();
    let (ended, _) = desk.grant();
    checkpoint(&mut desk, open, lost(1, 1, 1));
    checkpoint(&mut desk, ended, lost(2, 1, 1));
    end(&mut desk, ended);
    desk.market(vec![MarketFact::Closed { session: desk::SESSION }]);
    assert!(metered(&mut desk, 700_000).is_empty());
    assert!(desk.state.sessions.is_empty() && desk.state.unsettled.is_empty());
}

#[test]
fn a_lease_that_owes_is_not_forgotten_where_memory_is_short_or_time_has_passed() {
    let mut desk = Desk::with(with(|params| params.most_leases = 2), &[(1, 1, 1_000)]);
    let owing: Vec<LeaseId> = (1..4)
        .map(|n| {
            let (lease, _) = desk.grant();
            checkpoint(&mut desk, lease, lost(n, 1, 1));
            end(&mut desk, lease);
            lease
        })
        .collect();
    for _ in 0..3 {
        let (lease, _) = desk.grant();
        end(&mut desk, lease);
    }
    assert!(owing.iter().all(|lease| desk.state.leases.get(&lease.seq).is_some()));
    assert_eq!(desk.state.leases.len(), 3 + 2);
    // Nobody was there for long: the first event behind finds them still.
    desk.skip(3_600_000);
    desk.start(GATEWAY);
    assert_eq!(metered(&mut desk, 0).len(), 3);
    assert_eq!(session(&desk), (3 * 30, 0));
}

#[test]
fn many_checkpoints_are_metered_in_steps_that_fit_a_frame() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant_of(100_000);
    for part in 0..3 {
        let call = |n: u64| Id::v7(2_000 + part * 256 + n, [1; 10]);
        let lines = (0..256).map(|n| (lease, Line { call: call(n), ..lost(1, 1, 1) })).collect();
        desk.ask(GATEWAY, Command::Checkpoint(lines)).unwrap();
    }
    desk.closing(0);
    let lines: Vec<usize> = metered(&mut desk, 5_000).iter().map(|metered| metered.lines.len()).collect();
    assert_eq!((lines.iter().sum::<usize>(), lines.len()), (768, 4));
    assert_eq!(desk.drained, [desk::SESSION]);
}

#[test]
fn a_call_is_known_by_its_id_beyond_its_lease() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (first, _) = desk.grant();
    let known = |desk: &Desk, n| desk.state.calls.find(&line(n, 0, 0).call);
    assert_eq!(known(&desk, 1), None);
    checkpoint(&mut desk, first, lost(1, 1, 1));
    assert_eq!(known(&desk, 1), Some(None), "it runs");
    desk.ask(GATEWAY, Command::ReportCalls { lease: first, lines: vec![lost(1, 1, 1)] }).unwrap();
    assert_eq!(known(&desk, 1), Some(Some((desk.seq, 0))));
    let (second, _) = desk.grant(); // where the call has gone on
    desk.ask(GATEWAY, Command::ReportCalls { lease: second, lines: vec![line(1, 1, 1)] }).unwrap();
    assert_eq!(known(&desk, 1), Some(Some((desk.seq, 0))), "its last receipt");
    let reason = DetachReason::Left.into();
    let generation = desk.generation(1);
    desk.ask(GATEWAY, Command::Detach { node: node(1), generation, reason }).unwrap();
    desk.market(vec![MarketFact::Closed { session: desk::SESSION }]);
    desk.wait(700_000);
    assert!(desk.state.leases.get(&first.seq).is_none() || desk.state.sessions.is_empty());
    assert!(known(&desk, 1).is_some(), "neither lease nor session is there any more");
}
