//! The rules of the house that a compiler does not know. Each finding says where, what, why, and the fix.
//!
//! A rule is a pure function from what it looks at to findings, with tests beside it that make it fail.

mod arrows;
mod code;
mod profiles;
mod purity;
mod rooms;
mod sizes;
mod text;
mod tree;

use std::fmt;

use anyhow::{Result, bail};

use crate::House;
use tree::Tree;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask tidy                  findings are path:line: what; why; fix
  cargo xtask tidy 2>&1 | head -1   the first one

What is checked:
  arrows    which crate may depend on which; crates outside that have one caller
  rooms     every state-machine service has the same files
  sizes     500 lines warn, 700 fail; the kernel stays small; no mod.rs
  purity    no floats, clocks, randomness, unordered maps, environment or async where facts are decided
  profiles  no crate or service names a network profile
  text      no registry hosts, no paths of one machine, nothing left to do";

/// One thing that a rule found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    warning: bool,
    what: String,
    why: &'static str,
    fix: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: String, why: &'static str, fix: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, warning: false, what, why, fix: fix.into() }
    }

    /// The same, but it does not fail the check.
    fn warn(self) -> Finding {
        Finding { warning: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.warning { "warning: " } else { "" };
        write!(f, "{}:{}: {level}{}; {}; {}", self.path, self.line, self.what, self.why, self.fix)
    }
}

/// Checks the whole checkout.
pub(crate) fn run(house: &House) -> Result<()> {
    let tree = Tree::read(&house.root)?;
    let mut findings = arrows::check(&arrows::members(&house.metadata), &tree);
    findings.extend(rooms::check(&tree));
    findings.extend(sizes::check(&tree));
    findings.extend(purity::check(&tree));
    findings.extend(profiles::check(&tree));
    findings.extend(text::check(&tree));
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    let failures = findings.iter().filter(|finding| !finding.warning).count();
    eprintln!(
        "tidy: {} files, {failures} findings, {} warnings",
        tree.files.len(),
        findings.len() - failures
    );
    if failures > 0 {
        bail!("tidy found {failures} things that the house does not allow");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_path_line_what_why_fix() {
        let finding = Finding::new("a/b.rs", 7, "a float".to_owned(), "rounding differs", "use Amount");
        assert_eq!(finding.to_string(), "a/b.rs:7: a float; rounding differs; use Amount");
        assert_eq!(finding.warn().to_string(), "a/b.rs:7: warning: a float; rounding differs; use Amount");
    }
}
