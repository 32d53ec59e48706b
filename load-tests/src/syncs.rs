//! How often a subject forces something to disk, counted from outside: `strace` attached to its processes for a run of its
//! own, because it slows what it watches.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The calls that are counted.
const CALLS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "msync"];
pub(crate) const STRACE: &str = "strace";

/// What was counted in a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Syncs {
    pub(crate) fsync: u64,
    pub(crate) fdatasync: u64,
    /// `sync_file_range` and `msync`.
    pub(crate) others: u64,
    /// Requests that were acknowledged in it.
    pub(crate) batches: u64,
    /// `fsync` and `fdatasync` together, for each of them.
    pub(crate) per_batch: f64,
}

/// A running strace.
pub(crate) struct Counting {
    strace: Child,
    table: PathBuf,
}

impl Counting {
    /// Attached to all of them when this returns, but for those that have ended since they were listed.
    pub(crate) fn attach(processes: &[u32], dir: &Path) -> Result<Counting> {
        let table = dir.join("strace");
        let mut command = Command::new(STRACE);
        command.args(["-f", "-c", "-e", &format!("trace={}", CALLS.join(",")), "-o"]).arg(&table);
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        let started = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut strace = started.context("cannot start strace: `cargo xtask bench` installs it")?;
        let mut talk = BufReader::new(strace.stderr.take().context("its talk")?);
        let (mut said, mut answered, mut attached) = (String::new(), 0, 0);
        while answered < processes.len() {
            let begin = said.len();
            if talk.read_line(&mut said)? == 0 {
                break;
            }
            let is_attached = said[begin..].contains(" attached");
            attached += usize::from(is_attached);
            answered += usize::from(is_attached || said[begin..].contains("attach: "));
        }
        if attached == 0 {
            bail!("strace cannot attach: {}", said.trim());
        }
        std::thread::spawn(move || std::io::copy(&mut talk, &mut std::io::sink())); // threads that come later
        Ok(Counting { strace, table })
    }

    /// Lets go, and reads what it has counted.
    pub(crate) fn detach(mut self, batches: u64) -> Result<Syncs> {
        kill_process(Pid::from_child(&self.strace), Signal::INT)?;
        self.strace.wait()?;
        let table = std::fs::read_to_string(&self.table).context("strace wrote no table")?;
        let [fsync, fdatasync, ranges, maps] = CALLS.map(|call| calls(&table, call));
        let per_batch = (fsync + fdatasync) as f64 / batches.max(1) as f64;
        Ok(Syncs { fsync, fdatasync, others: ranges + maps, batches, per_batch })
    }
}

/// The calls of a name in strace's table: time, seconds, each, calls, (errors), name.
fn calls(table: &str, name: &str) -> u64 {
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.last() == Some(&name));
    row.and_then(|row| row.get(3)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_meanwhile_is_not_waited_for() {
        if Command::new(STRACE).arg("--version").output().is_err() {
            eprintln!("NOT TESTED: strace is not on this machine");
            return;
        }
        let mut lives = Command::new("sleep").arg("60").spawn().unwrap();
        let mut over = Command::new("true").spawn().unwrap();
        over.wait().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let counting = Counting::attach(&[lives.id(), over.id()], dir.path()).unwrap();
        assert_eq!(counting.detach(1).unwrap().per_batch, 0.0);
        assert!(Counting::attach(&[over.id()], dir.path()).is_err());
        lives.kill().unwrap();
        lives.wait().unwrap();
    }

    #[test]
    fn calls_are_read_from_the_table() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     99.90    0.513452          85      6021           fdatasync\n\
                     0.10    0.000312          62         5         1 fsync\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.513764          85      6026         1 total\n";
        assert_eq!(CALLS.map(|call| calls(table, call)), [5, 6021, 0, 0]);
    }
}
