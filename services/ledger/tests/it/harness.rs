//! A ledger under the driver, and the parties and accounts of its tests.

use holmes_kernel::{Id, LogId, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_ledger::{Ledger, params};
use holmes_proto::ledger::v1::{Asset, Params};
use prost::Message;

pub(crate) const HOL: u32 = 1;
pub(crate) const USD: u32 = 2;
pub(crate) const CAP: u64 = 1_000_000_000_000_000_000;
pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const MARKET: Principal = Principal::service(ServiceId(9));
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));

pub(crate) type Driver = holmes_testing::Driver<Ledger>;

pub(crate) fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The n-th account of an asset.
pub(crate) fn account(n: u8, asset: u32) -> Id {
    Id::v7(START_MS, [n, asset as u8, 1, 1, 1, 1, 1, 1, 1, 1])
}

pub(crate) fn default_params() -> Params {
    let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units: CAP };
    params::defaults(vec![hol, Asset { id: USD, name: "USD".into(), decimals: 6, cap_units: 0 }])
}

pub(crate) fn driver(params: &Params) -> Driver {
    let opened = Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() };
    Driver::new(LogId::new(1, ServiceId(1)), Time::from_millis(START_MS), opened)
}
