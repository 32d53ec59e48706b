//! The scenarios of the docs are played as they stand, to the byte; and files that are wrong say where and why. `BLESS=1`
//! writes the golden output anew, which is right where what the services do was meant to change.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::harness::{Place, Ran};

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenarios")
}

/// Every scenario of the docs, by name.
fn all() -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(scenarios()).expect("docs/scenarios").map(|file| file.expect("a file").path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml")).collect();
    files.sort();
    files
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
}

/// Plays a file; models are written where nobody else's are.
fn run(place: &Place, file: &Path) -> Ran {
    let mut command = place.command(&["scenario", "run", "-o", "json"]);
    command.arg(file).env("XDG_DATA_HOME", place.path("data"));
    let done = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
}

/// A scenario with something else in it.
fn altered(place: &Place, name: &str, from: &str, to: &str) -> Ran {
    let whole = text(&scenarios().join(name));
    assert!(whole.contains(from), "{name} has no {from:?}");
    let file = place.path("altered.yaml");
    std::fs::write(&file, whole.replacen(from, to, 1)).expect("written");
    run(place, &file)
}

fn lines(ran: &Ran) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    ran.out.lines().map(line).collect()
}

#[test]
fn every_scenario_of_the_docs_holds_and_says_what_it_said_to_the_byte() {
    let (left, stale) = (Mutex::new(all()), Mutex::new(Vec::new()));
    assert!(left.lock().expect("ours").len() >= 12);
    let work = || {
        let place = Place::new();
        loop {
            let next = left.lock().expect("ours").pop();
            let Some(file) = next else { return };
            let ran = run(&place, &file);
            assert_eq!(ran.code, 0, "{}: {}{}", file.display(), ran.out, ran.err);
            let golden = file.with_extension("jsonl");
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&golden, &ran.out).expect("written");
            }
            let stands = std::fs::read_to_string(&golden).unwrap_or_default();
            if let Some(at) = (stands != ran.out).then(|| {
                stands.lines().zip(ran.out.lines()).position(|(was, is)| was != is).map_or(0, |at| at + 1)
            }) {
                stale.lock().expect("ours").push(format!("{}:{at}", golden.display()));
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let stale = stale.into_inner().expect("ours");
    assert!(stale.is_empty(), "{stale:?} is not what is said now: BLESS=1 cargo test -p holmes scenarios");
}

#[test]
fn every_scenario_teaches_first_and_is_called_as_its_file() {
    let named: Vec<String> = all()
        .iter()
        .map(|file| {
            let text = text(file);
            let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
            assert!(text.starts_with("# "), "{stem}: the first line is a comment that teaches");
            assert!(text.contains(&format!("\nname: {stem}\n")), "{stem} is called otherwise inside");
            assert!(text.contains("expect:"), "{stem} expects nothing");
            assert!(file.with_extension("jsonl").is_file(), "{stem} has no golden output");
            stem
        })
        .collect();
    let golden = std::fs::read_dir(scenarios()).expect("docs/scenarios").filter_map(|file| {
        let path = file.expect("a file").path();
        let is_golden = path.extension().is_some_and(|kind| kind == "jsonl");
        is_golden.then(|| path.file_stem().expect("a name").to_string_lossy().into_owned())
    });
    for golden in golden {
        assert!(named.contains(&golden), "{golden}.jsonl is of no scenario");
    }
    // All are right as files, and checking plays nothing.
    let place = Place::new();
    let mut command = place.command(&["scenario", "check"]);
    let done = command.args(all()).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stdout).lines().count(), named.len());
}

#[test]
fn played_twice_a_scenario_says_the_same_byte_for_byte_and_with_another_seed_it_does_not() {
    for name in ["lease-dies.yaml", "first-answer.yaml"] {
        let [one, two] = [Place::new(), Place::new()].map(|place| run(&place, &scenarios().join(name)));
        assert_eq!((one.code, &one.out), (0, &two.out), "{name}: {}", one.err);
        let other = altered(&Place::new(), name, "about:", "seed: 7\nabout:");
        assert_eq!(other.code, 0, "{name} with another seed: {}{}", other.out, other.err);
        assert_ne!(other.out, one.out, "{name}: its keys and ids do not follow from the seed");
    }
}

#[test]
fn an_expectation_that_does_not_hold_names_step_path_wanted_and_got_and_fails() {
    let place = Place::new();
    for (name, from, to, path, wanted, got) in [
        // of a reply
        (
            "two-phase.yaml",
            "available_units: ${amount:40 USD}",
            "available_units: 41",
            "account.availableUnits",
            "41",
            "40000000",
        ),
        (
            "two-phase.yaml",
            "code: HOLD_ENDED",
            "code: OK",
            "results[0].code",
            "TRANSFER_CODE_OK",
            "TRANSFER_CODE_HOLD_ENDED",
        ),
        // of a refusal, and of one that does not come
        (
            "rights.yaml",
            "refused: SIGNATURE_WRONG",
            "refused: KEY_UNKNOWN",
            "refused",
            "KEY_UNKNOWN",
            "SIGNATURE_WRONG",
        ),
        ("rights.yaml", "by: wrong-key", "by: signature", "refused", "SIGNATURE_WRONG", "{\"account\""),
        ("rights.yaml", "    refused: ADMIN_NEEDED\n", "", "the reply", "an answer", "ADMIN_NEEDED"),
        // of an answer
        ("cancel.yaml", "outputTokens: 4", "outputTokens: 5", "outputTokens", "5", "4"),
        // of the end
        ("two-phase.yaml", "bob.USD: 45 USD", "bob.USD: 46 USD", "bob.USD", "46 USD", "45.000000 USD"),
        ("two-phase.yaml", "bob.USD: 45 USD", "feees/USD: 0 USD", "feees/USD", "0 USD", "no such account"),
        (
            "two-phase.yaml",
            "code: HOLD_ENDED",
            "code: \"!= HOLD_ENDED\"",
            "results[0].code",
            "!= TRANSFER_CODE_HOLD_ENDED",
            "TRANSFER_CODE_HOLD_ENDED",
        ),
        (
            "genesis.yaml",
            "existing: 1000000000 HOL",
            "existing: 999999999 HOL",
            "supply.HOL.existing",
            "999999999 HOL",
            "1000000000.000000000 HOL",
        ),
    ] {
        let ran = altered(&place, name, from, to);
        assert_eq!(ran.code, 1, "{name} with {to:?} still holds");
        let lines = lines(&ran);
        let wrong: Vec<&Value> = lines.iter().filter_map(|line| line["wrong"].as_array()).flatten().collect();
        let found = wrong.iter().find(|wrong| wrong["path"] == path);
        let found = found.unwrap_or_else(|| panic!("{name}: nothing is said of {path}: {wrong:?}"));
        let text = |member: &Value| member.as_str().map_or_else(|| member.to_string(), str::to_owned);
        assert_eq!(text(&found["wanted"]), wanted, "{name}");
        assert!(text(&found["got"]).contains(got), "{name}: {found}");
        assert!(found["line"].as_u64().is_some_and(|line| line > 1), "{found}");
        let last = lines.last().expect("a verdict");
        assert_eq!((&last["verdict"], &last["failed"]), (&"fails".into(), &wrong.len().into()), "{last}");
    }
}

#[test]
fn a_step_that_needs_what_a_refused_one_should_have_saved_is_not_reached() {
    let place = Place::new();
    let ran = altered(&place, "lease-dies.yaml", "with: { asset: 2 }", "with: { asset: 9 }");
    assert_eq!(ran.code, 1);
    let lines = lines(&ran);
    let missed =
        lines.iter().find(|line| line["not_reached"].is_string()).expect("a step that is not reached");
    assert!(missed["not_reached"].as_str().is_some_and(|why| why.contains("opened")), "{missed}");
}

#[test]
fn what_cannot_be_done_fails_its_step_and_the_others_go_on() {
    let place = Place::new();
    let ran =
        altered(&place, "unbonding.yaml", "steps:\n", "steps:\n  - do: lose node-1\n  - do: lose node-1\n");
    assert_eq!(ran.code, 1);
    let lines = lines(&ran);
    let step = |number: u64| lines.iter().find(|line| line["step"] == number).expect("a step");
    assert!(step(1)["not_reached"].is_null(), "{}", step(1));
    assert!(step(2)["not_reached"].as_str().is_some_and(|why| why.contains("not attached")), "{}", step(2));
    assert!(step(3)["reply"].is_object(), "{}", step(3));
}

#[test]
fn a_trace_tells_every_call_and_many_files_have_one_verdict() {
    let place = Place::new();
    let [one, two] =
        ["two-phase.yaml", "linked-chain.yaml"].map(|name| scenarios().join(name).display().to_string());
    let ran = place.run(&["scenario", "run", &one, &two, "--trace"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("two-phase holds:") && ran.out.contains("linked-chain holds:"), "{}", ran.out);
    assert!(ran.err.contains("2 scenarios, ") && ran.err.contains(": all hold"), "{}", ran.err);
    let traced: Vec<Value> = ran.err.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let calls = |method: &str| {
        traced.iter().filter(|call| call["call"].as_str().is_some_and(|at| at.ends_with(method))).count()
    };
    assert_eq!(calls("/CreateAccount"), 5, "alice and bob, and with them carol: no step names that");
    assert!(calls("/CreateTransfers") > 5 && calls("/GetSupply") == 2);
    let deposit =
        traced.iter().find(|call| call["call"].as_str().is_some_and(|at| at.ends_with("/RecordDeposit")));
    let deposit = deposit.expect("alice's money came in");
    assert_eq!((&deposit["as"], &deposit["request"]["amountUnits"]), (&"staff".into(), &"100000000".into()));
}

#[test]
fn each_repetition_may_have_ids_of_its_own() {
    let place = Place::new();
    let file = place.path("parts.yaml");
    let text = "name: parts
about: Three payments in one step.
people:
  alice: { is: holder, has: [10 USD] }
  bob: { is: holder, has: [0 USD] }
steps:
  - repeat: 3
    as: alice
    call: Ledger/CreateTransfers
    with:
      request_id: ${id:request-${n}}
      transfers: [{ transfer_id: \"${id:part-${n}}\", kind: SINGLE, debit_account_id: \"${alice.USD}\", credit_account_id: \"${bob.USD}\", amount_units: \"${amount:2 USD}\" }]
    expect: { results: [{ code: OK }] }
expect: { balances: { bob.USD: 6 USD } }
";
    std::fs::write(&file, text).expect("written");
    let ran = run(&place, &file);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

#[test]
fn the_page_on_scenarios_works_as_it_is_typed() {
    let page = include_str!("../../../../docs/how-to/write-a-scenario.md");
    let said = Place::new().typed(&crate::docs::script(page), "", &[]);
    assert!(said.contains("my holds:") && said.contains("bob.USD has 5.000000 USD"), "{said}");
}

#[test]
fn a_play_of_more_epochs_than_pass_in_seconds_is_told_beforehand_with_what_is_quick() {
    let place = Place::new();
    let check = |text: String| {
        std::fs::write(place.path("long.yaml"), text).expect("written");
        let ran = place.run(&["scenario", "check", "long.yaml"]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        ran.err
    };
    let steps = "steps:\n  - do: advance 400d\n";
    let warned = check(format!("{HEAD}{steps}"));
    assert!(warned.contains("t closes 768000 epochs of 45 s") && warned.contains("profile: hol"), "{warned}");
    assert_eq!(check(format!("{HEAD}profile: hol\n{steps}")), "");
    assert_eq!(check(format!("{HEAD}{}", steps.replace("400d", "5d"))), "");
}

/// What stands in front of what is wrong.
const HEAD: &str = "name: t\nabout: t\nengine: fake\npeople:\n  ada: { is: operator, has: [9 HOL] }\n  dora: { is: renter, has: [5 USD] }\n";

#[test]
fn a_file_that_is_wrong_says_where_why_and_what_was_meant() {
    let step = |step: &str| format!("{HEAD}steps:\n  - {step}\n");
    let get = "as: dora\n    call: Ledger/GetAccount\n    with: { account_id: \"${dora.USD}\" }";
    let cases = [
        // keys
        (step(&format!("{get}\n    expct: {{}}")), 11, "did you mean `expect`"),
        (format!("{HEAD}stepps: []\n"), 7, "did you mean `steps`"),
        ("name: t\nabout: t\n".into(), 2, "`steps` is missing"),
        (format!("{HEAD}steps: []\n"), 1, "no steps"),
        (HEAD.replace("is: renter", "is: rentier") + "steps: []\n", 6, "did you mean `renter`"),
        ("name: [\n".into(), 1, "expected string"),
        (" \n".into(), 1, "docs/scenarios has some"),
        (step(&get.replace('"', "")), 10, "stands in quotes"),
        (step(get).replace("9 HOL", "900000000 HOL"), 5, "people have of tokens comes out of genesis"),
        // moments
        (step(&format!("at: soon\n    {get}")), 8, "\"soon\" is no moment"),
        (step(&format!("at: 5 s\n    {get}")), 8, "no moment"),
        (format!("{}  - at: 4s\n    {get}\n", step(&format!("at: 5s\n    {get}"))), 12, "never reached"),
        (format!("{}  - at: 1y\n    {get}\n", step("do: advance 2y")), 9, "never reached"),
        (step(&format!("{get}\n    repeat: 0")), 11, "never reached"),
        (step(&format!("{get}\n    repeat: 4294967296")), 11, "at most 1000000"),
        (step("do: advance 100y\n    every: 100y\n    repeat: 1000000"), 8, "within a century"),
        (step(&format!("at: epoch 18446744073709551615\n    {get}")), 8, "within a century"),
        (step(&format!("{get}\n    every: 5s")), 8, "write `repeat` too"),
        // who and what
        (step(&get.replace("as: dora", "as: doria")), 8, "did you mean `dora`"),
        (step("call: Ledger/GetSupply"), 8, "write `as: name`"),
        (step("as: dora\n    call: Ledger/GetAcount"), 9, "did you mean `Ledger/GetAccount`"),
        (step("as: dora\n    call: Inference/Generate"), 9, "`ask:`"),
        (step("as: dora"), 8, "one of `call`, `ask` and `do`"),
        (step("do: explode"), 8, "cannot be done"),
        (step("do: restart legder"), 8, "did you mean `ledger`"),
        (step("do: lose node-1"), 8, "no node is called node-1"),
        (step("do: restart\n    expect: { a: 1 }"), 8, "nobody answers"),
        // fields
        (step(&get.replace("account_id", "acount_id")), 10, "did you mean `account_id`"),
        (step(&get.replace("\"${dora.USD}\"", "[1]")), 10, "not a list"),
        (step(&get.replace("\"${dora.USD}\"", "5")), 10, "no GetAccountRequest"),
        (step("as: dora\n    call: Accounts/SetRoles\n    with: { roles: [KING] }"), 10, "no value KING"),
        // references
        (step(&get.replace("dora.USD", "dora.EUR")), 10, "dora has no EUR"),
        (step(&get.replace("dora.USD", "reply.x")), 10, "nothing is called reply by then"),
        (step(&get.replace("dora.USD", "amount:5 EUR")), 10, "no asset is called EUR"),
        (step(&get.replace("dora.USD", "n")), 10, "write `repeat`"),
        (step(&get.replace("dora.USD", "id:part-${n}")), 10, "write `repeat`"),
        (step(&get.replace("dora.USD", "id:part-${dora.USD}")), 10, "names nothing"),
        (step(&get.replace("dora.USD", "account:bonds/EUR")), 10, "no asset is called EUR"),
        (
            format!("{}    save: it\n  - {}\n", step(get), get.replace("dora.USD", "it.account.acount_id")),
            14,
            "did you mean `account_id`",
        ),
        (step(&get.replace("dora.USD", "amont:5 HOL")), 10, "names nothing"),
        // what can never be checked
        (step(&format!("{get}\n    expect: {{ acount: {{ balance_units: 5 }} }}")), 11, "never be checked"),
        (step(&format!("{get}\n    expect: {{ account: {{ balance: 5 }} }}")), 11, "never be checked"),
        (step(&format!("{get}\n    expect: {{}}")), 11, "holds of everything"),
        (step(&format!("{get}\n    expect: {{ account: {{}} }}")), 11, "holds of whatever is there"),
        (
            step(&format!("{get}\n    expect: {{ account: {{ balance_units: \">= 0\" }} }}")),
            11,
            "holds of every number",
        ),
        (
            step(&format!("{get}\n    expect: {{ account: {{ balance_units: \">= many\" }} }}")),
            11,
            "never be checked",
        ),
        (
            step(&format!("{get}\n    expect: {{ account: {{ balance_units: \"!= many\" }} }}")),
            11,
            "never be checked",
        ),
        (
            step(
                "as: dora\n    call: Ledger/CreateTransfers\n    with: {}\n    expect: { results: [{ code: \"!= OKAY\" }] }",
            ),
            11,
            "did you mean `OK`",
        ),
        (step(&format!("{get}\n    refused: not found")), 11, "no stable reason"),
        (
            step(&format!("{get}\n    refused: X\n    expect: {{ account: {{ asset: 2 }} }}")),
            11,
            "leave `expect` out",
        ),
        (step(&format!("{get}\n    refused: X\n    save: it")), 11, "could be saved"),
        (
            step("as: dora\n    ask: { prompt: a, max_tokens: 4 }\n    expect: { txt: b }"),
            10,
            "did you mean `text`",
        ),
        (
            step("as: dora\n    ask: { prompt: a, max_tokens: 4 }\n    expect: { finish: \"!= LEGNTH\" }"),
            10,
            "did you mean `LENGTH`",
        ),
        (
            step("as: dora\n    ask: { prompt: a, max_tokens: 4 }\n    expect: { outputTokens: \"== 4\" }"),
            10,
            "outputTokens is a number",
        ),
        (format!("{}expect: {{ balances: {{ dora.EUR: 5 USD }} }}\n", step(get)), 11, "dora has no EUR"),
        (format!("{}expect: {{ balances: {{ dora.USD: 5 HOL }} }}\n", step(get)), 11, "held to it in USD"),
        (format!("{}expect: {{ balances: {{ fees/USD: 0 HOL }} }}\n", step(get)), 11, "held to it in USD"),
        (
            format!("{}expect: {{ supply: {{ USD: {{ existing: 5 HOL }} }} }}\n", step(get)),
            11,
            "held to it in USD",
        ),
        (
            format!("{}expect: {{ balances: {{ dora.USD: 5 EUR }} }}\n", step(get)),
            11,
            "no asset is called EUR",
        ),
        (
            format!("{}expect: {{ supply: {{ EUR: {{ existing: 5 USD }} }} }}\n", step(get)),
            11,
            "no asset is called EUR",
        ),
        // people, nodes, profile
        (HEAD.replace("5 USD", "5 EUR") + "steps: []\n", 6, "no asset is called EUR"),
        (HEAD.replace("dora:", "staff:") + "steps: []\n", 6, "cannot be a name"),
        (format!("{HEAD}nodes:\n  n1: {{ owner: dora }}\nsteps: []\n"), 8, "dora is no operator"),
        (format!("{HEAD}profile: nowhere\nsteps: []\n"), 7, "no profile nowhere"),
        (format!("{HEAD}params: {{ market: {{ windw_ms: 5 }} }}\nsteps: []\n"), 7, "windw_ms"),
        (format!("{HEAD}params: {{ market: {{ window_ms: 0 }} }}\nsteps: []\n"), 7, "window_ms"),
        (format!("{HEAD}start: tomorrow\nsteps: []\n"), 7, "2026-01-01T00:00:00Z"),
        (
            HEAD.replace("engine: fake\n", "")
                + "steps:\n  - as: dora\n    ask: { prompt: a, max_tokens: 4 }\n",
            8,
            "engine: fake",
        ),
    ];
    let place = Place::new();
    let file = place.path("wrong.yaml");
    let mut wrong = Vec::new();
    for (text, line, words) in cases {
        std::fs::write(&file, &text).expect("written");
        let ran = place.run(&["scenario", "check", &file.display().to_string()]);
        let said = ran.err.lines().find(|said| said.to_lowercase().contains(&words.to_lowercase()));
        let right = said.is_some_and(|said| said.contains(&format!("wrong.yaml:{line}:")));
        if (ran.code, ran.out.as_str(), right, ran.err.contains("panicked")) != (1, "", true, false) {
            wrong.push(format!(
                "{text}\nwanted {words:?} at line {line}, got {}: {}{}",
                ran.code, ran.out, ran.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let ran = place.run(&["scenario", "run", &file.display().to_string()]);
    ran.fails(1, &["SCENARIO_INVALID"]);
    place.run(&["scenario", "run", "nowhere.yaml"]).fails(1, &["nowhere.yaml cannot be read"]);
}
