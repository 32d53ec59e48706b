//! What is asked of the server, and how an answer is read: applied, not applied, or not known.

use holmes_kernel::LogId;
use holmes_kernel::ports::JournalError;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::policies::retry::{DefaultRetryPolicy, FallthroughRetryPolicy};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlValue, Row};

use super::Inner;

/// The server gives up a conditional update after two seconds: whoever gives up before never learns more than that.
const CONDITIONAL: std::time::Duration = std::time::Duration::from_secs(5);
const READ: std::time::Duration = std::time::Duration::from_secs(10);
/// Rows of a page: frames are large.
const PAGE: i32 = 32;

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there, durably.
    Applied,
    /// Its condition does not hold.
    NotApplied,
    /// Nobody can say: the same bytes again are safe.
    Unknown(String),
}

impl Outcome {
    pub(super) fn unknown(log: LogId) -> Outcome {
        Outcome::Unknown(format!("a number of {log} is larger than the server's"))
    }
}

/// What one service asks.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) open: PreparedStatement,
    pub(super) claim: PreparedStatement,
    pub(super) append: PreparedStatement,
    pub(super) seal: PreparedStatement,
    pub(super) header: PreparedStatement,
    pub(super) rows: PreparedStatement,
    pub(super) row_before: PreparedStatement,
    pub(super) row_at: PreparedStatement,
    pub(super) keep_part: PreparedStatement,
    pub(super) keep_snapshot: PreparedStatement,
    pub(super) snapshots: PreparedStatement,
    pub(super) part: PreparedStatement,
    pub(super) drop_snapshot: PreparedStatement,
    pub(super) drop_part: PreparedStatement,
    pub(super) stand: PreparedStatement,
    pub(super) leave: PreparedStatement,
    pub(super) standing: PreparedStatement,
}

impl Statements {
    /// Prepares them: a table that is not there is told now.
    pub(super) async fn prepare(
        session: &Session,
        keyspace: &str,
        name: &str,
    ) -> Result<Statements, JournalError> {
        // Never tried again by the driver, never sent to two nodes at once: only we know when that is safe.
        let conditional = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .serial_consistency(Some(SerialConsistency::LocalSerial))
            .retry_policy(std::sync::Arc::new(FallthroughRetryPolicy::new()))
            .request_timeout(Some(CONDITIONAL))
            .build()
            .into_handle();
        let plain = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .retry_policy(std::sync::Arc::new(DefaultRetryPolicy::new()))
            .request_timeout(Some(READ))
            .build()
            .into_handle();
        let prepare = async |text: &str, is_conditional: bool| {
            let text = text.replace("TABLE", &format!("{keyspace}.{name}"));
            let mut statement = session
                .prepare(text.as_str())
                .await
                .map_err(|why| JournalError::Io(format!("`{text}` cannot be prepared: {why}")))?;
            let profile = if is_conditional { &conditional } else { &plain };
            statement.set_execution_profile_handle(Some(profile.clone()));
            statement.set_page_size(PAGE);
            Ok::<_, JournalError>(statement)
        };
        let mut header = prepare(HEADER, true).await?;
        header.set_consistency(Consistency::LocalSerial);
        let read = async |text| {
            let mut statement = prepare(text, false).await?;
            statement.set_is_idempotent(true);
            Ok::<_, JournalError>(statement)
        };
        Ok(Statements {
            open: prepare(OPEN, true).await?,
            claim: prepare(CLAIM, true).await?,
            append: prepare(APPEND, true).await?,
            seal: prepare(SEAL, true).await?,
            header,
            rows: read(ROWS).await?,
            row_before: read(ROW_BEFORE).await?,
            row_at: read(ROW_AT).await?,
            keep_part: read(KEEP_PART).await?,
            keep_snapshot: read(KEEP_SNAPSHOT).await?,
            snapshots: read(SNAPSHOTS).await?,
            part: read(A_PART).await?,
            drop_snapshot: read(DROP_SNAPSHOT).await?,
            drop_part: read(DROP_PART).await?,
            stand: read(STAND).await?,
            leave: read(LEAVE).await?,
            standing: read(STANDING).await?,
        })
    }
}

const OPEN: &str = "INSERT INTO TABLE_journal (shard, bucket, seq, term, owner, sealed, head, chain, head_ts, head_term, \
     frames, bytes, base, genesis) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
const CLAIM: &str = "UPDATE TABLE_journal SET term = :term, owner = :owner WHERE shard = :shard AND bucket = :bucket \
     IF term = :term_before AND owner = :owner_before AND sealed = false";
const APPEND: &str = "UPDATE TABLE_journal SET head = :head, chain = :chain, head_ts = :head_ts, head_term = :head_term, \
     frames = :frames, bytes = :bytes, last = :last, body = :body WHERE shard = :shard AND bucket = :bucket AND seq = :seq \
     IF term = :term AND owner = :owner AND head = :head_before AND chain = :chain_before AND sealed = false";
const SEAL: &str = "UPDATE TABLE_journal SET sealed = true WHERE shard = ? AND bucket = ? \
     IF term = ? AND owner = ? AND head = ? AND chain = ? AND sealed = false";
// Servers find one row only where a column of it is asked for, and not of its partition alone: hence `seq`.
const HEADER: &str = "SELECT seq, term, owner, sealed, head, chain, head_ts, head_term, frames, bytes, base, genesis \
     FROM TABLE_journal WHERE shard = ? AND bucket = ? AND seq = -1";
const ROWS: &str = "SELECT seq, last, body FROM TABLE_journal WHERE shard = ? AND bucket = ? AND seq > ?";
const ROW_BEFORE: &str = "SELECT seq, last, body FROM TABLE_journal WHERE shard = ? AND bucket = ? AND seq <= ? \
     AND seq > -1 ORDER BY seq DESC LIMIT 1";
const ROW_AT: &str = "SELECT body FROM TABLE_journal WHERE shard = ? AND bucket = ? AND seq = ?";
const KEEP_PART: &str =
    "INSERT INTO TABLE_snapshot_part (shard, version, seq, part, bytes) VALUES (?, ?, ?, ?, ?)";
const KEEP_SNAPSHOT: &str = "INSERT INTO TABLE_snapshot (shard, version, seq, parts, digest, chain, ts, term) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
const SNAPSHOTS: &str = "SELECT seq, parts, digest, chain, ts, term FROM TABLE_snapshot \
     WHERE shard = ? AND version = ? AND seq <= ?";
const A_PART: &str =
    "SELECT bytes FROM TABLE_snapshot_part WHERE shard = ? AND version = ? AND seq = ? AND part = ?";
const DROP_SNAPSHOT: &str = "DELETE FROM TABLE_snapshot WHERE shard = ? AND version = ? AND seq = ?";
const DROP_PART: &str =
    "DELETE FROM TABLE_snapshot_part WHERE shard = ? AND version = ? AND seq = ? AND part = ?";
const STAND: &str = "INSERT INTO TABLE_process (shard, process, term) VALUES (?, ?, ?) USING TTL ?";
const LEAVE: &str = "DELETE FROM TABLE_process WHERE shard = ? AND process = ?";
const STANDING: &str = "SELECT process, term FROM TABLE_process WHERE shard = ?";

impl Inner {
    /// A conditional write. Both servers answer `[applied]` first; what else they tell differs, so that whoever needs more
    /// reads the header.
    pub(super) async fn conditional(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Outcome {
        let answer = match self.session.execute_unpaged(statement, values).await {
            Ok(answer) => answer,
            Err(why) => return Outcome::Unknown(why.to_string()),
        };
        let row = answer.into_rows_result().ok().and_then(|rows| rows.first_row::<Row>().ok());
        match row.as_ref().and_then(|row| row.columns.first()) {
            Some(Some(CqlValue::Boolean(true))) => Outcome::Applied,
            Some(Some(CqlValue::Boolean(false))) => Outcome::NotApplied,
            other => Outcome::Unknown(format!("the server answered a conditional write with {other:?}")),
        }
    }

    /// The first row of an answer, if it has one.
    pub(super) async fn row<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<R>, JournalError>
    where
        R: for<'a> DeserializeRow<'a, 'a>,
    {
        let answer = self.session.execute_unpaged(statement, values).await.map_err(failed)?;
        answer.into_rows_result().map_err(failed)?.maybe_first_row::<R>().map_err(failed)
    }

    /// Writes that nobody waits for the order of.
    pub(super) async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), JournalError> {
        self.session.execute_unpaged(statement, values).await.map(drop).map_err(failed)
    }
}

/// The server could not be asked, or its answer not be read.
pub(super) fn failed(why: impl std::fmt::Display) -> JournalError {
    JournalError::Io(format!("the CQL server: {why}"))
}
