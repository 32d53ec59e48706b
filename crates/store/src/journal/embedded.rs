//! The journal in a directory of this machine, on fjall: no server needed.
//!
//! One thread commits for all logs: what waits is written together and forced to disk once. A few threads read. No
//! call blocks the caller's thread. If forcing to disk fails the process aborts; if the disk is full, appends are
//! refused until the next start; a file that is not as it was written is an error when opening or when reading, and
//! never a shorter log. The directory holds: `layout`, `lock` (who has it), `db/` (the engine's), `acknowledged` (how
//! far each log was acknowledged, to notice a lost end), `snapshots/`.

mod acknowledged;
mod commits;
mod committer;
mod engine;
mod inspect;
mod keys;
mod layout;
mod manifest;
mod snapshots;
mod store;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use holmes_kernel::ports::{self, Claim, DamagedSnapshot, JournalError, Snapshot};
use holmes_kernel::{Frame, LogId};
use tokio::sync::oneshot;

use self::acknowledged::{Acknowledged, Witness};
use self::committer::{Answer, Committer, Job, abort};
use self::engine::{Engine, guarded, panic_text, storage_error};
use self::layout::Directory;
use self::store::Store;
use super::head::nonce;

/// Threads that read: one for the readers that follow along, one for a replay.
const READERS: usize = 2;

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Appends are refused when less than this is free, so that what is written already can be put in order: four
    /// tables and a journal of the engine.
    pub reserve_bytes: u64,
    /// Frames kept in memory before they become a table. Fixed when a directory is set up. Small enough by default
    /// that an idle process stays below 60 MiB; large enough that four of them, where the engine stops writers, are a
    /// second of the highest load.
    pub memtable_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { reserve_bytes: 128 << 20, memtable_bytes: 16 << 20 }
    }
}

/// A handle to the journal of a directory. When the last one goes, everything is on disk and the directory is free.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while it is being dropped.
    senders: Option<Senders>,
    threads: Vec<JoinHandle<()>>,
    store: Arc<Store>,
}

struct Senders {
    jobs: Sender<Job>,
    tasks: Sender<Task>,
}

/// Work for a reader.
type Task = Box<dyn FnOnce(&Store) + Send>;

impl Journal {
    /// Opens the journal of a directory, and makes one in an empty directory. Blocks: it reads what the engine has not
    /// put in order yet, at most some hundred megabytes.
    pub fn open(path: &Path, options: Options) -> Result<Journal, JournalError> {
        let directory = Directory::take(path)?;
        let witness =
            Witness::read(&directory).map_err(|why| storage_error("reading what was acknowledged", &why))?;
        let was_used = directory.is_set_up() || !witness.noted.is_empty() || witness.lacks.is_some();
        if was_used || !inspect::clear_unfinished(&directory.engine())? {
            guarded(|| inspect::inspect(&directory.engine(), &witness))?;
        }
        if let Some(why) = &witness.lacks {
            tracing::warn!(
                path = %directory.acknowledged().display(),
                why,
                "the note of what was acknowledged is damaged: nothing is lost, the journal is whole and the note is made \
                 anew; look at the disk"
            );
        }
        let engine = Engine::open(&directory.engine(), options.memtable_bytes)?;
        directory.settle()?;
        let store = Arc::new(Store::new(engine, directory, &witness.noted)?);
        // Before the layout: only people take it away, and then it must not come back empty where it would be needed.
        let acknowledged = Acknowledged::renew(&store.directory, &store.heads())
            .map_err(|why| storage_error("noting what was acknowledged", &why))?;
        if !store.directory.is_set_up() {
            store.directory.set_up()?;
        }
        let reserve_bytes = options.reserve_bytes;
        let committer = Committer { store: Arc::clone(&store), acknowledged, reserve_bytes, refusing: None };
        start(store, committer)
    }

    /// How often something was forced to disk since the start: with the frames appended it tells the size of groups.
    pub fn commits(&self) -> u64 {
        self.inner.store.commits.load(Ordering::Relaxed)
    }

    /// Lets go of this handle; if it was the last, waits until everything is closed, without blocking the thread.
    pub async fn close(self) {
        let Some(inner) = Arc::into_inner(self.inner) else { return };
        let (closed, wait) = oneshot::channel();
        thread::spawn(move || {
            drop(inner);
            // Whoever stopped waiting for it need not know.
            let _ = closed.send(());
        });
        // An error is a panic of that thread, and then it is closed as far as it can be.
        let _ = wait.await;
    }

    /// Asks the committer, and waits for its answer.
    async fn commit<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, JournalError> {
        let (answer, wait) = oneshot::channel();
        self.senders()?.jobs.send(job(answer)).map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }

    /// Lets a reader work, and waits for what it finds.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (answer, wait) = oneshot::channel();
        let task: Task = Box::new(move |store| drop(answer.send(guarded(|| work(store)))));
        self.senders()?.tasks.send(task).map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }

    fn senders(&self) -> Result<&Senders, JournalError> {
        self.inner.senders.as_ref().ok_or_else(stopped)
    }
}

fn stopped() -> JournalError {
    JournalError::Io("the journal is closing".into())
}

fn start(store: Arc<Store>, committer: Committer) -> Result<Journal, JournalError> {
    let failed = |why| storage_error("starting the journal's threads", &why);
    let (jobs, asked) = mpsc::channel();
    let (tasks, waiting) = mpsc::channel::<Task>();
    let waiting = Arc::new(Mutex::new(waiting));
    let mut inner = Inner { senders: Some(Senders { jobs, tasks }), threads: Vec::new(), store };
    let commit = move || {
        // Half a group may be decided: what it would answer next is anybody's guess.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| committer.run(&asked))) {
            abort(&format!("the committer panicked: {}", panic_text(panic.as_ref())));
        }
    };
    inner.threads.push(thread::Builder::new().name("journal-commit".into()).spawn(commit).map_err(failed)?);
    for number in 0..READERS {
        let (store, waiting) = (Arc::clone(&inner.store), Arc::clone(&waiting));
        let read = move || serve(&store, &waiting);
        let name = format!("journal-read-{number}");
        inner.threads.push(thread::Builder::new().name(name).spawn(read).map_err(failed)?);
    }
    Ok(Journal { inner: Arc::new(inner) })
}

/// A reader's life.
fn serve(store: &Store, waiting: &Mutex<Receiver<Task>>) {
    loop {
        let task = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        task(store);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without senders the threads finish what was asked and end.
        self.senders = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("directory", &self.inner.store.directory.root())
            .finish_non_exhaustive()
    }
}

impl ports::Journal for Journal {
    async fn provision(&self, first: &Frame) -> Result<(), JournalError> {
        let first = first.clone();
        self.commit(|answer| Job::Provision { first, answer }).await
    }

    async fn claim(&self, log: LogId) -> Result<Claim, JournalError> {
        let nonce = nonce()?;
        self.commit(|answer| Job::Claim { log, nonce, answer }).await
    }

    async fn append(&self, claim: &Claim, frame: &Frame) -> Result<(), JournalError> {
        let (claim, frame) = (claim.clone(), frame.clone());
        self.commit(|answer| Job::Append { claim, frame, answer }).await
    }

    /// The directory is ours alone, so whatever claim there is went through our committer.
    async fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        self.inner.store.head(claim.log).ok_or(JournalError::Missing(claim.log))?.confirm(claim)
    }

    async fn read(&self, log: LogId, after: u64, max_bytes: usize) -> Result<Vec<Frame>, JournalError> {
        self.with(move |store| store.read(log, after, max_bytes)).await
    }

    async fn logs(&self) -> Result<Vec<LogId>, JournalError> {
        Ok(self.inner.store.logs())
    }

    async fn keep_snapshot(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let snapshot = snapshot.clone();
        self.with(move |store| store.known(snapshot.log)?.snapshots.keep(&snapshot)).await
    }

    async fn snapshot(
        &self,
        log: LogId,
        state_version: u32,
        at_most: u64,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.with(move |store| store.known(log)?.snapshots.newest(log, state_version, at_most)).await
    }

    async fn damaged_snapshots(
        &self,
        log: LogId,
        state_version: u32,
        above: u64,
    ) -> Result<Vec<DamagedSnapshot>, JournalError> {
        self.with(move |store| store.known(log)?.snapshots.damaged(log, state_version, above)).await
    }
}
