//! What a process says on stderr to those who collect logs: with `telemetry.format = "json"` lines of JSON and nothing else,
//! from its start to its end, and also when it cannot start.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Killed, Place, SERVE};

fn line(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text:?} is no line of JSON"))
}

/// A command whose log lines are JSON.
fn json_of(place: &Place, words: &[&str]) -> Command {
    let mut command = place.command(words);
    command.env("HOLMES__TELEMETRY__FORMAT", "json").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn with_json_every_line_on_stderr_is_one_from_the_addresses_to_the_end() {
    let place = Place::new();
    for command in ["serve", "up"] {
        let mut child =
            Killed(json_of(&place, &[&[command], &SERVE[1..]].concat()).spawn().expect("it starts"));
        let mut said = BufReader::new(child.0.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut serving = || said.by_ref().map(|text| line(&text)).find(|line| line["message"] == "serving");
        let serving = serving().expect("it says where it listens");
        assert!(serving["roles"].as_str().is_some_and(|roles| roles.contains("ledger")), "{serving}");
        for port in ["grpc", "http", "admin"] {
            assert!(serving[port].as_str().is_some_and(|at| at.starts_with("127.0.0.1:")), "{serving}");
        }
        // A second process on the directory fails, and says so in a line too.
        let second = json_of(&place, &SERVE).output().expect("it runs");
        assert_eq!((second.status.code(), second.stdout.is_empty()), (Some(1), true));
        let told = String::from_utf8(second.stderr).expect("UTF-8");
        let lines: Vec<Value> = told.lines().map(line).collect();
        let last = lines.last().expect("a line");
        assert_eq!(last["level"], "ERROR", "{told}");
        assert!(
            last["error"].as_str().is_some_and(|why| why.contains("in use by another process")),
            "{told}"
        );

        let pid = child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let last = said.map(|text| line(&text)).last().expect("a line");
        assert_eq!(last["message"], "stopped; everything acknowledged is there");
        assert!(child.0.wait().expect("it ends").success());
    }
}

#[test]
fn an_executor_that_cannot_start_says_so_in_a_line_of_json() {
    let place = Place::new();
    let words = ["executor", "--join", "127.0.0.1:1", "--key", "none.key", "--model", "holmes-tiny"];
    let ran = json_of(&place, &words).output().expect("it runs");
    let told = String::from_utf8(ran.stderr).expect("UTF-8");
    let lines: Vec<Value> = told.lines().map(line).collect();
    let last = lines.last().expect("a line");
    assert!(last["error"].as_str().is_some_and(|why| why.contains("none.key cannot be read")), "{told}");
}
