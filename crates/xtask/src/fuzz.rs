//! The fuzzer: built on the stable toolchain with the coverage that libFuzzer asks of the compiler, run target by target
//! from the kept inputs. What it finds stays in `fuzz/cases`, where an ordinary test tries it again for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{House, program, sh};

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask fuzz                          every target for 5 seconds
  cargo xtask fuzz --seed 1                 the same from the kept inputs and a seed: what continuous integration does
  cargo xtask fuzz gguf --seconds 3600      one target for an hour
  cargo xtask fuzz --list                   the targets, and what is kept of each
  cargo xtask fuzz gguf --case FILE         one input again, with its backtrace
  cargo xtask fuzz --seconds 300 --keep     and keep the least inputs that reach what was reached

An input that makes a target fail is written to fuzz/cases/TARGET/ and stays there: `cargo test -p holmes-fuzzing` tries it \
again without a fuzzer. Inputs that reached new code wait in target/fuzz/corpus/; --keep brings the best to fuzz/corpus/. \
It needs a C++ compiler.";

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Draw inputs from this seed, and begin with the kept ones alone, so that two runs of one build try the same; without
    /// it every run draws its own and goes on from what earlier ones found
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "keep")]
    seed: Option<u32>,
    /// List the targets
    #[arg(long)]
    list: bool,
    /// Run one input and no others
    #[arg(long, value_name = "FILE", requires = "target", value_parser = program::torture::a_file)]
    case: Option<PathBuf>,
    /// Keep the least inputs that reach everything that was reached
    #[arg(long)]
    keep: bool,
}

/// What `cargo fuzz run --sanitizer none` asks of the compiler; stable knows all of it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// One input may take so long, and so much memory.
const LIMITS: [&str; 3] = ["-timeout=25", "-rss_limit_mb=2048", "-report_slow_units=25"];
/// Of a target's inputs are kept at most so many, for each is tried by every test run, and none that is longer.
const MOST_KEPT: usize = 60;
const MOST_BYTES: u64 = 64 * 1024;

/// The directories of one target.
struct Target<'a> {
    name: String,
    program: PathBuf,
    root: &'a Path,
    /// Where what reaches new code waits.
    found: PathBuf,
}

/// What a run of a target came to.
struct Ran {
    name: String,
    inputs: u64,
    fine: bool,
}

/// Builds what is asked for and runs it; every target is run, whatever became of the one before.
pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let root = &house.root;
    let names = names(root, args.target.as_deref())?;
    if args.list {
        for name in &names {
            let (kept, cases) = (count(root, "corpus", name), count(root, "cases", name));
            println!("{name:<16} {kept:>4} inputs kept, {cases} cases");
        }
        return Ok(());
    }
    let dir = house.metadata.target_directory.as_std_path().join("fuzz");
    build(root, &dir, &names)?;
    let host = host()?;
    // What earlier runs found here is not where a run from a seed begins.
    let found = dir.join(if args.seed.is_some() { "seeded" } else { "corpus" });
    if args.seed.is_some() && found.exists() {
        fs::remove_dir_all(&found).with_context(|| format!("{} cannot be emptied", found.display()))?;
    }
    let targets = names.into_iter().map(|name| Target {
        program: dir.join(&host).join("release").join(&name),
        found: found.join(&name),
        name,
        root,
    });
    let mut ran = Vec::new();
    for target in targets {
        if let Some(case) = &args.case {
            return sh::run(Command::new(&target.program).args(LIMITS).arg(case));
        }
        ran.push(target.run(args)?);
        if args.keep {
            target.keep()?;
        }
    }
    verdict(&ran)
}

/// The targets: one binary each.
fn names(root: &Path, only: Option<&str>) -> Result<Vec<String>> {
    let files = fs::read_dir(root.join("fuzz/fuzz_targets")).context("there is no fuzz/fuzz_targets")?;
    let name = |file: fs::DirEntry| file.path().file_stem().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = files.flatten().filter_map(name).collect();
    names.sort();
    let Some(only) = only else { return Ok(names) };
    ensure!(
        names.iter().any(|name| name == only),
        "there is no target {only}; there are {}",
        names.join(", ")
    );
    Ok(vec![only.to_owned()])
}

fn count(root: &Path, kind: &str, name: &str) -> usize {
    fs::read_dir(root.join("fuzz").join(kind).join(name)).map_or(0, Iterator::count)
}

fn host() -> Result<String> {
    let told = sh::output(Command::new("rustc").arg("-vV")).context("rustc cannot be run")?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

fn build(root: &Path, dir: &Path, names: &[String]) -> Result<()> {
    if sh::output(Command::new("c++").arg("--version")).is_none() {
        bail!("libFuzzer is C++ and there is no compiler for it; on Debian: apt-get install g++");
    }
    let began = Instant::now();
    let mut cargo = sh::cargo(&root.join("fuzz"));
    // A target is named so that build scripts and macros, which run here, are built without coverage.
    cargo.args(["build", "--locked", "--release", "--target", &host()?]);
    for name in names {
        cargo.args(["--bin", name]);
    }
    cargo.env("CARGO_TARGET_DIR", dir).env("RUSTFLAGS", COVERAGE).env("CARGO_INCREMENTAL", "0");
    sh::run(&mut cargo)?;
    eprintln!("built in {} s", began.elapsed().as_secs());
    Ok(())
}

impl Target<'_> {
    fn kept(&self) -> PathBuf {
        self.root.join("fuzz/corpus").join(&self.name)
    }

    fn cases(&self) -> PathBuf {
        self.root.join("fuzz/cases").join(&self.name)
    }

    fn run(&self, args: &Args) -> Result<Ran> {
        let seconds = args.seconds;
        for dir in [&self.found, &self.kept(), &self.cases()] {
            fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        }
        eprintln!("── {}, {seconds} s", self.name);
        let before = count(self.root, "cases", &self.name);
        let mut command = Command::new(&self.program);
        command.args(LIMITS).args([
            format!("-max_total_time={seconds}"),
            format!("-artifact_prefix={}/", self.cases().display()),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ]);
        command.args(args.seed.map(|seed| format!("-seed={seed}")));
        command.args([&self.found, &self.kept()]).stdin(Stdio::null());
        let out = command.output().with_context(|| format!("{} cannot be run", self.program.display()))?;
        let said = String::from_utf8_lossy(&out.stderr);
        let inputs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units: "));
        let inputs = inputs.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let fine = out.status.success();
        if fine {
            eprintln!("   {inputs} inputs");
        } else {
            eprintln!(
                "{}",
                said.lines().filter(|line| !line.starts_with("stat::")).collect::<Vec<_>>().join("\n")
            );
            self.tell_case(before);
        }
        Ok(Ran { name: self.name.clone(), inputs, fine })
    }

    /// Which input it was, and how it is seen again.
    fn tell_case(&self, before: usize) {
        let files = fs::read_dir(self.cases()).into_iter().flatten().flatten();
        let newest = files.max_by_key(|file| file.metadata().and_then(|of| of.modified()).ok());
        match newest.filter(|_| count(self.root, "cases", &self.name) > before) {
            Some(file) => {
                let path = file.path();
                let path = path.strip_prefix(self.root).unwrap_or(&path).display();
                eprintln!(
                    "error: {path} makes {} fail; again: cargo xtask fuzz {} --case {path}",
                    self.name, self.name
                );
                eprintln!("       without a fuzzer: cargo test -p holmes-fuzzing {}", self.name);
            }
            None => eprintln!("error: {} ended badly; what it said stands above", self.name),
        }
    }

    /// The least of what was kept and what was found that reaches all that they reach.
    fn keep(&self) -> Result<()> {
        let (kept, least) = (self.kept(), self.found.with_extension("least"));
        let _ = fs::remove_dir_all(&least);
        fs::create_dir_all(&least)?;
        let longest = format!("-max_len={MOST_BYTES}");
        let mut command = Command::new(&self.program);
        command
            .args(LIMITS)
            .args(["-merge=1", "-verbosity=0", &longest])
            .arg(&least)
            .args([&kept, &self.found]);
        let out = command.stdin(Stdio::null()).output()?;
        ensure!(
            out.status.success(),
            "{} cannot be merged: {}",
            self.name,
            String::from_utf8_lossy(&out.stderr)
        );
        let mut files: Vec<(u64, PathBuf)> = fs::read_dir(&least)?
            .flatten()
            .filter_map(|file| Some((file.metadata().ok()?.len(), file.path())))
            .filter(|(bytes, _)| *bytes <= MOST_BYTES)
            .collect();
        // The longest reach most; of the rest the short ones are the cheapest to try.
        files.sort();
        let longest: Vec<_> = files.split_off(files.len().saturating_sub(MOST_KEPT / 2));
        fs::remove_dir_all(&kept)?;
        fs::create_dir_all(&kept)?;
        for (_, file) in longest.iter().chain(files.iter().take(MOST_KEPT - longest.len())) {
            fs::copy(file, kept.join(file.file_name().context("a file has a name")?))?;
        }
        eprintln!("   {} inputs kept", count(self.root, "corpus", &self.name));
        Ok(())
    }
}

fn verdict(ran: &[Ran]) -> Result<()> {
    for Ran { name, inputs, fine } in ran {
        let came = match (fine, inputs) {
            (false, _) => "FAILED",
            (true, 0) => "NOTHING TRIED",
            (true, _) => "nothing found",
        };
        println!("{name:<16} {inputs:>10} inputs  {came}");
    }
    let names = |those: fn(&&Ran) -> bool| -> Vec<&str> {
        ran.iter().filter(those).map(|ran| ran.name.as_str()).collect()
    };
    let (failed, idle) = (names(|ran| !ran.fine), names(|ran| ran.fine && ran.inputs == 0));
    ensure!(failed.is_empty(), "{} of {} targets failed: {}", failed.len(), ran.len(), failed.join(", "));
    ensure!(
        idle.is_empty(),
        "no input was tried of {}: the program ended at once, or did not say how many it tried",
        idle.join(", ")
    );
    eprintln!("no input made a target fail");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_file_and_another_name_is_told_which_there_are() {
        let root = tempfile::tempdir().expect("a directory");
        let targets = root.path().join("fuzz/fuzz_targets");
        fs::create_dir_all(&targets).expect("made");
        for name in ["gguf.rs", "config.rs"] {
            fs::write(targets.join(name), "").expect("written");
        }
        assert_eq!(names(root.path(), None).expect("names"), ["config", "gguf"]);
        assert_eq!(names(root.path(), Some("gguf")).expect("names"), ["gguf"]);
        let why = names(root.path(), Some("ggml")).expect_err("no such target").to_string();
        assert!(why.contains("config, gguf"), "{why}");
    }

    #[test]
    fn a_target_that_fails_fails_the_run_by_its_name() {
        let ran = |name: &str, fine| Ran { name: name.into(), inputs: 1, fine };
        assert!(verdict(&[ran("gguf", true)]).is_ok());
        let why = verdict(&[ran("gguf", true), ran("config", false)]).expect_err("one failed").to_string();
        assert!(why.contains("1 of 2") && why.contains("config"), "{why}");
    }

    #[test]
    fn a_target_that_tried_nothing_has_found_nothing_out() {
        let ran = |inputs| Ran { name: "gguf".into(), inputs, fine: true };
        assert!(verdict(&[ran(1)]).is_ok());
        let why = verdict(&[ran(0)]).expect_err("nothing was tried").to_string();
        assert!(why.contains("no input was tried of gguf"), "{why}");
    }
}
