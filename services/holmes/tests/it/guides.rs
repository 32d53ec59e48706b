//! The how-to guides work as they are typed: an operator's, and before its last step a renter's.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::docs::script;
use crate::harness::{PATIENCE, Place};

/// The place in the operator's guide at which the node is attached.
const ATTACHED: &str = "<!-- attached -->";
/// The place at which its executor has ended.
const ENDED: &str = "<!-- ended -->";

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_operator_and_a_renter_get_where_their_guides_say() {
    let operate = include_str!("../../../../docs/how-to/operate-a-node.md");
    let rent = include_str!("../../../../docs/how-to/rent-inference.md");
    let (before, after) = operate.split_once(ATTACHED).expect("the place where the node is attached");
    let (after, leave) = after.split_once(ENDED).expect("the place where the executor has ended");
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let http = server.lines.iter().find_map(|line| Some(line.split_once("HTTP ")?.1.trim().to_owned()));
    let http = http.expect("the server tells its HTTP address");
    let http = http.split("/v1").next().expect("an address").to_owned();
    let bin = Path::new(env!("CARGO_BIN_EXE_holmes")).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let sh = |script: &str| {
        let mut command = place.shell(&format!("set -eu\n{script}\n"));
        let command =
            command.env("HOLMES_SERVER", &server.address).env("HOLMES_HTTP", &http).env("PATH", &path);
        let ran = command.output().expect("sh runs");
        assert!(ran.status.success(), "{script}\n{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("UTF-8")
    };
    let said = sh(&script(before));
    for line in ["\"state\": \"NODE_STATE_ACTIVE\"", "\"qualified\": true"] {
        assert!(operate.contains(line) && said.contains(line), "{line}: {said}");
    }
    let mut executor = place.command(&["executor", "--join", &server.address, "--key", "node.key"]);
    executor
        .args(["--model", "holmes-tiny", "--slots", "2"])
        .env("HOLMES__MODELS__DIR", place.path("models"));
    let mut executor = Killed(executor.stderr(Stdio::null()).spawn().expect("the binary starts"));
    let names: String = before
        .lines()
        .filter(|line| ["staff()", "me()", "owner=", "node="].iter().any(|name| line.starts_with(name)))
        .collect::<Vec<_>>()
        .join("\n");
    let end = Instant::now() + PATIENCE;
    while !sh(&format!("{names}\n{}", script(after))).contains("\"attached\": true") {
        assert!(Instant::now() < end, "the node is not attached");
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = sh(&script(rent));
    for words in ["7 18 41 93", "\"receipts/", "SESSION_STATE_CLOSED", "\"priceMicroUsd\": \"680\""] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // E-6.5: the node's leases end with its executor, and then the bond comes back.
    sh(&format!("kill -TERM {}", executor.0.id()));
    executor.0.wait().expect("it ends");
    let end = Instant::now() + PATIENCE;
    let node = format!("{names}\nme Staking/GetNode '{{\"node_id\": \"'$node'\"}}'");
    while !sh(&node).contains("\"leases\": 0") {
        assert!(Instant::now() < end, "the node's leases do not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = sh(&format!("{names}\n{}", script(leave)));
    assert!(said.contains("\"readyAtUs\""), "{said}");
}
