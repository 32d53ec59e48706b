//! Whose the platform's accounts are: their services', and of no other.

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{Id, Principal, ServiceId};
use holmes_proto::ledger::v1::Params;
use holmes_proto::ledger::v1::TransferCode::*;

use super::{ALICE, BOB, Given, HOL, MARKET, STAFF, USD, a_move, account, assets, movement};
use crate::command::{Coordinator, Kind, OpenAccount, Transfer, Via};
use crate::{Command, params, system_account};

const OTHER: Principal = Principal::service(ServiceId(8));
/// What the services of a network keep, beside what the ledger opens by itself.
const KEPT: [&str; 9] = [
    "bonds/HOL",
    "trr_pool/HOL",
    "reserve/HOL",
    "vesting_team/HOL",
    "vesting_work/HOL",
    "emission_pot/HOL",
    "market/HOL",
    "market/USD",
    "ecosystem/HOL",
];
const OWN: [&str; 6] =
    ["genesis/HOL", "burn_inbox/HOL", "fees/HOL", "rounding/HOL", "fees/USD", "rounding/USD"];

/// Everywhere lies something that could be taken.
fn platform() -> Given {
    let mut given = Given::new();
    for name in KEPT {
        let asset = if name.ends_with("HOL") { HOL } else { USD };
        let (account, name) = (system_account(name), name.to_owned());
        let open = OpenAccount { account, asset, owner: MARKET, name, history: true, via: Via::Call };
        given.when(MARKET, Command::OpenAccount(open)).unwrap();
    }
    for name in KEPT.into_iter().chain(OWN).filter(|name| *name != "genesis/HOL") {
        let from = if name.ends_with("HOL") { system_account("genesis/HOL") } else { account(ALICE, USD) };
        let paid = given.single(from, system_account(name), 5);
        assert_eq!(given.transfers(MARKET, &[paid]), [Ok], "{name}");
    }
    given
}

fn asset(name: &str) -> u32 {
    if name.ends_with("HOL") { HOL } else { USD }
}

fn offered(given: &mut Given, to: &str, by: Option<Principal>) -> Transfer {
    let of = a_move(account(ALICE, asset(to)), system_account(to), 1);
    let service = |by: Principal| ServiceId(by.id.to_bytes()[15].into());
    let coordinator = by.map(|by| Coordinator { service: service(by), id: Id::from_bytes([4; 16]) });
    given.kind(Kind::Hold { of, timeout_ms: Some(60_000), coordinator })
}

#[test]
fn staff_pays_from_the_ecosystem_and_from_nothing_else_of_the_platform() {
    let mut given = platform();
    for name in KEPT.into_iter().chain(OWN) {
        let (from, to) = (system_account(name), account(BOB, asset(name)));
        let single = given.single(from, to, 1);
        let hold = given.kind(Kind::Hold { of: a_move(from, to, 1), timeout_ms: None, coordinator: None });
        let expected = if name == "ecosystem/HOL" { Ok } else { SystemDebit };
        assert_eq!(given.transfers(STAFF, &[single, hold]), [expected; 2], "{name}");
        assert_eq!(given.transfers(ALICE, &[single]), [if expected == Ok { Exists } else { Forbidden }]);
    }
    let from_alice = given.pay(1);
    assert_eq!(given.transfers(STAFF, &[from_alice]), [Forbidden]);
}

#[test]
fn a_profile_may_name_other_accounts_that_staff_pays_from() {
    let names = vec!["genesis".to_owned()];
    let mut given = Given::with(Params { staff_spends: names, ..params::defaults(assets()) });
    let paid = given.single(system_account("genesis/HOL"), account(BOB, HOL), 1);
    assert_eq!(given.transfers(STAFF, &[paid]), [Ok]);
}

#[test]
fn nobody_but_services_pays_into_the_platforms_accounts() {
    // E-4.1, E-4.7: a pool takes no deposits.
    let mut given = platform();
    for name in KEPT.into_iter().chain(OWN) {
        let of_alice = account(ALICE, asset(name));
        let before = given.balance(system_account(name));
        if name != "genesis/HOL" {
            let single = given.single(of_alice, system_account(name), 1);
            assert_eq!(given.transfers(ALICE, &[single]), [SystemCredit], "{name}");
        }
        for by in [None, Some(OTHER)] {
            let hold = offered(&mut given, name, by);
            assert_eq!(given.transfers(ALICE, &[hold]), [SystemCredit], "{name} {by:?}");
        }
        if KEPT.contains(&name) {
            let single = given.single(of_alice, system_account(name), 1);
            assert_eq!(given.transfers(OTHER, &[single]), [SystemCredit], "{name}");
        }
        if name != "ecosystem/HOL" && name.ends_with("HOL") {
            let moved = given.single(system_account("ecosystem/HOL"), system_account(name), 1);
            assert_eq!(given.transfers(STAFF, &[moved]), [SystemCredit], "{name}");
        }
        assert_eq!(given.balance(system_account(name)), before, "{name}");
    }
}

#[test]
fn no_name_of_the_platform_makes_an_id_that_a_party_could_have() {
    // Other services take an account that has no UUIDv7 for one of the platform's.
    for name in KEPT.into_iter().chain(OWN) {
        assert_eq!(system_account(name).moment(), None, "{name}");
    }
}

#[test]
fn a_hold_is_offered_to_the_service_that_owns_the_account_and_taken_by_it_alone() {
    let mut given = platform();
    let hold = offered(&mut given, "bonds/HOL", Some(MARKET));
    assert_eq!(given.transfers(ALICE, &[hold]), [Ok]);
    let post = given.post(hold.id, None);
    assert_eq!(given.transfers(ALICE, &[post]), [Forbidden]);
    assert_eq!(given.transfers(OTHER, &[post]), [Forbidden]);
    assert_eq!(given.balance(system_account("bonds/HOL")), (5, 0, 1));
    assert_eq!(given.transfers(MARKET, &[post]), [Ok]);
    assert_eq!(given.balance(system_account("bonds/HOL")), (6, 0, 0));
}

#[test]
fn money_crosses_the_border_to_parties_and_not_behind_a_service() {
    let mut given = platform();
    for name in ["market/USD", "fees/USD", "rounding/USD"] {
        let of = |way: &str| movement(system_account(name), 1, &format!("{way} {name}"));
        let (into, out) = (Command::RecordDeposit(of("in")), Command::RecordWithdrawal(of("out")));
        for asked in [into.clone(), out.clone()] {
            assert_eq!(given.when(STAFF, asked).unwrap_err().reason(), "SYSTEM_ACCOUNT", "{name}");
        }
        given.when(MARKET, into).unwrap();
        given.when(MARKET, out).unwrap();
    }
    given.when(STAFF, Command::RecordDeposit(movement(account(BOB, USD), 1, "wire"))).unwrap();
}
