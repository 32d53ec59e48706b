//! What a figure must be to be kept: long enough, and of a commit. `cargo xtask` reads this file, too: so what is wrong is told
//! before anything is built.

use std::path::Path;
use std::process::Command;

/// What a figure that is kept has at least.
pub(crate) const LEAST_RUNS: u32 = 5;
pub(crate) const LEAST_SECONDS: f64 = 2.0;
/// What taking figures writes itself.
const WRITTEN: [&str; 2] = [":(exclude)load-tests/results", ":(exclude)docs/reference/performance*"];

/// Whether it is too short to say anything: it takes no other figure's place.
pub(crate) fn is_a_look(runs: Option<u32>, seconds: Option<f64>) -> bool {
    runs.is_some_and(|runs| runs < LEAST_RUNS) || seconds.is_some_and(|length| length < LEAST_SECONDS)
}

/// Whether a checkout is another than its commit, the figures themselves left out; also where there is none.
pub(crate) fn is_changed(root: &Path) -> bool {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "status", "--porcelain", "--", "."]);
    !git.args(WRITTEN)
        .current_dir(root)
        .output()
        .is_ok_and(|out| out.status.success() && out.stdout.is_empty())
}

/// A length in seconds that something can be measured in.
pub(crate) fn length(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3_600.0).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("a run lasts 0.01 to 3600 seconds".into()),
        Err(why) => Err(why.to_string()),
    }
}
