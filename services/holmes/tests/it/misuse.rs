//! What goes wrong before anything runs: each message names the fix, each exit code its class.

use std::net::TcpListener;

use crate::harness::{Place, Ran, SERVE};

fn serve_with(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&SERVE, more].concat())
}

#[test]
fn a_second_process_on_one_directory_is_told_which_process_has_it_and_what_to_do() {
    let place = Place::new();
    let server = place.serve(&[]);
    let pid = format!("process {}", server.pid());
    let fix = "stop that one, or choose another directory";
    serve_with(&place, &[]).fails(1, &["in use by another process", &pid, fix]);
    for command in [&["verify"][..], &["replay"], &["state", "ledger"]] {
        place.run(command).fails(1, &["in use by another process", &pid, fix]);
    }
    server.terminate();
    assert_eq!(place.run(&["verify"]).code, 0, "a server that has stopped lets go of its directory");
}

#[test]
fn a_directory_is_not_taken_up_with_the_profile_of_another_network() {
    let place = Place::new();
    place.serve(&["--profile", "demo"]).terminate();
    serve_with(&place, &["--profile", "hol"]).fails(1, &["another profile", "--profile", "--dir"]);
    place.serve(&["--profile", "demo"]).terminate();
}

#[test]
fn a_directory_remembers_the_profile_that_opened_it_and_takes_no_other_cell() {
    let place = Place::new();
    place.serve(&["--profile", "hol"]).terminate();
    place.serve(&[]).terminate(); // the profile need not be named again
    let other = std::fs::write(place.path("other.toml"), "[cell]\nnumber = 2\n");
    other.expect("written");
    let second = serve_with(&place, &["-c", "other.toml"]);
    second.fails(1, &["cell 1", "cell 2", "cell.number", "--dir"]);
}

#[test]
fn a_state_is_asked_for_only_where_there_is_one() {
    let place = Place::new();
    place.serve(&[]).terminate();
    place.run(&["state", "ledger", "--at", "0"]).fails(2, &["--at", "1.."]);
    place.run(&["state", "ledger", "--at", "9"]).fails(1, &["the log of ledger ends at 1"]);
    place.run(&["state", "treasury"]).fails(1, &["no log of treasury", "holmes verify"]);
    for moment in ["-1h", "1h ago", "2026-01-01T00:00:00Z"] {
        let before = ["the log of ledger begins at 20", "Z: there is no state before that"];
        place.run(&["state", "ledger", "--at", moment]).fails(1, &before);
        assert_eq!(place.run(&["replay", "--after", moment]).out.lines().count(), 2, "all of it");
    }
    let now = place.run(&["state", "ledger", "--at", "-0s"]);
    assert_eq!((now.code, &now.out), (0, &place.run(&["state", "ledger"]).out), "{}", now.err);
    assert_eq!(place.run(&["replay", "--after", "-0s"]).out, "");
    place.run(&["state", "ledger", "--at", "yesterday"]).fails(2, &["2026-11-21T09:30:00Z", "-1m"]);
}

#[test]
fn a_damaged_log_is_told_to_programs_too() {
    let place = Place::new();
    place.serve(&[]).terminate();
    assert_eq!(place.run(&["replay", "--frames", "frames", "--role", "ledger"]).code, 0);
    let frames = std::fs::read(place.path("frames/ledger.frames")).expect("frames");
    let first = &frames[4..4 + u32::from_le_bytes(frames[..4].try_into().expect("a length")) as usize];
    let file = place.path("holmes-data/journal/db/0.jnl");
    let mut bytes = std::fs::read(&file).expect("a journal");
    let at = bytes.windows(first.len()).position(|bytes| bytes == first).expect("the first frame, as it is");
    bytes[at + first.len() / 2] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let told = place.run(&["verify", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&told.out).expect("JSON");
    let row = &rows[0];
    assert_eq!((told.code, &row["ok"], &row["reason"]), (1, &false.into(), &"LOG_DAMAGED".into()), "{rows}");
    assert_eq!((&row["service"], &row["seq"]), (&"ledger".into(), &1.into()), "{rows}");
    assert!(told.err.contains("cannot be opened: the log of ledger is damaged behind 0: "), "{}", told.err);
    place
        .run(&["verify"])
        .fails(1, &["the log of ledger is damaged behind 0: ", "\n  reason: LOG_DAMAGED\n"]);
}

#[test]
fn what_is_not_known_is_answered_with_what_there_is() {
    let place = Place::new();
    serve_with(&place, &["--role", "alchemy"])
        .fails(1, &["no role alchemy", "all, ledger, accounts", "gateway"]);
    serve_with(&place, &["--profile", "nowhere"]).fails(1, &["no profile nowhere", "demo, hol or a file"]);
    place.run(&["state", "alchemy"]).fails(1, &["no role alchemy", "all, ledger, accounts"]);
    place.run(&["state", "ledger"]).fails(1, &["holmes-data", "holmes serve"]);
    place.run(&["verify"]).fails(1, &["holmes-data", "--dir", "holmes serve"]);
    place.run(&["calc", "alchemy"]).fails(1, &["apportion"]);
    place.run(&["-c", "none.toml", "config", "check"]).fails(1, &["none.toml", "holmes config dump"]);
    place.run(&["keys", "show", "none.key"]).fails(1, &["none.key cannot be read"]);
    std::fs::write(place.path("wrong.key"), "-----BEGIN").expect("written");
    place.run(&["keys", "show", "wrong.key"]).fails(1, &["not a key file", "holmes keys new"]);
    place.run(&["call", "--server", "http://127.0.0.1:1"]).fails(1, &["no answer", "holmes serve"]);
    assert!(!place.path("holmes-data").exists(), "nothing of this makes a data directory");
}

#[test]
fn a_wrong_command_line_is_another_exit_code_than_a_failure() {
    let place = Place::new();
    for words in
        [&["flywheel"][..], &["serve", "--listen", "nowhere"], &["call", "--as", "staff"], &["keys"], &[]]
    {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?}: {}", ran.err);
    }
    for words in [&["--help"][..], &["--version"], &["help", "call"]] {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}: {}", ran.out);
    }
}

#[test]
fn a_key_that_the_configuration_does_not_know_is_named_with_those_that_it_knows() {
    let place = Place::new();
    std::fs::write(place.path("holmes.toml"), "[server]\nlissten = \"127.0.0.1:0\"\n").expect("written");
    let known = ["lissten", "listen", "holmes config explain"];
    place.run(&["-c", "holmes.toml", "config", "check"]).fails(1, &known);
    place.run(&[&["-c", "holmes.toml"], &SERVE[..]].concat()).fails(1, &known);
    let mut command = place.command(&["config", "check"]);
    let ran = command.env("HOLMES__SERVER__MAX_CALLS", "0").output().expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("server.max_calls = 0: 1 to 1000000"), "{said}");
    let explain =
        "in the environment variable HOLMES__SERVER__MAX_CALLS; `holmes config explain server.max_calls`";
    assert!(said.contains(explain), "{said}");
    let explained = place.run(&["config", "explain", "server.max_calls", "-o", "json"]).json();
    assert_eq!(explained.as_array().map(Vec::len), Some(1), "what the message says works: {explained}");
    place
        .run(&["config", "explain", "server.max_cals"])
        .fails(1, &["no key server.max_cals", "holmes config explain"]);
}

#[test]
fn a_configuration_is_right_only_when_all_that_it_names_is_there() {
    let place = Place::new();
    std::fs::write(place.path("a-file"), "").expect("written");
    let demo = include_str!("../../../../deploy/profiles/demo.toml");
    let bad = demo.replace("[market]\n", "[market]\nwindow_calls = \"0\"\n");
    std::fs::write(place.path("bad.toml"), bad).expect("written");
    let torn = "[staking]\nepoch_s = 45\n[market]\nepoch_s = 46\n";
    std::fs::write(place.path("torn.toml"), torn).expect("written");
    for (wrong, words) in [
        ("[cell]\nprofile = \"nowhere\"\n", ["no profile nowhere", "demo, hol"]),
        ("[telemetry]\nlog = \"holmes=loud\"\n", ["telemetry.log", "holmes=loud"]),
        ("[telemetry]\notlp = \"collector\"\n", ["telemetry.otlp", "write http://127.0.0.1:4317"]),
        ("[telemetry]\notlp = \"https://c:4317\"\n", ["telemetry.otlp", "no TLS"]),
        ("[models]\ndir = \"a-file\"\n", ["models.dir", "a file"]),
        ("[cell]\nprofile = \"bad.toml\"\n", ["cell.profile = \"bad.toml\": [market]", "window_calls"]),
        ("[cell]\nprofile = \"torn.toml\"\n", ["says epoch_s = 4", "a network has one"]),
        ("[store]\ndir = \"a-file\"\n", ["store.dir", "a file"]),
        ("[server]\nlisten = \"127.0.0.1:7071\"\n", ["server.listen and server.admin", "a port of its own"]),
        ("[server]\nlisten = \"127.0.0.1:7071\"\n", ["server.listen (", "holmes.toml): "]),
        (
            "[telemetry]\nlog = \"holmes=loud\"\n",
            ["telemetry.log = ", "in holmes.toml; `holmes config explain telemetry.log`"],
        ),
    ] {
        std::fs::write(place.path("holmes.toml"), wrong).expect("written");
        place.run(&["-c", "holmes.toml", "config", "check"]).fails(1, &words);
        let looked = place.run(&["-c", "holmes.toml", "doctor"]);
        assert_eq!(
            (looked.code, words.iter().all(|word| looked.out.contains(word))),
            (1, true),
            "{}",
            looked.out
        );
    }
}

#[test]
fn what_begins_anew_or_says_nothing_is_refused_before_it_begins() {
    let place = Place::new();
    std::fs::create_dir(place.path("mine")).expect("made");
    std::fs::write(place.path("mine/thesis.txt"), "mine").expect("written");
    place.run(&["demo", "--dir", "mine"]).fails(1, &["not empty", "new directory"]);
    place.run(&["ask", " ", "--model", "m", "--key", "hk_1"]).fails(1, &["the question is empty"]);
    place.run(&["wallet", "balance"]).fails(1, &["--sign-with", "--key"]);
}

#[test]
fn a_port_that_is_taken_costs_nothing_but_the_message() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    place.run(&["serve", "--listen", &address]).fails(1, &[&address, "server.listen", "another address"]);
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", &address];
    place.run(&words).fails(1, &[&address, "server.admin"]);
    assert!(!place.path("holmes-data").exists());
}

#[test]
fn a_port_without_grpc_and_an_address_without_http_are_told_apart() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let (grpc, http) = (server.address.trim_start_matches("http://").to_owned(), server.http());
    for words in
        [&["call"][..], &["call", "Ledger/GetSupply"], &["ask", "why", "--key", "hk", "--model", "m"]]
    {
        place.run(&[words, &["--server", &http]].concat()).fails(1, &["speaks HTTP/1", "server.listen"]);
    }
    for name in ["--server", "--to"] {
        let listed = place.run(&["call", name, &grpc]);
        assert!(
            listed.code == 0 && listed.out.contains("holmes.ledger.v1.Ledger/GetSupply"),
            "{}",
            listed.err
        );
    }
    place.run(&["call", "--server", "https://127.0.0.1:1"]).fails(1, &["no TLS"]);
    place.run(&["call", "--server", "localhost"]).fails(1, &["write http://127.0.0.1:7070"]);
    place.run(&["call", "--server", &format!("http://{http}/v1")]).fails(1, &["behind the port"]);

    assert_eq!(place.run(&["keys", "new", "wallet.key"]).code, 0);
    let join = |to: &str| {
        let words = ["executor", "--key", "wallet.key", "--model", "holmes-tiny", "--join", to];
        place.run(&words)
    };
    join("localhost").fails(1, &["write http://gateway.example:7070"]);
    join(&http).fails(1, &["speaks HTTP/1", "server.listen"]);
    let wallet = join(&grpc);
    wallet.fails(1, &["a wallet", "holmes keys new", "register and bond"]);
    assert!(!wallet.err.contains("holmes-after"), "an operator cannot send that: {}", wallet.err);
}

#[test]
fn a_client_that_is_slow_with_its_head_loses_its_connection_to_the_http_port() {
    let place = Place::new();
    std::fs::write(place.path("holmes.toml"), "[gateway]\nheader_ms = 200\n").expect("written");
    let server = place.serve(&["-c", "holmes.toml", "--role", "all"]);
    let began = std::time::Instant::now();
    crate::harness::ask(&server.http(), b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ");
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it took {:?}", began.elapsed());
    server.terminate();
}

#[test]
fn idle_connections_of_nobody_do_not_use_up_the_descriptors_of_a_process() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let place = Place::new();
    let server = place.serve(&[]);
    let pid = i32::try_from(server.pid()).expect("a pid");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count() as u64;
    let few = Rlimit { current: Some(open + 20), maximum: Some(open + 20) };
    prlimit(Pid::from_raw(pid), Resource::Nofile, few).expect("it is ours");
    let address = server.address.trim_start_matches("http://");
    let idle: Vec<_> =
        (0..60).map(|_| std::net::TcpStream::connect(address).expect("the kernel connects")).collect();
    for _ in 0..3 {
        let called = place.run(&["call", "--server", &server.address]);
        assert_eq!(called.code, 0, "{}", called.err);
    }
    drop(idle);
    server.terminate();
}
