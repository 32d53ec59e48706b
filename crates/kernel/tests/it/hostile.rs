//! Bytes that no kernel of ours has written, under valid checksums: they are refused with a reason, never with a
//! panic, and leave nothing behind.

use holmes_kernel::frame::HEADER_BYTES;
use holmes_kernel::{Frame, Tail, Time};

use crate::till;

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
