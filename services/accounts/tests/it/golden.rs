//! The bytes of every event ever released. A file of tests/golden is never edited: a new version of an event gets a new
//! file, and the old one must still be read as it was.

use std::path::Path;

use holmes_kernel::{Event as _, Id};
use holmes_proto::accounts::v1::event::Event as Kinds;
use holmes_proto::accounts::v1::{
    AccountCreated, AccountReinstated, AccountSuspended, ApiKeyCreated, ApiKeyRevoked, Event, KeyChanged,
    Role, RolesChanged,
};
use prost::Message;

use crate::harness::{hash, id, public, wallet};

fn every_event() -> Vec<Kinds> {
    let account = || id(2).to_bytes().to_vec().into();
    let key = || Id::v7(1, [2; 10]).to_bytes().to_vec().into();
    let roles = || vec![Role::Renter as i32, Role::Operator as i32];
    let holder = || wallet(2).to_bytes().to_vec().into();
    vec![
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
fn only_what_others_need_leaves_accounts_and_never_an_api_keys_hash() {
    let private: Vec<&str> = every_event()
        .into_iter()
        .map(|kind| Event { event: Some(kind) })
        .filter(|event| !event.is_public())
        .filter_map(|event| event.name())
        .collect();
    assert_eq!(private, ["AccountCreated", "ApiKeyCreated", "ApiKeyRevoked"]);
}
