//! A real server as a child: started, told to stop and go on, killed.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::plan::is_ended;

/// How long anything may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; killed when it is dropped. It also ends when this process does, however that dies: its stdin is
/// a pipe that only we hold.
pub(crate) struct Server {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    address: String,
}

/// Who wants an end has ended the server, too: nothing was found.
#[derive(Debug, thiserror::Error)]
#[error("the server was ended together with the campaign")]
pub(crate) struct EndedWithUs;

/// Whether a process ended as on Ctrl-C or SIGTERM, and this one was told the same: of which it may hear a little later.
pub(crate) fn ended_with_us(status: ExitStatus) -> bool {
    let ends = [Signal::INT, Signal::TERM].map(|signal| Some(signal.as_raw()));
    let is_asked_for = ends.contains(&status.signal());
    if is_asked_for {
        std::thread::sleep(Duration::from_millis(100));
    }
    is_asked_for && is_ended()
}

impl Server {
    /// Starts it, and does not wait until it answers.
    pub(crate) fn spawn(mut command: Command) -> Result<Server> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("the server cannot be started")?;
        let stderr = BufReader::new(child.stderr.take().context("a pipe")?);
        let said = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                hear.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Server { child, said, reader: Some(reader), address: String::new() })
    }

    /// Waits until it answers.
    pub(crate) fn ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if lines.iter().any(|line| line.starts_with("  staff")) {
                let address =
                    lines.iter().find_map(|line| line.split_once("gRPC ")?.1.split_whitespace().next());
                self.address = address.context("the server does not tell its address")?.to_owned();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                // Between its fork and the group of its own the terminal's Ctrl-C reaches it, too.
                ensure!(!ended_with_us(status), EndedWithUs);
                bail!("the server ended ({status}) before it answered: {}", self.last_words());
            }
            ensure!(Instant::now() < end, "the server does not answer: {}", self.last_words());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Where it answers: `http://…`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it has said.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end of what it has said, on one line.
    pub(crate) fn last_words(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(12)..].join(" | ")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process")?;
        kill_process(pid, signal).context("the server cannot be signalled")
    }

    /// Waits for its own end.
    pub(crate) fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.hear_out();
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the server does not end: {}", self.last_words());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL: no handler, no destructor, no flush. It must have lived until then, and said of no panic.
    pub(crate) fn kill(mut self) -> Result<Vec<String>> {
        let ended = self.child.try_wait()?;
        let _ = self.child.kill(); // it may be gone already; `ended` tells
        self.child.wait()?;
        self.hear_out();
        let lines = self.lines();
        if let Some(status) = ended {
            bail!("the server ended by itself ({status}): {}", self.last_words());
        }
        ensure!(
            !lines.iter().any(|line| line.contains("panicked")),
            "the server panicked: {}",
            self.last_words()
        );
        Ok(lines)
    }

    /// SIGTERM: an orderly end, with everything durable.
    pub(crate) fn terminate(mut self) -> Result<Vec<String>> {
        self.signal(Signal::TERM)?;
        let status = self.wait(PATIENCE)?;
        ensure!(status.success(), "the server's orderly end failed ({status}): {}", self.last_words());
        Ok(self.lines())
    }

    /// Lets go of its stdin, at whose end it stops in order.
    pub(crate) fn close(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.wait(PATIENCE)?;
        ensure!(status.success(), "the server's orderly end failed ({status}): {}", self.last_words());
        Ok(())
    }

    fn hear_out(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // a thread that only reads lines
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
