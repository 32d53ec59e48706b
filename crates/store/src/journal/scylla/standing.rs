//! Which processes run a service.

use std::time::Duration;

use holmes_kernel::ports::JournalError;
use holmes_kernel::{Id, LogId};

use super::session::failed;
use super::{Journal, signed};
use crate::journal::Standing;

impl Journal {
    pub(crate) async fn stand(
        &self,
        log: LogId,
        standing: &Standing,
        lasts: Duration,
    ) -> Result<(), JournalError> {
        let statement = &self.inner.service(log)?.statements.stand;
        let (process, term) = (standing.process.to_bytes().to_vec(), signed(standing.term)?);
        let seconds = i32::try_from(lasts.as_secs().max(1)).map_err(failed)?;
        self.inner.write(statement, (i32::from(log.shard), process, term, seconds)).await
    }

    pub(crate) async fn leave(&self, log: LogId, process: Id) -> Result<(), JournalError> {
        let statement = &self.inner.service(log)?.statements.leave;
        self.inner.write(statement, (i32::from(log.shard), process.to_bytes().to_vec())).await
    }

    pub(crate) async fn standing(&self, log: LogId) -> Result<Vec<Standing>, JournalError> {
        let statement = &self.inner.service(log)?.statements.standing;
        let answer =
            self.inner.session.execute_unpaged(statement, (i32::from(log.shard),)).await.map_err(failed)?;
        let rows = answer.into_rows_result().map_err(failed)?;
        let mut all = Vec::new();
        for row in rows.rows::<(Vec<u8>, i64)>().map_err(failed)? {
            let (process, term) = row.map_err(failed)?;
            let process = Id::from_slice(&process).ok_or_else(|| failed("a process has no id"))?;
            all.push(Standing { process, term: u64::try_from(term).map_err(failed)? });
        }
        Ok(all)
    }
}
