//! A frame: what one append makes durable. A fixed little-endian header, one protobuf [`Entry`] per command, and a
//! chain over everything so far. Bytes are never re-encoded.

use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::entry::Entry;
use crate::id::{Chain, LogId, ServiceId, Time};

/// Most sequence numbers in one frame.
pub const FRAME_EVENTS: u64 = 512;
/// Most bytes of one frame's body: below the cell-size warning of the CQL servers and the payload limit of the broker.
pub const FRAME_BYTES: usize = 384 * 1024;
/// Most events of one entry. Half a frame, so that an entry always fits behind a frame that is at most half full.
pub const ENTRY_EVENTS: usize = (FRAME_EVENTS / 2) as usize;
/// Most bytes of one entry.
pub const ENTRY_BYTES: usize = FRAME_BYTES / 2;
/// Bytes that an entry of the largest size takes beside its own: its tag and its length.
const ENTRY_FRAMING: usize = 4;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 80;
/// The layout that this module writes and reads.
pub const FORMAT: u16 = 1;

/// The fixed part of a frame. On disk, little-endian, in this order: cell u16, svc u16, shard u16, format u16,
/// term u64, first u64, last u64, ts u64, schema u32, prev_chain 32 bytes, crc32c u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose log.
    pub log: LogId,
    /// The owner's term when it was written.
    pub term: u64,
    /// Sequence number of the first event.
    pub first: u64,
    /// Sequence number of the last event.
    pub last: u64,
    /// Log time; rises strictly from frame to frame.
    pub ts: Time,
    /// The least schema that a reader must know.
    pub schema: u32,
    /// Chain of the frame before; zeros before the first.
    pub prev_chain: Chain,
}

/// A frame and its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    header: Header,
    bytes: Bytes,
    chain: Chain,
}

/// Why bytes are not the next frame of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes than a header, or more than a frame may have.
    #[error("a frame of {0} bytes cannot be: it has {HEADER_BYTES} to {LARGEST} bytes")]
    Length(usize),
    /// Written by a build with another layout.
    #[error("frame layout {0} is not known to this build (it knows {FORMAT}); use a newer build")]
    Format(u16),
    /// The checksum does not match: bits changed on disk or on the wire.
    #[error("checksum {found:08x} does not match the bytes ({computed:08x})")]
    Checksum {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The frame belongs elsewhere.
    #[error("the frame belongs to {found}, not to {expected}")]
    Foreign {
        /// In the header.
        found: LogId,
        /// Whose log is read.
        expected: LogId,
    },
    /// A gap or a repetition.
    #[error("the frame begins at {found}, the log goes on at {expected}")]
    Sequence {
        /// In the header.
        found: u64,
        /// The next sequence number.
        expected: u64,
    },
    /// The frame follows another history.
    #[error("the frame does not follow from the one before it: its prev_chain is another")]
    Chain,
    /// Time or term went back.
    #[error("{0} went back")]
    Backwards(&'static str),
    /// The body is not a row of entries that fill `first..=last`.
    #[error("the frame's body is not a row of entries: {0}")]
    Body(String),
    /// What a journal keeps of a log beside its frames does not fit them.
    #[error("{0}")]
    Kept(String),
}

impl Frame {
    /// Reads a frame's bytes: header, checksum, chain. Whether it follows is [`Frame::follows`].
    pub fn decode(bytes: Bytes) -> Result<Frame, Damage> {
        if bytes.len() < HEADER_BYTES || bytes.len() > LARGEST {
            return Err(Damage::Length(bytes.len()));
        }
        let u16_at = |at: usize| u16::from_le_bytes(array(&bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(&bytes, at));
        let format = u16_at(6);
        if format != FORMAT {
            return Err(Damage::Format(format));
        }
        let found = u32::from_le_bytes(array(&bytes, HEADER_BYTES - 4));
        let computed = checksum(&bytes);
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        let header = Header {
            log: LogId { cell: u16_at(0), svc: ServiceId(u16_at(2)), shard: u16_at(4) },
            term: u64_at(8),
            first: u64_at(16),
            last: u64_at(24),
            ts: Time::from_micros(u64_at(32)),
            schema: u32::from_le_bytes(array(&bytes, 40)),
            prev_chain: array(&bytes, 44),
        };
        let span_is_possible =
            // The last number of all is never used, so that there is always a next one.
            header.first > 0 && (header.first..u64::MAX).contains(&header.last)
                && header.last - header.first < FRAME_EVENTS;
        if !span_is_possible {
            return Err(Damage::Body(format!("it claims the events {}..={}", header.first, header.last)));
        }
        let chain = chain_of(&header.prev_chain, &bytes);
        Ok(Frame { header, bytes, chain })
    }

    /// The fixed part.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Header and body as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// `BLAKE3(prev_chain ‖ header ‖ body)`.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The place behind this frame.
    pub fn tail(&self) -> Tail {
        Tail { seq: self.header.last, chain: self.chain, ts: self.header.ts, term: self.header.term }
    }

    /// Whether this is the next frame of a log that ends at `tail`.
    pub fn follows(&self, log: LogId, tail: &Tail) -> Result<(), Damage> {
        let header = &self.header;
        if header.log != log {
            return Err(Damage::Foreign { found: header.log, expected: log });
        }
        let expected = tail.seq.saturating_add(1);
        if header.first != expected {
            return Err(Damage::Sequence { found: header.first, expected });
        }
        if header.prev_chain != tail.chain {
            return Err(Damage::Chain);
        }
        if header.ts <= tail.ts && tail.seq > 0 {
            return Err(Damage::Backwards("log time"));
        }
        if header.term < tail.term {
            return Err(Damage::Backwards("the term"));
        }
        Ok(())
    }

    /// The entries, each with the sequence number of its first event.
    pub fn entries(&self) -> Result<Vec<(u64, Entry)>, Damage> {
        let body =
            Body::decode(self.bytes.slice(HEADER_BYTES..)).map_err(|why| Damage::Body(why.to_string()))?;
        let mut seq = self.header.first;
        let mut entries = Vec::with_capacity(body.entries.len());
        for entry in body.entries {
            let span = entry.span();
            entries.push((seq, entry));
            seq += span;
        }
        if seq != self.header.last + 1 {
            return Err(Damage::Body(format!("its entries end at {}, not at {}", seq - 1, self.header.last)));
        }
        Ok(entries)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

/// Where a log ends: what the next frame must name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tail {
    /// The last sequence number; 0 when there is none.
    pub seq: u64,
    /// The last frame's chain; zeros when there is none.
    pub chain: Chain,
    /// The last frame's log time.
    pub ts: Time,
    /// The last frame's term.
    pub term: u64,
}

/// A frame that is still being written.
#[derive(Debug)]
pub struct Open {
    bytes: BytesMut,
    header: Header,
    next: u64,
}

impl Open {
    /// An empty frame behind `tail`.
    pub fn new(log: LogId, term: u64, ts: Time, schema: u32, tail: &Tail) -> Open {
        let header =
            Header { log, term, first: tail.seq + 1, last: tail.seq, ts, schema, prev_chain: tail.chain };
        let mut bytes = BytesMut::with_capacity(4 * 1024);
        bytes.put_bytes(0, HEADER_BYTES);
        Open { bytes, header, next: tail.seq + 1 }
    }

    /// Log time of the frame.
    pub fn ts(&self) -> Time {
        self.header.ts
    }

    /// The next sequence number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.next == self.header.first
    }

    /// Whether an entry of the largest size still fits.
    pub fn has_room(&self) -> bool {
        let events = self.next - self.header.first;
        events + ENTRY_EVENTS as u64 <= FRAME_EVENTS
            && self.bytes.len() - HEADER_BYTES + ENTRY_BYTES + ENTRY_FRAMING <= FRAME_BYTES
    }

    /// Writes an entry: `head` without its events, and the events themselves, unencoded.
    pub fn push<E: Message>(&mut self, head: &Entry, events: &[E]) {
        let len = entry_len(head, events);
        encode_key(1, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(len as u64, &mut self.bytes);
        head.encode_raw(&mut self.bytes);
        for event in events {
            prost::encoding::message::encode(EVENTS_TAG, event, &mut self.bytes);
        }
        self.next += (events.len() as u64).max(1);
    }

    /// The finished frame.
    pub fn freeze(mut self) -> Frame {
        self.header.last = self.next - 1;
        let header = &self.header;
        let mut fixed = [0u8; HEADER_BYTES];
        let mut out = &mut fixed[..];
        out.put_u16_le(header.log.cell);
        out.put_u16_le(header.log.svc.0);
        out.put_u16_le(header.log.shard);
        out.put_u16_le(FORMAT);
        out.put_u64_le(header.term);
        out.put_u64_le(header.first);
        out.put_u64_le(header.last);
        out.put_u64_le(header.ts.micros());
        out.put_u32_le(header.schema);
        out.put_slice(&header.prev_chain);
        self.bytes[..HEADER_BYTES].copy_from_slice(&fixed);
        let crc = checksum(&self.bytes);
        self.bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let bytes = self.bytes.freeze();
        let chain = chain_of(&self.header.prev_chain, &bytes);
        Frame { header: self.header, bytes, chain }
    }
}

const EVENTS_TAG: u32 = 9;
const LARGEST: usize = HEADER_BYTES + FRAME_BYTES;

/// Bytes that an entry takes in a frame's body, without its own tag and length.
pub fn entry_len<E: Message>(head: &Entry, events: &[E]) -> usize {
    debug_assert!(head.events.is_empty(), "the head of an entry carries no events");
    let of_event = |event: &E| {
        let len = event.encoded_len();
        key_len(EVENTS_TAG) + encoded_len_varint(len as u64) + len
    };
    head.encoded_len() + events.iter().map(of_event).sum::<usize>()
}

/// CRC-32C over the header before its own checksum, and the body.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..HEADER_BYTES - 4]), &bytes[HEADER_BYTES..])
}

fn chain_of(prev: &Chain, bytes: &[u8]) -> Chain {
    *blake3::Hasher::new().update(prev).update(bytes).finalize().as_bytes()
}

/// The `N` bytes at a place that the caller has checked to be inside.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
