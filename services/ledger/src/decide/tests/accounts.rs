//! Accounts, their limits, and the border.

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{Amount, Id};
use holmes_proto::ledger::v1::TransferCode::*;

use super::{ALICE, BOB, Given, HOL, MARKET, STAFF, START_MS, USD, account, movement};
use crate::command::{OpenAccount, Rejection, Via};
use crate::rate::RateLimit;
use crate::{Command, Reply, system_account};

#[test]
fn an_account_lets_out_no_more_than_its_rate_limit() {
    // E-2.5
    let mut given = Given::new();
    let (alice, rate) = (account(ALICE, HOL), RateLimit::new(100, 1_000));
    let limits = Command::SetLimits { account: alice, credit_limit: 0, rate };
    assert_eq!(given.when(ALICE, limits.clone()).unwrap_err().reason(), "FORBIDDEN");
    given.when(STAFF, limits).unwrap();
    let (hold, pay) = (given.hold(60, None), given.pay(41));
    assert_eq!(given.transfers(ALICE, &[hold, pay]), [Ok, RateLimited], "a hold counts when it is opened");
    given.now = given.now.after_millis(500);
    let (pay, post) = (given.pay(90), given.post(hold.id, None));
    assert_eq!(given.transfers(ALICE, &[pay, post]), [Ok, Ok], "and not again when it is posted");
}

#[test]
fn a_credit_limit_lets_an_account_be_overdrawn_so_far_and_no_further() {
    // E-2.5
    let mut given = Given::new();
    let (bob, alice) = (account(BOB, USD), account(ALICE, USD));
    let limit = |account, credit_limit| Command::SetLimits { account, credit_limit, rate: None };
    given.when(MARKET, limit(bob, 50)).unwrap();
    let (pay, more) = (given.single(bob, alice, 50), given.single(bob, alice, 1));
    assert_eq!(given.transfers(BOB, &[pay, more]), [Ok, InsufficientFunds]);
    assert_eq!(given.when(MARKET, limit(bob, 49)).unwrap_err().reason(), "CREDIT_LIMIT_IN_USE");
    let on_token = given.when(MARKET, limit(account(BOB, HOL), 1)).unwrap_err();
    assert_eq!(on_token.reason(), "CREDIT_LIMIT_ON_TOKEN");
}

#[test]
fn a_frozen_account_lets_out_nothing_but_what_is_held() {
    // E-2.5
    let mut given = Given::new();
    let hold = given.hold(10, None);
    assert_eq!(given.transfers(MARKET, &[hold]), [Ok]);
    let freeze = |frozen_out| Command::SetFrozen { account: account(ALICE, HOL), frozen_out };
    assert_eq!(given.when(ALICE, freeze(true)).unwrap_err().reason(), "FORBIDDEN");
    given.when(STAFF, freeze(true)).unwrap();
    let (pay, post) = (given.pay(1), given.post(hold.id, None));
    assert_eq!(given.transfers(ALICE, &[pay]), [AccountFrozen]);
    assert_eq!(given.transfers(MARKET, &[post]), [Ok]);
    given.when(STAFF, freeze(false)).unwrap();
    let pay = given.pay(1);
    assert_eq!(given.transfers(ALICE, &[pay]), [Ok]);
}

#[test]
fn a_reference_from_outside_counts_once_for_ever() {
    let mut given = Given::new();
    let usd = account(ALICE, USD);
    given.deposit(usd, 5, "tx 1").unwrap();
    given.deposit(usd, 5, "tx 1").unwrap();
    assert_eq!(given.balance(usd).0, 1_005);
    for (account, units) in [(usd, 6), (account(BOB, USD), 5)] {
        assert_eq!(given.deposit(account, units, "tx 1").unwrap_err().reason(), "REFERENCE_USED");
    }
    let out = |units, reference| Command::RecordWithdrawal(movement(usd, units, reference));
    assert_eq!(given.when(MARKET, out(5, "tx 1")).unwrap_err().reason(), "REFERENCE_USED");
    assert_eq!(given.when(MARKET, out(1_006, "tx 2")).unwrap_err().reason(), "INSUFFICIENT_FUNDS");
    assert_eq!(given.when(ALICE, out(5, "tx 3")).unwrap_err().reason(), "FORBIDDEN");
    given.when(MARKET, out(5, "tx 3")).unwrap();
    assert_eq!(given.balance(usd).0, 1_000);
    assert_eq!(given.deposit(account(ALICE, HOL), 1, "x").unwrap_err().reason(), "ASSET_HAS_NO_OUTSIDE");
    assert_eq!(given.deposit(usd, u64::MAX, "y").unwrap_err().reason(), "BALANCE_OVERFLOW");
}

#[test]
fn only_what_lies_in_burn_inbox_can_be_destroyed() {
    // E-1.1
    let mut given = Given::new();
    let burn = given.single(account(ALICE, HOL), system_account("burn_inbox/HOL"), 100);
    assert_eq!(given.transfers(MARKET, &[burn]), [Ok]);
    let destroy = |asset, units| Command::Destroy { asset, amount: Amount::new(units) };
    assert_eq!(given.when(STAFF, destroy(HOL, 1)).unwrap_err().reason(), "FORBIDDEN");
    assert_eq!(given.when(MARKET, destroy(HOL, 101)).unwrap_err().reason(), "INSUFFICIENT_FUNDS");
    assert_eq!(given.when(MARKET, destroy(USD, 1)).unwrap_err().reason(), "ASSET_NOT_CAPPED");
    assert_eq!(given.when(MARKET, destroy(HOL, 0)).unwrap_err().reason(), "AMOUNT_ZERO");
    given.when(MARKET, destroy(HOL, 100)).unwrap();
    assert_eq!(given.state.assets[0].destroyed, 100);
}

#[test]
fn an_account_is_opened_once_by_its_owner_and_closed_when_it_is_empty() {
    let mut given = Given::new();
    let open = |account, owner, name: &str| {
        let (name, via) = (name.to_owned(), Via::Call);
        Command::OpenAccount(OpenAccount { account, asset: HOL, owner, name, history: false, via })
    };
    let new = Id::v7(START_MS, [8; 10]);
    let reason = |result: Result<Reply, Rejection>| result.unwrap_err().reason();
    assert_eq!(reason(given.when(ALICE, open(new, BOB, ""))), "FORBIDDEN");
    assert_eq!(reason(given.when(ALICE, open(Id::from_bytes([8; 16]), ALICE, ""))), "ACCOUNT_ID_INVALID");
    assert_eq!(reason(given.when(ALICE, open(Id::v7(1, [8; 10]), ALICE, ""))), "ID_EXPIRED");
    given.when(ALICE, open(new, ALICE, "")).unwrap();
    given.when(ALICE, open(new, ALICE, "")).unwrap();
    assert_eq!(reason(given.when(BOB, open(new, BOB, ""))), "ACCOUNT_EXISTS");
    let pool = system_account("trr_pool/HOL");
    assert_eq!(reason(given.when(ALICE, open(pool, ALICE, "trr_pool/HOL"))), "FORBIDDEN");
    assert_eq!(reason(given.when(MARKET, open(pool, MARKET, "trr_pool/USD"))), "ACCOUNT_NAME_INVALID");
    given.when(MARKET, open(pool, MARKET, "trr_pool/HOL")).unwrap();

    let close = |account| Command::CloseAccount { account };
    assert_eq!(reason(given.when(BOB, close(new))), "ACCOUNT_NOT_FOUND", "as of one that is not there");
    assert_eq!(reason(given.when(ALICE, close(account(ALICE, HOL)))), "ACCOUNT_NOT_EMPTY");
    assert_eq!(reason(given.when(STAFF, close(system_account("fees/HOL")))), "ACCOUNT_RESERVED");
    given.when(ALICE, close(new)).unwrap();
    let pay = given.single(account(ALICE, HOL), new, 1);
    assert_eq!(given.transfers(ALICE, &[pay]), [AccountClosed]);
}
