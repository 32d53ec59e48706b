//! Logs on CQL servers, as whoever runs the binary meets them: made, served, taken over, refused.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Killed, Place, ask, until};

#[test]
fn tables_are_planned_made_and_made_again_and_what_is_not_safe_is_refused_with_its_remedy() {
    let Some(place) = Place::over_cql() else { return };
    place.run(&["serve"]).fails(1, &["there is no keyspace", "run `holmes migrate`"]);
    place.run(&["migrate", "--copies", "2"]).fails(1, &["odd number of copies"]);
    place.run(&["migrate", "--copies", "9"]).fails(1, &["need as many servers"]);
    let planned = place.run(&["migrate", "--dev", "--plan"]);
    assert!(
        planned.out.starts_with("CREATE KEYSPACE") && planned.out.contains("ledger_journal"),
        "{}",
        planned.out
    );
    let rights = place.run(&["migrate", "--dev", "--rights"]).out;
    let of_the_ledger: Vec<&str> = rights.lines().filter(|line| line.ends_with("_ledger;")).collect();
    assert!(
        of_the_ledger.len() == 9 && of_the_ledger.iter().all(|line| !line.contains("market")),
        "{rights}"
    );
    place.run(&["serve"]).fails(1, &["there is no keyspace"]);
    for _ in 0..2 {
        let made = place.run(&["migrate", "--dev", "-o", "json"]).json();
        let fine = |check: &serde_json::Value| check["verdict"] == "fine";
        assert!(made.as_array().is_some_and(|checks| checks.len() >= 4 && checks.iter().all(fine)), "{made}");
    }
    place.run(&["serve"]).fails(1, &["servers are not safe", "odd number of copies", "--dev"]);
    let looked = place.run(&["doctor"]);
    assert!(looked.code == 1 && looked.out.contains("odd number of copies"), "{}", looked.out);
    place.run(&["verify"]).fails(1, &["no log of cell 1 lies in keyspace t"]);
    Place::new().run(&["migrate"]).fails(1, &["no server is named"]);
}

#[test]
fn a_process_whose_servers_are_away_says_which_waits_for_them_and_can_be_stopped() {
    let place = Place::new().with("HOLMES__STORE__CQL", "127.0.0.1:9");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut command =
        place.command(&["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", &admin]);
    let mut child = Killed(command.stderr(Stdio::piped()).spawn().expect("it starts"));
    let mut said = BufReader::new(child.0.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let line = said.find(|line| line.contains("waiting for the servers")).expect("it says what it waits for");
    assert!(line.contains("no CQL server answers at 127.0.0.1:9"), "{line}");
    let page = |name: &str| ask(&admin, format!("GET {name} HTTP/1.0\r\nhost: {admin}\r\n\r\n").as_bytes());
    assert!(page("/healthz").starts_with("HTTP/1.0 200"), "alive");
    let ready = page("/readyz");
    assert!(ready.starts_with("HTTP/1.0 503") && ready.ends_with("logs: Recovering\n"), "{ready}");
    let kill = std::process::Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let ended = until("it to end", || child.0.try_wait().expect("a child"));
    assert!(ended.success(), "{ended}");
}

#[test]
fn whoever_comes_second_takes_the_logs_over_and_the_first_changes_nothing_any_more() {
    let Some(place) = Place::migrated() else { return };
    let first = place.serve(&[]);
    let key = first.payer("alice");
    let (from, to) = (first.dollars(&key, 1_000), first.dollars(&key, 0));
    let pay = |id: &str| {
        json!({
            "request_id": id,
            "transfers": [{ "transfer_id": id, "kind": "SINGLE", "debit_account_id": from, "credit_account_id": to, "amount_units": 1 }],
        })
    };
    let [before, during, after] = [first.new_id(), first.new_id(), first.new_id()];
    first.with_key(&key, "Ledger/CreateTransfers", &pay(&before));
    let second = place.serve(&[]);
    // The first does not know yet, and learns it from its log: nothing of this is acknowledged.
    let refused = first.call(&["Ledger/CreateTransfers", &pay(&during).to_string(), "--key", &key]);
    assert_ne!(refused.code, 0, "{}", refused.out);
    until("the second to take calls", || {
        let paid = second.call(&["Ledger/CreateTransfers", &pay(&after).to_string(), "--key", &key]);
        (paid.code == 0).then_some(())
    });
    assert_eq!(second.balance(&key, &to), 2);
    drop(first);
    drop(second);
    assert!(place.verified() > 0);
}
