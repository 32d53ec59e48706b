//! Who is there, what they own, and what they sign with.

use std::sync::OnceLock;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, LogId, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::scheduling::v1::{Capabilities, ServedModel};
use holmes_proto::staking::v1::NodeKind;
use holmes_staking::command::{Command as Stake, RegisterNode};
use holmes_staking::possession::{Network, statement};
use prost::Message as _;

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
/// The number of staff's key.
pub const STAFF: u8 = 90;
/// The number of the key that scheduling signs with.
pub const SCHEDULER: u8 = 91;
/// The number of the gateway's key.
pub const GATEWAY: u8 = 100;
/// When the network opens.
pub const START: Time = Time::from_millis(20_832 * 86_400_000);
/// Who moves money over the border.
pub const BANK: Principal = Principal::service(ServiceId(9));
pub(super) const TREASURER: Principal = Principal::service(ServiceId(7));
/// The profile that it is opened from.
pub const GENESIS: [u8; 16] = [5; 16];
/// What the nodes serve.
pub const MODEL: &str = "smollm2-135m-instruct";

/// The n-th party: who an account is follows from its key.
pub fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::of_key(&public(n)))
}

/// Staff.
pub fn staff() -> Principal {
    Principal::new(PrincipalKind::Staff, Id::of_key(&public(STAFF)))
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

/// The number of the key of the n-th owner's node.
pub const fn node_key(n: u8) -> u8 {
    n + 10
}

/// The n-th owner's node.
pub fn node(n: u8) -> Id {
    Id::of_key(&public(node_key(n)))
}

/// The gateway that is played.
pub fn gateway() -> Principal {
    Principal::new(PrincipalKind::Gateway, Id::of_key(&public(GATEWAY)))
}

/// A service's log.
pub fn log(service: u16) -> LogId {
    LogId::new(1, ServiceId(service))
}

/// What an owner says to have a node known.
pub fn register(n: u8) -> Stake {
    let (public_key, kind, claim_milli_cu) = (public(node_key(n)), NodeKind::Compute as u8, 1_000);
    Stake::RegisterNode(RegisterNode { public_key, kind, claim_milli_cu, possession: possession(n) })
}

/// That the n-th owner has the node's key, said to staking.
pub fn possession(n: u8) -> [[u8; 32]; 2] {
    let network = Network { genesis: GENESIS, cell: 1 };
    signed(node_key(n), &statement(&network, party(n), &public(node_key(n))))
}

/// What a node offers.
pub fn offer() -> Vec<u8> {
    let model = ServedModel { name: MODEL.into(), digest: vec![1; 32].into(), context: 8_192 };
    Capabilities { models: vec![model], slots: 4, ..Default::default() }.encode_to_vec()
}

/// A signature with the n-th key, in the halves in which machines take it.
pub fn signed(n: u8, said: &[u8]) -> [[u8; 32]; 2] {
    let signature = key(n).sign(said);
    [*signature.r_bytes(), *signature.s_bytes()]
}
