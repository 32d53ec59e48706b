//! What the simulator is told. `cargo xtask` reads this file, too: its help, and what it says of a wrong word, need no build.

use std::path::PathBuf;

use clap::Parser;

/// Plays bad days on virtual time, each from a seed, and holds everything that must be after every deed.
#[derive(Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..MOST_SEEDS))]
    pub(crate) seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..MOST_SEEDS))]
    pub(crate) from: u64,
    /// One seed alone
    #[arg(long, group = "one", conflicts_with_all = ["seeds", "from"])]
    pub(crate) seed: Option<u64>,
    /// A kept day instead of a seed
    #[arg(long, value_name = "FILE", group = "one", conflicts_with_all = ["seeds", "from", "steps"], value_parser = a_file)]
    pub(crate) case: Option<PathBuf>,
    /// How many deeds a day has
    #[arg(long, default_value_t = 120, value_parser = a_days_deeds)]
    pub(crate) steps: usize,
    /// Tell every deed before it is played: of one day
    #[arg(long, requires = "one", conflicts_with_all = ["seeds", "from"])]
    pub(crate) trace: bool,
    /// Switch a guard of the product off: days must then go wrong
    #[arg(long, value_name = "GUARD", value_parser = GUARDS)]
    pub(crate) without: Option<String>,
    /// Play every day twice, and compare
    #[arg(long)]
    pub(crate) twice: bool,
    /// Leave days that go wrong as they are: neither cut nor kept
    #[arg(long)]
    pub(crate) no_shrink: bool,
}

/// Seeds are counted up from the first: far from where counting ends.
const MOST_SEEDS: u64 = 1 << 62;

/// A day's deeds are drawn before it begins.
const MOST_STEPS: usize = 1_000_000;

/// What can be switched off; `guards` says what each is.
pub(crate) const GUARDS: [&str; 17] = [
    "inbox", "chain", "window", "age", "step", "fence", "numbers", "durable", "hold", "moment", "refused",
    "owner", "end", "whole", "leased", "serves", "kappa",
];

fn a_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_file() {
        Ok(path)
    } else {
        Err("there is no such file; kept days lie in crates/sim/cases".into())
    }
}

/// A day without deeds would say nothing of anything.
fn a_days_deeds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(steps @ 1..=MOST_STEPS) => Ok(steps),
        Ok(_) => Err(format!("a day has 1 to {MOST_STEPS} deeds")),
        Err(why) => Err(format!("{why}")),
    }
}

const EXAMPLES: &str = "The talk goes to stderr, the verdict to stdout. The exit status is 1 when a day went wrong; it is then cut down to what \
it needs and kept in crates/sim/cases, where a test plays it from then on.

Examples:
  cargo xtask sim                              200 days of 120 deeds, as the tests do
  cargo xtask sim --seeds 10000                what runs every night: some minutes
  cargo xtask sim --seed 4711 --trace          one day, deed by deed
  cargo xtask sim --case crates/sim/cases/without-age.json --trace
  cargo xtask sim --without inbox              what the days would find if the inbox were not checked";
