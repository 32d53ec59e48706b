//! Figures: installs what the scenarios need, builds in the profile of figures, and takes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{House, sh, tools};

#[path = "../../../load-tests/src/kept.rs"]
mod kept;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask bench --list                       what there is
  cargo xtask bench                              all of it, an hour or two; then the page is written anew
  cargo xtask bench events ledger                only these
  cargo xtask bench growth                       each figure at 1, 10 and 100 times the state
  cargo xtask bench events --seconds 1 --runs 2  a quick look; its figures say little
  cargo xtask bench --page                       only write the page anew
  cargo xtask bench --smoke                      whether every subject runs and is read back whole

What is missing is installed: PostgreSQL, Redis and strace from Debian, where this is root, nats-server into .tools/. \
All of it takes 16 GB of the disk for a while, for the longest log of growth.

Run it on a machine that does nothing else: what others use meanwhile is written beside the figures. \
Results are kept of a committed tree alone, in load-tests/results/; the page is docs/reference/performance.md.";

/// What is taken, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenarios of load-tests/scenarios, or `growth`; all when none is named
    names: Vec<String>,
    /// Only name the scenarios
    #[arg(long)]
    list: bool,
    /// Every subject for a moment, in the quick profile, no result kept
    #[arg(long, conflicts_with_all = ["runs", "seconds", "no_results"])]
    smoke: bool,
    /// Measure nothing, only write the page anew from the results that there are
    #[arg(long, conflicts_with_all = ["names", "smoke", "runs", "seconds", "dir", "keep", "no_results"])]
    page: bool,
    /// How often each subject runs, instead of what the scenario says
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// How long each run counts, instead of what the scenario says
    #[arg(long, allow_negative_numbers = true, value_parser = kept::length)]
    seconds: Option<f64>,
    /// Where logs and databases are written: a directory of the disk to be measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave what the runs wrote, for a look at it
    #[arg(long)]
    keep: bool,
    /// Print the tables, and keep no result: what a tree with changes can have
    #[arg(long)]
    no_results: bool,
    /// The profile to build in: by default `dist` for figures that are kept, `release`, which builds faster, for a look
    #[arg(long, value_parser = ["dist", "release", "dev"])]
    profile: Option<String>,
}

const SCENARIOS: &str = "load-tests/scenarios";
const GROWTH: &str = "load-tests/growth.toml";
/// What is Debian's: a program, and the package that has it.
const DEBIAN: [(&str, &str); 3] =
    [("postgres", "postgresql-15"), ("redis-server", "redis-server"), ("strace", "strace")];

/// What there is to take, each with what it is about: known before anything is built.
fn scenarios(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = vec![root.join(GROWTH)];
    for entry in std::fs::read_dir(root.join(SCENARIOS))? {
        files.push(entry?.path());
    }
    let mut all = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let about = text.lines().find_map(|line| line.strip_prefix("about = \"")?.strip_suffix('"'));
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        all.insert(name, about.unwrap_or_default().to_owned());
    }
    Ok(all)
}

/// Takes them.
pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let root = &house.root;
    let all = scenarios(root)?;
    if let Some(wrong) = args.names.iter().find(|name| !all.contains_key(*name)) {
        bail!("no scenario {wrong}; there are: {}", all.into_keys().collect::<Vec<_>>().join(", "));
    }
    if args.list {
        all.iter().for_each(|(name, about)| println!("{name:<14} {about}"));
        return Ok(());
    }
    let is_a_look = args.smoke || args.page || kept::is_a_look(args.runs, args.seconds);
    if !is_a_look && !args.no_results && kept::is_changed(root) {
        bail!(
            "figures of a tree with changes could not be taken again: commit first, or keep none (--no-results)"
        );
    }
    // Before minutes of building.
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made (--dir)", dir.display()))?;
    }
    let profile = args.profile.as_deref().unwrap_or(if is_a_look { "release" } else { "dist" });
    eprintln!("building in profile `{profile}`: minutes the first time, as everything is optimised");
    let grows = args.names.is_empty() || args.names.iter().any(|name| name == "growth");
    // Growth looks at how the server idles. One call for both: their crates are built once.
    let programs: &[&str] = if grows && !args.page { &[DRIVER, "holmes"] } else { &[DRIVER] };
    let driver = build(root, programs, profile)?;
    if args.page {
        return sh::run_through(Command::new(&driver).current_dir(root).arg("page"));
    }
    let tools = install(root, &driver, &args.names)?;
    let mut bench = Command::new(&driver);
    bench.current_dir(root).env("HOLMES_BENCH_TOOLS", tools).arg("run").args(&args.names);
    if args.smoke {
        bench.args(["--seconds", "0.3", "--warm-up", "0.1", "--runs", "1", "--quick", "--no-results"]);
    }
    for (flag, value) in [("--runs", args.runs.map(f64::from)), ("--seconds", args.seconds)] {
        bench.args(value.map(|value| format!("{flag}={value}")));
    }
    bench.args(args.dir.as_ref().map(|dir| format!("--dir={}", dir.display())));
    bench.args(args.keep.then_some("--keep"));
    bench.args(args.no_results.then_some("--no-results"));
    let ran = sh::run_through(&mut bench);
    if !args.smoke && !args.no_results {
        // Also of a run with a fault: the page shows it.
        sh::run_through(Command::new(&driver).current_dir(root).arg("page"))?;
    }
    ran
}

/// The package that takes the figures.
const DRIVER: &str = "holmes-load-tests";

/// Builds programs, each the one of its package that has its name. Back: where the driver lies.
fn build(root: &Path, programs: &[&str], profile: &str) -> Result<PathBuf> {
    let programs = programs.iter().flat_map(|program| ["--package", program, "--bin", program]);
    sh::run(sh::cargo(root).args(["build", "--profile", profile]).args(programs))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = if profile == "dev" { "debug" } else { profile };
    Ok(root.join(target).join(dir).join(DRIVER))
}

/// Brings what the scenarios need to this machine. Back: where those tools lie that are the checkout's own.
fn install(root: &Path, driver: &Path, names: &[String]) -> Result<PathBuf> {
    let needs = sh::output(Command::new(driver).current_dir(root).arg("needs").args(names))
        .context("the driver does not say what the scenarios need")?;
    let own = root.join(".tools/venv/bin");
    for program in needs.lines() {
        if let Some((_, package)) = DEBIAN.iter().find(|(name, _)| *name == program) {
            debian(driver, root, program, package)?;
        } else if program == tools::NATS.program {
            tools::need(root, &tools::NATS)?;
        } else {
            bail!("the driver needs {program}, and nothing here knows where that comes from");
        }
    }
    Ok(own)
}

/// As `.ci/run` does: only as root on Debian, and otherwise it is said.
fn debian(driver: &Path, root: &Path, program: &str, package: &str) -> Result<()> {
    let is_there = || {
        let mut ask = Command::new(driver);
        ask.current_dir(root).args(["has", program]).stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if is_there() {
        return Ok(());
    }
    let fix = format!("{program} is missing; on Debian: apt-get install {package}");
    let root_user = sh::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !root_user || sh::output(Command::new("apt-get").arg("--version")).is_none() {
        bail!(fix);
    }
    let apt = |words: &[&str]| {
        sh::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words))
    };
    let words = ["install", "-qq", "-y", "--no-install-recommends", package];
    // A package list that is a few days old names files that are gone.
    apt(&words).or_else(|_| apt(&["update", "-qq"]).and_then(|()| apt(&words))).context(fix.clone())?;
    if is_there() { Ok(()) } else { bail!("{fix}: it is installed, and still not found") }
}
