//! Sessions that the market closes: nothing new begins on them, and what runs is metered to its end.

use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_proto::scheduling::v1::event::Event as Kind;

use super::desk::{self, Desk, GATEWAY, line};
use crate::command::{Command, MarketFact};

#[test]
fn a_closing_session_gets_no_lease_and_no_renewal_and_its_running_calls_are_metered() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    desk.closing(60_000);
    assert_eq!(desk.place(|_| {}).unwrap_err(), "SESSION_CLOSING");
    let renew = Command::RenewLease { lease, allowance: 2_000, duration_ms: 0 };
    assert_eq!(desk.refused(GATEWAY, renew), "SESSION_CLOSING");
    desk.stay(10_000);
    desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::Released.into() }).unwrap();
    desk.wait(4_999);
    let late = |call| Command::ReportCalls { lease, lines: vec![line(call, 1, 1)] };
    assert!(matches!(desk.ask(GATEWAY, late(1)).unwrap()[..], [Kind::CallsMetered(_)]));
    desk.wait(1);
    assert_eq!(desk.drained, [desk::SESSION], "nothing is open, and nothing came late");
    assert_eq!(desk.refused(GATEWAY, late(2)), "SESSION_CLOSED");
    desk.market(vec![MarketFact::Closed { session: desk::SESSION }]);
    assert!(desk.state.sessions.is_empty() && desk.state.drains.is_empty());
}

#[test]
fn a_closing_sessions_leases_end_when_its_drain_time_is_over() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    desk.closing(30_000);
    desk.closing(90_000); // what the market has said stands
    desk.stay(29_999);
    assert!(desk.drained.is_empty() && desk.state.leases.get(&lease.seq).unwrap().is_open());
    desk.wait(1);
    assert_eq!(desk.drained, [desk::SESSION]);
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::SessionClosed);
    assert!(desk.state.sessions.is_empty());
}
