//! Scheduling as a whole, on virtual time over the memory journal.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use holmes_kernel::{
    Call, Event as _, Handle as _, Id, LogId, Machine, Opened, Principal, PrincipalKind, Time,
};
use holmes_runtime::{Rig, Seat};
use holmes_scheduling::{Command, Scheduling, params};
use holmes_store::journal::memory::Journal;

const START: Time = Time::from_millis(1_800_000_000_000);
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([1; 16]));

fn rig() -> (Rig<Journal>, Seat<Scheduling, Journal>) {
    let mut rig = Rig::new(Journal::default(), START);
    let log = LogId::new(1, <Scheduling as Machine>::Event::SERVICE);
    let opened = Opened { cell: 1, params: params::encoded_defaults(), ..Opened::default() };
    let seat = rig.add(log, opened).unwrap();
    (rig, seat)
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a rig answers at once"),
    }
}

fn request(n: u8) -> Call {
    Call::request(STAFF, Id::v7(START.millis(), [n; 10]))
}

#[test]
fn it_begins_once_and_its_log_gives_the_same_state_again() {
    let (mut rig, seat) = rig();
    now(seat.submit(request(1), Command::Begin)).unwrap();
    now(seat.submit(request(1), Command::Begin)).unwrap(); // the same request: the same answer
    let refusal = now(seat.submit(request(2), Command::Begin)).unwrap_err();
    assert_eq!(refusal.reason, "BEGUN_TOO_OFTEN");
    assert_eq!(seat.look(|state| state.beginnings), 1);
    assert_eq!(rig.check(), []);
    assert!(rig.restart().unwrap().is_empty(), "the rebuilt state has the same digest");
}
