//! Bad input, through the service: each case has its stable reason and leaves the state as it was.

use holmes_kernel::Id;
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_server::Ledger as _;
use holmes_proto::ledger::v1::{TransferCode, TransferKind};
use holmes_testing::grpc::{reason, request};
use holmes_testing::now;
use tonic::Status;

use crate::api::{Desk, alice, bob, fresh, single};
use crate::harness::{MARKET, START_MS, USD, account, party};

/// The stable reason of an answer: of a refusal, or of the only transfer's result.
fn reason_of(answer: Result<wire::CreateTransfersResponse, Status>) -> String {
    match answer {
        Ok(response) => response.results[0].code().as_str_name().to_owned(),
        Err(status) => reason(&status),
    }
}

fn transfer(change: impl FnOnce(&mut wire::Transfer)) -> Vec<wire::Transfer> {
    let mut transfer = single(alice(), bob(), 1);
    change(&mut transfer);
    vec![transfer]
}

fn post(hold: &str, units: u64) -> Vec<wire::Transfer> {
    let hold_id = hold.to_owned();
    let (transfer_id, kind) = (fresh().to_string(), TransferKind::Post.into());
    vec![wire::Transfer { transfer_id, kind, hold_id, amount_units: units, ..Default::default() }]
}

fn transfer_cases() -> Vec<(&'static str, Vec<wire::Transfer>, &'static str)> {
    let nobody = fresh().to_string();
    let old = Id::v7(START_MS - 3_700_000, [1; 10]).to_string();
    let ahead = Id::v7(START_MS + 400_000, [1; 10]).to_string();
    let usd = account(1, USD).to_string();
    let other = nobody.clone();
    vec![
        ("no transfer", vec![], "BATCH_EMPTY"),
        ("no id", transfer(|t| t.transfer_id.clear()), "FIELD_INVALID"),
        ("not an id", transfer(|t| t.transfer_id = "0x17".into()), "FIELD_INVALID"),
        ("a random UUID", transfer(|t| t.transfer_id = Id::from_bytes([3; 16]).to_string()), "ID_INVALID"),
        ("an old id", transfer(|t| t.transfer_id = old), "ID_EXPIRED"),
        ("an id from the future", transfer(|t| t.transfer_id = ahead), "ID_EXPIRED"),
        ("no kind", transfer(|t| t.kind = 0), "FIELD_INVALID"),
        ("an unknown kind", transfer(|t| t.kind = 77), "FIELD_INVALID"),
        ("amount 0", transfer(|t| t.amount_units = 0), "AMOUNT_ZERO"),
        ("the largest amount", transfer(|t| t.amount_units = u64::MAX), "INSUFFICIENT_FUNDS"),
        ("one account", transfer(|t| t.credit_account_id = t.debit_account_id.clone()), "SAME_ACCOUNT"),
        ("no debit", transfer(|t| t.debit_account_id.clear()), "FIELD_INVALID"),
        ("unknown debit", transfer(|t| t.debit_account_id = other), "DEBIT_NOT_FOUND"),
        ("unknown credit", transfer(|t| t.credit_account_id = nobody.clone()), "CREDIT_NOT_FOUND"),
        ("another asset", transfer(|t| t.credit_account_id = usd), "ASSET_MISMATCH"),
        (
            "another's account",
            transfer(|t| std::mem::swap(&mut t.debit_account_id, &mut t.credit_account_id)),
            "FORBIDDEN",
        ),
        ("a timeout of a single", transfer(|t| t.timeout_ms = 5), "FIELD_INVALID"),
        ("a debit owner that is none", transfer(|t| t.debit_owner = "renter/7".into()), "FIELD_INVALID"),
        ("a debit owner of another", transfer(|t| t.debit_owner = party(2).to_string()), "FORBIDDEN"),
        ("a hold of a single", transfer(|t| t.hold_id = nobody.clone()), "FIELD_INVALID"),
        ("an open chain", transfer(|t| t.linked = true), "CHAIN_OPEN"),
        ("an unknown hold", post(&nobody, 0), "HOLD_NOT_FOUND"),
        ("no hold", post("", 1), "FIELD_INVALID"),
        (
            "a hold for ever and a day",
            transfer(|t| (t.kind, t.timeout_ms) = (TransferKind::Hold.into(), u64::MAX)),
            "TIMEOUT_INVALID",
        ),
        (
            "a coordinator that is no service",
            transfer(|t| {
                t.kind = TransferKind::Hold.into();
                t.coordinator = Some(wire::Coordinator { service: 70_000, coordination_id: String::new() });
            }),
            "FIELD_INVALID",
        ),
    ]
}

/// Failures that depended on the state are remembered (E-2.3), so only balances are compared for them.
const REMEMBERED: [&str; 4] = ["INSUFFICIENT_FUNDS", "DEBIT_NOT_FOUND", "CREDIT_NOT_FOUND", "HOLD_NOT_FOUND"];

#[test]
fn a_bad_transfer_has_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    for (what, transfers, expected) in transfer_cases() {
        let (state, accounts) = (desk.digest(), desk.accounts());
        let answer = desk.transfers(party(1), transfers);
        let found = reason_of(answer);
        let found = found.strip_prefix("TRANSFER_CODE_").unwrap_or(&found);
        assert_eq!(found, expected, "{what}");
        assert_eq!(desk.accounts(), accounts, "{what}");
        assert!(REMEMBERED.contains(&found) || desk.digest() == state, "{what}");
    }
}

#[test]
fn a_bad_batch_is_refused_before_any_of_it_happens() {
    let desk = Desk::new();
    let pay = single(alice(), bob(), 1);
    let linked = |n: usize| {
        let mut chain = vec![wire::Transfer { linked: true, ..pay.clone() }; n];
        chain.push(pay.clone());
        chain
    };
    let before = desk.digest();
    assert_eq!(reason_of(desk.transfers(party(1), vec![pay.clone(); 8_191])), "BATCH_TOO_LARGE");
    assert_eq!(reason_of(desk.transfers(party(1), linked(256))), "CHAIN_TOO_LONG");
    let mut late = vec![pay.clone(); 5_000];
    late.push(wire::Transfer { transfer_id: "?".into(), ..pay });
    let refused = desk.transfers(party(1), late).unwrap_err();
    assert!(refused.message().contains("transfers[5000].transfer_id"), "{}", refused.message());
    assert_eq!(desk.digest(), before);
}

/// An RPC's answer as its reason.
macro_rules! refused {
    ($desk:expr, $who:expr, $call:ident, $message:expr) => {
        reason(&now($desk.api.$call(request($who, $message))).unwrap_err())
    };
}

#[test]
fn every_other_call_refuses_bad_input_with_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    let before = desk.digest();
    let (id, market) = (|| fresh().to_string(), MARKET);
    let (usd, nobody) = (account(1, USD).to_string(), id());
    let open = wire::OpenAccountRequest { request_id: id(), asset: 1, ..Default::default() };
    let found = [
        refused!(
            desk,
            party(1),
            open_account,
            wire::OpenAccountRequest { account_id: id(), asset: 9, ..open.clone() }
        ),
        refused!(desk, party(1), open_account, open.clone()),
        refused!(
            desk,
            party(1),
            open_account,
            wire::OpenAccountRequest { account_id: id(), request_id: String::new(), ..open.clone() }
        ),
        refused!(
            desk,
            party(1),
            open_account,
            wire::OpenAccountRequest { account_id: id(), owner: "alice".into(), ..open.clone() }
        ),
        refused!(desk, market, open_account, wire::OpenAccountRequest { name: "Pool".into(), ..open }),
    ];
    assert_eq!(
        found,
        ["ASSET_NOT_FOUND", "FIELD_INVALID", "FIELD_INVALID", "FIELD_INVALID", "ACCOUNT_NAME_INVALID"]
    );

    let deposit = wire::RecordDepositRequest {
        request_id: id(),
        account_id: usd.clone(),
        amount_units: 1,
        reference: "x".into(),
        validate_only: false,
    };
    let long = "r".repeat(129);
    let found = [
        refused!(desk, party(1), record_deposit, deposit.clone()),
        refused!(
            desk,
            market,
            record_deposit,
            wire::RecordDepositRequest { amount_units: 0, ..deposit.clone() }
        ),
        refused!(
            desk,
            market,
            record_deposit,
            wire::RecordDepositRequest { amount_units: u64::MAX, ..deposit.clone() }
        ),
        refused!(
            desk,
            market,
            record_deposit,
            wire::RecordDepositRequest { reference: long, request_id: id(), ..deposit.clone() }
        ),
        refused!(
            desk,
            market,
            record_deposit,
            wire::RecordDepositRequest { account_id: nobody.clone(), request_id: id(), ..deposit }
        ),
    ];
    assert_eq!(
        found,
        ["FORBIDDEN", "AMOUNT_ZERO", "BALANCE_OVERFLOW", "REFERENCE_INVALID", "ACCOUNT_NOT_FOUND"]
    );

    let limits =
        wire::SetLimitsRequest { request_id: id(), account_id: usd, rate_units: 1, ..Default::default() };
    let frozen = wire::SetFrozenRequest { request_id: id(), account_id: nobody.clone(), frozen_out: true };
    let submitter =
        wire::RegisterSubmitterRequest { request_id: id(), submitter: "service/x".into(), registered: true };
    let list = wire::ListAccountsRequest::default();
    let found = [
        refused!(desk, market, set_limits, limits.clone()),
        refused!(desk, market, set_limits, wire::SetLimitsRequest { rate_window_ms: u64::MAX, ..limits }),
        refused!(desk, market, set_frozen, frozen),
        refused!(desk, market, register_submitter, submitter),
        refused!(
            desk,
            party(1),
            list_accounts,
            wire::ListAccountsRequest { owner: "*".into(), ..list.clone() }
        ),
        refused!(
            desk,
            party(1),
            list_accounts,
            wire::ListAccountsRequest { page_token: "-1".into(), ..list }
        ),
        refused!(desk, party(1), get_account, wire::GetAccountRequest { account_id: bob().to_string() }),
        refused!(desk, party(1), get_transfer, wire::GetTransferRequest { transfer_id: nobody.clone() }),
        refused!(desk, party(1), get_hold, wire::GetHoldRequest { hold_id: nobody }),
    ];
    let expected = [
        "FIELD_INVALID",
        "FIELD_INVALID",
        "ACCOUNT_NOT_FOUND",
        "FIELD_INVALID",
        "FORBIDDEN",
        "FIELD_INVALID",
        "ACCOUNT_NOT_FOUND",
        "TRANSFER_NOT_FOUND",
        "HOLD_NOT_FOUND",
    ];
    assert_eq!(found, expected);
    assert_eq!(desk.digest(), before);
}

#[test]
fn every_code_of_a_transfer_has_a_name() {
    for code in 1..=25 {
        let code = TransferCode::try_from(code).unwrap();
        assert!(code.as_str_name().starts_with("TRANSFER_CODE_"));
    }
}
