//! The bytes of every event ever released. A file of tests/golden is never edited: a new version of an event gets a new
//! file, and the old one must still be read as it was.

use std::path::Path;

use holmes_kernel::{Amount, Event as _, Id, ServiceId, Time};
use holmes_ledger::command::{Coordinator, Kind, Move, Transfer};
use holmes_ledger::rows::{Columns, Row};
use holmes_proto::ledger::v1::event::Event as Kinds;
use holmes_proto::ledger::v1::{
    AccountClosed, AccountFrozen, AccountOpened, DepositRecorded, Event, HoldsExpired, LimitsSet,
    SubmitterRegistered, TokensDestroyed, TransferCode, TransfersRecorded, WithdrawalRecorded,
};
use prost::Message;

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

fn every_event() -> Vec<Kinds> {
    let account = || account(1, 1).to_bytes().to_vec().into();
    let (amount_units, reference) = (u64::MAX, "tx 0x1f".to_owned());
    vec![
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
    ]
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> =
        digits.as_bytes().chunks(100).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\n") + "\n"
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for kind in every_event() {
        let event = Event { event: Some(kind) };
        let bytes = event.encode_to_vec();
        let name = event.name().unwrap();
        let golden = std::fs::read_to_string(folder.join(format!("{name}.hex")));
        let golden = golden.unwrap_or_else(|why| panic!("{name}.hex: {why}; it would be\n{}", hex(&bytes)));
        assert_eq!(hex(&bytes), golden, "{name}");
        assert_eq!(Event::decode(bytes.as_slice()).unwrap(), event);
    }
}

#[test]
fn only_what_others_need_leaves_the_ledger() {
    let private: Vec<&str> = every_event()
        .into_iter()
        .map(|kind| Event { event: Some(kind) })
        .filter(|event| !event.is_public())
        .filter_map(|event| event.name())
        .collect();
    assert_eq!(private, ["AccountClosed", "AccountFrozen", "LimitsSet", "SubmitterRegistered"]);
}
