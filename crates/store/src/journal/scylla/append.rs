//! Who owns a log, and what he appends. One append is one conditional write of one partition: it happens only if the log is as
//! its owner believes it to be.

use std::time::Duration;

use holmes_kernel::ports::{Claim, JournalError};
use holmes_kernel::{Frame, LogId};

use super::bucket::{Bucket, Header};
use super::session::Outcome;
use super::{Inner, signed};
use crate::journal::head::{Admitted, Head, nonce};

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
        let (Ok(service), Ok(term), Ok(before)) =
            (self.service(log), signed(claimed.term), signed(head.term))
        else {
            return Outcome::unknown(log);
        };
        let (owner, last_owner) = (claimed.nonce.to_vec(), head.nonce.to_vec());
        let values = (term, owner, i32::from(log.shard), bucket, before, last_owner);
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
        let numbers = [head.term, head.tail.seq, frame.header().first, frame.header().last].map(signed);
        let tail = [next.head.tail.ts.micros(), next.head.tail.term].map(signed);
        let (Ok(service), [Ok(term), Ok(seq), Ok(first), Ok(last)], [Ok(ts), Ok(tail_term)]) =
            (self.service(log), numbers, tail)
        else {
            return Outcome::unknown(log);
        };
        let set = (last, next.head.tail.chain.to_vec(), ts, tail_term, next.frames, next.bytes);
        let values = (
            (set.0, set.1, set.2, set.3, set.4, set.5, last, frame.bytes().to_vec()),
            (i32::from(log.shard), bucket.number, first),
            (term, head.nonce.to_vec(), seq, head.tail.chain.to_vec()),
        );
        let ((a, b, c, d, e, f, g, h), (i, j, k), (l, m, n, o)) = values;
        self.conditional(&service.statements.append, (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)).await
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
