//! What the kernel writes is what the `.proto` files describe.

use holmes_kernel::{Entry, Event as _, Frame, frame::HEADER_BYTES};
use holmes_proto::{ledger, log};
use prost::Message as _;

/// The kernel's golden frame.
fn golden() -> Frame {
    let hex = include_str!("../../crates/kernel/tests/golden/frame-v1.hex").trim();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("the golden file is hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    Frame::decode(bytes.into()).expect("the golden frame is whole")
}

#[test]
fn the_kernels_frame_is_read_by_the_published_description() {
    let frame = golden();
    let body = log::v1::Body::decode(&frame.bytes()[HEADER_BYTES..]).unwrap();
    let ours = frame.entries().unwrap();
    assert_eq!(body.entries.len(), ours.len());
    for (theirs, (_, ours)) in body.entries.iter().zip(&ours) {
        // Field by field through the bytes: what one writes the other reads and writes again without a difference.
        let again = Entry::decode(theirs.encode_to_vec().as_slice()).unwrap();
        assert_eq!(&again, ours);
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());
    }
    assert_eq!(body.entries[1].refused.as_ref().unwrap().reason, "NO_FUNDS");
    assert!(matches!(body.entries[0].origin, Some(log::v1::entry::Origin::Request(_))));
}

#[test]
fn an_event_of_an_unknown_variant_has_no_name() {
    let newer = [0xfa, 0x3f, 0x00]; // field 1023, an empty message
    let event = ledger::v1::Event::decode(newer.as_slice()).unwrap();
    assert_eq!(event.name(), None);
}

#[test]
fn every_service_is_found_by_name_and_number() {
    for (id, name) in holmes_proto::SERVICES {
        assert_eq!(holmes_proto::service(name), Some(*id));
        assert_eq!(holmes_proto::service_name(*id), Some(*name));
    }
}
