//! `torture` as a change sees it: short, and with journals that are wrong on purpose, which must be found.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `torture` to its end: whether all held, and its report.
fn torture(words: &[&str]) -> (bool, Value) {
    let dir = tempfile::tempdir().unwrap();
    let mut torture = Command::new(env!("CARGO_BIN_EXE_torture"));
    torture.args(["--minutes", "8", "--seed", "11", "-o", "json"]).args(words).arg("--dir").arg(dir.path());
    let done = torture.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let report = String::from_utf8_lossy(&done.stdout);
    let report = serde_json::from_str(&report).unwrap_or_else(|why| {
        panic!("{why}: {report}{said}\nthe binary must lie beside: cargo build -p holmes")
    });
    (done.status.success(), report)
}

/// One long campaign, told to end after its first words: its report, and what it left in its directory.
fn ended() -> (Value, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut torture = Command::new(env!("CARGO_BIN_EXE_torture"));
    torture
        .args(["--minutes", "8", "--only", "stop", "--trials", "1000", "-o", "json", "--dir"])
        .arg(dir.path());
    torture.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut torture = torture.spawn().unwrap();
    let mut said = BufReader::new(torture.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains(" of 1000")), "no progress was told");
    // As a terminal does it: to all that are of its group, so that what it runs beside itself must be of another.
    let group = format!("-{}", torture.id());
    let done = Command::new("kill").args(["-INT", "--", &group]).status().unwrap();
    assert!(done.success());
    assert!(said.any(|line| line.contains("ending with the trial that is on")));
    said.for_each(drop);
    let report = serde_json::from_reader(torture.stdout.take().unwrap()).unwrap();
    torture.wait().unwrap();
    (report, std::fs::read_dir(dir.path()).unwrap().count())
}

/// All held, in as many trials as were wanted unless the machine does not allow them; then the program says so and does not
/// call it a success.
fn holds(words: &[&str]) {
    let (held, report) = torture(words);
    let mut all_tried = true;
    for campaign in report["campaigns"].as_array().unwrap() {
        let left_out = campaign["skipped"].as_array().is_some_and(|skipped| !skipped.is_empty());
        if left_out {
            eprintln!("SKIPPED: {}", campaign["skipped"]);
        }
        assert!(campaign["findings"].as_array().unwrap().is_empty(), "{report:#}");
        let untried = campaign["trials"] == 0;
        assert!(left_out || campaign["trials"] == campaign["wanted"], "{report:#}");
        all_tried &= !untried;
    }
    assert_eq!(held, all_tried, "{report:#}");
}

/// A journal with a known fault is found; the words of what was found.
fn is_found(journal: &str, words: &str) {
    let (held, report) = torture(&["--only", "power", "--journal", journal, "--trials", "150"]);
    let campaign = &report["campaigns"][0];
    if campaign["skipped"].as_array().is_some_and(|skipped| !skipped.is_empty()) {
        eprintln!("SKIPPED: {}", campaign["skipped"]);
        return;
    }
    let finding = |finding: &Value| finding["what"].as_str().is_some_and(|what| what.contains(words));
    assert!(!held && campaign["findings"].as_array().unwrap().iter().any(finding), "{report:#}");
}

#[test]
fn thirty_deaths_lose_nothing_that_was_acknowledged_and_do_nothing_twice() {
    holds(&["--only", "kill", "--kills", "30"]);
}

#[test]
fn no_power_cut_takes_anything_from_the_journal_or_keeps_a_network_from_starting_again() {
    holds(&["--only", "power", "--trials", "40"]);
}

#[test]
fn what_would_try_nothing_is_refused() {
    for words in
        [["--trials", "0"], ["--kills", "0"], ["--minutes", "0"], ["--minutes", "18446744073709551615"]]
    {
        let done = Command::new(env!("CARGO_BIN_EXE_torture")).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(2) && said.contains(words[0]), "{words:?}: {said}");
    }
}

#[test]
fn a_toy_journal_that_is_right_is_not_blamed() {
    holds(&["--only", "power", "--journal", "toy", "--trials", "150"]);
}

#[test]
fn a_journal_that_acknowledges_before_it_has_forced_to_disk_is_found() {
    is_found("toy-acks-early", "was acknowledged, and there are");
}

#[test]
fn a_journal_that_forgets_to_force_its_name_to_disk_is_found() {
    is_found("toy-forgets-directory", "was acknowledged, and there are 0");
}

#[test]
fn a_journal_that_takes_torn_bytes_for_a_record_is_found() {
    is_found("toy-trusts-bytes", "record ");
}

#[test]
fn a_bit_that_has_turned_is_told_or_was_of_no_value() {
    holds(&["--only", "flip", "--trials", "8"]);
}

#[test]
fn a_full_disk_and_a_readonly_disk_are_borne() {
    holds(&["--only", "full,readonly", "--trials", "4"]);
}

#[test]
fn a_clock_that_jumps_is_borne() {
    holds(&["--only", "clock", "--trials", "3"]);
}

#[test]
fn who_is_told_to_end_finishes_its_trial_reports_and_leaves_nothing_behind() {
    let (report, left) = ended();
    let campaign = &report["campaigns"][0];
    let tried = campaign["trials"].as_u64().unwrap();
    assert!((1..1000).contains(&tried) && campaign["findings"].as_array().unwrap().is_empty(), "{report:#}");
    assert_eq!(left, 0);
}

#[test]
fn a_standstill_is_borne() {
    holds(&["--only", "stop", "--trials", "3"]);
}
