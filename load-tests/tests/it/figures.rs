//! The driver as it is used: a scenario for a moment, everything read back, a result that is kept.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Each run starts a process, and for a peer its server.
const RUNS: usize = 1;

/// A house with these scenarios.
fn house(scenarios: &[(&str, &str)]) -> tempfile::TempDir {
    let house = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(house.path().join("scenarios")).expect("made");
    for (name, text) in scenarios {
        std::fs::write(house.path().join(format!("scenarios/{name}.toml")), text).expect("written");
    }
    let goals = "[[goal]]\nwhat = \"any event at all\"\nscenario = \"moment\"\nload = \"1 × 4\"\n\
                 subject = \"events\"\nat_least = 1.0\n";
    std::fs::write(house.path().join("goals.toml"), goals).expect("written");
    house
}

fn scenario(subject: &str, peers: &str, work: &str, callers: u32) -> String {
    format!(
        "name = \"moment\"\nabout = \"For a moment.\"\nwork = \"{work}\"\nsubject = \"{subject}\"\npeers = [{peers}]\n\
         accounts = 50\nseconds = 0.2\nwarm_up = 0.05\nruns = {RUNS}\n[[loads]]\ncallers = {callers}\nbatch = 4\n\
         open = {{ per_second = 100.0, in_flight = 8 }}\n"
    )
}

fn run(house: &Path, path: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holmes-load-tests"));
    command
        .args(["--house", &house.display().to_string(), "run", "moment", "--dir"])
        .arg(house.join("scratch"));
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().expect("it runs")
}

/// The result that was kept, of a run that went well or not.
fn result(house: &Path, ran: &Output) -> Value {
    let told = String::from_utf8_lossy(&ran.stderr);
    let kept = std::fs::read_dir(house.join("results")).unwrap_or_else(|why| panic!("{why}: {told}"));
    let file = kept.map(|entry| entry.expect("readable").path()).next().expect("one result");
    serde_json::from_str(&std::fs::read_to_string(file).expect("readable")).expect("JSON")
}

fn has(program: &str) -> bool {
    let found = Command::new(env!("CARGO_BIN_EXE_holmes-load-tests")).args(["has", program]).status();
    found.is_ok_and(|status| status.success())
}

/// Every row ran in both loops, was read back whole, and its syncs were counted.
fn whole(result: &Value, counts_syncs: bool) {
    for row in result["rows"].as_array().expect("rows") {
        assert_eq!(row.get("failed"), None, "{row:#}");
        let back = &row["read_back"];
        let (acknowledged, found) = (back["acknowledged"].as_u64(), back["found"].as_u64());
        let overwritten = back["overwritten"].as_u64().expect("a number");
        assert!(acknowledged >= Some(4), "{row:#}");
        assert_eq!(found.map(|found| found + overwritten), acknowledged, "{row:#}");
        assert_eq!(back["foreign"], 0, "{row:#}");
        assert_eq!(row["closed"].as_array().map(Vec::len), Some(RUNS));
        assert_eq!(row["open"]["runs"].as_array().map(Vec::len), Some(RUNS));
        if counts_syncs {
            let each = row["syncs"]["per_batch"].as_f64().expect("counted");
            assert!((0.2..3.0).contains(&each), "one caller waits for about one sync: {row:#}");
        }
    }
}

#[test]
fn our_log_and_a_raw_file_run_for_a_moment_and_are_read_back_whole() {
    if !has("strace") {
        eprintln!(
            "NOT TESTED: strace is not on this machine; `cargo xtask bench --smoke` installs it and tests this"
        );
        return;
    }
    let house = house(&[("moment", &scenario("events", "\"raw\"", "events", 1))]);
    let ran = run(house.path(), None);
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}");
    let result = result(house.path(), &ran);
    assert_eq!(result["rows"].as_array().map(Vec::len), Some(2));
    whole(&result, true);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        said.contains("reached  any event at all") && said.contains("everything acknowledged was read back")
    );
    let scratch = std::fs::read_dir(house.path().join("scratch")).expect("made").count();
    assert_eq!(scratch, 0, "what the runs wrote is gone");
}

#[test]
fn our_ledger_is_read_back_from_its_log_in_process_and_over_grpc() {
    if !has("strace") {
        eprintln!(
            "NOT TESTED: strace is not on this machine; `cargo xtask bench --smoke` installs it and tests this"
        );
        return;
    }
    let house = house(&[("moment", &scenario("ledger", "\"ledger-grpc\"", "transfers", 1))]);
    let ran = run(house.path(), None);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    whole(&result(house.path(), &ran), true);
}

#[test]
fn peers_that_are_here_run_and_are_read_back_whole() {
    for (program, work, subject, kinds) in [
        ("redis-server", "events", "events", "\"redis\", \"redis-shared\""),
        ("nats-server", "events", "events", "\"jetstream\", \"jetstream-batch\""),
        ("postgres", "events", "events", "\"postgres-copy\""),
        (
            "postgres",
            "transfers",
            "ledger",
            "\"postgres-procedure\", \"postgres-serial\", \"postgres-loop\", \"postgres-events\"",
        ),
    ] {
        if !has(program) || !has("strace") {
            eprintln!(
                "NOT TESTED: {program} or strace is not on this machine; `cargo xtask bench --smoke` does it"
            );
            continue;
        }
        let house = house(&[("moment", &scenario(subject, kinds, work, 2))]);
        let ran = run(house.path(), None);
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
        whole(&result(house.path(), &ran), false);
    }
}

#[test]
fn a_peer_that_is_missing_is_a_fault_and_never_left_out() {
    let house = house(&[("moment", &scenario("events", "\"redis\"", "events", 1))]);
    let ran = run(house.path(), Some("/nowhere"));
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(!ran.status.success(), "{said}");
    assert!(said.contains("FAULT") && said.contains("Redis"), "{said}");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(
        told.contains("redis-server is not on this machine") && told.contains("cargo xtask bench"),
        "{told}"
    );
}

#[test]
fn a_quick_look_takes_no_kept_figures_place() {
    let house = house(&[("moment", &scenario("raw", "", "events", 1))]);
    let look = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holmes-load-tests"));
        command.arg("--house").arg(house.path()).args(["run", "moment", "--dir"]);
        let ran = command.arg(house.path().join("scratch")).args(words).output().expect("it runs");
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    for words in [&["--runs", "2"][..], &["--seconds", "0.3"]] {
        let told = look(words);
        assert!(told.contains("not kept: figures are of at least 5 runs of 2 s"), "{told}");
    }
    assert!(!house.path().join("results").exists());
    for words in [&["--runs", "0"][..], &["--seconds", "0"]] {
        let told = look(words);
        assert!(told.contains("invalid value '0'"), "{told}");
    }
}

#[test]
fn an_unknown_scenario_is_refused_with_those_that_there_are() {
    let house = house(&[("moment", &scenario("events", "", "events", 1))]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_holmes-load-tests"));
    let ran = command.arg("--house").arg(house.path()).args(["run", "other"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && told.contains("no scenario other; there are: moment, growth"), "{told}");
}
