//! A worker by itself: `executor-worker NAME=PATH …`. The tests start it as the agent's child.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use holmes_executor::{WorkerOptions, worker_main};

/// Says why it ends in one line, as the binary does: a backtrace would be its last words.
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let model = |arg: String| {
        let (name, path) = arg.split_once('=').context("a model is NAME=PATH")?;
        Ok((name.to_owned(), PathBuf::from(path)))
    };
    let models = std::env::args().skip(1).map(model).collect::<anyhow::Result<Vec<_>>>()?;
    worker_main(models, WorkerOptions { threads: 1, ..WorkerOptions::default() })
}
