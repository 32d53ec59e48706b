//! `cargo xtask new-service NAME`: an empty state-machine service with every room, drawn from those that stand. It
//! compiles, passes tidy and has a test; its one command and one event are there to be replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::House;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask new-service reputation
  cargo xtask new-service buyback_burn     services/buyback-burn, package holmes-buyback-burn";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The service's name in snake_case, as it will stand in frames, subjects and packages
    name: String,
}

/// Where a file of the scaffold goes below the root, and what it holds; `@` stands for the service's directory.
const FILES: [(&str, &str); 12] = [
    ("proto/holmes/{{name}}/v1/events.proto", include_str!("../templates/service/events.proto")),
    ("proto/holmes/{{name}}/v1/{{name}}.proto", include_str!("../templates/service/service.proto")),
    ("@/Cargo.toml", include_str!("../templates/service/Cargo.toml")),
    ("@/src/lib.rs", include_str!("../templates/service/src/lib.rs")),
    ("@/src/command.rs", include_str!("../templates/service/src/command.rs")),
    ("@/src/state.rs", include_str!("../templates/service/src/state.rs")),
    ("@/src/decide.rs", include_str!("../templates/service/src/decide.rs")),
    ("@/src/params.rs", include_str!("../templates/service/src/params.rs")),
    ("@/src/react.rs", include_str!("../templates/service/src/react.rs")),
    ("@/src/api.rs", include_str!("../templates/service/src/api.rs")),
    ("@/tests/it.rs", include_str!("../templates/service/tests/it.rs")),
    ("@/tests/golden/Begun.hex", include_str!("../templates/service/tests/golden/Begun.hex")),
];

pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let made = make(&house.root, &args.name)?;
    for path in &made {
        eprintln!("made {}", path.display());
    }
    // The order of imports hangs on the name.
    let sources = made.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let formatted =
        Command::new("rustfmt").args(["--edition", "2024"]).args(sources).current_dir(&house.root).status();
    ensure!(
        formatted.is_ok_and(|status| status.success()),
        "rustfmt failed; run `cargo fmt` once the workspace is whole"
    );
    let dash = args.name.replace('_', "-");
    eprintln!(
        "\nBy hand, one line each:
  Cargo.toml                    holmes-{dash} = {{ path = \"services/{dash}\" }}   ([workspace.dependencies])
  services/holmes/Cargo.toml    holmes-{dash}.workspace = true
  services/holmes/src/roles.rs  machine::<…>(…)
then: cargo test -p holmes-{dash} && cargo xtask tidy"
    );
    Ok(())
}

/// Writes the scaffold; nothing when something stands in its way.
fn make(root: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    ensure!(
        plain && begins && !name.ends_with('_'),
        "{name:?} is no service name: write it in snake_case, as in buyback_burn"
    );
    let scaffold = Scaffold { name, number: next_number(root)? };
    let files: Vec<(PathBuf, String)> = FILES
        .iter()
        .map(|(path, text)| {
            (root.join(scaffold.fill(&path.replacen('@', "services/{{dash}}", 1))), scaffold.fill(text))
        })
        .collect();
    for (path, _) in &files {
        ensure!(
            !path.exists(),
            "{} is there already: choose another name, or remove it first",
            path.display()
        );
    }
    for (path, text) in &files {
        let dir = path.parent().context("files of the scaffold lie in directories")?;
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

struct Scaffold<'a> {
    name: &'a str,
    number: u32,
}

impl Scaffold<'_> {
    fn fill(&self, text: &str) -> String {
        text.replace("{{name}}", self.name)
            .replace("{{Name}}", &pascal(self.name))
            .replace("{{dash}}", &self.name.replace('_', "-"))
            .replace("{{number}}", &self.number.to_string())
    }
}

fn pascal(snake: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    snake.split('_').map(capital).collect()
}

/// One more than the greatest number of any service: numbers are never reused.
fn next_number(root: &Path) -> Result<u32> {
    let packages = root.join("proto/holmes");
    let mut greatest = 0;
    let entries =
        fs::read_dir(&packages).with_context(|| format!("{} cannot be read", packages.display()))?;
    for entry in entries {
        let Ok(text) = fs::read_to_string(entry?.path().join("v1/events.proto")) else { continue };
        let number = text.split("option (holmes.service) =").nth(1).and_then(|rest| rest.split(';').next());
        greatest = greatest.max(number.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0));
    }
    Ok(greatest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let ledger = root.path().join("proto/holmes/ledger/v1");
        fs::create_dir_all(&ledger).unwrap();
        fs::write(ledger.join("events.proto"), "option (holmes.service) = 12;\n").unwrap();
        root
    }

    #[test]
    fn a_new_service_has_every_room_a_number_of_its_own_and_no_gap_to_fill() {
        let root = root();
        let made = make(root.path(), "buyback_burn").unwrap();
        for path in &made {
            let text = fs::read_to_string(path).unwrap();
            assert!(!text.contains("{{"), "{} has a gap", path.display());
        }
        let rooms = ["lib", "command", "state", "decide", "params", "react", "api"];
        for room in rooms {
            assert!(root.path().join(format!("services/buyback-burn/src/{room}.rs")).is_file(), "{room}");
        }
        let events =
            fs::read_to_string(root.path().join("proto/holmes/buyback_burn/v1/events.proto")).unwrap();
        assert!(events.contains("option (holmes.service) = 13;"));
        let lib = fs::read_to_string(root.path().join("services/buyback-burn/src/lib.rs")).unwrap();
        assert!(lib.contains("pub struct BuybackBurn;"));
    }

    #[test]
    fn nothing_is_written_over_and_no_odd_name_is_taken() {
        let root = root();
        make(root.path(), "market").unwrap();
        assert!(make(root.path(), "market").is_err());
        for odd in ["", "Market", "market-desk", "9lives", "a/b", "_x", "x_"] {
            assert!(make(root.path(), odd).is_err(), "{odd:?}");
        }
    }
}
