//! `holmes scenario`: a file of steps, played over a whole network in memory on virtual time. Every call goes through the
//! generated services and the authentication of a real server; keys, ids and moments follow from the file alone, so that
//! the same file gives the same bytes wherever it is played.
//!
//! In reading order: `file` (what a person writes), `check` (what it means, and what of it cannot be), `moment`, `names`
//! and `fields` (times, references and messages in it), `cast` (who takes part), `cluster` (the network), `world` and
//! `stage` (everybody enters), `desk` and `ask` (what a gateway and its nodes would do), `engine`, `play` (one step after
//! the other), `expect`, `closing` (what is said at the end).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use holmes_runtime::config::Config;

use crate::output::{self, Format};

mod ask;
mod cast;
mod check;
mod closing;
mod cluster;
mod desk;
mod engine;
mod expect;
mod fields;
mod file;
mod moment;
mod names;
mod play;
mod stage;
mod tell;
mod world;

pub(crate) use file::WrongIn;

/// What is to be done with scenarios.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes scenario run docs/scenarios/two-phase.yaml      play one, with a line for every step
  holmes scenario run docs/scenarios/*.yaml              all of them: a verdict, and exit code 1 if one fails
  holmes scenario run my.yaml -o json                    every reply as a line of JSON, then digests and invariants
  holmes scenario check my.yaml                          read it only: unknown keys, methods, fields, names

A scenario boots every service in memory on virtual time; ten years take seconds. The same file gives the same bytes. \
How one is written: docs/how-to/write-a-scenario.md")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Play scenarios, and hold what comes of them to what they expect.
    #[command(after_help = "Examples:
  holmes scenario run docs/scenarios/genesis.yaml
  holmes scenario run docs/scenarios/*.yaml
  holmes scenario run my.yaml -o json > my.jsonl
  holmes scenario run my.yaml --trace 2> calls.jsonl     also what people and gateway do around the steps

With -o json there is a line for every reply, then one for each service (events, digest, chain, invariants), for what \
services must agree on, for each asset's supply, and a verdict. Exit codes: 0 all holds; 1 an expectation or an \
invariant does not, or the file is wrong.")]
    Run {
        /// The files, played one after the other.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Tell every call on stderr with request and reply, also those that no step names.
        #[arg(long)]
        trace: bool,
    },
    /// Read scenarios without playing them: everything that can be wrong with the file itself.
    #[command(after_help = "Examples:
  holmes scenario check docs/scenarios/*.yaml")]
    Check {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Does it; the exit code says whether all was as expected.
pub(crate) fn run(args: Args, config: &Config, format: Format) -> Result<ExitCode> {
    let all_right = match args.action {
        Action::Run { files, trace } => play_all(&files, config, format, trace)?,
        Action::Check { files } => check_all(&files)?,
    };
    Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(file: &std::path::Path) -> Result<check::Plan> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let plan = check::plan(&text).map_err(|wrong| wrong.of(file))?;
    plan.warning().iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(plan)
}

fn check_all(files: &[PathBuf]) -> Result<bool> {
    let mut all_right = true;
    for file in files {
        match read(file) {
            Ok(plan) => {
                output::text(&format!("{}: {}, {} steps", file.display(), plan.name, plan.steps.len()))?
            }
            Err(why) => {
                eprintln!("{why:#}");
                all_right = false;
            }
        }
    }
    Ok(all_right)
}

fn play_all(files: &[PathBuf], config: &Config, format: Format, trace: bool) -> Result<bool> {
    // All are read first: a misspelt word in the last one should not be found after minutes.
    let (mut plans, mut wrong) = (Vec::new(), Vec::new());
    for file in files {
        match read(file) {
            Ok(plan) => plans.push(plan),
            Err(why) => wrong.push(why),
        }
    }
    if let Some(last) = wrong.pop() {
        wrong.iter().for_each(|why| eprintln!("{why:#}"));
        return Err(last);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut expectations, mut failed) = (0, Vec::new());
    for (plan, file) in plans.into_iter().zip(files) {
        let mut teller = tell::Teller::new(format, trace, files.len() > 1);
        let name = plan.name.clone();
        let played = runtime.block_on(play::play(plan, config, &mut teller));
        let verdict = played.with_context(|| format!("{} cannot be played", file.display()))?;
        expectations += verdict.expectations;
        if !verdict.holds() {
            failed.push(name);
        }
    }
    if files.len() > 1 {
        match failed.as_slice() {
            [] => eprintln!("{} scenarios, {expectations} expectations: all hold", files.len()),
            names => eprintln!("{} of {} scenarios failed: {}", names.len(), files.len(), names.join(", ")),
        }
    }
    Ok(failed.is_empty())
}
