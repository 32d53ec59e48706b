//! Processes of this same binary, called in its own words: the demo's, and a cluster's. What they say goes to files.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

/// How long a process may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(15);

/// A process with a name.
struct Named {
    name: String,
    child: Child,
}

/// All of them; they end with whoever started them, whatever ends it.
pub(crate) struct Processes {
    dir: PathBuf,
    running: Vec<Named>,
}

impl Processes {
    pub(crate) fn new(dir: &Path) -> Processes {
        Processes { dir: dir.to_owned(), running: Vec::new() }
    }

    /// Starts `holmes` with these arguments.
    pub(crate) fn start(&mut self, name: &str, args: &[String]) -> Result<u32> {
        let log = File::options().create(true).append(true).open(self.dir.join(format!("{name}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        // Who is killed says nothing to anybody: the pipe that breaks with it does.
        command
            .args(args)
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        command.env("HOLMES__TELEMETRY__LOG", "info").process_group(0); // Ctrl-C is ours, not theirs
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let pid = child.id().context("it ended at once")?;
        self.running.push(Named { name: name.to_owned(), child });
        Ok(pid)
    }

    /// The process id of a running process.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|process| process.name == name)?.child.id()
    }

    /// Fails when a process has ended by itself, with what it said last.
    pub(crate) fn check(&mut self, name: &str) -> Result<()> {
        let Some(process) = self.running.iter_mut().find(|process| process.name == name) else {
            bail!("{name} is not running");
        };
        if let Some(status) = process.child.try_wait()? {
            bail!("{name} has ended ({status}): {}", self.last_words(name));
        }
        Ok(())
    }

    /// Fails when any process has ended by itself.
    pub(crate) fn check_all(&mut self) -> Result<()> {
        let names: Vec<String> = self.running.iter().map(|process| process.name.clone()).collect();
        names.iter().try_for_each(|name| self.check(name))
    }

    /// Whether a process has ended by itself, or by somebody else's hand; it is forgotten then.
    pub(crate) fn forget_ended(&mut self, name: &str) -> Result<bool> {
        let Some(at) = self.running.iter().position(|process| process.name == name) else { return Ok(true) };
        let has_ended = self.running[at].child.try_wait()?.is_some();
        if has_ended {
            self.running.remove(at);
        }
        Ok(has_ended)
    }

    fn last_words(&self, name: &str) -> String {
        let said = std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// SIGKILL: nothing is said, nothing is saved.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<()> {
        let at = self.running.iter().position(|process| process.name == name);
        let mut process = self.running.remove(at.with_context(|| format!("{name} is not running"))?);
        process.child.kill().await.with_context(|| format!("{name} could not be killed"))
    }

    /// SIGTERM, and SIGKILL for those who do not listen: executors first, so that they can say goodbye.
    pub(crate) async fn stop_all(&mut self) {
        while let Some(mut process) = self.running.pop() {
            if let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok()) {
                terminate(pid);
            }
            if tokio::time::timeout(PATIENCE, process.child.wait()).await.is_err() {
                let _ = process.child.kill().await; // it had its time
            }
        }
    }
}

fn terminate(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM); // gone already: as wished
    }
}

/// Ports that nobody listens on now, each another: all are held until the last is found.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let hold = |_| TcpListener::bind("127.0.0.1:0").context("no port is free on this machine");
    let held = (0..count).map(hold).collect::<Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
