//! Reading: frames in their order, over buckets; a hole is never passed over.

use std::ops::ControlFlow;

use bytes::Bytes;
use holmes_kernel::frame::Damage;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Frame, LogId};
use scylla::response::PagingState;

use super::session::failed;
use super::{Inner, number, signed};

type Row = (i64, Option<i64>, Option<Vec<u8>>);

impl Inner {
    pub(super) async fn read(
        &self,
        log: LogId,
        after: u64,
        max_bytes: usize,
    ) -> Result<Vec<Frame>, JournalError> {
        let mut frames = Vec::new();
        let (mut behind, mut gathered) = (after, 0);
        let mut bucket = self.bucket_of(log, after).await?;
        loop {
            let rows = self.rows(log, number(bucket)?, behind, max_bytes.saturating_sub(gathered)).await?;
            for frame in rows {
                gathered += frame.bytes().len();
                behind = frame.header().last;
                frames.push(frame);
            }
            if !frames.is_empty() && gathered >= max_bytes {
                return Ok(frames);
            }
            // This bucket has no more: perhaps there is a next one, opened where this one ends.
            let next = self.bucket_of(log, behind).await?;
            if next <= bucket && !(self.learn_next(log).await? && self.bucket_of(log, behind).await? > bucket)
            {
                return Ok(frames);
            }
            bucket += 1;
        }
    }

    /// The frames of a bucket that end behind `after`, until so many bytes are gathered.
    async fn rows(
        &self,
        log: LogId,
        bucket: i32,
        after: u64,
        max_bytes: usize,
    ) -> Result<Vec<Frame>, JournalError> {
        let service = self.service(log)?;
        let place = (i32::from(log.shard), bucket, clamped(after));
        let (mut frames, mut gathered, mut paging) = (Vec::new(), 0, PagingState::start());
        let mut end = after;
        loop {
            let page = self.session.execute_single_page(&service.statements.rows, place, paging).await;
            let (page, more) = page.map_err(failed)?;
            let page = page.into_rows_result().map_err(failed)?;
            for row in page.rows::<Row>().map_err(failed)? {
                let frame = decoded(log, end, row.map_err(failed)?)?;
                if frames.is_empty() && frame.header().first != after.saturating_add(1) {
                    frames.extend(self.around(log, place, after).await?);
                    end = frames.last().map_or(end, |frame: &Frame| frame.header().last);
                }
                if frame.header().first != end + 1 {
                    let why = Damage::Sequence { found: frame.header().first, expected: end + 1 };
                    return Err(JournalError::Damaged { log, after: end, why });
                }
                (end, gathered) = (frame.header().last, gathered + frame.bytes().len());
                frames.push(frame);
                if gathered >= max_bytes {
                    return Ok(frames);
                }
            }
            match more.into_paging_control_flow() {
                ControlFlow::Continue(state) => paging = state,
                ControlFlow::Break(()) => break,
            }
        }
        if frames.is_empty() {
            frames.extend(self.around(log, place, after).await?);
        }
        Ok(frames)
    }

    /// The frame in whose midst a place lies: it ends behind it.
    async fn around(
        &self,
        log: LogId,
        place: (i32, i32, i64),
        after: u64,
    ) -> Result<Option<Frame>, JournalError> {
        let row: Option<Row> = self.row(&self.service(log)?.statements.row_before, place).await?;
        let frame = row.map(|row| decoded(log, after, row)).transpose()?;
        Ok(frame.filter(|frame| frame.header().last > after))
    }

    /// Whether a frame is there, byte for byte.
    pub(super) async fn holds(&self, log: LogId, frame: &Frame) -> Result<bool, JournalError> {
        let first = frame.header().first;
        let bucket = number(self.bucket_of(log, first - 1).await?)?;
        let place = (i32::from(log.shard), bucket, signed(first)?);
        let row: Option<(Option<Vec<u8>>,)> = self.row(&self.service(log)?.statements.row_at, place).await?;
        Ok(row.and_then(|row| row.0).is_some_and(|bytes| bytes == frame.bytes().as_ref()))
    }
}

fn decoded(log: LogId, after: u64, (_, _, body): Row) -> Result<Frame, JournalError> {
    let bytes = Bytes::from(body.unwrap_or_default());
    Frame::decode(bytes).map_err(|why| JournalError::Damaged { log, after, why })
}

/// The server's numbers end where nothing is written.
fn clamped(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
