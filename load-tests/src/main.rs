//! Figures: what the machines and the ports do on this machine, beside its limits and beside what people would otherwise
//! use, in one run on the same work. `README.md` says how each is taken.

mod closed;
mod goals;
mod growth;
mod ids;
mod job;
mod kept;
mod latency;
mod machine;
mod open;
mod page;
mod plot;
mod print;
mod report;
mod scenario;
mod spread;
mod subject;
mod syncs;
mod turns;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use scenario::Scenario;

/// The one that the product has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes figures. `cargo xtask bench` builds this, installs what it needs, and calls it.
#[derive(Parser)]
#[command(after_help = "Examples:
  holmes-load-tests run events --seconds 2 --runs 3
  holmes-load-tests needs ledger")]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Where scenarios, goals and results lie.
    #[arg(long, default_value = "load-tests", global = true)]
    house: PathBuf,
}

#[derive(Subcommand)]
enum What {
    /// Take scenarios: ours and the peers in turns, a table, a verdict.
    Run(Args),
    /// The programs that scenarios need, a line each.
    Needs {
        /// All when none is named.
        names: Vec<String>,
    },
    /// Whether this machine has a program, where subjects look for it.
    Has { program: String },
    /// Write the page of figures and its plots anew, from the newest results.
    Page,
    /// One run of one subject: what the parent says on stdin.
    #[command(hide = true)]
    Child,
    /// One measurement of growth: what the parent says on stdin.
    #[command(hide = true)]
    Grow,
}

#[derive(clap::Args)]
struct Args {
    /// All when none is named.
    names: Vec<String>,
    /// How often each subject runs, instead of what the scenario says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// How long each run counts, instead of what the scenario says.
    #[arg(long, value_parser = kept::length)]
    seconds: Option<f64>,
    /// How long each run goes before it counts, instead of what the scenario says.
    #[arg(long, value_parser = warm_up)]
    warm_up: Option<f64>,
    /// Where logs and databases are written: a directory of the disk to be measured.
    #[arg(long, default_value = "target/load-tests")]
    dir: PathBuf,
    /// Leave what the runs wrote, for a look at it.
    #[arg(long)]
    keep: bool,
    /// Of each scenario only one load, in which every subject takes part; of what grows only the smallest.
    #[arg(long)]
    quick: bool,
    /// Print the tables, and keep no result.
    #[arg(long)]
    no_results: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(cli: Cli) -> Result<bool> {
    match cli.what {
        What::Run(args) => return bench(&cli.house, &args),
        What::Needs { names } => {
            let scenarios = chosen(&cli.house, &names)?;
            let kinds = scenarios.iter().flat_map(Scenario::subjects);
            let programs: std::collections::BTreeSet<_> = kinds.filter_map(subject::Kind::needs).collect();
            programs.iter().chain(&[syncs::STRACE]).for_each(|program| println!("{program}"));
        }
        What::Has { program } => return Ok(subject::find(&program).is_some()),
        What::Page => {
            let house = &cli.house;
            let reports = report::newest(&house.join("results"))?;
            let root = house.canonicalize()?;
            let root = root.parent().context("the house has no checkout around it")?;
            page::write(root, &goals::read(&house.join(goals::FILE))?, &reports)?;
            eprintln!("written: {}", page::PAGE);
        }
        What::Child => job::child()?,
        What::Grow => growth::child()?,
    }
    Ok(true)
}

/// The scenarios of these names; `growth` is none of them.
fn chosen(house: &Path, names: &[String]) -> Result<Vec<Scenario>> {
    let all = scenario::read_all(&house.join("scenarios"))?;
    if names.is_empty() {
        return Ok(all);
    }
    let mut known: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    known.push(growth::NAME);
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no scenario {unknown}; there are: {}", known.join(", "));
    }
    Ok(all.iter().filter(|scenario| names.contains(&scenario.name)).cloned().collect())
}

fn bench(house: &Path, args: &Args) -> Result<bool> {
    let goals = goals::read(&house.join(goals::FILE))?;
    let bench = turns::Bench { dir: &args.dir, keep: args.keep };
    let mut reports = Vec::new();
    let mut done = |report: report::Report| -> Result<()> {
        print::report(&report);
        if kept::is_a_look(args.runs, args.seconds) {
            let (runs, seconds) = (kept::LEAST_RUNS, kept::LEAST_SECONDS);
            eprintln!("not kept: figures are of at least {runs} runs of {seconds} s");
        } else if !args.no_results {
            eprintln!("kept as {}", report.keep(&house.join("results"))?.display());
        }
        reports.push(report);
        Ok(())
    };
    for scenario in chosen(house, &args.names)? {
        done(bench.take(&args.applied(scenario))?)?;
    }
    if args.names.is_empty() || args.names.iter().any(|name| name == growth::NAME) {
        done(growth::take(&bench, &args.sized(growth::Sizes::read(house)?))?)?;
    }
    Ok(print::verdict(&goals, &reports))
}

/// Seconds that a run goes before it counts.
fn warm_up(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("a run warms up for 0 to 3600 seconds".into()),
        Err(why) => Err(why.to_string()),
    }
}

impl Args {
    fn runs_or(&self, usual: usize) -> usize {
        self.runs.map_or(usual, |runs| runs as usize)
    }

    fn applied(&self, mut scenario: Scenario) -> Scenario {
        scenario.runs = self.runs_or(scenario.runs);
        scenario.seconds = self.seconds.unwrap_or(scenario.seconds);
        scenario.warm_up = self.warm_up.unwrap_or(scenario.warm_up);
        if self.quick {
            let whole = scenario.loads.iter().position(|load| load.only.is_empty()).unwrap_or(0);
            scenario.loads = vec![scenario.loads.swap_remove(whole)];
        }
        scenario
    }

    fn sized(&self, mut sizes: growth::Sizes) -> growth::Sizes {
        sizes.runs = self.runs_or(sizes.runs);
        sizes.seconds = self.seconds.unwrap_or(sizes.seconds);
        sizes.warm_up = self.warm_up.unwrap_or(sizes.warm_up);
        if self.quick { sizes.quick() } else { sizes }
    }
}
