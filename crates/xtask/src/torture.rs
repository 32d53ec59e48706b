//! The crash campaign: builds the binary and the program that tortures it, and lets that run.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{House, sh};

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask torture --minutes 60                  the full length of every campaign, where an hour is enough
  cargo xtask torture --minutes 2 --kills 30        a little of everything
  cargo xtask torture --only kill --kills 200       nothing but deaths
  cargo xtask torture --only power,flip --seed 7 --keep failed -o json

Options:
  --minutes N    how long at most, all campaigns together (10)
  --only LIST    kill, power, flip, full, readonly, clock, stop
  --kills N      deaths of the campaign kill (1000); --trials N: of each other campaign
  --seed N       the same seed draws the same plan
  --keep DIR     keeps the directory of each failed trial
  --dir DIR      where networks are made and broken (target/torture)
  -o json        the report on stdout as JSON

Progress is told on stderr and a verdict at the end; the exit code is 1 when anything was found.
docs/explanation/reliability.md says what each campaign does, and what it has found.";

/// What is passed on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Options of the campaign, as below
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Builds both as they are released, and runs.
pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let packages = ["-p", "holmes", "-p", "holmes-load-tests"];
    let build = ["build", "--release", "--bin", "holmes", "--bin", "torture"];
    sh::run(sh::cargo(&house.root).args(build).args(packages))?;
    let program = house.metadata.target_directory.join("release/torture");
    // Its report is data, so it keeps the standard output that it is given.
    let mut torture = Command::new(&program);
    let status = torture.current_dir(&house.root).args(&args.options).stdin(Stdio::null()).status();
    match status.with_context(|| format!("cannot start {program}"))?.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("something was found: the report says what"),
        _ => bail!("the campaign itself failed; its reasons stand above"),
    }
}
