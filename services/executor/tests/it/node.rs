//! A node under test: the real agent, with the real worker as its child.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use holmes_executor::{Options, WorkerCommand};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gateway::{Peer, Server};
use crate::model;

/// The node's key.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[11; 32])
}

/// A running agent. Dropping it ends it with its child.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) options: Options,
    running: Option<(watch::Sender<bool>, JoinHandle<anyhow::Result<()>>)>,
}

impl Node {
    /// A node with the tiny model, ready to be started.
    pub(crate) fn new(join: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let file = model::write(dir.path());
        Node::with(dir, join, vec![("tiny".into(), file)])
    }

    /// A node with these models.
    pub(crate) fn with(dir: TempDir, join: &str, models: Vec<(String, PathBuf)>) -> Node {
        let options = Options {
            join: join.into(),
            key: key(),
            worker: worker(&models),
            models,
            slots: 4,
            hardware: "cpu".into(),
            region: "test".into(),
            state_dir: dir.path().join("state"),
            pin: None,
            drain: Duration::from_secs(5),
        };
        Node { dir, options, running: None }
    }

    pub(crate) fn start(&mut self) {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(holmes_executor::run(self.options.clone(), stopped));
        self.running = Some((stop, task));
    }

    /// Asks it to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.running.as_ref().unwrap().0.send_replace(true);
    }

    /// What it ended with.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let (stop, task) = self.running.take().unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), task).await.expect("it ends").unwrap();
        drop(stop);
        ended
    }

    /// Ends it as a crash would: nothing is said any more.
    pub(crate) async fn crash(&mut self) {
        let (_stop, task) = self.running.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    /// The child's process id.
    pub(crate) fn worker_pid(&self) -> Option<u32> {
        let mark = self.dir.path().display().to_string();
        let pids = std::fs::read_dir("/proc").unwrap();
        let mut pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|pid| {
            let command = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cmdline"));
            command.is_ok_and(|command| command.contains("executor-worker") && command.contains(&mark))
        })
    }

    /// Kills the child as the system would.
    pub(crate) fn kill_worker(&self) {
        let pid = self.worker_pid().expect("the worker runs").to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }

    /// Receipts on disk.
    pub(crate) fn receipts(&self) -> usize {
        let files = std::fs::read_dir(self.options.state_dir.join("receipts"));
        files.map_or(0, |files| {
            files
                .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "receipt"))
                .count()
        })
    }
}

/// A gateway and a node that it has welcomed.
pub(crate) async fn joined(generation: u64) -> (Server, Node, Peer) {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let peer = server.welcome(generation).await;
    (server, node, peer)
}

/// Waits until something is so, but not for ever.
pub(crate) async fn until(what: &str, within: Duration, so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within, waiting).await.expect(what);
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }
}

pub(crate) fn worker(models: &[(String, PathBuf)]) -> WorkerCommand {
    let arg = |(name, path): &(String, PathBuf)| OsString::from(format!("{name}={}", path.display()));
    WorkerCommand {
        program: env!("CARGO_BIN_EXE_executor-worker").into(),
        args: models.iter().map(arg).collect(),
        ready_within: Duration::from_secs(60),
    }
}
