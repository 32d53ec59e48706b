use proptest::prelude::*;

use super::*;
use crate::entry::{DueOrigin, Origin, RequestOrigin};
use crate::id::{Id, Principal};

const LOG: LogId = LogId::new(7, ServiceId(3));

fn head(request: u8) -> Entry {
    Entry {
        origin: Some(Origin::Request(RequestOrigin {
            request_id: Bytes::copy_from_slice(&[request; 16]),
            digest: Bytes::copy_from_slice(&[2; 16]),
        })),
        principal: Bytes::copy_from_slice(&Principal::SYSTEM.to_bytes()),
        ..Entry::default()
    }
}

/// Two entries: one with two events (a `string` message each), one refused.
fn sample() -> Frame {
    let mut open = Open::new(LOG, 5, Time::from_micros(1_000), 1, &Tail::default());
    open.push(&head(1), &["paid".to_owned(), "told".to_owned()]);
    let refused = crate::entry::Refused { code: 9, reason: "NO_FUNDS".into(), message: "top up".into() };
    open.push::<String>(&Entry { refused: Some(refused), ..head(3) }, &[]);
    open.freeze()
}

#[test]
fn a_frames_bytes_are_the_released_ones() {
    // Golden: never edit; a new layout gets a new FORMAT and a case of its own.
    let hex: String = sample().bytes().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("../../tests/golden/frame-v1.hex").trim());
    let chain: String = sample().chain().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(chain, include_str!("../../tests/golden/frame-v1.chain").trim());
}

#[test]
fn a_frame_reads_back_as_it_was_written() {
    let frame = Frame::decode(sample().bytes().clone()).unwrap();
    assert_eq!(frame, sample());
    assert_eq!((frame.header().first, frame.header().last), (1, 3));
    let entries = frame.entries().unwrap();
    assert_eq!(entries.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 3]);
    let told: Vec<String> = entries[0].1.events.iter().map(|e| String::decode(e.clone()).unwrap()).collect();
    assert_eq!(told, ["paid", "told"]);
    assert_eq!(entries[1].1.refused.as_ref().unwrap().reason, "NO_FUNDS");
    assert!(
        matches!(&entries[0].1.origin, Some(Origin::Request(r)) if r.id() == Some(Id::from_bytes([1; 16])))
    );
}

#[test]
fn only_the_next_frame_follows() {
    let first = sample();
    let tail = first.tail();
    let next = |log, term, us, tail: &Tail| {
        let mut open = Open::new(log, term, Time::from_micros(us), 1, tail);
        open.push::<String>(&Entry { origin: Some(Origin::Due(DueOrigin {})), ..Entry::default() }, &[]);
        open.freeze()
    };
    assert_eq!(next(LOG, 5, 1_001, &tail).follows(LOG, &tail), Ok(()));
    assert_eq!(next(LOG, 5, 1_000, &tail).follows(LOG, &tail), Err(Damage::Backwards("log time")));
    assert_eq!(next(LOG, 4, 1_001, &tail).follows(LOG, &tail), Err(Damage::Backwards("the term")));
    let other = LogId::new(8, ServiceId(3));
    assert_eq!(
        next(other, 5, 1_001, &tail).follows(LOG, &tail),
        Err(Damage::Foreign { found: other, expected: LOG })
    );
    let fork = Tail { chain: [9; 32], ..tail };
    assert_eq!(next(LOG, 5, 1_001, &fork).follows(LOG, &tail), Err(Damage::Chain));
    let gap = Tail { seq: tail.seq + 1, ..tail };
    assert_eq!(
        next(LOG, 5, 1_001, &gap).follows(LOG, &tail),
        Err(Damage::Sequence { found: 5, expected: 4 })
    );
}

#[test]
fn a_full_frame_has_no_room_and_stays_within_its_limits() {
    let mut open = Open::new(LOG, 1, Time::from_micros(1), 1, &Tail::default());
    while open.has_room() {
        open.push(&head(1), &vec!["x".repeat(60); ENTRY_EVENTS]);
    }
    let frame = open.freeze();
    assert!(frame.bytes().len() <= HEADER_BYTES + FRAME_BYTES);
    assert!(frame.header().last - frame.header().first < FRAME_EVENTS);
    assert!(Frame::decode(frame.bytes().clone()).is_ok());
}

proptest! {
    #[test]
    fn any_changed_byte_is_found(at in 0usize..10_000, bit in 0u8..8) {
        let mut bytes = sample().bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Frame::decode(bytes.into()).is_err());
    }

    #[test]
    fn any_truncation_is_found(keep in 0usize..10_000) {
        let bytes = sample().bytes().clone();
        let keep = keep % bytes.len();
        prop_assert!(Frame::decode(bytes.slice(..keep)).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok(frame) = Frame::decode(bytes.into()) {
            let _ = frame.entries();
        }
    }

    #[test]
    fn a_body_of_arbitrary_bytes_under_a_valid_checksum_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = sample().bytes()[..HEADER_BYTES].to_vec();
        bytes.extend(body);
        let crc = checksum(&bytes);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let frame = Frame::decode(bytes.into()).unwrap();
        let _ = frame.entries();
    }
}
