//! What the repository does to itself. `cargo xtask --help` lists it; one module per subcommand.

mod bench;
mod ci;
mod deny;
mod docs;
mod fuzz;
mod infra;
mod models;
mod new_service;
mod program;
mod proto;
mod sh;
mod test;
mod tidy;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};
use clap::{Parser, Subcommand};

/// What the repository does to itself: its tests, its checks, its tools.
///
/// Everything that a task needs beyond Rust and Python 3 is fetched, pinned, into `.tools/`; removing that
/// directory undoes it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "Examples:
  cargo xtask test                 everything that is tested, on a fresh machine too
  cargo xtask test -- apportion    only Rust tests whose name holds a word, then the rest
  cargo xtask tidy                 the rules of the house, in a second
  cargo xtask torture --minutes 5  deaths, power cuts, rotten bits, full disks and what comes of them
  cargo xtask ci                   what must pass before a change lands, but the tests";

#[derive(Subcommand)]
enum Task {
    /// Run every test: Rust, doc tests, Python; fetch what they need first
    #[command(after_help = test::EXAMPLES)]
    Test(test::Args),
    /// Check the rules of the house: arrows, rooms, sizes, purity, text
    #[command(after_help = tidy::EXAMPLES)]
    Tidy,
    /// Fetch the pinned models that tests and the demo speak with
    #[command(after_help = models::EXAMPLES)]
    Models,
    /// Feed what comes from outside with what reaches new code; keep what breaks something
    #[command(after_help = fuzz::EXAMPLES)]
    Fuzz(fuzz::Args),
    /// Start, stop and show real servers for tests: NATS, and a CQL server
    #[command(after_help = infra::EXAMPLES)]
    Infra(infra::Args),
    /// Make an empty state-machine service with every room
    #[command(after_help = new_service::EXAMPLES)]
    NewService(new_service::Args),
    /// Play bad days from seeds: the whole economy on virtual time, under faults
    Sim(program::sim::Args),
    /// Fetch the pinned tools (test runner, licence checker, book builder, protobuf linter)
    Tools,
    /// Check dependencies: banned crates, licences, sources
    Deny,
    /// Lint the protobuf files
    Proto,
    /// Build the book under docs/ and check its links
    #[command(after_help = docs::EXAMPLES)]
    Docs,
    /// Let the binary die, lose power, rot, run full and stand still, and check that nothing is lost
    Torture(program::torture::Args),
    /// Take figures: ours beside PostgreSQL, Redis, JetStream and the disk itself
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Args),
    /// Formatting, tidy, docs, dependencies, protobuf, clippy: everything but the tests
    Ci,
}

/// The checkout that the tasks work on.
pub(crate) struct House {
    /// Its root directory.
    pub(crate) root: PathBuf,
    /// The workspace's own packages, without their dependencies resolved.
    pub(crate) metadata: Metadata,
}

impl House {
    fn find() -> Result<House> {
        let metadata = MetadataCommand::new()
            .no_deps()
            .exec()
            .context("cargo cannot read the workspace; run this inside the checkout and fix what it names")?;
        Ok(House { root: metadata.workspace_root.clone().into_std_path_buf(), metadata })
    }

    /// Whether a directory of the checkout is a package of the workspace.
    pub(crate) fn has_member(&self, dir: &str) -> bool {
        let manifest = self.root.join(dir).join("Cargo.toml");
        self.metadata.packages.iter().any(|p| p.manifest_path.as_std_path() == manifest)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let house = House::find()?;
    match task {
        Task::Test(args) => test::run(&house, &args),
        Task::Tidy => tidy::run(&house),
        Task::Models => models::run(&house.root),
        Task::Fuzz(args) => fuzz::run(&house, &args),
        Task::Infra(args) => infra::run(&house, &args),
        Task::NewService(args) => new_service::run(&house, &args),
        Task::Sim(args) => program::sim(&house, &args),
        Task::Tools => tools::run(&house.root),
        Task::Deny => deny::run(&house.root),
        Task::Proto => proto::run(&house.root),
        Task::Docs => docs::run(&house.root),
        Task::Torture(_) => program::torture(&house),
        Task::Bench(args) => bench::run(&house, &args),
        Task::Ci => ci::run(&house),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
