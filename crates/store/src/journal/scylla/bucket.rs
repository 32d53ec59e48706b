//! Buckets: a log is a row of partitions, each sealed before the next is opened. What is compared and set of a bucket is
//! its header.

use holmes_kernel::ports::JournalError;
use holmes_kernel::{Chain, LogId, Tail, Time};
use scylla::value::{CqlValue, Row};

use super::session::Outcome;
use super::{Inner, Service, number, signed};
use crate::journal::head::Head;

/// Bytes of a bucket, about.
const MOST_BYTES: i64 = 64 * 1024 * 1024;

/// What is static in a bucket's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) head: Head,
    pub(super) sealed: bool,
    /// Where the log ended when the bucket was opened.
    pub(super) base: u64,
    pub(super) frames: i32,
    pub(super) bytes: i64,
}

impl Header {
    /// Of bucket 0 of a log that begins with a frame of this chain, before that frame is there.
    pub(super) fn first(genesis: Chain) -> Header {
        let head = Head { first: genesis, term: 0, nonce: [0; 16], tail: Tail::default() };
        Header { head, sealed: false, base: 0, frames: 0, bytes: 0 }
    }

    /// Of the bucket behind this one.
    pub(super) fn next(&self, head: Head) -> Header {
        Header { head, sealed: false, base: head.tail.seq, frames: 0, bytes: 0 }
    }

    /// Whether its next frame belongs into the next bucket.
    pub(super) fn is_full(&self, most_frames: i32) -> bool {
        self.frames >= most_frames || self.bytes >= MOST_BYTES
    }

    /// The values of `Statements::open`, in its order.
    fn values(&self) -> Result<(i64, Vec<u8>, i64, Vec<u8>, i64, i64, i64, Vec<u8>), JournalError> {
        let Head { first, term, nonce, tail } = &self.head;
        Ok((
            signed(*term)?,
            nonce.to_vec(),
            signed(tail.seq)?,
            tail.chain.to_vec(),
            signed(tail.ts.micros())?,
            signed(tail.term)?,
            signed(self.base)?,
            first.to_vec(),
        ))
    }

    /// From the row that `Statements::header` gives; `None` where it is not one.
    fn read(row: &Row) -> Option<Header> {
        let value = |at: usize| row.columns.get(at)?.as_ref();
        let int = |at| value(at).and_then(CqlValue::as_bigint).and_then(|n| u64::try_from(n).ok());
        let bytes = |at| value(at).and_then(CqlValue::as_blob);
        let tail = Tail {
            seq: int(2)?,
            chain: bytes(3)?.as_slice().try_into().ok()?,
            ts: Time::from_micros(int(4)?),
            term: int(5)?,
        };
        let nonce = bytes(1)?.as_slice().try_into().ok()?;
        let first = bytes(9)?.as_slice().try_into().ok()?;
        Some(Header {
            head: Head { first, term: int(0)?, nonce, tail },
            sealed: value(6).and_then(CqlValue::as_boolean)?,
            base: int(10)?,
            frames: value(7).and_then(CqlValue::as_int)?,
            bytes: value(8).and_then(CqlValue::as_bigint)?,
        })
    }
}

/// A bucket of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) number: i32,
    pub(super) header: Header,
}

impl Inner {
    /// A bucket's header, read at SERIAL: whatever is under way is finished first. `None` where it was never opened.
    pub(super) async fn header(&self, log: LogId, bucket: i32) -> Result<Option<Header>, JournalError> {
        let statement = &self.service(log)?.statements.header;
        let row: Option<Row> = self.row(statement, (i32::from(log.shard), bucket)).await?;
        let damaged = || JournalError::Io(format!("the header of bucket {bucket} of {log} cannot be read"));
        row.map(|row| Header::read(&row).ok_or_else(damaged)).transpose()
    }

    /// The last bucket of a log. None is skipped, so that it is found in few steps from the one that was last before.
    pub(super) async fn last_bucket(&self, log: LogId) -> Result<Bucket, JournalError> {
        let mut known = self.hinted(log);
        let mut header = match self.header(log, known).await? {
            Some(header) => header,
            None if known == 0 => return Err(JournalError::Missing(log)),
            None => return Err(JournalError::Io(format!("bucket {known} of {log} is gone"))),
        };
        let (mut step, mut absent) = (1, i32::MAX);
        while known + 1 < absent {
            let ahead = known.saturating_add(step).min(absent - 1);
            match self.header(log, ahead).await? {
                Some(found) => (known, header, step) = (ahead, found, step * 2),
                None => (absent, step) = (ahead, (step / 2).max(1)),
            }
        }
        if header.head.tail.seq == 0 {
            return Err(JournalError::Missing(log)); // opened, and its first frame never came
        }
        self.hint(log, known);
        Ok(Bucket { number: known, header })
    }

    /// Opens a bucket, unless it is open.
    pub(super) async fn open(&self, log: LogId, bucket: i32, header: &Header) -> Outcome {
        let Ok(service) = self.service(log) else { return Outcome::unknown(log) };
        let Ok((term, owner, head, chain, ts, head_term, base, genesis)) = header.values() else {
            return Outcome::unknown(log);
        };
        let place = (i32::from(log.shard), bucket);
        let values = (place.0, place.1, term, owner, head, chain, ts, head_term, base, genesis);
        self.conditional(&service.statements.open, values).await
    }

    /// No frame comes into a bucket any more.
    pub(super) async fn seal(&self, log: LogId, bucket: &Bucket) -> Outcome {
        let Ok(service) = self.service(log) else { return Outcome::unknown(log) };
        let Ok((term, owner, head, chain, ..)) = bucket.header.values() else { return Outcome::unknown(log) };
        let values = (i32::from(log.shard), bucket.number, term, owner, head, chain);
        self.conditional(&service.statements.seal, values).await
    }

    /// Where the frames behind `after` begin, as far as this process knows: the last bucket that was opened at or before
    /// that place.
    pub(super) async fn bucket_of(&self, log: LogId, after: u64) -> Result<usize, JournalError> {
        if self.service(log)?.bases().is_empty() && !self.learn_next(log).await? {
            return Err(JournalError::Missing(log));
        }
        let bases = self.service(log)?.bases();
        Ok(bases.partition_point(|base| *base <= after).saturating_sub(1))
    }

    /// Looks whether there is one bucket more than this process knows of.
    pub(super) async fn learn_next(&self, log: LogId) -> Result<bool, JournalError> {
        let service = self.service(log)?;
        let count = service.bases().len();
        match self.header(log, number(count)?).await? {
            Some(header) if header.head.tail.seq > 0 => {
                service.learn(count, header.base);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Service {
    fn bases(&self) -> Vec<u64> {
        self.known().bases.clone()
    }

    fn learn(&self, bucket: usize, base: u64) {
        let mut known = self.known();
        if known.bases.len() == bucket {
            known.bases.push(base);
        }
    }
}
