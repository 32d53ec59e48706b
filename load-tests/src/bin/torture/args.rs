//! What the campaigns are told. `cargo xtask` reads this file, too: its help, and what it says of a wrong word, need no build.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Lets the real binary die, lose power, rot, run full and stand still, and checks after each that everything
/// acknowledged is there once, every log is one chain, digests agree and nothing was made or lost.
#[derive(Parser)]
#[command(name = "cargo xtask torture", bin_name = "cargo xtask torture", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How long at most, all campaigns together; each gets a share, and ends when it has its full number.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    pub(crate) minutes: u64,
    /// Only these campaigns, with commas between them.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Campaign>,
    /// Where every draw begins: the same seed draws the same plan.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Deaths of the campaign `kill`, where time allows.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) kills: u64,
    /// Trials of each other campaign, instead of its full number.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) trials: Option<u64>,
    /// Where networks are made and broken; a directory of its own is made inside and taken away. By default `torture`
    /// beside what was built.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the directory of each failed trial here.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// The binary to torture; by default the one beside this program.
    #[arg(long, value_parser = a_file)]
    pub(crate) bin: Option<PathBuf>,
    /// What the report on stdout is: a table or JSON.
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
    /// The journal that loses power: ours, or one with a known fault, to see that it is caught.
    #[arg(long, default_value = "holmes", hide = true)]
    pub(crate) journal: Which,
    /// Not a campaign: writes into a journal until its frames are out, and says on stdout what it may.
    #[arg(long, hide = true)]
    pub(crate) write_into: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  cargo xtask torture --minutes 120                the full length of every campaign, on two quiet cores
  cargo xtask torture --minutes 2 --kills 30       what continuous integration runs, and a little of the rest
  cargo xtask torture --only kill --kills 200      nothing but deaths
  cargo xtask torture --only power,flip --seed 7 --keep failed

Campaigns: kill (SIGKILL at any moment), power (writes dropped and torn, from a trace of a real run), flip (one bit of \
one file), full (no room on the disk), readonly (a disk that takes nothing), clock (jumps back and ahead), stop (SIGSTOP). \
Progress is told on stderr, the report on stdout, and the exit code is 1 when anything was found or a campaign had no trial at all (time was over, Ctrl-C). full, readonly and \
power need what not every machine gives (mount, chattr +i, strace), clock needs cc: what is left out is said, with the \
reason. On busy cores a campaign gets less far, and the verdict says so.";

/// A file that is there.
pub(crate) fn a_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_file() { Ok(path) } else { Err("there is no such file".into()) }
}

/// A way of doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Campaign {
    /// SIGKILL at any moment.
    Kill,
    /// A power cut that drops and tears what was not forced to disk.
    Power,
    /// One bit of one file of a stopped directory.
    Flip,
    /// No room on the disk.
    Full,
    /// A disk that takes nothing.
    Readonly,
    /// A clock that jumps back and ahead.
    Clock,
    /// SIGSTOP and SIGCONT.
    Stop,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Which journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// The embedded journal.
    Holmes,
    /// A file of records, done right.
    Toy,
    /// One that acknowledges, and then forces to disk.
    ToyAcksEarly,
    /// One that never forces its new name to disk.
    ToyForgetsDirectory,
    /// One that takes whatever lies in its file for a record.
    ToyTrustsBytes,
}
