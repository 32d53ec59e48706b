//! Who owns a log, and what he appends. One append is one conditional write of one partition: it happens only if the log is as
//! its owner believes it to be.

use std::time::Duration;

use holmes_kernel::ports::{Claim, JournalError};
use holmes_kernel::{Frame, LogId};
use scylla::SerializeRow;

use super::bucket::{Bucket, Header};
use super::session::Outcome;
use super::{Inner, signed};
use crate::journal::head::{Admitted, Head, nonce};

#[derive(SerializeRow)]
struct Claiming<'a> {
    term: i64,
    owner: &'a [u8],
    shard: i32,
    bucket: i32,
    term_before: i64,
    owner_before: &'a [u8],
}

#[derive(SerializeRow)]
struct Appending<'a> {
    shard: i32,
    bucket: i32,
    seq: i64,
    last: i64,
    body: &'a [u8],
    head: i64,
    chain: Vec<u8>,
    head_ts: i64,
    head_term: i64,
    frames: i32,
    bytes: i64,
    term: i64,
    owner: Vec<u8>,
    head_before: i64,
    chain_before: Vec<u8>,
}

/// How often a claim is tried against others who claim, and an append against an answer that does not come.
const MOST_CLAIMS: u32 = 200;
const MOST_APPENDS: u32 = 3;

impl Inner {
    pub(super) async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        let opened = Head::opened(first)?;
        let (log, header) = (first.header().log, Header::first(opened.first));
        for _ in 0..MOST_APPENDS {
            let Some(header) = self.header(log, 0).await? else {
                self.open(log, 0, &header).await;
                continue; // whatever became of it: the header says
            };
            header.head.opened_again(first)?;
            if header.head.tail.seq > 0 {
                return Ok(());
            }
            self.write_frame(log, &Bucket { number: 0, header }, first).await;
        }
        Err(JournalError::Unknown(format!("{log} is not opened yet")))
    }

    /// Raises the term in the last bucket, or opens the one behind a sealed one with it; then reads where the log ends.
    pub(super) async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        let nonce = nonce()?;
        for tried in 0..MOST_CLAIMS {
            let bucket = self.last_bucket(log).await?;
            let Header { head, sealed, .. } = bucket.header;
            if head.nonce == nonce && !sealed {
                self.own(log, bucket);
                return Ok(head.claim(log));
            }
            let claimed = head.claimed(nonce);
            let outcome = if sealed {
                self.open(log, bucket.number + 1, &bucket.header.next(claimed)).await
            } else {
                self.raise(log, bucket.number, &head, &claimed).await
            };
            if outcome != Outcome::Applied {
                self.wait(tried).await; // for whoever was quicker
            }
        }
        Err(JournalError::Unknown(format!("others claim {log} all the time")))
    }

    async fn raise(&self, log: LogId, bucket: i32, head: &Head, claimed: &Head) -> Outcome {
        let (Ok(service), Ok(term), Ok(term_before)) =
            (self.service(log), signed(claimed.term), signed(head.term))
        else {
            return Outcome::unknown(log);
        };
        let (owner, owner_before) = (&claimed.nonce[..], &head.nonce[..]);
        let values = Claiming { term, owner, shard: i32::from(log.shard), bucket, term_before, owner_before };
        self.conditional(&service.statements.claim, values).await
    }

    /// A while that grows, and differs from process to process.
    async fn wait(&self, tried: u32) {
        let most = 10u64 << tried.min(6);
        let drawn = nonce().map_or(0, |drawn| u64::from(u16::from_le_bytes([drawn[0], drawn[1]])));
        tokio::time::sleep(Duration::from_millis(drawn % most)).await;
    }

    pub(super) async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        let log = claim.log;
        let mut last = String::new();
        let mut bucket = self.owned(claim);
        for _ in 0..MOST_APPENDS {
            let fresh = bucket.is_none();
            let known = match bucket.take() {
                Some(known) => known,
                None => self.last_bucket(log).await?,
            };
            match known.header.head.admit(claim, frame) {
                Ok(Admitted::Next(_)) if known.header.sealed || known.header.is_full(self.bucket_frames) => {
                    bucket = self.roll(log, known).await?;
                }
                Ok(Admitted::Next(head)) => match self.write_frame(log, &known, frame).await {
                    Outcome::Applied => {
                        self.own(log, known.with(head, frame));
                        return Ok(());
                    }
                    Outcome::NotApplied => {} // what is there says why
                    Outcome::Unknown(why) => (bucket, last) = (Some(known), why),
                },
                // What is remembered cannot fence, nor say what is there.
                _ if !fresh => {}
                Ok(Admitted::Repeated) => return Ok(()),
                Ok(Admitted::Earlier(why)) if !self.holds(log, frame).await? => {
                    return Err(JournalError::Broken { log, why });
                }
                Ok(Admitted::Earlier(_)) => return Ok(()),
                Err(why) => return Err(why),
            }
        }
        Err(JournalError::Unknown(last))
    }

    /// Seals a bucket and opens the next one, both only as its owner. Back: the next one, if that is known.
    async fn roll(&self, log: LogId, bucket: Bucket) -> Result<Option<Bucket>, JournalError> {
        if !bucket.header.sealed && self.seal(log, &bucket).await != Outcome::Applied {
            return Ok(None);
        }
        let next = Bucket { number: bucket.number + 1, header: bucket.header.next(bucket.header.head) };
        let opened = self.open(log, next.number, &next.header).await == Outcome::Applied;
        Ok(opened.then_some(next))
    }

    /// The conditional write of a frame, the same bytes each time.
    async fn write_frame(&self, log: LogId, bucket: &Bucket, frame: &Frame) -> Outcome {
        let Header { head, .. } = bucket.header;
        let next = bucket.with(Head { tail: frame.tail(), ..head }, frame).header;
        let (first, last) = (signed(frame.header().first), signed(frame.header().last));
        let (Ok(service), Ok(before), Ok(after), Ok(first), Ok(last)) =
            (self.service(log), bucket.header.columns(), next.columns(), first, last)
        else {
            return Outcome::unknown(log);
        };
        let values = Appending {
            shard: i32::from(log.shard),
            bucket: bucket.number,
            seq: first,
            last,
            body: frame.bytes(),
            head: after.head,
            chain: after.chain,
            head_ts: after.head_ts,
            head_term: after.head_term,
            frames: after.frames,
            bytes: after.bytes,
            term: before.term,
            owner: before.owner,
            head_before: before.head,
            chain_before: before.chain,
        };
        self.conditional(&service.statements.append, values).await
    }

    pub(super) async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        let bucket = self.last_bucket(claim.log).await?;
        bucket.header.head.confirm(claim)
    }
}

impl Bucket {
    /// The same behind one frame more.
    fn with(&self, head: Head, frame: &Frame) -> Bucket {
        let bytes = i64::try_from(frame.bytes().len()).unwrap_or(i64::MAX);
        let Header { frames, bytes: before, .. } = self.header;
        let header = Header {
            head,
            frames: frames.saturating_add(1),
            bytes: before.saturating_add(bytes),
            ..self.header
        };
        Bucket { header, ..*self }
    }
}
