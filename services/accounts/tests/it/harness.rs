//! Accounts under the driver, and the keys that their tests use.

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_accounts::Accounts;
use holmes_accounts::params::{FirstStaff, defaults};
use holmes_accounts::possession::{Network, OfferedKey, statement};
use holmes_kernel::{Id, LogId, Opened, Principal, PrincipalKind, ServiceId, Time};
use prost::Message;

pub(crate) const START_MS: u64 = 1_700_000_000_000;
const LOG: LogId = LogId::new(1, ServiceId(2));
const NETWORK: Network = Network { genesis: [7; 16], cell: 1 };

pub(crate) type Driver = holmes_testing::Driver<Accounts>;

/// The seed of the first staff's key pair.
pub(crate) const STAFF: u8 = 1;

pub(crate) fn public(seed: u8) -> [u8; 32] {
    SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()
}

/// The account of a wallet, or the id of a node or gateway.
pub(crate) fn id(seed: u8) -> Id {
    Id::of_key(&public(seed))
}

pub(crate) fn wallet(seed: u8) -> Principal {
    Principal::new(PrincipalKind::Account, id(seed))
}

pub(crate) fn staff() -> Principal {
    Principal::new(PrincipalKind::Staff, id(STAFF))
}

/// The text of an API key.
pub(crate) fn secret(n: u8) -> String {
    format!("hk_{n:064x}")
}

pub(crate) fn hash(n: u8) -> [u8; 32] {
    *blake3::hash(secret(n).as_bytes()).as_bytes()
}

/// A key pair's public half with its proof.
pub(crate) fn offer(seed: u8, holder: Principal, owner: Option<Id>) -> OfferedKey {
    let signature =
        SigningKey::from_bytes(&[seed; 32]).sign(&statement(&NETWORK, holder, owner, &public(seed)));
    let possession = [*signature.r_bytes(), *signature.s_bytes()];
    OfferedKey { public_key: public(seed), label: format!("key {seed}"), possession }
}

pub(crate) fn driver() -> Driver {
    let mut params = defaults(&FirstStaff { public_keys: vec![public(STAFF)], api_key_hashes: vec![] });
    (params.most_api_keys, params.most_public_keys, params.most_machines) = (4, 3, 10);
    let (profile_hash, params) = (NETWORK.genesis.to_vec(), params.encode_to_vec());
    let opened = Opened { cell: 1, profile_hash, params, ..Opened::default() };
    Driver::new(LOG, Time::from_millis(START_MS), opened)
}
