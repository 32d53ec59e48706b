//! Programs that are built as they are released, and let run on the words that were said. Each declares its options in a file
//! that is read here, too: so `--help`, and the answer to a wrong word, need no build.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{House, sh};

#[path = "../../sim/src/args.rs"]
pub(crate) mod sim;
#[path = "../../../load-tests/src/bin/torture/args.rs"]
pub(crate) mod torture;

/// Bad days: the simulator.
pub(crate) fn sim(house: &House, args: &sim::Args) -> Result<()> {
    let guards: &[&str] = if args.without.is_some() { &["--features", "weakened"] } else { &[] };
    run(house, "holmes-sim", [&["-p", "holmes-sim"], guards].concat())
}

/// The crash campaign, on the binary that it is built with.
pub(crate) fn torture(house: &House) -> Result<()> {
    run(
        house,
        "torture",
        vec!["-p", "holmes", "-p", "holmes-load-tests", "--bin", "holmes", "--bin", "torture"],
    )
}

/// Builds, and becomes the program, with what was said behind its name: its answer, its exit code and a Ctrl-C are its own.
fn run(house: &House, program: &str, build: Vec<&str>) -> Result<()> {
    eprintln!("building in profile `release`: minutes the first time, as everything is optimised");
    sh::run(sh::cargo(&house.root).args(["build", "--release"]).args(build))?;
    let words: Vec<OsString> = std::env::args_os().skip(2).collect();
    let program = house.metadata.target_directory.join("release").join(program);
    // Where one stands: so the files that were named are those that were meant.
    let why = Command::new(&program).args(words).exec();
    Err(why).with_context(|| format!("{program} cannot be run"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn what_would_try_nothing_is_refused_before_anything_is_built() {
        for words in [["--seeds", "0"], ["--steps", "0"], ["--without", "nosuch"], ["--case", "/nope"]] {
            assert!(sim::Args::try_parse_from(["sim"].iter().chain(&words)).is_err(), "{words:?}");
        }
        assert!(sim::Args::try_parse_from(["sim", "--seeds", "1", "--steps", "1"]).is_ok());
        for words in [["--only", "kil"], ["--minutes", "0"], ["--bin", "/nope"]] {
            assert!(torture::Args::try_parse_from(["torture"].iter().chain(&words)).is_err(), "{words:?}");
        }
        assert!(torture::Args::try_parse_from(["torture", "--only", "kill,flip"]).is_ok());
    }
}
