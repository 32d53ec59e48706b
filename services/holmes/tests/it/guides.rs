//! The how-to guides work as they are typed: an operator's, and before its last step a renter's.

use std::process::Stdio;

use crate::docs::script;
use crate::harness::{Killed, Place, until};

/// The place in the operator's guide at which the node is attached.
const ATTACHED: &str = "<!-- attached -->";
/// The place at which its executor has ended.
const ENDED: &str = "<!-- ended -->";

#[test]
fn an_operator_and_a_renter_get_where_their_guides_say() {
    let operate = include_str!("../../../../docs/how-to/operate-a-node.md");
    let rent = include_str!("../../../../docs/how-to/rent-inference.md");
    let (before, after) = operate.split_once(ATTACHED).expect("the place where the node is attached");
    let (after, leave) = after.split_once(ENDED).expect("the place where the executor has ended");
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let http = format!("http://{}", server.http());
    let sh = |script: &str| place.typed(script, &server.address, &[("HOLMES_HTTP", &http)]);
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
    let asks = format!("{names}\n{}", script(after));
    until("the node's attachment", || sh(&asks).contains("\"attached\": true").then_some(()));
    let said = sh(&script(rent));
    for words in [
        "7 18 41 93",
        "\"receipts/",
        "\"callReceipts\"",
        "SESSION_STATE_CLOSED",
        "\"priceMicroUsd\": \"680\"",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // E-6.5: the node's leases end with its executor, and then the bond comes back.
    sh(&format!("kill -TERM {}", executor.0.id()));
    executor.0.wait().expect("it ends");
    let node = format!("{names}\nme Staking/GetNode '{{\"node_id\": \"'$node'\"}}'");
    until("the end of the node's leases", || sh(&node).contains("\"leases\": 0").then_some(()));
    let said = sh(&format!("{names}\n{}", script(leave)));
    assert!(said.contains("\"readyAtUs\""), "{said}");
}

#[test]
fn no_guide_makes_a_key_that_another_one_has_made() {
    let mut made = std::collections::BTreeSet::new();
    for page in [
        include_str!("../../../../docs/how-to/hold-tokens.md"),
        include_str!("../../../../docs/how-to/operate-a-node.md"),
        include_str!("../../../../docs/how-to/rent-inference.md"),
    ] {
        for line in page.lines().filter(|line| line.starts_with("holmes keys new ")) {
            assert!(
                made.insert(line),
                "{line} stands on two pages, which one reader follows in one directory"
            );
        }
    }
    assert_eq!(made.len(), 3);
}

#[test]
fn a_holder_of_tokens_gets_where_the_guide_says() {
    let page = include_str!("../../../../docs/how-to/hold-tokens.md");
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    let said = place.typed(&script(page), &server.address, &[]);
    for words in ["12.500000000", "7.500000000"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let wallet = |words: &[&str]| {
        place.run(&[&["wallet"], words, &["--sign-with", "wallet.key", "--server", &server.address]].concat())
    };
    let accounts = wallet(&["balance", "-o", "json"]).json();
    let id = |at: usize| accounts[at]["account"].as_str().expect("an id").to_owned();
    let (mine, theirs) = (id(0), id(1));
    let nobody = server.new_id();
    let refusal = "less is available in the account than that: `holmes wallet balance`";
    let told = page.lines().find(|line| line.starts_with("error: nothing was sent: "));
    assert!(told.is_some_and(|line| line.contains(refusal)), "the page shows another refusal: {told:?}");
    wallet(&["send", "1000", "--from", &mine, "--to", &theirs])
        .fails(1, &[refusal, "\n  reason: INSUFFICIENT_FUNDS"]);
    wallet(&["send", "1", "--from", &mine, "--to", &nobody])
        .fails(1, &["there is no account --to: ask its owner", "reason: CREDIT_NOT_FOUND"]);
    for (amount, told) in [
        ("0.0000000001", "finer than its smallest unit: at most 9 digits"),
        ("99999999999", "more than there can ever be"),
        ("0", "more than zero"),
        ("1,5", "as in 12.5"),
    ] {
        wallet(&["send", amount, "--from", &mine, "--to", &theirs]).fails(1, &["is no amount of HOL", told]);
    }
    wallet(&["send", "1", "--from", &mine, "--to", &mine]).fails(1, &["one account", "reason: SAME_ACCOUNT"]);
}
