//! Sessions that the market closes: nothing new begins on them, and what runs is metered to its end.

use holmes_kernel::Time;
use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_proto::scheduling::v1::event::Event as Kind;

use super::desk::{self, Desk, GATEWAY, line};
use crate::command::{Command, MarketFact};
use crate::decide::ending;
use crate::state::LeaseId;

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
    assert_eq!(desk.state.leases.get(&lease.seq).unwrap().reason(), LeaseEnd::SessionClosed);
    desk.wait(4_999);
    assert!(desk.drained.is_empty(), "its gateway has to hear of that first, and stop the call");
    let late = Command::ReportCalls { lease, lines: vec![line(1, 1, 1)] };
    assert!(matches!(desk.ask(GATEWAY, late).unwrap()[..], [Kind::CallsMetered(_)]));
    desk.wait(1);
    assert_eq!(desk.drained, [desk::SESSION]);
    assert!(desk.state.sessions.is_empty());
}

#[test]
fn a_session_without_a_lease_for_long_is_drained_at_once() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let (lease, _) = desk.grant();
    desk.ask(GATEWAY, Command::EndLease { lease, reason: LeaseEnd::Released.into() }).unwrap();
    desk.stay(3_000);
    desk.closing(60_000);
    desk.wait(1_999);
    assert!(desk.drained.is_empty(), "late calls come for 5 s");
    desk.wait(1);
    assert_eq!(desk.drained, [desk::SESSION]);
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    desk.closing(60_000);
    desk.wait(0);
    assert_eq!(desk.drained, [desk::SESSION]);
}

#[test]
fn a_session_that_has_expired_gets_no_lease_and_what_runs_is_metered_until_it_is_drained() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000)]);
    let expires_at = desk.state.at.after_millis(30_000);
    desk.market(vec![MarketFact::Funded {
        session: desk::SESSION,
        renter: desk::RENTER,
        cap: desk::CAP,
        expires_at,
    }]);
    let granted = desk.place(|_| {}).unwrap();
    assert_eq!(granted.expires_at_us, expires_at.micros(), "no lease outlives its session");
    let lease = LeaseId::from_slice(&granted.lease).unwrap();
    assert_eq!(ending(&desk.state, lease), Some((expires_at, LeaseEnd::SessionClosed)), "the gateway hears");
    desk.stay(30_000);
    assert_eq!(desk.place(|_| {}).unwrap_err(), "SESSION_EXPIRED");
    let late = |n| Command::ReportCalls { lease, lines: vec![line(n, 1, 1)] };
    assert!(matches!(desk.ask(GATEWAY, late(1)).unwrap()[..], [Kind::CallsMetered(_)]));
    desk.closing(60_000); // as the market says it then
    assert!(matches!(desk.ask(GATEWAY, late(2)).unwrap()[..], [Kind::CallsMetered(_)]));
    desk.wait(5_000);
    assert_eq!(desk.drained, [desk::SESSION]);
    assert_eq!(desk.refused(GATEWAY, late(3)), "SESSION_CLOSED");
}

#[test]
fn a_gateway_hears_which_of_its_leases_will_not_be_renewed() {
    let mut desk = Desk::with_nodes(&[(1, 1, 1_000), (2, 2, 1_000)]);
    let (first, _) = desk.grant();
    let (second, _) = desk.grant();
    let expires = desk.state.leases.get(&first.seq).unwrap().expires_at;
    assert_eq!(ending(&desk.state, first), None);
    desk.ask(GATEWAY, Command::EndLease { lease: second, reason: LeaseEnd::NodeLost.into() }).unwrap();
    assert_eq!(ending(&desk.state, second), Some((Time::default(), LeaseEnd::NodeLost)));
    assert_eq!(
        ending(&desk.state, LeaseId { seq: 9_999, ..first }),
        Some((Time::default(), LeaseEnd::Unspecified))
    );
    desk.closing(10_000);
    let drains = desk.state.sessions.get(&desk::SESSION).unwrap().drains_until.unwrap();
    assert!(drains < expires);
    assert_eq!(ending(&desk.state, first), Some((drains, LeaseEnd::SessionClosed)));
    assert_eq!(ending(&desk.state, second), Some((Time::default(), LeaseEnd::SessionClosed)));
}
