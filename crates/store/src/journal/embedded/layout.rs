//! The directory: who has it, and which layout it is in.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use holmes_kernel::ports::JournalError;

use super::engine::storage_error;

/// The layout that this build writes and reads; the file `layout` says it in words.
const LAYOUT: &str = "holmes journal, layout 1\n";

/// A data directory, held by this process alone until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// The system's lock lies on the open file, so it is gone with the process, however that ends.
    _lock: File,
}

impl Directory {
    /// Name of the file in which it is noted how far appends were acknowledged.
    pub(super) const ACKNOWLEDGED: &str = "acknowledged";

    /// Takes the directory, and makes it if it is not there.
    pub(super) fn take(root: &Path) -> Result<Directory, JournalError> {
        let failed = |why: io::Error| storage_error(&root.display().to_string(), &why);
        fs::create_dir_all(root).map_err(failed)?;
        let lock = lock(root)?;
        let directory = Directory { root: root.to_owned(), _lock: lock };
        directory.check_layout()?;
        Ok(directory)
    }

    /// Where the engine's files are.
    pub(super) fn engine(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Where the snapshots are.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Where it is noted how far appends were acknowledged.
    pub(super) fn acknowledged(&self) -> PathBuf {
        self.root.join(Self::ACKNOWLEDGED)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether an engine was ever set up here.
    pub(super) fn is_set_up(&self) -> bool {
        self.root.join("layout").exists()
    }

    /// Forces the names of what the engine has set up to disk. It does so for the files in each of its folders, but not for
    /// the folders: a power cut could take a new one away with everything that was acknowledged in it.
    pub(super) fn settle(&self) -> Result<(), JournalError> {
        let engine = self.engine();
        for dir in [engine.join("keyspaces"), engine, self.root.clone()] {
            let failed = |why: io::Error| storage_error(&format!("forcing {} to disk", dir.display()), &why);
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        }
        // Where it may not be read, whoever made it has to see to it.
        match self.root.canonicalize().ok().and_then(|root| File::open(root.parent()?).ok()) {
            Some(above) => {
                above.sync_all().map_err(|why| storage_error("forcing the directory's name to disk", &why))
            }
            None => Ok(()),
        }
    }

    /// Notes that the engine is set up, in which layout.
    pub(super) fn set_up(&self) -> Result<(), JournalError> {
        write_durably(&self.root, "layout", LAYOUT.as_bytes())
            .map_err(|why| storage_error("writing the layout", &why))
    }

    fn check_layout(&self) -> Result<(), JournalError> {
        let path = self.root.join("layout");
        let found = match fs::read(&path) {
            Ok(found) => String::from_utf8_lossy(&found).into_owned(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(why) => return Err(storage_error(&path.display().to_string(), &why)),
        };
        if found == LAYOUT {
            return Ok(());
        }
        let (found, known) = (found.trim_end(), LAYOUT.trim_end());
        Err(JournalError::Io(format!(
            "{} says {found:?}, and this build knows {known:?}: use the build that wrote the directory, or restore \
             the file if it was changed by hand",
            path.display()
        )))
    }
}

fn lock(root: &Path) -> Result<File, JournalError> {
    let path = root.join("lock");
    let failed = |why: io::Error| storage_error(&path.display().to_string(), &why);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(why)) => return Err(failed(why)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Without the holder's own words the refusal still stands.
            let holder = match file.read_to_string(&mut text) {
                Ok(_) => holder(&text),
                Err(_) => String::new(),
            };
            return Err(JournalError::Locked { path: root.display().to_string(), holder });
        }
    }
    let words = format!("pid {} since {}\n", std::process::id(), unix_seconds());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(words.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

/// Who holds the lock, from what it wrote into the file.
fn holder(text: &str) -> String {
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next(), words.next().and_then(|since| since.parse().ok())) {
        (Some("pid"), Some(pid), Some("since"), Some(since)) => {
            let seconds = unix_seconds().saturating_sub(since);
            format!(" (process {pid}, for {seconds} s)")
        }
        _ => String::new(),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Puts a whole file in place, or leaves what was there: never half of one, whatever happens.
pub(super) fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let begun = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&begun)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&begun, dir.join(name))?;
    File::open(dir)?.sync_all()
}
