//! What must pass before a change lands, but the tests: the fast checks first, each to its end.

use anyhow::Result;

use crate::{House, deny, docs, proto, sh, tidy};

/// Runs every check, even after one failed, and closes with the seconds of each.
pub(crate) fn run(house: &House) -> Result<()> {
    let root = &house.root;
    let mut steps = sh::Steps::default();
    steps.step("fmt", || sh::run(sh::cargo(root).args(["fmt", "--all", "--check"])));
    steps.step("tidy", || tidy::run(house));
    steps.step("docs", || docs::run(root));
    steps.step("proto", || proto::run(root));
    steps.step("deny", || deny::run(root));
    steps.step("clippy", || {
        sh::run(sh::cargo(root).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.finish()
}
