//! `cargo xtask torture`: the real binary and the real journal under deaths, power cuts, rotten bits, full and read-only
//! disks, a jumping clock and standstills. `docs/explanation/reliability.md` says what each campaign does and what it
//! found.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

mod books;
mod clock;
mod disk;
mod flip;
mod kill;
mod load;
mod logs;
mod plan;
mod power;
mod server;
mod stop;
mod world;

use plan::{Campaign, Outcome, Plan, Report};

/// Lets the real binary die, lose power, rot, run full and stand still, and checks after each that everything
/// acknowledged is there once, every log is one chain, digests agree and nothing was made or lost.
#[derive(Parser)]
#[command(name = "torture", after_help = EXAMPLES)]
struct Args {
    /// How long at most, all campaigns together; each gets a share, and ends when it has its full number.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only these campaigns.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Campaign>,
    /// Where every draw begins: the same seed draws the same plan.
    #[arg(long)]
    seed: Option<u64>,
    /// Deaths of the campaign `kill`, where time allows.
    #[arg(long, default_value_t = 1_000)]
    kills: u64,
    /// Trials of each other campaign, instead of its full number.
    #[arg(long)]
    trials: Option<u64>,
    /// Where networks are made and broken; a directory of its own is made inside and taken away.
    #[arg(long, default_value = "target/torture")]
    dir: PathBuf,
    /// Keep the directory of each failed trial here.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// The binary to torture; by default the one beside this program.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// What the report on stdout is: a table or JSON.
    #[arg(short, long, default_value = "table")]
    output: plan::Output,
    /// The journal that loses power: ours, or one with a known fault, to see that it is caught.
    #[arg(long, default_value = "holmes", hide = true)]
    journal: power::Which,
    /// Not a campaign: writes into a journal until its frames are out, and says on stdout what it may.
    #[arg(long, hide = true)]
    write_into: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  cargo xtask torture --minutes 60                 the full length of every campaign, where an hour is enough
  cargo xtask torture --minutes 2 --kills 30       what continuous integration runs, and a little of the rest
  cargo xtask torture --only kill --kills 200      nothing but deaths
  cargo xtask torture --only power,flip --seed 7 --keep failed

Campaigns: kill (SIGKILL at any moment), power (writes dropped and torn, from a trace of a real run), flip (one bit of
one file), full (no room on the disk), readonly (a disk that takes nothing), clock (jumps back and ahead), stop (SIGSTOP).
Progress is told on stderr, the report on stdout, and the exit code is 1 when anything was found. full, readonly and
power need what not every machine gives (mount, chattr +i, strace): what is left out is said, with the reason.";

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
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{}", args.dir.display()))?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(args.dir.canonicalize()?)?;
    let plan = Plan {
        bin: binary(args.bin)?,
        scratch: scratch.path().to_owned(),
        keep: args.keep,
        seed,
        kills: args.kills,
        trials: args.trials,
        journal: args.journal,
    };
    let wanted = if args.only.is_empty() { Campaign::ALL.to_vec() } else { args.only };
    eprintln!("torture of {} with seed {seed}, in {}", plan.bin.display(), scratch.path().display());
    let (began, mut outcomes) = (Instant::now(), Vec::<Outcome>::new());
    for (at, campaign) in wanted.iter().enumerate() {
        // What a campaign has not used, those behind it may.
        let left = Duration::from_secs(args.minutes * 60).saturating_sub(began.elapsed());
        let shares: u32 = wanted[at..].iter().map(|campaign| campaign.share()).sum();
        let until = Instant::now() + left * campaign.share() / shares;
        outcomes.push(plan.run(*campaign, until, &runtime)?);
    }
    let report = Report::of(&plan, args.minutes, began.elapsed(), outcomes);
    report.print(args.output)?;
    Ok(report.holds())
}

fn binary(named: Option<PathBuf>) -> Result<PathBuf> {
    let beside = || -> Result<PathBuf> {
        let me = std::env::current_exe()?;
        Ok(me.parent().context("a directory")?.join("holmes"))
    };
    let bin = named.map_or_else(beside, Ok)?;
    ensure!(
        bin.is_file(),
        "there is no binary {}: build it (cargo build --release -p holmes), or name one with --bin",
        bin.display()
    );
    Ok(bin.canonicalize()?)
}
