//! fjall as we set it up, and its failures in our words. Nothing outside this folder sees it.

use std::any::Any;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, LsmError};
use holmes_kernel::ports::JournalError;

/// Blocks kept in memory. Logs are read from front to back, once: a large cache would hold what nobody asks for again.
const CACHE_BYTES: u64 = 16 << 20;
/// Heads are a hundred bytes and overwritten all the time.
const HEADS_MEMTABLE: u64 = 2 << 20;
/// The engine's own journals before it makes room: what a start after a crash reads at most.
const JOURNALS_BYTES: u64 = 192 << 20;
/// A few frames of a quiet log, one frame of a busy one.
const BLOCK_BYTES: u32 = 16 << 10;
/// One flushes while the other compacts.
const WORKERS: usize = 2;

/// The engine with its two keyspaces.
pub(super) struct Engine {
    pub(super) frames: Keyspace,
    pub(super) heads: Keyspace,
    pub(super) database: Database,
}

impl Engine {
    /// Opens or sets up the engine in a directory that the caller holds.
    pub(super) fn open(path: &Path, frames_memtable: u64) -> Result<Engine, JournalError> {
        guarded(|| {
            let doing = format!("opening the engine's files in {}", path.display());
            let failed = |why| engine_error(&doing, &why);
            let database = Database::builder(path)
                .cache_size(CACHE_BYTES)
                .worker_threads(WORKERS)
                .max_journaling_size(JOURNALS_BYTES)
                // The check before opening reads the engine's journals, and they are gone soon anyway.
                .journal_compression(CompressionType::None)
                .manual_journal_persist(true)
                .open()
                .map_err(failed)?;
            let frames = database.keyspace("frames", || options(frames_memtable)).map_err(failed)?;
            let heads = database.keyspace("heads", || options(HEADS_MEMTABLE)).map_err(failed)?;
            Ok(Engine { frames, heads, database })
        })
    }
}

/// Both keyspaces are read by ranges: filters for single keys would only take memory.
fn options(memtable: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::disabled())
        .manual_journal_persist(true)
}

/// Runs a call into the engine, which panics on some damaged files: to us that is an error like any other.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    caught(call).unwrap_or_else(|why| Err(JournalError::Io(format!("the engine gave up: {why}. {REMEDY}"))))
}

/// Runs a call into the engine; with what it panicked, if it did.
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panic_text(panic.as_ref()))
}

/// What helps when the engine cannot use its files, which do not say which of them is meant.
const REMEDY: &str = "Some of its files may be damaged: restore the directory from a copy";

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

/// Whether the engine says that there is no room.
pub(super) fn is_full(why: &fjall::Error) -> bool {
    match why {
        fjall::Error::Io(why) | fjall::Error::Storage(LsmError::Io(why)) => is_out_of_space(why.kind()),
        _ => false,
    }
}

/// What a full disk, a used-up quota and a limit on file sizes have in common: freeing space helps.
fn is_out_of_space(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// The engine's failure while doing something.
pub(super) fn engine_error(doing: &str, why: &fjall::Error) -> JournalError {
    if is_full(why) {
        return JournalError::Full(format!("{doing}: {why}"));
    }
    match why {
        fjall::Error::Locked => JournalError::Locked { path: doing.into(), holder: String::new() },
        fjall::Error::InvalidVersion(_) => JournalError::Io(format!(
            "{doing}: the engine's files are of another version of the engine: use the build that wrote them, or restore the \
             directory from a copy"
        )),
        _ => JournalError::Io(format!("{doing}: {why}. {REMEDY}")),
    }
}

/// The file system's failure while doing something.
pub(super) fn storage_error(doing: &str, why: &io::Error) -> JournalError {
    if is_out_of_space(why.kind()) {
        JournalError::Full(format!("{doing}: {why}"))
    } else {
        JournalError::Io(format!("{doing}: {why}"))
    }
}
