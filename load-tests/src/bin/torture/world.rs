//! A directory of its own with a network in it, and the real binary that runs there.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::logs::{self, Logs};
use crate::server::{EndedWithUs, Server, ended_with_us};

/// The network's data, inside the directory.
pub(crate) const DATA: &str = "data";
/// Snapshots are written all the time, so that deaths meet them, and so that what is verified has one to be compared with.
const SNAPSHOT_EVERY: &str = "4";

/// A directory in which the binary runs.
#[derive(Clone)]
pub(crate) struct World {
    bin: PathBuf,
    dir: PathBuf,
    roles: &'static str,
    env: Vec<(&'static str, OsString)>,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) ok: bool,
    /// Data.
    pub(crate) out: String,
    /// Talk.
    pub(crate) err: String,
}

/// What `verify` says of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) service: String,
    /// Frames, events, digest, head; or which check it is.
    pub(crate) row: Value,
}

impl Verified {
    /// Whether it is a log, and no check between services.
    pub(crate) fn is_log(&self) -> bool {
        self.row.get("digest").is_some()
    }

    /// Whether its digest was computed once more from a snapshot.
    pub(crate) fn has_snapshot(&self) -> bool {
        self.row.get("behind_snapshot").is_some()
    }
}

impl World {
    /// A new, empty one.
    pub(crate) fn new(bin: &Path, dir: PathBuf, roles: &'static str) -> Result<World> {
        std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(World { bin: bin.to_owned(), dir, roles, env: Vec::new() })
    }

    /// The same with something in its processes' environment.
    pub(crate) fn with_env(mut self, name: &'static str, value: impl Into<OsString>) -> World {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether every service runs here.
    pub(crate) fn has_every_role(&self) -> bool {
        self.roles == "all"
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// The binary with arguments, here, with nothing of the caller's settings.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.bin);
        command.args(words);
        self.at_home(command)
    }

    /// The binary with arguments as the last words of another command.
    pub(crate) fn within(&self, mut command: Command, words: &[&str]) -> Command {
        command.arg(&self.bin).args(words);
        self.at_home(command)
    }

    fn at_home(&self, mut command: Command) -> Command {
        command.current_dir(&self.dir);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLMES_"))
        {
            command.env_remove(name);
        }
        command.env("HOLMES__STORE__SNAPSHOT_EVERY", SNAPSHOT_EVERY).env("HOLMES__STORE__DIR", DATA);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end. A panic is a finding, whatever the command was.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Ran> {
        let mut command = self.command(words);
        // The terminal's Ctrl-C is not for it: the trial that is on goes to its end.
        command.stdin(Stdio::null()).process_group(0);
        let done = command.output().context("the binary cannot be run")?;
        ensure!(!ended_with_us(done.status), EndedWithUs);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let ran = Ran { ok: done.status.success(), out: text(&done.stdout), err: text(&done.stderr) };
        ensure!(!ran.err.contains("panicked"), "`holmes {}` panicked: {}", words.join(" "), ran.err);
        ensure!(
            done.status.code().is_some(),
            "`holmes {}` was ended by a signal: {}",
            words.join(" "),
            ran.err
        );
        Ok(ran)
    }

    /// Runs a command that must work and whose data is JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let ran = self.run(words)?;
        ensure!(ran.ok, "`holmes {}` failed: {}{}", words.join(" "), ran.out, ran.err);
        serde_json::from_str(&ran.out).with_context(|| format!("`holmes {}`: {}", words.join(" "), ran.out))
    }

    /// Verifies every log: chains, digests with and without snapshots, invariants, and services held to each other.
    pub(crate) fn verify(&self) -> Result<Vec<Verified>> {
        let ran = self.run(&["verify", "-o", "json"])?;
        let rows: Value = serde_json::from_str(&ran.out)
            .with_context(|| format!("`holmes verify` says no JSON: {}{}", ran.out, ran.err))?;
        let Some(rows) = rows.as_array() else { bail!("`holmes verify` says no rows: {}", ran.out) };
        let wrong: Vec<&Value> = rows.iter().filter(|row| row["ok"] != true).collect();
        ensure!(ran.ok && wrong.is_empty(), "`holmes verify`: {wrong:?} {}", ran.err);
        let verified = |row: &Value| Verified {
            service: row["service"].as_str().unwrap_or_default().to_owned(),
            row: row.clone(),
        };
        Ok(rows.iter().map(verified).collect())
    }

    /// Every log, as the binary writes it out; each is one chain from its first frame.
    pub(crate) fn logs(&self) -> Result<Logs> {
        let out = self.dir.join("frames");
        if out.exists() {
            std::fs::remove_dir_all(&out)?;
        }
        let ran = self.run(&["replay", "--frames", "frames"])?;
        ensure!(ran.ok, "`holmes replay --frames` failed: {}", ran.err);
        logs::read(&out)
    }

    /// Starts a server, and does not wait until it answers.
    pub(crate) fn spawn(&self, more: &[&str]) -> Result<Server> {
        let mut command = self.command(&self.serving());
        command.args(more);
        Server::spawn(command)
    }

    /// The words of a server on free ports, which ends with us.
    pub(crate) fn serving(&self) -> [&'static str; 10] {
        let free = "127.0.0.1:0";
        let role = self.roles;
        ["serve", "--until-stdin-ends", "--role", role, "--listen", free, "--admin", free, "--http", free]
    }

    /// Starts a server and waits until it answers.
    pub(crate) fn serve(&self, more: &[&str]) -> Result<Server> {
        let mut server = self.spawn(more)?;
        server.ready()?;
        Ok(server)
    }

    /// A call as staff, which must work.
    pub(crate) fn staff(&self, server: &Server, method: &str, request: &Value) -> Result<Value> {
        let (request, key) = (request.to_string(), format!("{DATA}/staff.key"));
        let words = ["call", "--server", server.address(), method, &request];
        self.json(&[&words[..], &["--sign-with", &key, "--as", "staff"]].concat())
    }

    /// A call with an API key, which must work.
    pub(crate) fn with_key(
        &self,
        server: &Server,
        key: &str,
        method: &str,
        request: &Value,
    ) -> Result<Value> {
        let request = request.to_string();
        self.json(&["call", "--server", server.address(), method, &request, "--key", key])
    }
}
