//! The models that tests and the demo speak with: fetched by `holmes models pull`, the same way that users fetch them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::sh;
use crate::tools::Venv;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask models        fetch what is missing, check what is there
  rm -r .tools/models       start over";

/// Brings every pinned model to its place. What is there and right is left alone.
pub(crate) fn run(root: &Path) -> Result<()> {
    let python = Venv::open(root)?.python();
    let mut holmes = Command::new(env!("CARGO"));
    holmes.args(["run", "--quiet", "--package", "holmes", "--", "models", "pull", "--all", "--store"]);
    sh::run(holmes.arg(root.join(".tools/models")).env("HOLMES_PYTHON", python).current_dir(root))
}
