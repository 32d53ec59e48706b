//! Days that went wrong once, kept so that they are played for ever.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::deed::Deed;

/// A kept day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What went wrong, when, and what mended it.
    pub note: String,
    /// The seed that it was cut from.
    pub seed: u64,
    /// What is left of the day.
    pub deeds: Vec<Deed>,
}

/// Where they lie in the checkout.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Reads one.
///
/// # Errors
/// When the file cannot be read or is no case.
pub fn read(path: &Path) -> Result<Case> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no case of the simulator", path.display()))
}

/// Keeps one; where.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(dir: &Path, name: &str, case: &Case) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(case)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
