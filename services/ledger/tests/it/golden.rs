//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Amount, Event as _, Id, ServiceId, Time};
use holmes_ledger::command::{Coordinator, Kind, Move, Transfer};
use holmes_ledger::rows::{Columns, Row};
use holmes_proto::ledger::v1::event::Event as Kinds;
use holmes_proto::ledger::v1::{
    AccountClosed, AccountFrozen, AccountOpened, DepositRecorded, Event, HoldsExpired, LimitsSet,
    SubmitterRegistered, TokensDestroyed, TransferCode, TransfersRecorded, WithdrawalRecorded,
};
use holmes_testing::golden;

use crate::harness::{STAFF, account, party};

fn transfers() -> TransfersRecorded {
    let of = Move {
        debit: account(1, 1),
        credit: account(2, 1),
        amount: Amount::new(1_001),
        balancing: false,
        debit_owner: None,
    };
    let coordinator = Some(Coordinator { service: ServiceId(9), id: Id::from_bytes([4; 16]) });
    let hold = Id::v7(1, [2; 10]);
    let kinds = [
        Kind::Single(of),
        Kind::Hold { of, timeout_ms: Some(5_000), coordinator },
        Kind::Post { hold, amount: None },
        Kind::Void { hold },
    ];
    let mut columns = Columns::default();
    for (n, kind) in (1..).zip(kinds) {
        let transfer = Transfer { id: Id::v7(1, [n; 10]), linked: n == 2, tag: n.into(), kind };
        let row = Row::of(&transfer);
        let expires = matches!(kind, Kind::Hold { .. }).then_some(Time::from_millis(9_000));
        columns.push(&match n {
            1 => Row { amount: 1_001, burned: 2, ..row },
            4 => row.failed(TransferCode::HoldEnded),
            _ => Row { amount: 1_001, expires, ..row },
        });
    }
    columns.finish(false)
}

fn every_event() -> Vec<Event> {
    let account = || account(1, 1).to_bytes().to_vec().into();
    let (amount_units, reference) = (u64::MAX, "tx 0x1f".to_owned());
    let kinds = [
        Kinds::TransfersRecorded(transfers()),
        Kinds::HoldsExpired(HoldsExpired { holds: vec![5; 32].into() }),
        Kinds::AccountOpened(AccountOpened {
            account: account(),
            asset: 1,
            owner: party(1).to_bytes().to_vec().into(),
            name: "trr_pool/HOL".into(),
            history: true,
        }),
        Kinds::AccountClosed(AccountClosed { account: account() }),
        Kinds::AccountFrozen(AccountFrozen { account: account(), frozen_out: true }),
        Kinds::LimitsSet(LimitsSet {
            account: account(),
            credit_limit_units: 3,
            rate_units: 4,
            rate_window_ms: 5,
        }),
        Kinds::SubmitterRegistered(SubmitterRegistered {
            submitter: STAFF.to_bytes().to_vec().into(),
            registered: true,
        }),
        Kinds::DepositRecorded(DepositRecorded {
            account: account(),
            amount_units,
            reference: reference.clone(),
        }),
        Kinds::WithdrawalRecorded(WithdrawalRecorded { account: account(), amount_units, reference }),
        Kinds::TokensDestroyed(TokensDestroyed { asset: 1, amount_units }),
    ];
    kinds.map(|kind| Event { event: Some(kind) }).to_vec()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_the_ledger() {
    let private = golden::named(&every_event(), |event| !event.is_public());
    assert_eq!(private, ["AccountClosed", "AccountFrozen", "LimitsSet", "SubmitterRegistered"]);
}
