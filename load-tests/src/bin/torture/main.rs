//! `cargo xtask torture`: the real binary and the real journal under deaths, power cuts, rotten bits, full and read-only
//! disks, a jumping clock and standstills. `docs/explanation/reliability.md` says what each campaign does and what it
//! found.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;

mod args;
mod books;
mod clock;
mod damage;
mod disk;
mod errand;
mod flip;
mod kill;
mod load;
mod logs;
mod order;
mod plan;
mod power;
mod server;
mod stop;
mod told;
mod world;

use args::{Args, Campaign};
use plan::{Outcome, Plan, Report};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
fn run(args: Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    if let Some(dir) = &args.write_into {
        power::write_into(dir, args.journal, seed)?;
        return Ok(true);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = args.dir.map_or_else(|| Ok(beside_me()?.with_file_name("torture")), Ok::<_, anyhow::Error>)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(dir.canonicalize()?)?;
    runtime.spawn(plan::end_on_signal(scratch.path().to_owned()));
    let plan = Plan {
        bin: binary(args.bin)?,
        scratch: scratch.path().to_owned(),
        keep: args.keep,
        seed,
        kills: args.kills,
        trials: args.trials,
        journal: args.journal,
    };
    let asked_for = !args.only.is_empty();
    let wanted = if asked_for { args.only } else { Campaign::ALL.to_vec() };
    eprintln!("torture of {} with seed {seed}, in {}", plan.bin.display(), scratch.path().display());
    let (began, mut outcomes) = (Instant::now(), Vec::<Outcome>::new());
    for (at, campaign) in wanted.iter().enumerate() {
        // What a campaign has not used, those behind it may.
        let left = Duration::from_secs(args.minutes * 60).saturating_sub(began.elapsed());
        let shares: u32 = wanted[at..].iter().map(|campaign| campaign.share()).sum();
        let until = Instant::now() + left * campaign.share() / shares;
        outcomes.push(plan.run(*campaign, until, &runtime)?);
    }
    let report = Report::of(&plan, args.minutes, began.elapsed(), outcomes, asked_for);
    report.print(args.output)?;
    Ok(report.holds())
}

/// The directory of this program.
fn beside_me() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.parent().context("this program lies in no directory")?.to_owned())
}

fn binary(named: Option<PathBuf>) -> Result<PathBuf> {
    let bin = named.map_or_else(|| Ok(beside_me()?.join("holmes")), Ok::<_, anyhow::Error>)?;
    ensure!(
        bin.is_file(),
        "there is no binary {}: build it (cargo build --release -p holmes), or name one with --bin",
        bin.display()
    );
    Ok(bin.canonicalize()?)
}
