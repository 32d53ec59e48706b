//! What does not hold of a log: where, a stable reason, and in words with what helps.

use holmes_kernel::ReplayError;
use holmes_kernel::ports::{DamagedSnapshot, Journal as _};
use holmes_runtime::recover::{DamagedLog, LOG_REMEDY, RecoverError, SNAPSHOT_REMEDY};
use holmes_store::Journal;
use serde::Serialize;

use crate::data;
use crate::roles::Role;

/// Something that does not hold of a log.
#[derive(Serialize)]
pub(super) struct Wrong {
    /// Where the first frame begins that is not what it should be, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    /// Stable, for scripts.
    pub(super) reason: &'static str,
    /// For people.
    #[serde(skip)]
    pub(super) words: String,
}

impl Wrong {
    /// A log that cannot be replayed to its end.
    pub(super) fn unreadable(why: anyhow::Error) -> Wrong {
        let why = data::named(why);
        if let Some(damage) = why.downcast_ref::<DamagedLog>() {
            return Wrong { seq: Some(damage.seq()), reason: DamagedLog::REASON, words: format!("{why:#}") };
        }
        let Some(RecoverError::Replay { why: replay, .. }) = why.downcast_ref() else {
            return Wrong { seq: None, reason: "LOG_UNREADABLE", words: format!("{why:#}") };
        };
        let (seq, reason) = match replay {
            ReplayError::Damage { after, .. } => (Some(after + 1), DamagedLog::REASON),
            ReplayError::Entry { seq, .. } => (Some(*seq), DamagedLog::REASON),
            // These say which build helps.
            ReplayError::Unknown { seq, .. } => (Some(*seq), "LOG_OF_NEWER_BUILD"),
            ReplayError::Schema { after, .. } => (Some(after + 1), "LOG_OF_NEWER_BUILD"),
            ReplayError::Params(_) => (Some(1), DamagedLog::REASON),
        };
        let words = match reason {
            DamagedLog::REASON => format!("{why:#}. {LOG_REMEDY}"),
            _ => format!("{why:#}"),
        };
        Wrong { seq, reason, words }
    }

    /// An invariant that does not hold from a frame on.
    pub(super) fn broken(at: u64, broken: &[String]) -> Wrong {
        let words = format!(
            "from the frame that begins at {at} on: {}. Restore the directory from a copy that was made before that frame",
            broken.join("; ")
        );
        Wrong { seq: Some(at), reason: "INVARIANT_BROKEN", words }
    }

    /// A snapshot that is whole, and says something else than the log.
    pub(super) fn other_snapshot() -> Wrong {
        let words = "the snapshot gives another state than the log. The log counts: move the folder journal/snapshots away, \
                     and report this as a defect"
            .to_owned();
        Wrong { seq: None, reason: "SNAPSHOT_DIFFERS", words }
    }
}

/// The snapshots of a log that are damaged. Whoever starts from the log passes them over, and says so.
pub(super) async fn snapshots(role: &Role, journal: &Journal, cell: u16) -> Vec<(u64, String)> {
    let words = |of: DamagedSnapshot| {
        (of.seq, format!("the snapshot {} is damaged ({}): {SNAPSHOT_REMEDY}", of.path, of.why))
    };
    match journal.damaged_snapshots(role.log(cell), role.state_version, 0).await {
        Ok(damaged) => damaged.into_iter().map(words).collect(),
        Err(why) => vec![(0, format!("its snapshots cannot be looked at: {why}"))],
    }
}
