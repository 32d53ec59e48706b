//! What a disk may hold after the power has gone, from a trace of what was done to it.
//!
//! What was forced to disk before the cut is there. Of the rest each sector of 512 bytes may have any of the contents that it
//! had since; a file may have any of the lengths that it had since, zeros where no sector was written; and a directory may
//! have lost its last changes, in their order, unless it was forced to disk itself: a new file that was is gone with its
//! name. That is as harsh as a file system with a journal of its metadata can be, and harsher than most are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File as OsFile;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::trace::{Call, Step};

/// A sector is written whole or not at all.
const SECTOR: u64 = 512;

/// Everything that was done below a directory, step by step.
#[derive(Debug)]
pub(crate) struct Medium {
    root: PathBuf,
    files: Vec<File>,
    dirs: Vec<Dir>,
    /// What was said, and at which step.
    pub(crate) said: Vec<(usize, Vec<u8>)>,
    /// How many steps there were.
    pub(crate) steps: usize,
    /// Calls that have begun, and what they belong to.
    begun: BTreeMap<usize, Begun>,
    /// Calls that have begun before what they need was there.
    early: BTreeMap<usize, Call>,
}

#[derive(Clone, Copy, Debug)]
enum Begun {
    Change(Node, usize),
    /// So many changes will have been forced to disk.
    Sync(Node, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir(usize),
}

/// Changes in their order, and which of them were forced to disk when.
#[derive(Debug)]
struct History<T> {
    changes: Vec<(usize, T)>,
    /// How many of the first ones have ended.
    ended: BTreeSet<usize>,
    /// Step, and how many changes it covers.
    syncs: Vec<(usize, usize)>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        History { changes: Vec::new(), ended: BTreeSet::new(), syncs: Vec::new() }
    }
}

impl<T> History<T> {
    fn change(&mut self, step: usize, change: T) -> usize {
        self.changes.push((step, change));
        self.changes.len() - 1
    }

    /// How many changes a sync that begins now will cover: those that have ended, up to the first that has not.
    fn covered(&self) -> usize {
        (0..self.changes.len()).find(|number| !self.ended.contains(number)).unwrap_or(self.changes.len())
    }

    /// What was done before a step, and how much of it was forced to disk.
    fn before(&self, step: usize) -> (&[(usize, T)], usize) {
        let done = self.changes.partition_point(|(at, _)| *at < step);
        let durable = self.syncs.iter().filter(|(at, _)| *at < step).map(|(_, covered)| *covered).max();
        (&self.changes[..done], durable.unwrap_or_default().min(done))
    }
}

#[derive(Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
    Extend(u64),
}

impl Change {
    fn len_after(&self, len: u64) -> u64 {
        match self {
            Change::Write { at, bytes } => len.max(at + bytes.len() as u64),
            Change::SetLen(new) => *new,
            Change::Extend(new) => len.max(*new),
        }
    }
}

#[derive(Debug, Default)]
struct File(History<Change>);

/// Names that change together, as in a rename.
type Names = Vec<(OsString, Option<Node>)>;

#[derive(Debug, Default)]
struct Dir {
    history: History<Names>,
    /// As programs see it.
    live: BTreeMap<OsString, Node>,
}

/// How much of what was not forced to disk a cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Nothing.
    AllLost,
    /// Everything: as a kill of the process.
    AllKept,
    /// All up to some moment: a disk that keeps the order.
    InOrder,
    /// Each write whole or not.
    Dropped,
    /// Each sector for itself.
    Torn,
}

impl Harm {
    pub(crate) const ALL: [Harm; 5] =
        [Harm::AllLost, Harm::AllKept, Harm::InOrder, Harm::Dropped, Harm::Torn];
}

impl Medium {
    /// An empty directory.
    pub(crate) fn new(root: PathBuf) -> Medium {
        let dirs = vec![Dir::default()];
        Medium {
            root,
            files: Vec::new(),
            dirs,
            said: Vec::new(),
            steps: 0,
            begun: BTreeMap::new(),
            early: BTreeMap::new(),
        }
    }

    /// Takes what was done behind what was done before.
    pub(crate) fn take(&mut self, steps: Vec<Step>) -> Result<()> {
        for step in steps {
            match step {
                Step::Begin(number, call) if self.is_early(&call)? => drop(self.early.insert(number, call)),
                Step::Begin(number, call) => self.begin(number, call)?,
                Step::End(number) => {
                    if let Some(call) = self.early.remove(&number) {
                        self.begin(number, call)?;
                    }
                    self.end(number);
                }
            }
            self.steps += 1;
        }
        Ok(())
    }

    /// Whether a call has begun before what it needs was there: then another thread has made it before this one went on.
    fn is_early(&self, call: &Call) -> Result<bool> {
        let needs = match call {
            Call::Create { path, .. } | Call::MakeDir { path } | Call::Remove { path } => path.parent(),
            Call::Rename { from, .. } | Call::Link { from, .. } => Some(from.as_path()),
            Call::Write { .. }
            | Call::SetLen { .. }
            | Call::Extend { .. }
            | Call::Sync { .. }
            | Call::Said(_) => None,
        };
        match needs {
            Some(path) if path.starts_with(&self.root) => Ok(self.find(path)?.is_none()),
            _ => Ok(false),
        }
    }

    fn begin(&mut self, number: usize, call: Call) -> Result<()> {
        let step = self.steps;
        let begun = match call {
            Call::Said(bytes) => {
                self.said.push((step, bytes));
                return Ok(());
            }
            Call::Write { path, at, bytes } => self.change(&path, Change::Write { at, bytes })?,
            Call::SetLen { path, len } => self.change(&path, Change::SetLen(len))?,
            Call::Extend { path, len } => self.change(&path, Change::Extend(len))?,
            Call::Create { path, truncate } => match self.find(&path)? {
                Some(Node::File(_)) if truncate => self.change(&path, Change::SetLen(0))?,
                Some(_) => return Ok(()),
                None => {
                    self.files.push(File::default());
                    let node = Node::File(self.files.len() - 1);
                    self.name(&path, vec![(leaf(&path)?, Some(node))])?
                }
            },
            Call::MakeDir { path } => {
                self.dirs.push(Dir::default());
                let node = Node::Dir(self.dirs.len() - 1);
                self.name(&path, vec![(leaf(&path)?, Some(node))])?
            }
            Call::Remove { path } => self.name(&path, vec![(leaf(&path)?, None)])?,
            Call::Rename { from, to } => {
                if !from.starts_with(&self.root) && !to.starts_with(&self.root) {
                    return Ok(());
                }
                ensure!(
                    from.parent() == to.parent(),
                    "a rename from one directory to another is not understood"
                );
                let node = self.find(&from)?.with_context(|| format!("{} is not there", from.display()))?;
                self.name(&from, vec![(leaf(&from)?, None), (leaf(&to)?, Some(node))])?
            }
            Call::Link { from, to } => match self.find(&from)? {
                Some(node) => self.name(&to, vec![(leaf(&to)?, Some(node))])?,
                None => return Ok(()),
            },
            Call::Sync { path } => match self.find(&path)? {
                Some(node @ Node::File(file)) => Some(Begun::Sync(node, self.files[file].0.covered())),
                Some(node @ Node::Dir(dir)) => Some(Begun::Sync(node, self.dirs[dir].history.covered())),
                None => None,
            },
        };
        if let Some(begun) = begun {
            self.begun.insert(number, begun);
        }
        Ok(())
    }

    fn end(&mut self, number: usize) {
        let step = self.steps;
        match self.begun.remove(&number) {
            Some(Begun::Change(Node::File(file), change)) => drop(self.files[file].0.ended.insert(change)),
            Some(Begun::Change(Node::Dir(dir), change)) => drop(self.dirs[dir].history.ended.insert(change)),
            Some(Begun::Sync(Node::File(file), covered)) => self.files[file].0.syncs.push((step, covered)),
            Some(Begun::Sync(Node::Dir(dir), covered)) => self.dirs[dir].history.syncs.push((step, covered)),
            None => {}
        }
    }

    fn change(&mut self, path: &Path, change: Change) -> Result<Option<Begun>> {
        let step = self.steps;
        match self.find(path)? {
            Some(node @ Node::File(file)) => {
                Ok(Some(Begun::Change(node, self.files[file].0.change(step, change))))
            }
            // Outside, or a file that has no name any more.
            _ => Ok(None),
        }
    }

    fn name(&mut self, path: &Path, names: Names) -> Result<Option<Begun>> {
        let Ok(within) = path.strip_prefix(&self.root) else { return Ok(None) };
        if within.as_os_str().is_empty() {
            return Ok(None); // the root itself, which is there
        }
        let parent = path.parent().context("a parent")?;
        let Some(Node::Dir(dir)) = self.find(parent)? else { bail!("no directory {}", parent.display()) };
        for (name, node) in &names {
            match node {
                Some(node) => drop(self.dirs[dir].live.insert(name.clone(), *node)),
                None => drop(self.dirs[dir].live.remove(name)),
            }
        }
        let step = self.steps;
        Ok(Some(Begun::Change(Node::Dir(dir), self.dirs[dir].history.change(step, names))))
    }

    /// What a path leads to now; `None` for what is not there or outside.
    fn find(&self, path: &Path) -> Result<Option<Node>> {
        let Ok(within) = path.strip_prefix(&self.root) else { return Ok(None) };
        let mut at = Node::Dir(0);
        for part in within.components() {
            let (Node::Dir(dir), Component::Normal(name)) = (at, part) else { return Ok(None) };
            match self.dirs[dir].live.get(name) {
                Some(node) => at = *node,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Writes what the disk may hold when the power goes before a step.
    pub(crate) fn cut(&self, step: usize, harm: Harm, dice: &mut fastrand::Rng, out: &Path) -> Result<()> {
        // A disk that keeps the order may have stopped at any moment since the oldest change that is still on its way.
        let kept_until = match harm {
            Harm::AllLost => 0,
            Harm::InOrder => dice.usize(..=step),
            _ => step,
        };
        let cut = Cut { medium: self, step, kept_until, harm };
        cut.dir(0, dice, out)
    }
}

fn leaf(path: &Path) -> Result<OsString> {
    Ok(path.file_name().with_context(|| format!("{} has no name", path.display()))?.to_owned())
}

struct Cut<'a> {
    medium: &'a Medium,
    step: usize,
    /// Changes of before this moment are kept whatever happens.
    kept_until: usize,
    harm: Harm,
}

impl Cut<'_> {
    /// How many of a history's changes are there for certain, and how many there may be.
    fn range<'a, T>(&self, history: &'a History<T>) -> (&'a [(usize, T)], usize) {
        let (done, durable) = history.before(self.step);
        let certain = match self.harm {
            Harm::Dropped | Harm::Torn => durable,
            _ => durable.max(done.partition_point(|(at, _)| *at < self.kept_until)),
        };
        let possible = match self.harm {
            Harm::Dropped | Harm::Torn => done.len(),
            _ => certain,
        };
        (&done[..possible], certain)
    }

    fn dir(&self, dir: usize, dice: &mut fastrand::Rng, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out)?;
        let (changes, certain) = self.range(&self.medium.dirs[dir].history);
        let kept = dice.usize(certain..=changes.len());
        let mut names: BTreeMap<&OsString, Node> = BTreeMap::new();
        for (name, node) in changes[..kept].iter().flat_map(|(_, names)| names) {
            match node {
                Some(node) => drop(names.insert(name, *node)),
                None => drop(names.remove(name)),
            }
        }
        for (name, node) in names {
            match node {
                Node::Dir(dir) => self.dir(dir, dice, &out.join(name))?,
                Node::File(file) => self.file(file, dice, &out.join(name))?,
            }
        }
        Ok(())
    }

    fn file(&self, file: usize, dice: &mut fastrand::Rng, out: &Path) -> Result<()> {
        let (changes, certain) = self.range(&self.medium.files[file].0);
        let file = OsFile::create(out)?;
        let mut len = 0;
        for (_, change) in &changes[..certain] {
            len = change.len_after(len);
            match change {
                Change::Write { at, bytes } => file.write_all_at(bytes, *at)?,
                Change::SetLen(_) | Change::Extend(_) => file.set_len(len)?,
            }
        }
        let pending = &changes[certain..];
        let lengths = pending.iter().scan(len, |len, (_, change)| {
            *len = change.len_after(*len);
            Some(*len)
        });
        let lengths: Vec<u64> = std::iter::once(len).chain(lengths).collect();
        let kept_len = dice.usize(..lengths.len());
        // What follows a truncation lies in other sectors, and those are the file's only once that is on the disk.
        let cut_off =
            pending.iter().position(|(_, change)| matches!(change, Change::SetLen(to) if *to < len));
        let usable = match cut_off {
            Some(at) if kept_len <= at => &pending[..at],
            _ => pending,
        };
        let mut stopped = BTreeSet::new();
        for (_, change) in usable {
            match change {
                Change::Write { at, bytes } => self.pieces(&file, *at, bytes, &mut stopped, dice)?,
                Change::SetLen(to) => file.set_len(*to)?,
                Change::Extend(_) => {}
            }
        }
        file.set_len(lengths[kept_len])?;
        Ok(())
    }

    /// Writes what is kept of a write. A sector that has lost one has lost those behind it, too: they were in the same page.
    fn pieces(
        &self,
        file: &OsFile,
        at: u64,
        bytes: &[u8],
        stopped: &mut BTreeSet<u64>,
        dice: &mut fastrand::Rng,
    ) -> Result<()> {
        let whole = dice.bool();
        let mut from = at;
        let end = at + bytes.len() as u64;
        while from < end {
            let sector = from / SECTOR;
            let to = ((sector + 1) * SECTOR).min(end);
            let keep = if self.harm == Harm::Torn { dice.bool() } else { whole };
            if !keep {
                stopped.insert(sector);
            }
            if !stopped.contains(&sector) {
                file.write_all_at(&bytes[(from - at) as usize..(to - at) as usize], from)?;
            }
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
