//! What a person does in an empty directory, as the tutorial tells it.

use serde_json::json;

use crate::harness::Place;

#[test]
fn a_renter_gets_a_key_an_account_and_money_and_pays_with_it() {
    let place = Place::new();
    let server = place.serve(&[]);
    let alice = server.payer("alice");
    let bob = server.payer("bob");
    let (from, to) = (server.dollars(&alice, 1_000_000), server.dollars(&bob, 0));
    let transfer = json!({
        "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_SINGLE",
        "debit_account_id": from, "credit_account_id": to, "amount_units": "250000",
    });
    let request = json!({ "transfers": [transfer], "return_balances": true });
    let paid = server.with_key(&alice, "Ledger/CreateTransfers", &request);
    assert_eq!(paid["results"][0]["code"], "TRANSFER_CODE_OK");
    assert_eq!(paid["balances"][0]["balanceUnits"], "750000");
    assert_eq!((server.balance(&alice, &from), server.balance(&bob, &to)), (750_000, 250_000));
    let other =
        server.call(&["Ledger/GetAccount", &json!({ "account_id": from }).to_string(), "--key", &bob]);
    other.fails(1, &["reason: "]);
    let (status, said) = server.terminate();
    assert!(status.success(), "{said:#?}");
    assert_eq!(said.last().map(String::as_str), Some("stopped; everything acknowledged is in holmes-data"));
    assert_eq!(place.verified(), 2);
    let log = place.run(&["replay"]);
    assert!(
        log.out.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{}",
        log.out
    );
    assert!(log.out.contains("depositRecorded"));
    assert_eq!(place.run(&["state", "ledger"]).json()["assets"][1]["params"]["name"], "USD");
}

#[test]
fn a_request_sent_again_is_answered_the_same_even_by_a_restarted_server() {
    let place = Place::new();
    let server = place.serve(&[]);
    let alice = server.payer("alice");
    let (from, to) = (server.dollars(&alice, 500), server.dollars(&alice, 0));
    let request = json!({
        "request_id": server.new_id(),
        "transfers": [
            { "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_SINGLE",
              "debit_account_id": from, "credit_account_id": to, "amount_units": "400" },
            { "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_SINGLE",
              "debit_account_id": from, "credit_account_id": to, "amount_units": "400" },
        ],
    });
    let first = server.with_key(&alice, "Ledger/CreateTransfers", &request);
    assert_eq!(first["results"][1]["code"], "TRANSFER_CODE_INSUFFICIENT_FUNDS");
    assert_eq!(server.with_key(&alice, "Ledger/CreateTransfers", &request), first);
    server.kill();
    let server = place.serve(&[]);
    assert_eq!(server.with_key(&alice, "Ledger/CreateTransfers", &request), first);
    assert_eq!((server.balance(&alice, &from), server.balance(&alice, &to)), (100, 400));
    let mut other = request;
    other["transfers"][0]["amount_units"] = json!("1");
    let reused = server.call(&["Ledger/CreateTransfers", &other.to_string(), "--key", &alice]);
    reused.fails(1, &["REQUEST_ID_REUSED"]);
}

#[test]
fn a_wallet_registers_itself_and_a_node_with_keys_that_it_proves_to_have() {
    let place = Place::new();
    let server = place.serve(&[]);
    for file in ["wallet.key", "node.key"] {
        assert_eq!(place.run(&["keys", "new", file]).code, 0);
    }
    let account = place.run(&["keys", "show", "wallet.key", "-o", "json"]).json()[0]["id"].clone();
    let id = account.as_str().expect("a text");
    let key = place.run(&["keys", "offer", "wallet.key", "--label", "mine"]).json();
    let staff = json!({ "account_id": id, "name": "carol", "roles": ["ROLE_OPERATOR"], "key": key });
    let own = server.call(&["Accounts/CreateAccount", &staff.to_string()]);
    if own.code == 0 {
        assert_eq!(own.json()["accountId"], account);
    } else {
        own.fails(1, &["REGISTRATION_CLOSED"]);
        server.staff("Accounts/CreateAccount", &staff);
    }
    let node = place.run(&["keys", "offer", "node.key", "--as", "node", "--owner", id]).json();
    let request = json!({ "key": node }).to_string();
    let proof = ["--sign-with", "wallet.key"];
    let registered = server.call(&[&["Accounts/RegisterNodeKey", &request], &proof[..]].concat()).json();
    assert_eq!(registered["nodeId"], place.run(&["keys", "show", "node.key", "-o", "json"]).json()[0]["id"]);
    let own = place.run(&["keys", "offer", "node.key", "--owner", id]).json();
    let again = json!({ "key": own }).to_string();
    let used = server.call(&[&["Accounts/AddPublicKey", &again], &proof[..]].concat());
    used.fails(1, &["PUBLIC_KEY_USED"]);
}

#[test]
fn an_operator_registers_a_node_to_be_bonded_with_what_keys_offer_prints() {
    let place = Place::new();
    let server = place.serve(&["--role", "all"]);
    for file in ["wallet.key", "node.key"] {
        assert_eq!(place.run(&["keys", "new", file]).code, 0);
    }
    let wallet = place.run(&["keys", "show", "wallet.key", "-o", "json"]).json();
    let id = wallet[0]["id"].as_str().expect("a text");
    let key = place.run(&["keys", "offer", "wallet.key"]).json();
    let account = json!({ "account_id": id, "name": "dora", "roles": ["ROLE_OPERATOR"], "key": key });
    assert_eq!(server.call(&["Accounts/CreateAccount", &account.to_string()]).code, 0);
    let offer = |holder| place.run(&["keys", "offer", "node.key", "--as", holder, "--owner", id]).json();
    let register = |offer: serde_json::Value| {
        let node = json!({
            "public_key": offer["public_key"], "possession": offer["possession"],
            "kind": "NODE_KIND_COMPUTE", "rating_milli_cu": 1_000,
        });
        server.call(&["Staking/RegisterNode", &node.to_string(), "--sign-with", "wallet.key"])
    };
    register(offer("node")).fails(1, &["POSSESSION_INVALID"]);
    let registered = register(offer("staking-node")).json();
    assert_eq!(registered["nodeId"], place.run(&["keys", "show", "node.key", "-o", "json"]).json()[0]["id"]);
}
