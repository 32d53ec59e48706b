//! Bytes that no kernel of ours has written, under valid checksums: they are refused with a reason, never with a
//! panic, and leave nothing behind.

use holmes_kernel::entry::{DueOrigin, Refused, RequestOrigin, SubmitterOrigin};
use holmes_kernel::frame::{HEADER_BYTES, Open};
use holmes_kernel::replica::SCHEMA;
use holmes_kernel::{Entry, Frame, Opened, Origin, Principal, ReplayError, Replica, Tail, Time};
use prost::Message;

use crate::till::{self, Event, Noted, Till, What};

/// A frame's bytes with a number in its header changed and the checksum made right again.
fn forged(frame: &Frame, changes: &[(usize, u64)]) -> Vec<u8> {
    let mut bytes = frame.bytes().to_vec();
    for (at, number) in changes {
        bytes[*at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..HEADER_BYTES - 4]), &bytes[HEADER_BYTES..]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

const FIRST: usize = 16;
const LAST: usize = 24;

#[test]
fn a_frame_at_the_end_of_all_sequence_numbers_is_refused() {
    let frame = till::provision(1, Time::from_millis(1));
    for (first, last) in [(u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX), (0, 0), (5, 4), (1, u64::MAX)] {
        let bytes = forged(&frame, &[(FIRST, first), (LAST, last)]);
        if let Ok(read) = Frame::decode(bytes.into()) {
            let _ = read.entries();
            let _ = read.follows(till::log(1), &read.tail());
            panic!("{first}..={last} was taken");
        }
    }
    let end = Tail { seq: u64::MAX, ..frame.tail() };
    assert!(frame.follows(till::log(1), &end).is_err(), "nothing follows the last number");
}

/// What a replica at the beginning of its log says to a second frame with one entry.
fn after_opening(schema: u32, entry: Entry) -> Result<(), ReplayError> {
    let first = till::provision(1, Time::from_millis(1));
    let mut replica = Replica::<Till>::open(till::log(1), &first).expect("well-formed");
    let events: Vec<Event> =
        entry.events.iter().map(|bytes| Event::decode(bytes.clone()).expect("well-formed")).collect();
    let mut open = Open::new(till::log(1), 1, Time::from_millis(2), schema, replica.tail());
    open.push(&Entry { events: Vec::new(), ..entry }, &events);
    replica.apply(&Frame::decode(open.freeze().bytes().clone()).expect("well-formed"))
}

fn due() -> Entry {
    let noted = Event { what: Some(What::Noted(Noted { bytes: vec![1] })) };
    Entry {
        origin: Some(Origin::Due(DueOrigin {})),
        principal: Principal::SYSTEM.to_bytes().to_vec().into(),
        events: vec![noted.encode_to_vec().into()],
        ..Entry::default()
    }
}

#[test]
fn a_frame_for_newer_readers_is_refused_even_if_every_event_can_be_read() {
    after_opening(SCHEMA, due()).unwrap();
    let why = after_opening(SCHEMA + 1, due()).unwrap_err();
    assert!(why.to_string().contains("use a build that knows it"), "{why}");
}

#[test]
fn an_entry_that_this_kernel_never_writes_is_refused() {
    let refused = Refused { code: 9, reason: "NO".into(), message: "no".into() };
    let request = |id: &[u8], digest: &[u8]| {
        Origin::Request(RequestOrigin { request_id: id.to_vec().into(), digest: digest.to_vec().into() })
    };
    let of = |origin| Entry { origin, ..due() };
    for (what, entry) in [
        ("without an origin", of(None)),
        ("opened a second time", of(Some(Origin::Opened(Opened::default())))),
        ("with a short request id", of(Some(request(&[7; 15], &[1; 16])))),
        ("with a long digest", of(Some(request(&[7; 16], &[1; 17])))),
        (
            "with a number that is not the next",
            of(Some(Origin::Submitter(SubmitterOrigin { number: 2, digest: vec![0; 16].into() }))),
        ),
        ("refused, with an event", Entry { refused: Some(refused), ..due() }),
        ("of nobody", Entry { principal: vec![].into(), ..due() }),
        ("of an unknown kind of principal", Entry { principal: vec![77; 17].into(), ..due() }),
    ] {
        assert!(after_opening(SCHEMA, entry).is_err(), "an entry {what} was taken");
    }
}

#[test]
fn an_opening_that_no_frame_can_hold_is_refused_at_provisioning() {
    let opened = Opened { profile_hash: vec![1; 500_000], ..till::opened(1) };
    assert!(Replica::<Till>::provision(till::log(1), Time::from_millis(1), opened).is_err());
}

#[test]
fn an_event_that_makes_its_machine_fail_is_damage_at_its_place() {
    let burst = Event { what: Some(What::Burst(Noted { bytes: vec![1] })) };
    let entry = Entry { events: vec![burst.encode_to_vec().into()], ..due() };
    let why = after_opening(SCHEMA, entry).unwrap_err();
    assert!(matches!(why, ReplayError::Entry { seq: 2, .. }), "{why}");
    assert!(why.to_string().contains("till fails over its events: evolve panics on this"), "{why}");
}
