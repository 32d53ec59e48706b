//! Running other programs: what is run is said on stderr, what fails says the command that failed.

use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Cargo, as it would run from a shell: without the variables that `cargo run` sets for xtask itself, which
/// make build scripts of some crates run again.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a program with its talk on stderr. A failure names the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", line(command));
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .stderr(io::stderr())
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    check(command, status)
}

/// Runs a program whose output is what was asked for: it goes to stdout.
pub(crate) fn say(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start `{}`", line(command)))?;
    check(command, status)
}

/// As `run`, and also returns the last line of output that `keep` accepts, colours removed.
pub(crate) fn run_keeping(command: &mut Command, keep: fn(&str) -> bool) -> (Result<()>, Option<String>) {
    eprintln!("+ {}", line(command));
    let mut kept = None;
    let status = echo(command, |text| {
        let plain = without_colours(text);
        if keep(&plain) {
            kept = Some(plain.trim_end().to_owned());
        }
    });
    (status.and_then(|status| check(command, status)), kept)
}

fn echo(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("cannot open a pipe")?;
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn();
    // The command holds the pipe's other end: without letting go of it here, reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.with_context(|| format!("cannot start `{}`", line(command)))?;
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        eprint!("{text}");
        each(&text);
        bytes.clear();
    }
    Ok(child.wait()?)
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status}); its reasons stand above", line(command));
    }
    Ok(())
}

/// What a program prints, for asking it its version; nothing if it cannot be run.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let out = command.stdin(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(program.to_string_lossy()).chain(words).collect::<Vec<_>>().join(" ")
}

fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// A row of steps, each timed; all run even if one fails, and a table closes them.
#[derive(Default)]
pub(crate) struct Steps {
    rows: Vec<(String, Duration, Option<anyhow::Error>)>,
}

impl Steps {
    /// Runs a step, says how it went, goes on either way.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        eprintln!("── {name}");
        let start = Instant::now();
        let error = work().err();
        if let Some(error) = &error {
            eprintln!("error: {error:#}");
        }
        self.rows.push((name.to_owned(), start.elapsed(), error));
    }

    /// Prints the table. Fails if any step failed.
    pub(crate) fn finish(self) -> Result<()> {
        eprint!("{}", self.table());
        let failed: Vec<_> =
            self.rows.iter().filter(|row| row.2.is_some()).map(|row| row.0.as_str()).collect();
        if !failed.is_empty() {
            bail!("{} failed; the reasons stand above, in that order", failed.join(", "));
        }
        Ok(())
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (name, took, error) in &self.rows {
            let verdict = if error.is_some() { "FAILED" } else { "ok" };
            table += &format!("{name:width$}  {:8.1} s  {verdict}\n", took.as_secs_f64());
        }
        let total: Duration = self.rows.iter().map(|row| row.1).sum();
        table + &format!("{:width$}  {:8.1} s\n", "total", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_arguments() {
        let error = run(Command::new("/bin/false").arg("--now")).expect_err("false fails");
        assert!(error.to_string().contains("`false --now` failed"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error_not_a_panic() {
        let error = run(&mut Command::new("no-such-program")).expect_err("cannot start");
        assert!(error.to_string().contains("cannot start"), "{error}");
    }

    #[test]
    fn the_last_matching_line_is_kept_without_its_colours() {
        let script = r"printf 'Summary 1\nother\n\033[32mSummary\033[0m 2\nend\n'; exit 3";
        let (result, kept) =
            run_keeping(Command::new("sh").args(["-c", script]), |line| line.starts_with("Summary"));
        assert!(result.is_err());
        assert_eq!(kept.as_deref(), Some("Summary 2"));
    }

    #[test]
    fn all_steps_run_and_the_failed_ones_are_named() {
        let mut steps = Steps::default();
        steps.step("one", || bail!("no"));
        steps.step("two", || Ok(()));
        assert_eq!(steps.rows.len(), 2);
        assert!(steps.table().contains("FAILED"));
        assert!(steps.finish().expect_err("one failed").to_string().starts_with("one failed"));
    }
}
