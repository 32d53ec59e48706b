//! Every test there is, on a machine that has only Rust and Python.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::infra::Lent;
use crate::tools::{self, Venv};
use crate::{House, models, sh};

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask test                                     everything
  cargo xtask test -- apportion                        of the Rust tests, those whose name holds a word
  cargo xtask test -- -E 'package(holmes-kernel)'      of the Rust tests, those of one package

Tests find the environment's Python in HOLMES_PYTHON. With the engine in the workspace the models are fetched and \
HOLMES_REQUIRE_MODELS=1 makes a test that needs one fail where it is missing.";

/// Unless tests/requirements.txt names another.
const PYTEST: &str = "pytest==9.0.2";

/// How to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not fetch models; tests that need one skip themselves, and say so
    #[arg(long)]
    no_models: bool,
    /// Handed to the Rust test runner
    #[arg(last = true)]
    runner: Vec<String>,
}

/// Runs them, and ends with the runner's own closing line on stdout.
pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let root = &house.root;
    let mut steps = sh::Steps::default();
    let mut closing = None;
    let mut test = Environment::default();
    steps.step("prepare", || test.prepare(house, args));
    steps.step("rust tests", || {
        let (result, line) = rust(&test, root, &args.runner);
        closing = line;
        result
    });
    steps.step("doc tests", || sh::run(test.apply(sh::cargo(root).args(["test", "--doc", "--workspace"]))));
    if house.has_member("crates/sim") {
        steps.step("guards", || guards(root));
    }
    if has_python_tests(root) {
        steps.step("python tests", || python(&test, root));
    }
    let verdict = steps.finish();
    match closing {
        Some(line) => println!("{line}"),
        None => eprintln!("error: the test runner printed no closing line: no test ran"),
    }
    verdict
}

/// What tests find in their environment.
#[derive(Default)]
struct Environment {
    python: Option<PathBuf>,
    models: bool,
    /// Real servers, where they could be had.
    servers: Option<Lent>,
}

impl Environment {
    fn prepare(&mut self, house: &House, args: &Args) -> Result<()> {
        let venv = Venv::open(&house.root)?;
        self.python = Some(venv.python());
        let requirements = house.root.join("tests/requirements.txt");
        if requirements.exists() {
            venv.pip(&["-r", &requirements.display().to_string()])?;
        }
        let has_pytest =
            || sh::output(Command::new(venv.python()).args(["-m", "pytest", "--version"])).is_some();
        if has_python_tests(&house.root) && !has_pytest() {
            venv.pip(&[PYTEST])?;
        }
        if house.has_member("load-tests")
            && let Err(error) = tools::need(&house.root, &tools::NATS)
        {
            eprintln!("WARNING: figures are not tested beside JetStream: {error:#}");
        }
        match Lent::up(house) {
            Ok(servers) => self.servers = Some(servers),
            Err(error) => eprintln!("WARNING: neither the journal on CQL nor streams are tested: {error:#}"),
        }
        if args.no_models {
            eprintln!("WARNING: --no-models: tests that need a model are not run in full");
        } else if house.has_member("crates/engine") {
            self.models = true;
            models::run(&house.root)?;
        }
        Ok(())
    }

    fn apply<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(python) = &self.python {
            command.env("HOLMES_PYTHON", python);
        }
        if let Some(Lent { at, .. }) = &self.servers {
            for (name, address) in [("HOLMES_CQL", &at.cql), ("HOLMES_NATS", &at.nats)] {
                if !address.is_empty() {
                    command.env(name, address);
                }
            }
        }
        if self.models {
            command.env("HOLMES_REQUIRE_MODELS", "1");
        }
        command
    }
}

fn rust(test: &Environment, root: &Path, words: &[String]) -> (Result<()>, Option<String>) {
    let mut cargo = sh::cargo(root);
    match tools::need(root, &tools::NEXTEST) {
        Ok(nextest) => {
            if let Err(error) = put_on_path(&mut cargo, &nextest) {
                return (Err(error), None);
            }
            cargo.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(words);
            sh::run_keeping(test.apply(&mut cargo), |line| line.trim_start().starts_with("Summary ["))
        }
        Err(error) => {
            eprintln!("WARNING: cargo test instead of cargo nextest, slower and less isolated: {error:#}");
            cargo.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]).args(words);
            sh::run_keeping(test.apply(&mut cargo), |line| {
                line.starts_with("test result:") && !line.contains(" 0 passed")
            })
        }
    }
}

/// The simulator with guards of the product switched off, one at a time: a build of its own, since nothing else may have
/// them so. Of the whole workspace, so that crates from outside are those of the other tests.
fn guards(root: &Path) -> Result<()> {
    let feature = ["--workspace", "--features", "holmes-sim/weakened", "--test", "guards"];
    sh::run(sh::cargo(root).arg("test").args(feature))
}

fn put_on_path(cargo: &mut Command, program: &Path) -> Result<()> {
    let Some(dir) = program.parent().filter(|dir| dir.is_dir()) else { return Ok(()) };
    let old = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(env::split_paths(&old));
    cargo.env("PATH", env::join_paths(dirs).context("a directory of PATH holds a colon")?);
    Ok(())
}

fn has_python_tests(root: &Path) -> bool {
    let Ok(files) = fs::read_dir(root.join("tests")) else { return false };
    files.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("test_") && name.ends_with(".py")
    })
}

/// pytest over `tests/test_*.py`, the programs that they start being built first.
fn python(test: &Environment, root: &Path) -> Result<()> {
    sh::run(sh::cargo(root).args(["build", "--workspace", "--bins", "--tests"]))?;
    let python =
        test.python.as_deref().context("there is no Python environment; the step `prepare` says why")?;
    let mut pytest = Command::new(python);
    sh::run(test.apply(pytest.current_dir(root).args(["-m", "pytest", "-q", "tests"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_tests_are_the_files_that_pytest_collects() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(!has_python_tests(root.path()), "no tests directory");
        fs::create_dir(root.path().join("tests")).expect("made");
        fs::write(root.path().join("tests/audit.py"), "").expect("written");
        assert!(!has_python_tests(root.path()), "a program is not a test");
        fs::write(root.path().join("tests/test_openai.py"), "").expect("written");
        assert!(has_python_tests(root.path()));
    }

    #[test]
    fn tests_are_told_to_insist_on_models_only_when_models_were_fetched() {
        let insists = |models| {
            let mut command = Command::new("cargo");
            Environment { models, ..Environment::default() }.apply(&mut command);
            command.get_envs().any(|(name, _)| name == "HOLMES_REQUIRE_MODELS")
        };
        assert!(insists(true));
        assert!(!insists(false));
    }
}
