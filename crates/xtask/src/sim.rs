//! Bad days: the simulator, built and run.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sh;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask sim                              200 seeds
  cargo xtask sim --seeds 10000                a night
  cargo xtask sim --seed 4711 --trace          one day, deed by deed
  cargo xtask sim --case crates/sim/cases/FILE.json --trace
  cargo xtask sim --without inbox              what the days would find if the inbox were not checked

A day is played on virtual time, and everything that must hold is looked at after every deed. The talk goes to stderr, the
verdict to stdout; the exit status is 1 when a day went wrong. Such a day is cut down to what it needs and kept in
crates/sim/cases, where a test plays it from then on. docs/explanation/simulation.md tells more.";

/// What to play.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds [default: 200]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed [default: 1]
    #[arg(long, value_name = "S")]
    from: Option<u64>,
    /// One seed alone
    #[arg(long, value_name = "X")]
    seed: Option<u64>,
    /// A kept day instead of a seed
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    /// How many deeds a day has [default: 120]
    #[arg(long, value_name = "K")]
    steps: Option<u64>,
    /// Switch a guard of the product off (inbox, chain, window, age, step, fence, numbers, durable, hold)
    #[arg(long, value_name = "GUARD")]
    without: Option<String>,
    /// Tell every deed before it is played
    #[arg(long)]
    trace: bool,
    /// Play every day twice, and compare
    #[arg(long)]
    twice: bool,
    /// Leave days that go wrong as they are: neither cut nor kept
    #[arg(long)]
    no_shrink: bool,
}

impl Args {
    /// As the simulator takes them.
    fn words(&self) -> Vec<String> {
        let numbers =
            [("--seeds", self.seeds), ("--from", self.from), ("--seed", self.seed), ("--steps", self.steps)];
        let mut words: Vec<String> = numbers
            .into_iter()
            .filter_map(|(name, value)| Some([name.to_owned(), value?.to_string()]))
            .flatten()
            .collect();
        if let Some(case) = &self.case {
            words.extend(["--case".to_owned(), case.display().to_string()]);
        }
        if let Some(guard) = &self.without {
            words.extend(["--without".to_owned(), guard.clone()]);
        }
        let switches = [("--trace", self.trace), ("--twice", self.twice), ("--no-shrink", self.no_shrink)];
        words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()));
        words
    }
}

/// Builds the simulator and lets it play; its verdict is on stdout.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = sh::cargo(root);
    cargo.args(["run", "--quiet", "--release", "--package", "holmes-sim"]);
    if args.without.is_some() {
        cargo.args(["--features", "weakened"]);
    }
    sh::run_through(cargo.arg("--").args(args.words()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_said_is_passed_on_as_it_was_said() {
        for words in [
            &[][..],
            &["--seeds", "10", "--from", "3"],
            &["--seed", "7", "--steps", "40", "--trace"],
            &["--case", "a.json", "--without", "inbox", "--twice", "--no-shrink"],
        ] {
            let cli = Cli::parse_from(["sim"].iter().chain(words));
            assert_eq!(cli.args.words(), words);
        }
    }
}
