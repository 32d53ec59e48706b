//! A treasury under the driver, and a ledger whose answers the test invents.

use holmes_kernel::{Id, LogId, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::treasury::v1::{GrantParams, Params};
use holmes_treasury::{Command, Outcome, Treasury, params};
use prost::Message;

pub(crate) const START_MS: u64 = 1_800_014_400_000;
/// 00:00 UTC of the day of `START_MS`.
pub(crate) const TGE: Time = Time::from_millis(1_799_971_200_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const HOL: u32 = 1;
pub(crate) const CELL: u16 = 1;
pub(crate) const LEDGER: ServiceId = ServiceId(1);
pub(crate) const TREASURY: ServiceId = ServiceId(7);

pub(crate) fn operator(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The defaults with two operators' grants, two of them to the first.
pub(crate) fn with_grants() -> Params {
    let grant = |name: &str, n, amount_units| GrantParams {
        name: name.into(),
        owner: operator(n).to_string(),
        amount_units,
    };
    Params { grants: vec![grant("a", 1, 1_000), grant("b", 2, 1), grant("c", 1, 500)], ..params::defaults() }
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: CELL.into(), params: params.encode_to_vec(), ..Opened::default() }
}

pub(crate) type Driver = holmes_testing::Driver<Treasury>;

pub(crate) fn driver(params: &Params) -> Driver {
    Driver::new(LogId::new(CELL, TREASURY), Time::from_millis(START_MS), opened(params))
}

/// What the ledger answers to what the event at `sent` carried.
pub(crate) fn answer(driver: &mut Driver, sent: u64, outcome: Outcome) {
    driver.hear(LEDGER, Command::Answered { sent, outcome });
}

/// The events whose answers are awaited.
pub(crate) fn awaited(driver: &Driver) -> Vec<u64> {
    let state = driver.state();
    let errands = state.vestings.iter().map(|vesting| &vesting.errand).chain([&state.genesis.errand]);
    errands.filter_map(|errand| errand.awaits).collect()
}
