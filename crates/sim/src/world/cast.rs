//! Who is there, what they own, and what they sign with.

use std::sync::OnceLock;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, LogId, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::staking::v1::NodeKind;
use holmes_staking::command::{Command as Stake, RegisterNode};
use holmes_staking::possession::{Network, statement};

/// The token's number.
pub const HOL: u32 = 1;
/// The dollar's number.
pub const USD: u32 = 2;
/// One token, in base units.
pub const COIN: u64 = 1_000_000_000;
/// One dollar, in base units.
pub const DOLLAR: u64 = 1_000_000;
/// What every renter and owner has at first, in base units of HOL and of the dollar.
pub const WEALTH: [u64; 2] = [100_000 * COIN, 100 * DOLLAR];
/// What an owner bonds.
pub const BOND: u64 = 5_000 * COIN;
/// How long an epoch is.
pub const EPOCH_S: u64 = 45;
/// Owners 1 to 3 have a node each, parties 4 and 5 rent.
pub const OWNERS: std::ops::RangeInclusive<u8> = 1..=3;
/// Who rents.
pub const RENTERS: std::ops::RangeInclusive<u8> = 4..=5;
pub(super) const START: Time = Time::from_millis(20_832 * 86_400_000);
/// Staff.
pub const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
/// Who moves money over the border.
pub const BANK: Principal = Principal::service(ServiceId(9));
pub(super) const TREASURER: Principal = Principal::service(ServiceId(7));
pub(super) const GENESIS: [u8; 16] = [5; 16];
/// What the nodes serve.
pub const MODEL: &str = "smollm2-135m-instruct";

/// The n-th party.
pub fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// Its account.
pub fn account(n: u8, asset: u32) -> Id {
    Id::v7(START.millis(), [asset as u8, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

/// A party's, a node's, a gateway's key.
pub fn key(n: u8) -> &'static SigningKey {
    // Its public half is asked for all the time, and takes long to compute.
    static KEYS: [OnceLock<SigningKey>; 256] = [const { OnceLock::new() }; 256];
    KEYS[usize::from(n)].get_or_init(|| SigningKey::from_bytes(&[n; 32]))
}

/// Its public half.
pub fn public(n: u8) -> [u8; 32] {
    key(n).verifying_key().to_bytes()
}

/// The n-th owner's node.
pub fn node(n: u8) -> Id {
    Id::of_key(&public(n))
}

/// The gateway that is played.
pub fn gateway() -> Principal {
    Principal::new(PrincipalKind::Gateway, Id::of_key(&public(100)))
}

/// A service's log.
pub fn log(service: u16) -> LogId {
    LogId::new(1, ServiceId(service))
}

/// What an owner says to have a node known.
pub fn register(n: u8) -> Stake {
    let network = Network { genesis: GENESIS, cell: 1 };
    let possession = signed(n, &statement(&network, party(n), &public(n)));
    let kind = NodeKind::Compute as u8;
    Stake::RegisterNode(RegisterNode { public_key: public(n), kind, claim_milli_cu: 1_000, possession })
}

/// The n-th party's signature.
pub(super) fn signed(n: u8, said: &[u8]) -> [[u8; 32]; 2] {
    let signature = key(n).sign(said);
    [*signature.r_bytes(), *signature.s_bytes()]
}
