//! Servers of others, started by us: found, kept from outliving their run, and ended with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine::ends_with_us;

/// The programs.
pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const REDIS: &str = "redis-server";
pub(crate) const NATS: &str = "nats-server";

/// Where a program may lie beside PATH: Debian keeps PostgreSQL's apart, and `cargo xtask bench` names its own tools.
const POSTGRES_DIR: &str = "/usr/lib/postgresql/15/bin";
pub(crate) const TOOLS: &str = "HOLMES_BENCH_TOOLS";

/// The program's place; `None` if this machine has none.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::env::var_os(TOOLS).map(PathBuf::from);
    let dirs = tools.into_iter().chain([PathBuf::from(POSTGRES_DIR)]).chain(std::env::split_paths(&path));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// As [`find`], or how it is had.
pub(super) fn need(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| {
        format!("{program} is not on this machine: `cargo xtask bench` installs what the scenarios need")
    })
}

/// The first line of what a program says of its version.
pub(super) fn version(program: &Path) -> Result<String> {
    let out = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// PostgreSQL does not run as root.
const UNPRIVILEGED: &str = "nobody";

/// A command whose process ends with this one, and that runs as `nobody` if it must not run as root.
pub(super) fn command(program: &Path, as_nobody: bool) -> Command {
    let mut command = ends_with_us();
    if as_nobody && rustix::process::geteuid().is_root() {
        command.args([format!("--reuid={UNPRIVILEGED}"), "--regid=nogroup".into(), "--clear-groups".into()]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

/// Gives a directory to the one that [`command`] runs as.
pub(super) fn hand_over(dir: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let done = Command::new("chown").args(["-R", &format!("{UNPRIVILEGED}:nogroup")]).arg(dir).status()?;
    anyhow::ensure!(done.success(), "chown {UNPRIVILEGED} {} failed", dir.display());
    Ok(())
}

/// A running server; killed when it goes.
pub(super) struct Server {
    child: Child,
    talk: PathBuf,
}

impl Server {
    pub(super) fn start(mut command: Command, dir: &Path) -> Result<Server> {
        let talk = dir.join("server.log");
        let file = std::fs::File::create(&talk)?;
        command.stdout(file.try_clone()?).stderr(file);
        Ok(Server { child: command.spawn().context("cannot start a server")?, talk })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// This process and all that it has started.
    pub(super) fn family(&self) -> Vec<u32> {
        let own = self.id();
        let path = format!("/proc/{own}/task/{own}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().filter_map(|id| id.parse().ok())).collect()
    }

    /// Asks until it answers.
    pub(super) async fn answers<T, F: Future<Output = Result<T>>>(
        &mut self,
        ask: impl Fn() -> F,
    ) -> Result<T> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let why = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(why) => why,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the server has ended ({status}): {}", self.last_words());
            }
            if Instant::now() > until {
                bail!(why.context(format!("the server does not answer: {}", self.last_words())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn last_words(&self) -> String {
        let talk = std::fs::read_to_string(&self.talk).unwrap_or_default();
        let lines: Vec<&str> = talk.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Server {
    /// Asked to end first: PostgreSQL leaves shared memory behind when it is killed.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let asked = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let until = Instant::now() + ENDS_WITHIN;
        while asked.is_ok() && Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Both fail only when it has ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long a server has to end in order.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
