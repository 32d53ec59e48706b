//! The message that a public frame is on a stream: `holmes.log.v1.PublicFrame`. `proto/holmes/log/v1/log.proto` describes
//! the same bytes for other readers, and a test holds the two together.

use holmes_kernel::{Entry, LogId, ServiceId, Time};
use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes, BytesMut};

use super::{PublicEntry, PublicFrame};

/// Tag of the last field, the checksum: number 15, four bytes.
const CRC_TAG: u8 = 15 << 3 | 5;
/// Tag and checksum.
const CRC_BYTES: usize = 5;

/// Why bytes are no public frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They do not end with their checksum, or it is another's.
    #[error("its checksum is wrong")]
    Checksum,
    /// They are no message of this kind.
    #[error("{0}")]
    Shape(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(uint32, tag = "1")]
    cell: u32,
    #[prost(uint32, tag = "2")]
    svc: u32,
    #[prost(uint32, tag = "3")]
    shard: u32,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    first: u64,
    #[prost(uint64, tag = "6")]
    last: u64,
    #[prost(uint64, tag = "7")]
    ts_us: u64,
    #[prost(bytes = "bytes", tag = "8")]
    prev_chain: Bytes,
    #[prost(bytes = "bytes", tag = "9")]
    chain: Bytes,
    #[prost(message, repeated, tag = "10")]
    entries: Vec<Covered>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Covered {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    last: u64,
    #[prost(message, optional, tag = "3")]
    send: Option<Send>,
    #[prost(message, optional, tag = "4")]
    entry: Option<Entry>,
    #[prost(uint32, repeated, tag = "5")]
    offsets: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Send {
    #[prost(uint32, tag = "1")]
    to: u32,
    #[prost(bytes = "vec", tag = "2")]
    command: Vec<u8>,
}

impl PublicFrame {
    /// The message. The same frame always gives the same bytes.
    pub fn to_bytes(&self) -> Bytes {
        let covered = |entry: &PublicEntry| Covered {
            first: entry.first,
            last: entry.last,
            send: entry.send.clone().map(|(to, command)| Send { to: to.0.into(), command }),
            entry: Some(entry.entry.clone()),
            offsets: entry.offsets.clone(),
        };
        let frame = Frame {
            cell: self.log.cell.into(),
            svc: self.log.svc.0.into(),
            shard: self.log.shard.into(),
            term: self.term,
            first: self.first,
            last: self.last,
            ts_us: self.ts.micros(),
            prev_chain: Bytes::copy_from_slice(&self.prev_chain),
            chain: Bytes::copy_from_slice(&self.chain),
            entries: self.entries.iter().map(covered).collect(),
        };
        let mut bytes = BytesMut::with_capacity(frame.encoded_len() + CRC_BYTES);
        frame.encode_raw(&mut bytes); // its room is there
        let crc = crc32c::crc32c(&bytes);
        bytes.put_u8(CRC_TAG);
        bytes.put_u32_le(crc);
        bytes.freeze()
    }

    /// What a message says.
    pub fn from_bytes(bytes: &Bytes) -> Result<PublicFrame, WireError> {
        let body = bytes.len().checked_sub(CRC_BYTES).ok_or(WireError::Checksum)?;
        let (body, checksum) = (bytes.slice(..body), &bytes[body..]);
        let (tag, crc) = (checksum[0], &checksum[1..]);
        if tag != CRC_TAG || crc != crc32c::crc32c(&body).to_le_bytes() {
            return Err(WireError::Checksum);
        }
        let frame = Frame::decode(body).map_err(|why| WireError::Shape(why.to_string()))?;
        frame.whole().ok_or_else(|| WireError::Shape("a field is missing, or out of its bounds".into()))
    }
}

impl Frame {
    fn whole(self) -> Option<PublicFrame> {
        let log = LogId::new(u16::try_from(self.cell).ok()?, ServiceId(u16::try_from(self.svc).ok()?));
        let entries: Option<Vec<PublicEntry>> = self.entries.into_iter().map(Covered::whole).collect();
        let in_order = self.first >= 1 && self.first <= self.last && self.shard == u32::from(log.shard);
        let within = |entry: &PublicEntry| entry.first >= self.first && entry.last <= self.last;
        (in_order && entries.as_ref()?.iter().all(within)).then_some(PublicFrame {
            log,
            term: self.term,
            first: self.first,
            last: self.last,
            ts: Time::from_micros(self.ts_us),
            prev_chain: self.prev_chain.as_ref().try_into().ok()?,
            chain: self.chain.as_ref().try_into().ok()?,
            entries: entries?,
        })
    }
}

impl Covered {
    fn whole(self) -> Option<PublicEntry> {
        let send = match self.send {
            Some(Send { to, command }) => Some((ServiceId(u16::try_from(to).ok()?), command)),
            None => None,
        };
        let Covered { first, last, offsets, .. } = self;
        let entry = self.entry?;
        let span = last.checked_sub(first)?;
        let placed = offsets.is_empty() || offsets.len() == entry.events.len();
        let within = offsets.iter().all(|offset| u64::from(*offset) <= span)
            && entry.events.len() as u64 <= span.saturating_add(1);
        (placed && within).then_some(PublicEntry { first, last, send, entry, offsets })
    }
}

#[cfg(test)]
mod tests {
    use crate::log::v1;
    use holmes_kernel::entry::{Origin, RequestOrigin};

    use super::*;

    fn frame() -> PublicFrame {
        let origin = RequestOrigin { request_id: vec![1; 16].into(), digest: vec![2; 16].into() };
        let entry = Entry {
            origin: Some(Origin::Request(origin)),
            events: vec![vec![3; 9].into(), vec![4; 2].into()],
            ..Entry::default()
        };
        PublicFrame {
            log: LogId::new(7, ServiceId(3)),
            term: 5,
            first: 100,
            last: 104,
            ts: Time::from_micros(1_700_000_000_000_000),
            prev_chain: [8; 32],
            chain: [9; 32],
            entries: vec![PublicEntry {
                first: 101,
                last: 103,
                send: Some((ServiceId(1), vec![6; 5])),
                entry,
                offsets: vec![0, 2],
            }],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(PublicFrame::from_bytes(&frame().to_bytes()), Ok(frame()));
        let silent = PublicFrame { entries: Vec::new(), ..frame() };
        assert_eq!(PublicFrame::from_bytes(&silent.to_bytes()), Ok(silent));
    }

    #[test]
    fn others_read_it_by_its_published_description() {
        let bytes = frame().to_bytes();
        let theirs = v1::PublicFrame::decode(bytes.clone()).unwrap();
        assert_eq!((theirs.cell, theirs.svc, theirs.term, theirs.first, theirs.last), (7, 3, 5, 100, 104));
        assert_eq!(theirs.ts_us, 1_700_000_000_000_000);
        assert_eq!((theirs.prev_chain.as_ref(), theirs.chain.as_ref()), ([8; 32].as_ref(), [9; 32].as_ref()));
        let entry = &theirs.entries[0];
        assert_eq!((entry.first, entry.last, entry.entry.as_ref().unwrap().events.len()), (101, 103, 2));
        assert_eq!(entry.offsets, [0, 2]);
        let seqs: Vec<u64> = frame().entries[0].events().map(|(seq, _)| seq).collect();
        assert_eq!(seqs, [101, 103]);
        assert_eq!(entry.send.as_ref().map(|send| (send.to, send.command.len())), Some((1, 5)));
        assert_eq!(theirs.crc32c, crc32c::crc32c(&bytes[..bytes.len() - CRC_BYTES]));
        assert_eq!(theirs.encode_to_vec(), bytes, "what they write again is the same");
    }

    #[test]
    fn a_byte_that_is_another_is_noticed_wherever_it_stands() {
        let bytes = frame().to_bytes();
        for at in 0..bytes.len() {
            let mut other = bytes.to_vec();
            other[at] ^= 0x10;
            assert_eq!(PublicFrame::from_bytes(&other.into()), Err(WireError::Checksum), "at {at}");
        }
        for length in 0..bytes.len() {
            assert_eq!(PublicFrame::from_bytes(&bytes.slice(..length)), Err(WireError::Checksum), "{length}");
        }
    }

    #[test]
    fn numbers_that_no_log_has_are_refused() {
        let sealed = |frame: &Frame| {
            let mut bytes = frame.encode_to_vec();
            let crc = crc32c::crc32c(&bytes);
            bytes.push(CRC_TAG);
            bytes.extend(crc.to_le_bytes());
            PublicFrame::from_bytes(&bytes.into())
        };
        let bytes = frame().to_bytes();
        let good = Frame::decode(bytes.slice(..bytes.len() - CRC_BYTES)).unwrap();
        assert_eq!(sealed(&good), Ok(frame()));
        for wrong in [
            Frame { cell: 70_000, ..good.clone() },
            Frame { shard: 1, ..good.clone() },
            Frame { first: 0, ..good.clone() },
            Frame { last: 99, ..good.clone() },
            Frame { chain: Bytes::from_static(&[1; 31]), ..good.clone() },
            Frame { entries: vec![Covered::default()], ..good.clone() },
            Frame { entries: vec![Covered { offsets: vec![0], ..good.entries[0].clone() }], ..good.clone() },
            Frame {
                entries: vec![Covered { offsets: vec![0, 3], ..good.entries[0].clone() }],
                ..good.clone()
            },
            Frame { entries: vec![Covered { last: 100, ..good.entries[0].clone() }], ..good.clone() },
            Frame { entries: vec![Covered { last: 105, ..good.entries[0].clone() }], ..good.clone() },
            Frame {
                entries: vec![Covered { first: u64::MAX, last: u64::MAX, ..good.entries[0].clone() }],
                ..good
            },
        ] {
            assert!(matches!(sealed(&wrong), Err(WireError::Shape(_))), "{wrong:?}");
        }
    }
}
