//! {{Name}} as a whole: driven through its shard, replayed from its frames, and the bytes of its events.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use holmes_{{name}}::{Command, {{Name}}, params};
use holmes_kernel::{Event as _, Id, LogId, Opened, Principal, PrincipalKind, Time};
use holmes_proto::{{name}}::v1::event::Event as Kind;
use holmes_proto::{{name}}::v1::{Begun, Event};
use holmes_testing::{Driver, golden};

const START: Time = Time::from_millis(1_800_000_000_000);
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([1; 16]));

fn driver() -> Driver<{{Name}}> {
    let opened = Opened { cell: 1, params: params::encoded_defaults(), ..Opened::default() };
    Driver::new(LogId::new(1, Event::SERVICE), START, opened)
}

#[test]
fn it_begins_once_and_its_log_gives_the_same_state_again() {
    let mut driver = driver();
    let id = driver.fresh();
    driver.ask_as(STAFF, id, Command::Begin).unwrap();
    driver.ask_as(STAFF, id, Command::Begin).unwrap(); // the same request: the same answer
    let refusal = driver.ask(STAFF, Command::Begin).unwrap_err();
    assert_eq!(refusal.reason, "BEGUN_TOO_OFTEN");
    assert_eq!(driver.state().beginnings, 1);
    driver.check();
    driver.check_replay();
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    let begun = Begun { at_us: START.micros() };
    let events = [Event { event: Some(Kind::Begun(begun)) }];
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &events);
    assert_eq!(golden::named(&events, Event::is_public), ["Begun"]);
}
