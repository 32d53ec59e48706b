//! Buckets: a log is a row of partitions, each sealed before the next is opened. What is compared and set of a bucket is
//! its header.

use holmes_kernel::ports::JournalError;
use holmes_kernel::{Chain, LogId, Tail, Time};
use scylla::{DeserializeRow, SerializeRow};

use super::session::Outcome;
use super::{Inner, Service, number, signed};
use crate::journal::head::Head;

/// Where its row stands, before every frame.
const HEADER: i64 = -1;
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

    /// As the server has it.
    pub(super) fn columns(&self) -> Result<Columns, JournalError> {
        let Header { head: Head { first, term, nonce, tail }, sealed, base, frames, bytes } = *self;
        Ok(Columns {
            seq: HEADER,
            term: signed(term)?,
            owner: nonce.to_vec(),
            sealed,
            head: signed(tail.seq)?,
            chain: tail.chain.to_vec(),
            head_ts: signed(tail.ts.micros())?,
            head_term: signed(tail.term)?,
            frames,
            bytes,
            base: signed(base)?,
            genesis: first.to_vec(),
        })
    }
}

/// A header as the server has it.
#[derive(SerializeRow, DeserializeRow)]
pub(super) struct Columns {
    seq: i64,
    pub(super) term: i64,
    pub(super) owner: Vec<u8>,
    sealed: bool,
    pub(super) head: i64,
    pub(super) chain: Vec<u8>,
    pub(super) head_ts: i64,
    pub(super) head_term: i64,
    pub(super) frames: i32,
    pub(super) bytes: i64,
    base: i64,
    genesis: Vec<u8>,
}

impl Columns {
    /// `None` where it is no header.
    fn header(&self) -> Option<Header> {
        let [term, seq, ts, head_term, base] =
            [self.term, self.head, self.head_ts, self.head_term, self.base].map(u64::try_from);
        let chain = self.chain.as_slice().try_into().ok()?;
        let tail = Tail { seq: seq.ok()?, chain, ts: Time::from_micros(ts.ok()?), term: head_term.ok()? };
        let nonce = self.owner.as_slice().try_into().ok()?;
        let head = Head { first: self.genesis.as_slice().try_into().ok()?, term: term.ok()?, nonce, tail };
        let Columns { sealed, frames, bytes, .. } = *self;
        Some(Header { head, sealed, base: base.ok()?, frames, bytes })
    }
}

#[derive(SerializeRow)]
struct Opening {
    shard: i32,
    bucket: i32,
    #[scylla(flatten)]
    header: Columns,
}

#[derive(SerializeRow)]
struct Sealing {
    shard: i32,
    bucket: i32,
    term: i64,
    owner: Vec<u8>,
    head: i64,
    chain: Vec<u8>,
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
        let row: Option<Columns> = self.row(statement, (i32::from(log.shard), bucket)).await?;
        let damaged = || JournalError::Io(format!("the header of bucket {bucket} of {log} cannot be read"));
        row.map(|row| row.header().ok_or_else(damaged)).transpose()
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
        let Ok(header) = header.columns() else { return Outcome::unknown(log) };
        let values = Opening { shard: i32::from(log.shard), bucket, header };
        self.conditional(&service.statements.open, values).await
    }

    /// No frame comes into a bucket any more.
    pub(super) async fn seal(&self, log: LogId, bucket: &Bucket) -> Outcome {
        let Ok(service) = self.service(log) else { return Outcome::unknown(log) };
        let Ok(Columns { term, owner, head, chain, .. }) = bucket.header.columns() else {
            return Outcome::unknown(log);
        };
        let values = Sealing { shard: i32::from(log.shard), bucket: bucket.number, term, owner, head, chain };
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
