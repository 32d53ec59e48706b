//! The gRPC service over a ledger.

use std::sync::atomic::{AtomicU32, Ordering};

use holmes_kernel::{Id, Principal, ServiceId, Time, canon};
use holmes_ledger::api::Api;
use holmes_ledger::{Command, Ledger, react, system_account};
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_server::Ledger as _;
use holmes_proto::ledger::v1::{TransferCode, TransferKind};
use holmes_testing::grpc::{reason, request};
use holmes_testing::{Local, now};
use prost::Message;
use tonic::Status;

use crate::harness::{CAP, HOL, MARKET, STAFF, START_MS, USD, account, default_params, driver, party};
use crate::properties::{grant, open};

/// A ledger with Alice and Bob, who have 10,000 each, and its service.
pub(crate) struct Desk {
    pub(crate) api: Api<Local<Ledger>>,
    pub(crate) ledger: Local<Ledger>,
}

pub(crate) fn alice() -> Id {
    account(1, HOL)
}

pub(crate) fn bob() -> Id {
    account(2, HOL)
}

/// An id that no other call has had.
pub(crate) fn fresh() -> Id {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Id::derive(Time::from_millis(START_MS), b"api", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn single(debit: Id, credit: Id, amount_units: u64) -> wire::Transfer {
    wire::Transfer {
        transfer_id: fresh().to_string(),
        kind: TransferKind::Single.into(),
        debit_account_id: debit.to_string(),
        credit_account_id: credit.to_string(),
        amount_units,
        ..Default::default()
    }
}

impl Desk {
    pub(crate) fn new() -> Desk {
        let mut driver = driver(&default_params());
        for n in 1..3 {
            for (asset, token) in [(HOL, true), (USD, false)] {
                open(&mut driver, account(n, asset), party(n), asset);
                grant(&mut driver, account(n, asset), token, 10_000);
            }
        }
        let ledger = Local::new(driver);
        Desk { api: Api::new(ledger.clone()), ledger }
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        self.ledger.driver().digest()
    }

    pub(crate) fn accounts(&self) -> canon::Digest {
        canon::digest(&self.ledger.driver().state().accounts)
    }

    pub(crate) fn transfers(
        &self,
        who: Principal,
        transfers: Vec<wire::Transfer>,
    ) -> Result<wire::CreateTransfersResponse, Status> {
        let request_id = fresh().to_string();
        self.create(who, wire::CreateTransfersRequest { request_id, transfers, ..Default::default() })
    }

    fn create(
        &self,
        who: Principal,
        message: wire::CreateTransfersRequest,
    ) -> Result<wire::CreateTransfersResponse, Status> {
        now(self.api.create_transfers(request(who, message))).map(tonic::Response::into_inner)
    }

    fn balance(&self, id: Id) -> u64 {
        let message = wire::GetAccountRequest { account_id: id.to_string() };
        let answer = now(self.api.get_account(request(STAFF, message))).unwrap().into_inner();
        answer.account.unwrap().balance_units
    }
}

fn codes(response: &wire::CreateTransfersResponse) -> Vec<TransferCode> {
    response.results.iter().map(wire::TransferResult::code).collect()
}

#[test]
fn the_largest_batch_is_carried_out_in_parts_and_answered_as_one() {
    // E-2.2
    let desk = Desk::new();
    let mut transfers: Vec<wire::Transfer> = (0..8_190).map(|_| single(alice(), bob(), 1)).collect();
    for transfer in &mut transfers[1_800..1_900] {
        transfer.linked = true; // a chain across the place where the first part would end
    }
    let request_id = fresh().to_string();
    let message = wire::CreateTransfersRequest { request_id, transfers, ..Default::default() };
    let first = desk.create(party(1), message.clone()).unwrap();
    assert_eq!(codes(&first), vec![TransferCode::Ok; 8_190]);
    assert_eq!(desk.balance(bob()), 18_190);
    let digest = desk.digest();
    assert_eq!(desk.create(party(1), message.clone()).unwrap(), first, "sent again: the same answer");
    let request_id = fresh().to_string();
    let again = desk.create(party(1), wire::CreateTransfersRequest { request_id, ..message }).unwrap();
    assert_eq!(codes(&again), vec![TransferCode::Exists; 8_190], "asked again: exists (E-2.3)");
    assert_eq!(desk.digest(), digest);
    let driver = desk.ledger.driver();
    driver.check();
    driver.check_replay();
}

#[test]
fn a_batch_answers_balances_on_request_but_only_those_that_the_caller_may_see() {
    let desk = Desk::new();
    let (request_id, transfers) = (fresh().to_string(), vec![single(alice(), bob(), 7)]);
    let message =
        wire::CreateTransfersRequest { request_id, transfers, return_balances: true, ..Default::default() };
    let answer = desk.create(party(1), message).unwrap();
    let seen: Vec<(String, u64)> =
        answer.balances.iter().map(|a| (a.account_id.clone(), a.balance_units)).collect();
    assert_eq!(seen, [(alice().to_string(), 9_993)]);
}

#[test]
fn a_preview_says_what_would_happen_and_changes_nothing() {
    let desk = Desk::new();
    let before = desk.digest();
    let transfers = vec![single(alice(), bob(), 10_000), single(alice(), bob(), 1)];
    let (request_id, validate_only) = (fresh().to_string(), true);
    let message = wire::CreateTransfersRequest { request_id, transfers, validate_only, ..Default::default() };
    let answer = desk.create(party(1), message).unwrap();
    assert_eq!(codes(&answer), [TransferCode::Ok, TransferCode::InsufficientFunds]);
    let deposit = wire::RecordDepositRequest {
        request_id: fresh().to_string(),
        account_id: account(1, USD).to_string(),
        amount_units: 1,
        reference: "x".into(),
        validate_only,
    };
    now(desk.api.record_deposit(request(MARKET, deposit))).unwrap();
    assert_eq!(desk.digest(), before);
}

#[test]
fn a_deposit_that_is_said_again_says_so_and_moves_nothing_and_another_one_needs_its_own_reference() {
    let desk = Desk::new();
    let deposit = wire::RecordDepositRequest {
        request_id: fresh().to_string(),
        account_id: account(1, USD).to_string(),
        amount_units: 7,
        reference: "wire 7".into(),
        validate_only: false,
    };
    let again = || wire::RecordDepositRequest { request_id: fresh().to_string(), ..deposit.clone() };
    let record =
        |wanted| now(desk.api.record_deposit(request(STAFF, wanted))).map(tonic::Response::into_inner);
    assert!(!record(deposit.clone()).unwrap().already_recorded);
    let before = desk.accounts();
    assert!(!record(deposit.clone()).unwrap().already_recorded, "the same request gets its own answer");
    let second = again();
    for wanted in [wire::RecordDepositRequest { validate_only: true, ..again() }, second.clone(), second] {
        assert!(record(wanted).unwrap().already_recorded);
    }
    let others = [
        wire::RecordDepositRequest { amount_units: 8, ..again() },
        wire::RecordDepositRequest { account_id: account(2, USD).to_string(), ..again() },
    ];
    for other in others {
        let refused = record(other).unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (tonic::Code::AlreadyExists, "REFERENCE_USED")
        );
    }
    let withdrawal = |request_id: Id, reference: &str| wire::RecordWithdrawalRequest {
        request_id: request_id.to_string(),
        account_id: deposit.account_id.clone(),
        amount_units: 7,
        reference: reference.into(),
        validate_only: false,
    };
    let leave =
        |wanted| now(desk.api.record_withdrawal(request(STAFF, wanted))).map(tonic::Response::into_inner);
    assert_eq!(reason(&leave(withdrawal(fresh(), "wire 7")).unwrap_err()), "REFERENCE_USED");
    assert_eq!(desk.accounts(), before, "nothing of it moved anything");
    assert!(!leave(withdrawal(fresh(), "wire 8")).unwrap().already_recorded);
    assert!(leave(withdrawal(fresh(), "wire 8")).unwrap().already_recorded);
}

#[test]
fn a_transfer_and_a_hold_are_seen_by_both_sides_and_by_nobody_else() {
    let desk = Desk::new();
    let hold =
        wire::Transfer { kind: TransferKind::Hold.into(), timeout_ms: 60_000, ..single(alice(), bob(), 5) };
    desk.transfers(party(1), vec![hold.clone()]).unwrap();
    let ask = |who| {
        let wanted = wire::GetHoldRequest { hold_id: hold.transfer_id.clone() };
        now(desk.api.get_hold(request(who, wanted))).map(tonic::Response::into_inner)
    };
    let known = |who| {
        let wanted = wire::GetTransferRequest { transfer_id: hold.transfer_id.clone() };
        now(desk.api.get_transfer(request(who, wanted))).map(tonic::Response::into_inner)
    };
    for who in [party(1), party(2), STAFF] {
        assert_eq!(ask(who).unwrap().amount_units, 5);
        assert_eq!(known(who).unwrap().code(), TransferCode::Ok);
    }
    assert_eq!(reason(&ask(party(3)).unwrap_err()), "HOLD_NOT_FOUND");
    assert_eq!(reason(&known(party(3)).unwrap_err()), "TRANSFER_NOT_FOUND");
    desk.ledger.driver().wait(60_000);
    assert_eq!(reason(&ask(STAFF).unwrap_err()), "HOLD_NOT_FOUND");
    let post = wire::Transfer {
        transfer_id: fresh().to_string(),
        kind: TransferKind::Post.into(),
        hold_id: hold.transfer_id.clone(),
        ..Default::default()
    };
    assert_eq!(codes(&desk.transfers(party(1), vec![post]).unwrap()), [TransferCode::HoldEnded]);
}

#[test]
fn accounts_are_listed_page_by_page() {
    let desk = Desk::new();
    let list = |who, owner: &str, page_token: &str, page_size| {
        let (owner, page_token) = (owner.to_owned(), page_token.to_owned());
        let wanted = wire::ListAccountsRequest { owner, page_size, page_token };
        now(desk.api.list_accounts(request(who, wanted))).unwrap().into_inner()
    };
    let first = list(party(1), "", "", 1);
    let second = list(party(1), "", &first.next_page_token, 1);
    assert_eq!((first.accounts.len(), second.accounts.len(), second.next_page_token.as_str()), (1, 1, ""));
    let (mut token, mut seen) = (String::new(), 0);
    loop {
        let page = list(STAFF, "*", &token, 3);
        seen += page.accounts.len();
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    assert_eq!(seen, 7 + 4, "those of genesis and those opened");
    assert_eq!(list(STAFF, "*", "4294967296", 3).accounts, [], "a token that was made up");
}

#[test]
fn a_bulk_submitter_sends_numbers_without_a_gap() {
    // E-2.3
    let desk = Desk::new();
    let submit = |submission_number, transfer: &wire::Transfer| {
        let transfers = vec![transfer.clone()];
        desk.create(
            party(1),
            wire::CreateTransfersRequest { transfers, submission_number, ..Default::default() },
        )
    };
    let (first, second) = (single(alice(), bob(), 1), single(alice(), bob(), 1));
    assert_eq!(reason(&submit(1, &first).unwrap_err()), "NOT_A_SUBMITTER");
    let (request_id, submitter) = (fresh().to_string(), party(1).to_string());
    let register = wire::RegisterSubmitterRequest { request_id, submitter, registered: true };
    now(desk.api.register_submitter(request(STAFF, register))).unwrap();
    assert_eq!(codes(&submit(1, &first).unwrap()), [TransferCode::Ok]);
    assert_eq!(codes(&submit(1, &first).unwrap()), [TransferCode::Ok], "the number's own answer");
    assert_eq!(reason(&submit(1, &second).unwrap_err()), "SUBMITTER_NUMBER_REUSED");
    assert_eq!(reason(&submit(3, &second).unwrap_err()), "SUBMITTER_GAP");
    assert_eq!(codes(&submit(2, &second).unwrap()), [TransferCode::Ok]);
    assert_eq!(desk.balance(bob()), 10_002);
}

#[test]
fn what_another_service_sends_is_carried_out_in_its_name_or_refused_on_the_record() {
    let desk = Desk::new();
    let sender = ServiceId(9);
    let sent = |command| wire::Command { command: Some(command) }.encode_to_vec();
    let deliver = |bytes: Vec<u8>| {
        let command = react::command(sender, &bytes).unwrap();
        desk.ledger.driver().hear(sender, command)
    };
    let burn = single(alice(), system_account("burn_inbox/HOL"), 100);
    let batch = wire::CreateTransfersRequest { transfers: vec![burn], ..Default::default() };
    assert_eq!(deliver(sent(wire::command::Command::CreateTransfers(batch))), None);
    let destroy = |amount_units| {
        sent(wire::command::Command::DestroyTokens(wire::DestroyTokens { asset: HOL, amount_units }))
    };
    assert_eq!(deliver(destroy(60)), None);
    assert_eq!(deliver(destroy(60)).as_deref(), Some("INSUFFICIENT_FUNDS"));
    let bad = wire::CloseAccountRequest { account_id: "?".into(), ..Default::default() };
    let refused = deliver(sent(wire::command::Command::CloseAccount(bad)));
    assert_eq!(refused.as_deref(), Some("MALFORMED"));
    for unknown in [Vec::new(), vec![0xff; 3], vec![0xfa, 0x01, 0x00]] {
        assert!(react::command(sender, &unknown).is_err(), "{unknown:?} parks the source");
    }

    let supply = now(desk.api.get_supply(request(party(3), wire::GetSupplyRequest {}))).unwrap().into_inner();
    let figures: Vec<(u64, u64)> =
        supply.supplies.iter().map(|s| (s.destroyed_units, s.existing_units)).collect();
    assert_eq!(figures, [(60, CAP - 60), (0, 20_000)]);
    desk.ledger.driver().check();
}

#[test]
fn the_log_of_many_kinds_of_commands_replays_to_the_same_digest() {
    let desk = Desk::new();
    let mut driver = desk.ledger.driver();
    let usd = account(1, USD);
    driver.ask(STAFF, Command::SetLimits { account: usd, credit_limit: 7, rate: None }).unwrap();
    driver.ask(STAFF, Command::SetFrozen { account: usd, frozen_out: true }).unwrap();
    driver.ask(STAFF, Command::RegisterSubmitter { submitter: MARKET, registered: true }).unwrap();
    assert!(driver.ask(STAFF, Command::CloseAccount { account: usd }).is_err());
    driver.check_replay();
}
