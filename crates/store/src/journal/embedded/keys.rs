//! How logs, frames and heads are written into the engine.

use holmes_kernel::frame::Damage;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Frame, LogId, ServiceId};

use super::acknowledged::Noted;
use crate::journal::head::Head;

/// Bytes of a log's name: service, cell, shard, big-endian, so that logs lie one behind the other.
pub(super) const LOG_BYTES: usize = 6;
/// Bytes of a frame's key: the log, then the first sequence number, so that frames lie in their order.
pub(super) const FRAME_KEY_BYTES: usize = LOG_BYTES + 8;
/// Bytes of a stored head.
const HEAD_BYTES: usize = 32 + 8 + 16 + 8 + 32 + 4;

pub(super) fn log_key(log: LogId) -> [u8; LOG_BYTES] {
    let mut key = [0; LOG_BYTES];
    key[..2].copy_from_slice(&log.svc.0.to_be_bytes());
    key[2..4].copy_from_slice(&log.cell.to_be_bytes());
    key[4..].copy_from_slice(&log.shard.to_be_bytes());
    key
}

/// The log of a key's first bytes; `None` when they are too few.
pub(super) fn log_of(key: &[u8]) -> Option<LogId> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(key.get(at..at + 2)?.try_into().ok()?));
    Some(LogId { svc: ServiceId(u16_at(0)?), cell: u16_at(2)?, shard: u16_at(4)? })
}

pub(super) fn frame_key(log: LogId, first: u64) -> [u8; FRAME_KEY_BYTES] {
    let mut key = [0; FRAME_KEY_BYTES];
    key[..LOG_BYTES].copy_from_slice(&log_key(log));
    key[LOG_BYTES..].copy_from_slice(&first.to_be_bytes());
    key
}

/// The log and first sequence number of a frame's key; `None` when it is not one.
pub(super) fn frame_of(key: &[u8]) -> Option<(LogId, u64)> {
    let first = key.get(LOG_BYTES..)?.try_into().ok()?;
    Some((log_of(key)?, u64::from_be_bytes(first)))
}

/// A stored head: first chain, term, nonce, last sequence number, last chain, checksum. Time and term of the tail
/// stand in the last frame.
pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    bytes.extend(head.first);
    bytes.extend(head.term.to_le_bytes());
    bytes.extend(head.nonce);
    bytes.extend(head.tail.seq.to_le_bytes());
    bytes.extend(head.tail.chain);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// What a stored head says of its log's end; `None` when it is no whole head.
pub(super) fn noted_of(bytes: &[u8]) -> Option<Noted> {
    let bytes: &[u8; HEAD_BYTES] = bytes.try_into().ok()?;
    let (body, crc) = bytes.split_at(HEAD_BYTES - 4);
    let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
    let noted = || Noted { term: u64_at(32), seq: u64_at(56), chain: array(bytes, 64) };
    (crc == crc32c::crc32c(body).to_le_bytes()).then(noted)
}

/// The head that was stored, its tail completed from the log's last frame.
pub(super) fn decode_head(log: LogId, bytes: &[u8], last: &Frame) -> Result<Head, JournalError> {
    let wrong = |what: &str| JournalError::Io(format!("the head of the log of {log} is damaged: {what}"));
    let bytes: &[u8; HEAD_BYTES] = bytes.try_into().map_err(|_| wrong("it has another length"))?;
    let (body, crc) = bytes.split_at(HEAD_BYTES - 4);
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Err(wrong("its checksum does not match"));
    }
    let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
    let (seq, chain) = (u64_at(56), array(bytes, 64));
    if (seq, &chain) != (last.header().last, last.chain()) {
        let found = last.header().last;
        let why =
            Damage::Kept(format!("its head says that it ends at {seq}, its last frame ends at {found}"));
        return Err(JournalError::Damaged { log, after: seq.min(found), why });
    }
    Ok(Head { first: array(bytes, 0), term: u64_at(32), nonce: array(bytes, 40), tail: last.tail() })
}

/// The `N` bytes at a place that the caller knows to be inside.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
