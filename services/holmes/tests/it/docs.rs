//! Reference pages that are the binary's own words. `BLESS=1 cargo test -p holmes docs` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use crate::harness::Place;

pub(crate) fn compare(page: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    let line = stands.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        stands == text,
        "docs/reference/{page} is stale at line {line:?}: BLESS=1 cargo test -p holmes docs"
    );
}

#[test]
fn the_page_of_commands_is_what_help_says() {
    let place = Place::new();
    let mut text = String::from(
        "# Commands\n\nWhat `holmes help` says of each command; a test keeps this page and the binary together.\n",
    );
    let commands = [
        &["demo"][..],
        &["up"],
        &["serve"],
        &["executor"],
        &["ask"],
        &["call"],
        &["keys"],
        &["keys", "new"],
        &["keys", "show"],
        &["keys", "api"],
        &["keys", "id"],
        &["keys", "offer"],
        &["wallet"],
        &["wallet", "balance"],
        &["wallet", "open"],
        &["wallet", "send"],
        &["verify"],
        &["replay"],
        &["state"],
        &["scenario"],
        &["scenario", "run"],
        &["scenario", "check"],
        &["models"],
        &["models", "list"],
        &["models", "add"],
        &["models", "pull"],
        &["models", "remove"],
        &["doctor"],
        &["migrate"],
        &["stream"],
        &["stream", "lag"],
        &["stream", "tail"],
        &["stream", "remove"],
        &["cluster"],
        &["cluster", "up"],
        &["cluster", "status"],
        &["calc"],
        &["config"],
        &["completion"],
    ];
    let listed = place.run(&["--help"]).out;
    let names =
        listed.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What stands further in goes on with the line above.
    let names = names.filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let told: Vec<&str> = commands.iter().filter(|words| words.len() == 1).map(|words| words[0]).collect();
    assert_eq!(names, [&told[..], &["help"]].concat(), "the commands there are");
    for words in [&[][..]].iter().chain(&commands) {
        let mut command = place.command(&[words, &["--help"][..]].concat());
        let help = command.env("COLUMNS", "100").output().expect("it runs").stdout;
        let help = String::from_utf8(help).expect("UTF-8");
        let title = [&["holmes"], *words].concat().join(" ");
        write!(text, "\n## {title}\n\n```text\n{}\n```\n", help.trim_end()).expect("a string");
    }
    compare("commands.md", &text);
}

#[test]
fn the_page_of_the_configuration_is_what_explain_says() {
    let place = Place::new();
    let rows = place.run(&["config", "explain", "-o", "json"]).json();
    let mut text = String::from(
        "# Configuration\n\nWhat `holmes config explain` says; a test keeps this page and the binary together. A key \
         stands in a file\n(`holmes config dump` prints one), or in the environment, which goes before the file.\n\n\
         | key | variable | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    for row in rows.as_array().expect("rows") {
        let cell = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let value = match cell("value").as_str() {
            "" => "(empty)".to_owned(),
            value => format!("`{value}`"),
        };
        let (key, variable, meaning) = (cell("key"), cell("variable"), cell("meaning"));
        writeln!(text, "| `{key}` | `{variable}` | {value} | {meaning} |").expect("a string");
    }
    compare("config.md", &text);
}

/// The commands that stand in a page's blocks of `sh`.
pub(crate) fn script(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_tutorial_works_as_it_is_typed() {
    let page = include_str!("../../../../docs/tutorial/first-ten-minutes.md");
    let (running, stopped) = page.split_once("<!-- stopped -->").expect("the place where the server stops");
    let place = Place::new();
    let server = place.serve(&[]);
    let sh = |script: String, address: &str| place.typed(&script, address, &[]);
    let said = sh(script(running), &server.address);
    for line in
        ["\"existingUnits\": \"1000000000000000000\"", "TRANSFER_CODE_OK", "\"balanceUnits\": \"21000000\""]
    {
        assert!(page.contains(line) && said.contains(line), "{line}: {said}");
    }
    assert_eq!(said.matches("TRANSFER_CODE_OK").count(), 2, "the payment and its repetition");
    server.terminate();
    let said = sh(script(stopped), "");
    for words in [["ledger", "5", "5"], ["accounts", "4", "6"]] {
        let line = |line: &str| words.iter().all(|word| line.split_whitespace().any(|cell| cell == *word));
        assert!(page.lines().any(line) && said.lines().any(line), "{words:?}: {said}");
    }
    assert!(said.contains("transfersRecorded") && place.path("frames/ledger.frames").is_file());
}
