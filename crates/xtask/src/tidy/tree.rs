//! The checkout's text: every file that is committed or would be.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::code::Code;
use crate::sh;

/// Every text file, by path.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

/// A text file.
pub(crate) struct File {
    /// From the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Its tokens, if it is Rust.
    pub(crate) code: Option<Code>,
    /// Whether only tests see it: in a `tests` or `benches` directory, or declared `#[cfg(test)] mod`.
    pub(crate) is_test: bool,
}

impl Tree {
    /// Reads what git tracks and what it would track. Files that are not UTF-8 are not text.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let list = ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let paths = sh::output(Command::new("git").current_dir(root).args(list)).context(
            "git cannot list the files; install git, and run this in a clone rather than in an unpacked archive",
        )?;
        let paths: BTreeSet<&str> = paths.split('\0').filter(|path| !path.is_empty()).collect();
        let files =
            paths.into_iter().filter_map(|path| Some((path, fs::read_to_string(root.join(path)).ok()?)));
        Ok(Tree::of(files))
    }

    /// A tree of these paths and texts.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = (&'a str, impl Into<String>)>) -> Tree {
        let mut files: Vec<_> = files.into_iter().map(|(path, text)| File::new(path, text.into())).collect();
        let test_files: BTreeSet<String> = files.iter().flat_map(File::test_files).collect();
        for file in &mut files {
            file.is_test = is_in_test_directory(&file.path)
                || test_files.iter().any(|test| {
                    let stem = test.trim_end_matches(".rs");
                    file.path == *test
                        || file.path.strip_prefix(stem).is_some_and(|rest| rest.starts_with('/'))
                });
        }
        Tree { files }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The state-machine services: every service but the edge and the binary.
    pub(crate) fn machine_services(&self) -> BTreeSet<&str> {
        let manifests = self.files.iter().filter_map(|file| file.path.strip_prefix("services/"));
        let services = manifests.filter_map(|path| path.strip_suffix("/Cargo.toml"));
        services.filter(|name| !name.contains('/') && !NOT_MACHINES.contains(name)).collect()
    }
}

/// Services that hold no truth, and the binary that holds them all.
const NOT_MACHINES: [&str; 4] = ["gateway", "executor", "explorer", "holmes"];

fn is_in_test_directory(path: &str) -> bool {
    let dirs = path.split('/').take_while(|dir| *dir != "src").filter(|dir| !dir.ends_with(".rs"));
    dirs.into_iter().any(|dir| dir == "tests" || dir == "benches")
}

impl File {
    fn new(path: &str, text: String) -> File {
        let code = path.ends_with(".rs").then(|| Code::parse(&text));
        File { path: path.to_owned(), text, code, is_test: false }
    }

    /// The files of the modules that this one declares for tests only.
    fn test_files(&self) -> Vec<String> {
        let Some(code) = &self.code else { return Vec::new() };
        let (dir, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let dir = match name {
            "lib.rs" | "main.rs" => dir.to_owned(),
            _ => format!("{dir}/{}", name.trim_end_matches(".rs")),
        };
        code.test_modules.iter().map(|module| format!("{dir}/{module}.rs")).collect()
    }

    /// The first line, counted from 1, that holds a text; 1 if none does.
    pub(crate) fn line_of(&self, text: &str) -> usize {
        self.text.lines().position(|line| line.contains(text)).map_or(1, |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_only_tests_see_are_known() {
        let tree = Tree::of([
            ("services/ledger/src/decide.rs", "#[cfg(test)] mod tests; mod transfer;"),
            ("services/ledger/src/decide/tests.rs", ""),
            ("services/ledger/src/decide/tests/more.rs", ""),
            ("services/ledger/src/decide/transfer.rs", ""),
            ("services/ledger/tests/it.rs", ""),
            ("crates/store/benches/append.rs", ""),
            ("crates/kernel/src/lib.rs", "#[cfg(test)] mod support;"),
            ("crates/kernel/src/support.rs", ""),
            ("crates/kernel/src/tests.rs", ""),
            ("crates/kernel/src/tests/hidden.rs", ""),
        ]);
        let tests: Vec<_> = tree.files.iter().filter(|file| file.is_test).map(|file| &*file.path).collect();
        assert_eq!(
            tests,
            [
                "services/ledger/src/decide/tests.rs",
                "services/ledger/src/decide/tests/more.rs",
                "services/ledger/tests/it.rs",
                "crates/store/benches/append.rs",
                "crates/kernel/src/support.rs"
            ]
        );
    }

    #[test]
    fn every_service_but_the_edge_and_the_binary_is_a_state_machine() {
        let manifests = ["ledger", "gateway", "executor", "explorer", "holmes", "buyback-burn"];
        let paths = manifests.map(|name| format!("services/{name}/Cargo.toml"));
        let tree = Tree::of(paths.iter().map(|path| (path.as_str(), "")));
        assert_eq!(tree.machine_services().into_iter().collect::<Vec<_>>(), ["buyback-burn", "ledger"]);
    }
}
