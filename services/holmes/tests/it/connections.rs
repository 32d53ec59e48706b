//! What a command says when there is no server, the wrong port, a server that goes away, or one that does not end.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Killed, Place, Ran};
use crate::paid::{MODEL, generate, network, nodes, payer};

/// Every command that calls a server, each with what it needs besides.
const CALLERS: [&[&str]; 4] = [
    &["call"],
    &["call", "Ledger/GetSupply"],
    &["ask", "why", "--key", "hk", "--model", "m"],
    &["wallet", "balance", "--key", "hk"],
];

fn calls(place: &Place, server: &str) -> Vec<Ran> {
    CALLERS.iter().map(|words| place.run(&[words, &["--server", server][..]].concat())).collect()
}

#[test]
fn every_command_says_the_same_of_a_server_that_is_not_there_and_of_a_port_without_grpc() {
    let place = Place::new();
    for ran in calls(&place, "http://127.0.0.1:1") {
        ran.fails(1, &["no answer from http://127.0.0.1:1", "holmes serve"]);
    }
    let server = place.serve(&["--role", "all"]);
    for ran in calls(&place, &server.http()) {
        ran.fails(1, &["speaks HTTP/1", "server.listen"]);
    }
}

#[test]
fn a_connection_that_is_closed_before_the_answer_is_told_in_words_with_the_likely_reasons() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    // Takes connections and closes them as soon as something was said, as a server with too many of them does.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.expect("a connection").read(&mut [0; 24]);
        }
    });
    for ran in calls(&place, &address) {
        ran.fails(1, &["closed the connection", "max_connections_per_address", "reason: CONNECTION_CLOSED"]);
        for word in ["h2 protocol", "operation was canceled", "transport error"] {
            assert!(!ran.err.contains(word), "{}", ran.err);
        }
    }
}

#[test]
fn a_stream_ends_with_its_timeout() {
    let place = Place::new();
    let server = place.serve(&[]);
    let began = Instant::now();
    let ran = server.call(&["--timeout", "1", "Health/Watch", "{}"]);
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("SERVING"), "what came until then is there: {}", ran.out);
    assert!(ran.err.contains("within 1 s") && ran.err.contains("--timeout"), "{}", ran.err);
    server.call(&["--timeout", "0"]).fails(2, &["--timeout"]);
}

#[test]
fn an_answer_that_breaks_off_is_told_in_words_with_its_id_and_the_way_to_its_receipt() {
    let place = network();
    let server = place.serve(&["--role", "all"]);
    let nodes = nodes(&place, &server);
    let (key, _) = payer(&server, 25_000_000);
    let asking = |id: &str, more: &[&str]| {
        let words = ["ask", "Sort 3 1", "--model", MODEL, "--server", &server.address, "--key", &key];
        let mut command = place.command(&[&words[..], &["--request-id", id], more].concat());
        Killed(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts"))
    };
    let said = |mut child: Killed| {
        let mut text = String::new();
        child.0.stderr.take().expect("a pipe").read_to_string(&mut text).expect("UTF-8");
        (child.0.wait().expect("it ends").code(), text)
    };
    let known = |id: &str, text: &str| {
        for words in [&format!("request   {id}"), &format!("--request-id {id}"), "CALL_EXISTS", "GetReceipt"]
        {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
    };

    // Its reader stops it: the nodes stand still, so that it is in the middle.
    nodes.iter().for_each(|node| node.signal("-STOP"));
    let id = server.new_id();
    let child = asking(&id, &[]);
    std::thread::sleep(Duration::from_secs(1));
    let sent = std::process::Command::new("kill").args(["-INT", &child.0.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    let (code, text) = said(child);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("you have stopped the answer"), "{text}");
    known(&id, &text);

    // The server dies.
    let id = server.new_id();
    let child = asking(&id, &[]);
    std::thread::sleep(Duration::from_secs(1));
    let again = server.call(&[
        "Inference/Generate",
        &{
            let mut request = generate(8);
            request["request_id"] = json!(id);
            request.to_string()
        },
        "--key",
        &key,
    ]);
    again.fails(1, &["reason: CALL_EXISTS"]);
    server.kill();
    let (code, text) = said(child);
    nodes.iter().for_each(|node| node.signal("-CONT"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the answer broke off") && text.contains("closed the connection"), "{text}");
    assert!(!text.contains("h2 ") && !text.contains("code: "), "{text}");
    known(&id, &text);
}

#[test]
fn an_empty_environment_variable_sets_nothing() {
    let place = Place::new();
    let server = place.serve(&[]);
    let empty = |name: &str, words: &[&str]| {
        let mut command = place.command(words);
        let ran = command.env(name, "").output().expect("it runs");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let call = ["call", "--server", &server.address, "Ledger/GetAccount", "{}"];
    let (_, said) = empty("HOLMES_API_KEY", &call);
    assert!(said.contains("UNAUTHENTICATED") && !said.contains("KEY_UNKNOWN"), "{said}");
    assert_eq!(empty("HOLMES_CONFIG", &["config", "check"]).0, Some(0));
    let (_, said) = empty("HOLMES_SERVER", &["wallet", "balance", "--key", "hk"]);
    assert!(
        said.contains("http://127.0.0.1:7070") || said.contains("KEY_UNKNOWN"),
        "the default holds: {said}"
    );
    let home = place.path("home");
    let mut listed = place.command(&["doctor"]);
    let ran = listed.env("XDG_DATA_HOME", "").env("HOME", &home).output().expect("it runs");
    assert!(ran.status.code().is_some());
    assert!(home.join(".local/share/holmes/models/holmes-tiny").is_dir(), "the model is where it belongs");
    assert!(!place.path("holmes").exists());
}
