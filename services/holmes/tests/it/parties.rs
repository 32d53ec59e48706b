//! What renters, operators and staff do, and a stranger tries with what is theirs; see `others`.

use holmes_kernel::Id;
use serde_json::{Value, json};

use crate::asker::Asker;
use crate::others::{People, Play, a_service, base64, fresh, transfer};
use crate::paid;

/// Ledger accounts of the play.
pub(crate) struct Purses {
    /// The renter's, in dollars.
    pays: String,
    /// The stranger's, in tokens.
    eves_tokens: String,
}

fn key_hash() -> String {
    base64(blake3::hash(fresh().as_bytes()).as_bytes())
}

/// Accounts and keys.
pub(crate) async fn accounts<'a>(play: &mut Play<'a>, people: &'a People) {
    let People { staff, dora, ada, eve, .. } = people;
    let other = fresh();
    let created = json!({ "account_id": other, "name": "other", "roles": ["ROLE_RENTER"] });
    play.done(staff, "Accounts/CreateAccount", &created).await;
    let [old, new] = ["old.key", "new.key"].map(|file| play.offer(file, "account", &other));
    let add = json!({ "account_id": other, "key": old });
    play.refused(eve, "Accounts/AddPublicKey", "account_id", "FORBIDDEN", &add).await;
    play.done(staff, "Accounts/AddPublicKey", &add).await;
    // Whoever has not the key itself hears the same of one that is somebody's and of one that nobody has.
    for public in [old["public_key"].clone(), json!(base64(&[9; 32]))] {
        let key = json!({ "public_key": public, "possession": base64(&[9; 64]) });
        let anothers = json!({ "key": key });
        play.refused(eve, "Accounts/AddPublicKey", "key.public_key", "POSSESSION_WRONG", &anothers).await;
    }
    let rotate = json!({ "account_id": other, "old_public_key": old["public_key"], "key": new });
    play.refused(eve, "Accounts/RotateKey", "account_id", "FORBIDDEN", &rotate).await;
    let own = json!({ "old_public_key": old["public_key"], "key": new });
    play.refused(eve, "Accounts/RotateKey", "old_public_key", "PUBLIC_KEY_NOT_FOUND", &own).await;
    play.done(staff, "Accounts/RotateKey", &rotate).await;
    let revoke = json!({ "public_key": new["public_key"] });
    play.refused(eve, "Accounts/RevokePublicKey", "public_key", "PUBLIC_KEY_NOT_FOUND", &revoke).await;
    play.done(staff, "Accounts/RevokePublicKey", &revoke).await;
    for (call, wanted) in [
        ("SetRoles", json!({ "account_id": other, "roles": [] })),
        ("SuspendAccount", json!({ "account_id": other, "cause": "case 7" })),
        ("ReinstateAccount", json!({ "account_id": other })),
    ] {
        play.done(staff, &format!("Accounts/{call}"), &wanted).await;
    }

    let key_id = fresh();
    let create = json!({
        "account_id": dora.id(), "key_id": key_id, "hash": key_hash(), "roles": ["ROLE_RENTER"],
    });
    play.refused(eve, "Accounts/CreateApiKey", "account_id", "FORBIDDEN", &create).await;
    play.done(dora, "Accounts/CreateApiKey", &create).await;
    let taken = json!({ "key_id": key_id, "hash": key_hash(), "roles": ["ROLE_RENTER"] });
    play.refused(eve, "Accounts/CreateApiKey", "key_id", "API_KEY_EXISTS", &taken).await;
    let revoke = json!({ "key_id": key_id });
    play.refused(eve, "Accounts/RevokeApiKey", "key_id", "API_KEY_NOT_FOUND", &revoke).await;
    play.done(dora, "Accounts/RevokeApiKey", &revoke).await;

    let machine = json!({
        "owner_account_id": ada.id(), "key": play.offer("machine.key", "node", &ada.id()),
    });
    play.refused(eve, "Accounts/RegisterNodeKey", "owner_account_id", "FORBIDDEN", &machine).await;
    play.done(ada, "Accounts/RegisterNodeKey", &machine).await;
    for file in ["first.key", "second.key"] {
        let gateway = json!({
            "owner_account_id": ada.id(), "key": play.offer(file, "gateway", &ada.id()),
        });
        play.done(staff, "Accounts/RegisterGatewayKey", &gateway).await;
    }
    let service = a_service(play);
    play.done(staff, "Accounts/RegisterServiceKey", &service).await;
}

/// The ledger: accounts, what staff does to them, and transfers.
pub(crate) async fn money<'a>(play: &mut Play<'a>, people: &'a People) -> Purses {
    let People { staff, dora, eve, ada, grant, .. } = people;
    let [pays, spare, closed, eves, eves_tokens] = std::array::from_fn(|_| fresh());
    for account in [&pays, &spare, &closed] {
        let open = json!({ "account_id": account, "asset": 2, "owner": dora.name() });
        play.refused(eve, "Ledger/OpenAccount", "owner", "FORBIDDEN", &open).await;
        play.done(dora, "Ledger/OpenAccount", &open).await;
    }
    let taken = json!({ "account_id": pays, "asset": 2 });
    play.refused(eve, "Ledger/OpenAccount", "account_id", "ACCOUNT_EXISTS", &taken).await;
    for (account, asset) in [(&eves, 2), (&eves_tokens, 1)] {
        play.done(eve, "Ledger/OpenAccount", &json!({ "account_id": account, "asset": asset })).await;
    }
    let close = json!({ "account_id": closed });
    play.refused(eve, "Ledger/CloseAccount", "account_id", "ACCOUNT_NOT_FOUND", &close).await;
    play.done(dora, "Ledger/CloseAccount", &close).await;
    for (call, wanted) in [
        ("RecordDeposit", json!({ "account_id": pays, "amount_units": "25000000", "reference": "wire 1" })),
        ("RecordWithdrawal", json!({ "account_id": pays, "amount_units": "3", "reference": "wire 2" })),
        ("SetLimits", json!({ "account_id": spare, "credit_limit_units": "7" })),
        ("SetFrozen", json!({ "account_id": spare, "frozen_out": true })),
        ("RegisterSubmitter", json!({ "submitter": dora.name(), "registered": true })),
    ] {
        play.done(staff, &format!("Ledger/{call}"), &wanted).await;
    }

    let create = "Ledger/CreateTransfers";
    let move_out = |kind, owner: &str| {
        let of = json!({
            "debit_account_id": pays, "credit_account_id": eves, "amount_units": "50", "debit_owner": owner,
        });
        transfer(kind, of)
    };
    for kind in ["SINGLE", "HOLD"] {
        let debit = "transfers.debit_account_id";
        play.refused(eve, create, debit, "FORBIDDEN", &move_out(kind, "")).await;
        let owner = "transfers.debit_owner";
        play.refused(eve, create, owner, "FORBIDDEN", &move_out(kind, &dora.name())).await;
        play.done(dora, create, &move_out(kind, &dora.name())).await;
    }
    let held = transfer(
        "HOLD",
        json!({
            "debit_account_id": pays, "credit_account_id": spare, "amount_units": "5",
        }),
    );
    play.done(dora, create, &held).await;
    let hold = json!({ "hold_id": held["transfers"][0]["transfer_id"] });
    for kind in ["POST", "VOID"] {
        let end = transfer(kind, hold.clone());
        play.refused(eve, create, "transfers.hold_id", "HOLD_NOT_FOUND", &end).await;
    }
    let own = json!({ "debit_account_id": eves, "credit_account_id": pays, "amount_units": "1" });
    let mut same_name = transfer("SINGLE", own.clone());
    same_name["transfers"][0]["transfer_id"] = hold["hold_id"].clone();
    play.refused(eve, create, "transfers.transfer_id", "EXISTS_DIFFERENT", &same_name).await;
    play.done(dora, create, &transfer("VOID", hold)).await;
    play.given(eve, create, "transfers.credit_account_id", &transfer("SINGLE", own)).await;
    let gift = json!({
        "debit_account_id": grant, "credit_account_id": eves_tokens, "amount_units": (10 * paid::HOL).to_string(),
    });
    play.done(ada, create, &transfer("SINGLE", gift)).await;
    Purses { pays, eves_tokens }
}

/// What is in an account, base units: posted and held.
async fn balance(play: &Play<'_>, people: &People, account: &str) -> (Value, Value) {
    let wanted = json!({ "account_id": account });
    let told =
        play.until(&people.staff, "Ledger/GetAccount", &wanted, |told| Some(told["account"].clone())).await;
    (told["balanceUnits"].clone(), told["availableUnits"].clone())
}

/// The market and a call; the renter's session.
pub(crate) async fn rents<'a>(play: &mut Play<'a>, people: &'a People, purses: &Purses) -> String {
    let People { staff, dora, eve, operators, .. } = people;
    let model = json!({ "model": {
        "name": "a-model", "kind": "MODEL_KIND_GENERATE", "input_pico_usd": "5", "output_pico_usd": "20",
        "input_micro_units": "1", "output_micro_units": "1",
    } });
    play.done(staff, "Market/SetModel", &model).await;
    let pays = json!({ "asset": 2, "account_id": purses.pays });
    play.done(dora, "Market/SetAccount", &pays).await;
    // What she names is not hers, and pays for nothing: the ledger refuses the hold.
    play.given(eve, "Market/SetAccount", "account_id", &pays).await;
    let before = balance(play, people, &purses.pays).await;
    let open = json!({ "asset": 2, "budget_micro_usd": "1000000" });
    let opened = play.done(eve, "Market/OpenSession", &open).await;
    let id = json!({ "session_id": opened["session"]["sessionId"] });
    let closed = play
        .until(eve, "Market/GetSession", &id, |told| {
            let session = &told["session"];
            (session["state"] == "SESSION_STATE_CLOSED").then(|| session["reason"].clone())
        })
        .await;
    assert_eq!(closed, "FORBIDDEN", "a session that another's account was to pay");
    assert_eq!(balance(play, people, &purses.pays).await, before, "the renter's account");

    let mut open = open;
    open["renter"] = dora.name().into();
    play.refused(eve, "Market/OpenSession", "renter", "FORBIDDEN", &open).await;
    let opened = play.done(dora, "Market/OpenSession", &open).await;
    let session = opened["session"]["sessionId"].as_str().expect("its id").to_owned();
    let id = json!({ "session_id": session });
    let funded = |told: &Value| (told["session"]["state"] == "SESSION_STATE_ACTIVE").then_some(());
    play.until(dora, "Market/GetSession", &id, funded).await;
    let mut call = paid::generate(160);
    play.done(dora, "Inference/Generate", &call).await;
    play.under_the_last_id(eve, "CALL_EXISTS", "receipts/").await;
    call["terms"] = json!({ "node_id": operators[0].1 });
    let ended = play.given(dora, "Inference/Generate", "terms.node_id", &call).await;
    assert!(ended["ended"].is_object(), "the call has run to its end: {ended}");
    session
}

/// A node that is bonded and may serve, whose key is `spare.key`.
pub(crate) async fn bonds<'a>(play: &mut Play<'a>, people: &'a People, purses: &Purses) -> String {
    let People { staff, ada, eve, grant, .. } = people;
    let offers = |file: &str, owner: &str| {
        let offered = play.offer(file, "staking-node", owner);
        json!({
            "public_key": offered["public_key"], "possession": offered["possession"],
            "kind": "NODE_KIND_COMPUTE", "rating_milli_cu": 1_000,
        })
    };
    let (registers, eves) = (offers("spare.key", &ada.id()), offers("eves-node.key", &eve.id()));
    let register = "Staking/RegisterNode";
    play.refused(eve, register, "public_key", "POSSESSION_INVALID", &registers).await;
    let said = play.done(ada, register, &registers).await;
    let node = said["nodeId"].as_str().expect("its id").to_owned();
    let eves_node = play.done(eve, register, &eves).await["nodeId"].clone();
    let id = json!({ "node_id": node });
    let required = play
        .until(ada, "Staking/GetRequired", &id, |told| told["requiredUnits"].as_str()?.parse::<u64>().ok())
        .await;
    let hold = |from: &Value, units: u64| {
        let coordinator = json!({
            "service": holmes_proto::service("staking").expect("its number").0, "coordination_id": node,
        });
        transfer(
            "HOLD",
            json!({
                "debit_account_id": from, "amount_units": units.to_string(), "coordinator": coordinator,
                "credit_account_id": holmes_ledger::state::system_account("bonds/HOL").to_string(),
                "timeout_ms": "3600000",
            }),
        )
    };
    let of = |held: &Value, node: &Value| json!({ "node_id": node, "hold_id": held["transfers"][0]["transfer_id"] });
    let create = "Ledger/CreateTransfers";
    let held = hold(&json!(grant), required + required / 5);
    play.done(ada, create, &held).await;
    let bond = of(&held, &json!(node));
    play.refused(eve, "Staking/Bond", "node_id", "FORBIDDEN", &bond).await;
    play.done(ada, "Staking/Bond", &bond).await;
    let second = hold(&json!(grant), 5);
    play.done(ada, create, &second).await;
    play.refused(eve, "Staking/Bond", "hold_id", "HOLD_NOT_OFFERED", &of(&second, &eves_node)).await;
    play.done(ada, "Staking/Bond", &of(&second, &json!(node))).await;
    // A stranger's hold in the name of another's node is her own money held, and nothing of the node's.
    let foreign = hold(&json!(purses.eves_tokens), 5);
    play.given(eve, create, "transfers.coordinator.coordination_id", &foreign).await;
    let third = hold(&json!(grant), 5);
    play.done(ada, create, &third).await;
    play.done(ada, "Staking/Bond", &of(&third, &json!(node))).await; // staking has read beyond the foreign one
    play.refused(ada, "Staking/Bond", "hold_id", "HOLD_NOT_OFFERED", &of(&foreign, &json!(node))).await;
    play.done(staff, "Staking/SetRating", &json!({ "node_id": node, "rating_milli_cu": 1_000 })).await;
    let qualified = |told: &Value| (told["node"]["qualified"] == true).then_some(());
    play.until(staff, "Scheduling/GetNode", &id, qualified).await;
    node
}

/// Sessions that close, nodes that are judged and leave, a grant that is taken early.
pub(crate) async fn leaves<'a>(
    play: &mut Play<'a>,
    people: &'a People,
    purses: &Purses,
    (session, node): (&str, &str),
) {
    let People { staff, dora, ada, eve, grant, .. } = people;
    let id = json!({ "session_id": session });
    play.refused(eve, "Market/CloseSession", "session_id", "SESSION_NOT_FOUND", &id).await;
    play.done(dora, "Market/CloseSession", &id).await;
    play.done(staff, "Staking/Jail", &json!({ "node_id": node, "cause": "case 7" })).await;
    play.done(staff, "Staking/Unjail", &json!({ "node_id": node })).await;

    let payout = json!({ "node_id": node, "account_id": purses.eves_tokens });
    play.refused(eve, "Staking/SetPayoutAccount", "node_id", "FORBIDDEN", &payout).await;
    play.given(ada, "Staking/SetPayoutAccount", "account_id", &payout).await;
    play.done(ada, "Staking/SetPayoutAccount", &json!({ "node_id": node, "account_id": grant })).await;
    let unbond = json!({ "node_id": node, "all": true, "account_id": purses.eves_tokens });
    play.refused(eve, "Staking/Unbond", "node_id", "FORBIDDEN", &unbond).await;
    play.given(ada, "Staking/Unbond", "account_id", &unbond).await;

    let (operator, granted) = granted(play, people).await;
    let exit = json!({ "node_id": granted["nodeId"], "epoch": granted["epoch"] });
    play.refused(eve, "Emission/ExitGrant", "node_id", "FORBIDDEN", &exit).await;
    play.done(operator, "Emission/ExitGrant", &exit).await;
    // The last: it bars the stranger for ever.
    let key = crate::raw::secret(play.place, "eves-node.key").verifying_key().to_bytes();
    let tombstone = json!({ "node_id": Id::of_key(&key).to_string(), "cause": "case 8" });
    play.done(staff, "Staking/Tombstone", &tombstone).await;
}

/// A grant for the work of the calls, and the operator whose node has it.
async fn granted<'a>(play: &Play<'_>, people: &'a People) -> (&'a Asker, Value) {
    for _ in 0..100 {
        for (operator, node) in &people.operators {
            let of = json!({ "node_id": node });
            let told = operator.ask(&play.channel, "Emission/ListGrants", &of).await.unwrap_or_default();
            if let Some(grant) = told.iter().find_map(|told| told["grants"].as_array()?.first()) {
                return (operator, grant.clone());
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    panic!("no node was granted anything")
}
