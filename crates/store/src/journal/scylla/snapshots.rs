//! Snapshots: parts first, then the row that says that they are whole. What is not what was kept is passed over.

use holmes_kernel::canon;
use holmes_kernel::ports::{DamagedSnapshot, JournalError, Snapshot};
use holmes_kernel::{LogId, Tail, Time};

use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::session::failed;
use super::{Inner, signed};
use crate::journal::memory::superfluous;

/// Bytes of a part: a value that servers like.
const PART: usize = 512 * 1024;

/// A snapshot as its row tells of it.
struct Kept {
    seq: u64,
    parts: i32,
    digest: Vec<u8>,
    at: Tail,
}

type Row = (i64, i32, Vec<u8>, Vec<u8>, i64, i64);

impl Inner {
    pub(super) async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let Snapshot { log, state_version, at, .. } = snapshot;
        let statements = &self.service(*log)?.statements;
        let (shard, version, seq) = (i32::from(log.shard), i64::from(*state_version), signed(at.seq)?);
        let mut parts = 0;
        for bytes in snapshot.bytes.chunks(PART) {
            self.write(&statements.keep_part, (shard, version, seq, parts, bytes.to_vec())).await?;
            parts += 1;
        }
        let (ts, term) = (signed(at.ts.micros())?, signed(at.term)?);
        let values = (shard, version, seq, parts, snapshot.digest.to_vec(), at.chain.to_vec(), ts, term);
        self.write(&statements.keep_snapshot, values).await?;
        let kept = self.snapshots(*log, *state_version, u64::MAX).await?;
        let seqs: Vec<u64> = kept.iter().map(|kept| kept.seq).collect();
        for old in superfluous(&seqs, at.seq) {
            let parts = kept.iter().find(|kept| kept.seq == *old).map_or(0, |kept| kept.parts);
            self.write(&statements.drop_snapshot, (shard, version, signed(*old)?)).await?;
            for part in 0..parts {
                self.write(&statements.drop_part, (shard, version, signed(*old)?, part)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.bucket_of(log, 0).await?; // of a log that is there
        for kept in self.snapshots(log, state_version, at_most).await? {
            if let Ok(snapshot) = self.whole(log, state_version, &kept).await? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    pub(super) async fn damaged_snapshots(
        &self,
        log: LogId,
        state_version: u32,
        above: u64,
    ) -> Result<Vec<DamagedSnapshot>, JournalError> {
        let mut damaged = Vec::new();
        let kept = self.snapshots(log, state_version, u64::MAX).await?;
        for kept in kept.iter().take_while(|kept| kept.seq > above) {
            if let Err(why) = self.whole(log, state_version, kept).await? {
                let path = format!("{}_snapshot of version {state_version}", self.service(log)?.name);
                damaged.push(DamagedSnapshot { seq: kept.seq, path, why });
            }
        }
        Ok(damaged)
    }

    /// The rows of a state version at or before a place, the newest first.
    async fn snapshots(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Vec<Kept>, JournalError> {
        let place =
            (i32::from(log.shard), i64::from(state_version), i64::try_from(at_most).unwrap_or(i64::MAX));
        let rows: Vec<Row> = self.all(&self.service(log)?.statements.snapshots, place).await?;
        let read = |(seq, parts, digest, chain, ts, term): Row| {
            let [seq, ts, term] = [seq, ts, term].map(|value| u64::try_from(value).unwrap_or_default());
            let chain = chain.as_slice().try_into().unwrap_or_default();
            let at = Tail { seq, chain, ts: Time::from_micros(ts), term };
            Kept { seq, parts, digest, at }
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// The snapshot of a row, or what is wrong with it.
    async fn whole(
        &self,
        log: LogId,
        state_version: u32,
        kept: &Kept,
    ) -> Result<Result<Snapshot, String>, JournalError> {
        let part = &self.service(log)?.statements.part;
        let mut bytes = Vec::new();
        for nth in 0..kept.parts {
            let place = (i32::from(log.shard), i64::from(state_version), signed(kept.seq)?, nth);
            let row: Option<(Vec<u8>,)> = self.row(part, place).await?;
            let Some((more,)) = row else {
                return Ok(Err(format!("part {nth} of {} is not there", kept.parts)));
            };
            bytes.extend(more);
        }
        let digest = canon::hash(&bytes);
        if digest.as_slice() != kept.digest {
            return Ok(Err("its bytes are not those of its digest".to_owned()));
        }
        Ok(Ok(Snapshot { log, state_version, at: kept.at, digest, bytes }))
    }

    /// Every row of a short answer.
    async fn all<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<R>, JournalError>
    where
        R: for<'a> DeserializeRow<'a, 'a>,
    {
        let answer = self.session.execute_unpaged(statement, values).await.map_err(failed)?;
        let rows = answer.into_rows_result().map_err(failed)?;
        rows.rows::<R>().map_err(failed)?.collect::<Result<Vec<R>, _>>().map_err(failed)
    }
}
