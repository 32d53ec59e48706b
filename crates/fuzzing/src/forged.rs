//! Logs that somebody else has written.

use arbitrary::Unstructured;
use holmes_kernel::entry::Entry;
use holmes_kernel::frame::Open;
use holmes_kernel::{Frame, LogId, Opened, Principal, Replica, Tail, Time};
use holmes_proto::ledger::v1::Event;
use holmes_runtime::PublicFrame;
use holmes_testing::Script;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;

type Heard = Script<Event>;

const LOG: LogId = LogId::new(1, <Event as holmes_kernel::Event>::SERVICE);

/// Bytes as a frame, as the body of a frame whose header and sum are right, and as entries behind a log's first frame.
/// Whatever is taken goes on as one chain, and tells the same again.
pub(crate) fn frames(bytes: &[u8]) {
    read(Bytes::copy_from_slice(bytes));
    carried(bytes);
    let opened = Opened { cell: 1, ..Opened::default() };
    let first = Replica::<Heard>::provision(LOG, Time::from_millis(1_000), opened).unwrap();
    let mut u = Unstructured::new(bytes);
    let mut open = Open::new(LOG, 1, Time::from_millis(2_000), 1, &first.tail());
    let mut tail = first.tail();
    let mut kept = Vec::new();
    while let Ok(entry) = entry(&mut u) {
        let events: Vec<Event> =
            entry.events.iter().filter_map(|bytes| Event::decode(bytes.clone()).ok()).take(8).collect();
        open.push(&Entry { events: Vec::new(), ..entry }, &events);
        if open.has_room() && u.ratio(3u8, 4u8).unwrap_or(false) {
            continue;
        }
        let frame = open.freeze();
        read(frame.bytes().clone());
        tail = frame.tail();
        kept.push(frame);
        open = Open::new(LOG, 1, Time::from_millis(3_000 + kept.len() as u64), 1, &tail);
    }
    replay(&first, &kept, &tail);
}

/// An entry of some bytes, or one that is well made but for its events.
fn entry(u: &mut Unstructured<'_>) -> arbitrary::Result<Entry> {
    if u.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let bytes: &[u8] = u.arbitrary()?;
    if let Ok(entry) = Entry::decode(bytes)
        && entry.encoded_len() < 1 << 16
    {
        return Ok(entry);
    }
    let principal = Bytes::copy_from_slice(&Principal::SYSTEM.to_bytes());
    Ok(Entry { principal, events: vec![Bytes::copy_from_slice(bytes)], ..Entry::default() })
}

/// A frame that can be read is the same bytes again, and its entries fill what it claims.
fn read(bytes: Bytes) {
    let Ok(frame) = Frame::decode(bytes.clone()) else { return };
    assert_eq!(frame.bytes(), &bytes);
    let (first, last) = (frame.header().first, frame.header().last);
    if let Ok(entries) = frame.entries() {
        assert!(entries.iter().all(|(seq, _)| (first..=last).contains(seq)));
    }
    let _ = frame.follows(LOG, &Tail::default());
}

fn replay(first: &Frame, frames: &[Frame], tail: &Tail) {
    let mut replica = Replica::<Heard>::open(LOG, first).unwrap();
    if frames.iter().all(|frame| replica.apply(frame).is_ok()) {
        assert_eq!(replica.tail(), tail);
        let again = Replica::<Heard>::decode(&replica.encode()).unwrap();
        assert_eq!(again.digest(), replica.digest(), "a snapshot is another state");
    }
    let _ = Replica::<Heard>::decode(frames.last().map_or(&[], |frame| frame.bytes()));
}

/// A message of a stream: whole in the eyes of its checksum, whatever it says.
fn carried(body: &[u8]) {
    let mut bytes = body.to_vec();
    bytes.push(15 << 3 | 5); // the checksum's field
    bytes.extend(crc32c::crc32c(body).to_le_bytes());
    if let Ok(frame) = PublicFrame::from_bytes(&bytes.into()) {
        assert_eq!(PublicFrame::from_bytes(&frame.to_bytes()), Ok(frame));
    }
}
