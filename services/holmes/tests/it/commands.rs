//! The tools beside the server: what they print, where, and that it can be read by programs.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::Place;

#[test]
fn every_help_text_says_what_the_command_is_for_and_shows_examples() {
    let place = Place::new();
    let commands = [
        "demo",
        "serve",
        "executor",
        "call",
        "keys",
        "verify",
        "replay",
        "state",
        "models",
        "doctor",
        "calc",
        "config",
        "completion",
    ];
    for command in commands {
        let help = place.run(&[command, "--help"]);
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{command}");
        let example = help.out.split("Examples:").nth(1).unwrap_or_default();
        assert!(example.contains(&format!("holmes {command}")), "{command} shows no example");
    }
    let help = place.run(&["--help"]).out;
    assert!(help.contains("Exit codes") && help.contains("Examples:"));
}

#[test]
fn a_configuration_that_is_dumped_is_right_and_the_environment_goes_before_it() {
    let place = Place::new();
    let dumped = place.run(&["config", "dump"]);
    assert_eq!((dumped.code, dumped.err.as_str()), (0, ""));
    std::fs::write(place.path("holmes.toml"), &dumped.out).expect("written");
    let checked = place.run(&["-c", "holmes.toml", "config", "check"]);
    assert_eq!((checked.code, checked.out.as_str()), (0, ""));
    assert_eq!(place.run(&["-c", "holmes.toml", "config", "dump"]).out, dumped.out);
    let mut command = place.command(&["-c", "holmes.toml", "config", "explain", "-o", "json"]);
    let out = command.env("HOLMES__SERVER__DRAIN_MS", "7").output().expect("it runs").stdout;
    let rows: Vec<Value> = serde_json::from_slice(&out).expect("JSON");
    let drain = rows.iter().find(|row| row["key"] == "server.drain_ms").expect("the key");
    assert_eq!(
        (drain["value"].as_str(), drain["variable"].as_str()),
        (Some("7"), Some("HOLMES__SERVER__DRAIN_MS"))
    );
    assert_eq!(drain["source"], "environment", "{drain}");
}

#[test]
fn formulas_come_out_as_the_golden_vectors_say() {
    let place = Place::new();
    for (name, golden) in [
        ("apportion", include_str!("../../../../crates/kernel/tests/golden/apportion.json")),
        ("transfer_burn", include_str!("../../../ledger/tests/golden/transfer_burn.json")),
    ] {
        let file: Value = serde_json::from_str(golden).expect("JSON");
        let mut asked = file.clone();
        for case in asked["cases"].as_array_mut().expect("cases") {
            case.as_object_mut().expect("a case").remove("out");
        }
        assert_eq!(place.run_with(&["calc", name], &asked.to_string()).json(), file, "{name}");
    }
    let wrong =
        r#"{"cases":[{"in":{"amount":1,"burn_ppb":0},"out":0},{"in":{"amount":1,"burn_ppb":1},"out":7}]}"#;
    let ran = place.run_with(&["calc", "transfer_burn"], wrong);
    assert_eq!((ran.code, ran.err.as_str()), (1, "case 1: `out` is 1, and the file says 7\n"), "{}", ran.out);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON")["cases"][1]["out"], 1);
    let listed = place.run(&["calc"]).out;
    assert!(listed.contains("apportion") && listed.contains("E-0.4"), "{listed}");
}

#[test]
fn data_is_on_stdout_and_talk_on_stderr() {
    let place = Place::new();
    let made = place.run(&["keys", "new", "a.key", "-o", "json"]);
    assert!(made.err.contains("keep a copy"));
    let row = &made.json()[0];
    assert_eq!(place.run(&["keys", "show", "a.key", "-o", "json"]).json()[0], *row);
    place.run(&["keys", "new", "a.key"]).fails(1, &["never overwritten"]);
    let (one, two) =
        (place.run(&["keys", "api", "-o", "json"]).json(), place.run(&["keys", "api", "-o", "json"]).json());
    assert_ne!(one, two);
    place.run(&["keys", "offer", "a.key", "--as", "node"]).fails(1, &["--owner"]);
    assert_eq!(place.run(&["keys", "id"]).out.trim().len(), 36);
    let table = place.run(&["config", "explain"]);
    assert!(table.out.starts_with("KEY") && table.err.contains("HOLMES__SECTION__KEY"));
}

#[cfg(unix)]
#[test]
fn a_secret_key_can_be_read_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.run(&["keys", "new", "a.key"]);
    let mode = std::fs::metadata(place.path("a.key")).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_reader_who_leaves_early_is_no_failure() {
    let place = Place::new();
    for words in [&["completion", "bash"][..], &["config", "explain"], &["config", "dump"], &["calc"]] {
        let mut command = place.command(words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let done = child.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success() && !err.contains("panicked"), "{words:?}: {err}");
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completion", shell]);
        assert!(script.code == 0 && script.out.contains("verify"), "{shell}");
    }
}
