//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Event as _, Id};
use holmes_proto::accounts::v1::event::Event as Kinds;
use holmes_proto::accounts::v1::{
    AccountCreated, AccountReinstated, AccountSuspended, ApiKeyCreated, ApiKeyRevoked, Event, KeyChanged,
    Role, RolesChanged,
};
use holmes_testing::golden;

use crate::harness::{hash, id, public, wallet};

fn every_event() -> Vec<Event> {
    let account = || id(2).to_bytes().to_vec().into();
    let key = || Id::v7(1, [2; 10]).to_bytes().to_vec().into();
    let roles = || vec![Role::Renter as i32, Role::Operator as i32];
    let holder = || wallet(2).to_bytes().to_vec().into();
    let kinds = [
        Kinds::AccountCreated(AccountCreated { account: account(), name: "Baker Street".into() }),
        Kinds::ApiKeyCreated(ApiKeyCreated {
            account: account(),
            key: key(),
            hash: hash(1).to_vec().into(),
            label: "batch jobs".into(),
            roles: roles(),
            admin: true,
            expires_us: u64::MAX,
        }),
        Kinds::ApiKeyRevoked(ApiKeyRevoked { key: key() }),
        Kinds::KeyChanged(KeyChanged {
            holder: holder(),
            owner: account(),
            public_key: public(2).to_vec().into(),
            label: "laptop".into(),
            revoked: false,
        }),
        Kinds::RolesChanged(RolesChanged { account: account(), roles: roles() }),
        Kinds::AccountSuspended(AccountSuspended { account: account(), cause: "case 7".into() }),
        Kinds::AccountReinstated(AccountReinstated { account: account() }),
    ];
    kinds.map(|kind| Event { event: Some(kind) }).to_vec()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_accounts_and_never_an_api_keys_hash() {
    let private = golden::named(&every_event(), |event| !event.is_public());
    assert_eq!(private, ["AccountCreated", "ApiKeyCreated", "ApiKeyRevoked"]);
}
