//! The real server while nobody asks it anything: `holmes up` in an empty directory, without a model.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Found;
use crate::machine::{ends_with_us, resident, ticks};

/// Its caches and its first epoch's work are behind it then.
const SETTLES_IN: Duration = Duration::from_secs(5);
const STARTS_WITHIN: Duration = Duration::from_secs(60);

const ANY_PORT: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0"];

/// Ended with the measurement.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary that lies beside this one, and watches it.
pub(super) fn measure(seconds: f64) -> Result<Found> {
    let holmes = std::env::current_exe()?.with_file_name("holmes");
    ensure!(holmes.is_file(), "{} is not built: cargo build --release -p holmes", holmes.display());
    let dir = tempfile::tempdir()?;
    let talk = dir.path().join("talk");
    let began = Instant::now();
    let server = Server(start(&holmes, dir.path(), &talk)?);
    while !std::fs::read_to_string(&talk)?.contains("serving ") {
        ensure!(
            began.elapsed() < STARTS_WITHIN,
            "holmes up does not serve: {}",
            std::fs::read_to_string(&talk)?
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    let process = server.0.id();
    std::thread::sleep(SETTLES_IN.min(Duration::from_secs_f64(seconds)));
    let (before, watched) = (ticks(&[process]), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let used = (ticks(&[process]) - before) as f64; // hundredths of a second
    let memory = resident(process);
    ensure!(memory > 0, "holmes up has ended: {}", std::fs::read_to_string(&talk)?);
    Ok(Found::from([
        ("idle `holmes up`, memory", memory as f64 / f64::from(1 << 20)),
        ("idle `holmes up`, processor", used / watched.elapsed().as_secs_f64()),
        ("idle `holmes up`, start", took),
    ]))
}

/// On ports that nobody else has, with nothing of ours in its environment.
fn start(holmes: &Path, dir: &Path, talk: &Path) -> Result<Child> {
    let file = std::fs::File::create(talk)?;
    let mut command = ends_with_us();
    command
        .arg("--")
        .arg(holmes)
        .arg("up")
        .stdin(Stdio::null())
        .args(ANY_PORT)
        .current_dir(dir)
        .stdout(file.try_clone()?)
        .stderr(file);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLMES_")) {
        command.env_remove(name);
    }
    command.spawn().context("cannot start holmes")
}
