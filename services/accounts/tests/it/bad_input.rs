//! Bad input, through the service: each case has its stable reason and leaves the state as it was.

use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId};
use holmes_proto::accounts::v1 as wire;
use holmes_proto::accounts::v1::accounts_server::Accounts as _;
use holmes_testing::grpc::reason;
use holmes_testing::now;
use tonic::Status;

use crate::api::{Desk, RENTER, Who, by, by_staff, call, offered};
use crate::harness::{START_MS, hash, id, offer, public, wallet};

fn reason_of<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    reason(&answer.expect_err("bad input is refused"))
}

/// Calls with a good message that one case makes bad, and compares reasons; nothing may have changed.
macro_rules! refused {
    ($desk:expr, $call:ident, $good:expr, $([$who:expr, $change:expr, $expected:literal]),+ $(,)?) => {
        $({
            let before = $desk.digest();
            let message = spoiled($good, $change);
            let what = format!("{} {:?}", stringify!($call), message);
            assert_eq!(reason_of(call!($desk, $who, $call, message)), $expected, "{what}");
            assert_eq!($desk.digest(), before, "{what}");
        })+
    };
}

fn spoiled<T>(mut message: T, spoil: fn(&mut T)) -> T {
    spoil(&mut message);
    message
}

const NOT_AN_ID: &str = "0x17";

fn nobody() -> String {
    Id::v7(START_MS, [99; 10]).to_string()
}

fn random() -> String {
    Id::from_bytes([3; 16]).to_string()
}

fn key_of(seed: u8, of: u8) -> Option<wire::OfferedKey> {
    offered(offer(seed, wallet(of), Some(id(of))))
}

/// Spoils an offered key.
fn spoil(key: &mut Option<wire::OfferedKey>, spoil: fn(&mut wire::OfferedKey)) {
    spoil(key.as_mut().unwrap());
}

#[test]
fn a_bad_request_for_an_account_has_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    refused!(
        desk,
        create_account,
        desk.new_wallet(4),
        [Who::Nobody, |m| m.request_id.clear(), "FIELD_INVALID"],
        [Who::Nobody, |m| m.request_id = NOT_AN_ID.into(), "FIELD_INVALID"],
        [Who::Nobody, |m| m.request_id = random(), "REQUEST_ID_INVALID"],
        [Who::Nobody, |m| m.request_id = Id::v7(START_MS - 3_700_000, [1; 10]).to_string(), "ID_EXPIRED"],
        [Who::Nobody, |m| m.request_id = Id::v7(START_MS + 400_000, [1; 10]).to_string(), "ID_EXPIRED"],
        [Who::Nobody, |m| m.account_id = NOT_AN_ID.into(), "FIELD_INVALID"],
        [Who::Nobody, |m| m.account_id = nobody(), "OWN_KEY_NEEDED"],
        [Who::Nobody, |m| m.key = None, "FIELD_INVALID"],
        [Who::Nobody, |m| (m.key, m.account_id) = (None, nobody()), "OWN_KEY_NEEDED"],
        [Who::Nobody, |m| m.name.clear(), "NAME_INVALID"],
        [Who::Nobody, |m| m.name = "x".repeat(65), "NAME_INVALID"],
        [Who::Nobody, |m| m.name = "a\n".into(), "NAME_INVALID"],
        [Who::Nobody, |m| m.name = "a\u{202e}b".into(), "NAME_INVALID"],
        [Who::Nobody, |m| m.roles = vec![0], "FIELD_INVALID"],
        [Who::Nobody, |m| m.roles = vec![5], "FIELD_INVALID"],
        [Who::Nobody, |m| m.roles = vec![4], "ROLE_NOT_OPEN"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.public_key = vec![4; 31].into()), "FIELD_INVALID"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.public_key = vec![2; 32].into()), "PUBLIC_KEY_INVALID"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.possession = vec![4; 63].into()), "FIELD_INVALID"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.possession = vec![4; 65].into()), "FIELD_INVALID"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.possession = vec![4; 64].into()), "POSSESSION_WRONG"],
        [Who::Nobody, |m| spoil(&mut m.key, |k| k.label = "x".repeat(65)), "LABEL_INVALID"],
        [Who::Nobody, |m| m.key = key_of(4, 3), "POSSESSION_WRONG"],
        [Who::Nobody, |m| m.key = key_of(2, 2), "ACCOUNT_EXISTS"],
        [by(2), |_| {}, "FORBIDDEN"],
        [by_staff(), |m| m.account_id = random(), "ACCOUNT_ID_INVALID"],
        [by_staff(), |m| (m.key, m.account_id) = (key_of(2, 2), nobody()), "POSSESSION_WRONG"],
    );
}

#[test]
fn a_bad_request_for_an_api_key_has_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    let there = desk.new_api_key(1);
    call!(desk, by(2), create_api_key, there.clone()).unwrap();
    refused!(
        desk,
        create_api_key,
        desk.new_api_key(2),
        [Who::Nobody, |_| {}, "UNAUTHENTICATED"],
        [Who::Named(wallet(2)), |_| {}, "PROOF_MISSING"],
        [Who::Holds(wallet(2), 1), |_| {}, "ADMIN_NEEDED"],
        [Who::Holds(wallet(2), 9), |_| {}, "KEY_UNKNOWN"],
        [Who::Holds(wallet(3), 1), |_| {}, "KEY_UNKNOWN"],
        [by(9), |_| {}, "ACCOUNT_NOT_FOUND"],
        [by(2), |m| m.request_id = "-1".into(), "FIELD_INVALID"],
        [by(2), |m| m.account_id = NOT_AN_ID.into(), "FIELD_INVALID"],
        [by(2), |m| m.account_id = id(3).to_string(), "FORBIDDEN"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [by(2), |m| m.key_id.clear(), "FIELD_INVALID"],
        [by(2), |m| m.key_id = random(), "API_KEY_ID_INVALID"],
        [by(2), |m| m.hash = vec![1; 33].into(), "FIELD_INVALID"],
        [by(2), |m| m.hash = hash(1).to_vec().into(), "HASH_USED"],
        [by(3), |m| m.hash = hash(1).to_vec().into(), "HASH_USED"],
        [by(2), |m| m.label = "\u{7}".into(), "LABEL_INVALID"],
        [by(2), |m| m.roles = vec![-1], "FIELD_INVALID"],
        [by(2), |m| m.roles = vec![RENTER, 4], "ROLE_NOT_HELD"],
        [by(2), |m| m.expires_at_us = 1, "EXPIRY_PAST"],
    );
    let other = wire::CreateApiKeyRequest { key_id: there.key_id, ..desk.new_api_key(3) };
    refused!(desk, create_api_key, other.clone(), [by(2), |_| {}, "API_KEY_EXISTS"]);
    let good = wire::RevokeApiKeyRequest { request_id: desk.fresh().to_string(), key_id: other.key_id };
    refused!(
        desk,
        revoke_api_key,
        good.clone(),
        [by(2), |m| m.key_id.clear(), "FIELD_INVALID"],
        [by(2), |m| m.key_id = nobody(), "API_KEY_NOT_FOUND"],
        [by(3), |_| {}, "API_KEY_NOT_FOUND"],
        [Who::Holds(wallet(2), 1), |_| {}, "ADMIN_NEEDED"],
        [Who::Nobody, |_| {}, "UNAUTHENTICATED"],
    );
}

#[test]
fn a_bad_request_about_public_keys_has_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    let request_id = || desk.fresh().to_string();
    let (account_id, key) = (String::new(), key_of(5, 2));
    let good = wire::AddPublicKeyRequest { request_id: request_id(), account_id, key };
    refused!(
        desk,
        add_public_key,
        good.clone(),
        [by(2), |m| m.key = None, "FIELD_INVALID"],
        [by(2), |m| spoil(&mut m.key, |k| k.public_key.clear()), "FIELD_INVALID"],
        [by(2), |m| spoil(&mut m.key, |k| k.possession.clear()), "FIELD_INVALID"],
        [by(2), |m| spoil(&mut m.key, |k| k.label = "x\0".into()), "LABEL_INVALID"],
        [by(2), |m| m.key = key_of(3, 3), "POSSESSION_WRONG"], // that it is registered is told to its possessor alone
        [by(2), |m| m.key = key_of(3, 2), "PUBLIC_KEY_USED"],
        [by(3), |_| {}, "POSSESSION_WRONG"],
        [by(3), |m| m.account_id = id(2).to_string(), "FORBIDDEN"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
    );
    let (account_id, old_public_key) = (String::new(), public(2).to_vec().into());
    let good =
        wire::RotateKeyRequest { request_id: request_id(), account_id, old_public_key, key: key_of(5, 2) };
    refused!(
        desk,
        rotate_key,
        good.clone(),
        [by(2), |m| m.old_public_key.clear(), "FIELD_INVALID"],
        [by(2), |m| m.old_public_key = public(3).to_vec().into(), "PUBLIC_KEY_NOT_FOUND"],
        [by(2), |m| m.key = key_of(2, 2), "PUBLIC_KEY_USED"],
        [by(2), |m| m.key = None, "FIELD_INVALID"],
        [by(3), |m| m.account_id = id(2).to_string(), "FORBIDDEN"],
    );
    let public_key = public(2).to_vec().into();
    let good = wire::RevokePublicKeyRequest { request_id: request_id(), public_key };
    refused!(
        desk,
        revoke_public_key,
        good.clone(),
        [by(2), |m| m.public_key = vec![0; 16].into(), "FIELD_INVALID"],
        [by(2), |m| m.public_key = public(9).to_vec().into(), "PUBLIC_KEY_NOT_FOUND"],
        [by(3), |_| {}, "PUBLIC_KEY_NOT_FOUND"],
        [by(2), |_| {}, "LAST_KEY"],
        [by_staff(), |m| m.public_key = public(1).to_vec().into(), "LAST_STAFF"],
    );
}

#[test]
fn a_bad_registration_has_its_reason_and_changes_nothing() {
    let desk = Desk::new();
    let request_id = || desk.fresh().to_string();
    let node = Principal::new(PrincipalKind::Node, id(7));
    let (owner_account_id, key) = (String::new(), offered(offer(7, node, Some(id(2)))));
    let good = wire::RegisterNodeKeyRequest { request_id: request_id(), owner_account_id, key: key.clone() };
    refused!(
        desk,
        register_node_key,
        good.clone(),
        [by(2), |m| m.owner_account_id = NOT_AN_ID.into(), "FIELD_INVALID"],
        [by(2), |m| m.owner_account_id = id(3).to_string(), "FORBIDDEN"],
        [by(2), |m| m.key = None, "FIELD_INVALID"],
        [by(2), |m| m.key = key_of(7, 2), "POSSESSION_WRONG"],
        [by(3), |_| {}, "POSSESSION_WRONG"],
        [by_staff(), |_| {}, "NOT_AN_OPERATOR"],
        [by_staff(), |m| m.owner_account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [Who::Signs(Principal::new(PrincipalKind::Node, id(7))), |_| {}, "FORBIDDEN"],
    );
    let owner_account_id = id(2).to_string();
    let good = wire::RegisterGatewayKeyRequest { request_id: request_id(), owner_account_id, key };
    refused!(
        desk,
        register_gateway_key,
        good.clone(),
        [by(2), |_| {}, "FORBIDDEN"],
        [by_staff(), |_| {}, "POSSESSION_WRONG"],
        [by_staff(), |m| m.key = None, "FIELD_INVALID"],
        [by_staff(), |m| m.owner_account_id = nobody(), "ACCOUNT_NOT_FOUND"],
    );
    let key = offered(offer(8, Principal::service(ServiceId(4)), None));
    let good = wire::RegisterServiceKeyRequest { request_id: request_id(), service_number: 4, key };
    refused!(
        desk,
        register_service_key,
        good.clone(),
        [by(2), |_| {}, "FORBIDDEN"],
        [by_staff(), |m| m.service_number = 0, "FIELD_INVALID"],
        [by_staff(), |m| m.service_number = 65_536, "FIELD_INVALID"],
        [by_staff(), |m| m.service_number = 5, "POSSESSION_WRONG"],
        [by_staff(), |m| m.key = None, "FIELD_INVALID"],
    );
}

#[test]
fn what_only_staff_may_do_is_refused_to_others_and_when_it_is_bad() {
    let desk = Desk::new();
    let (request_id, account_id) = (desk.fresh().to_string(), id(2).to_string());
    let roles = vec![RENTER];
    let good =
        wire::SetRolesRequest { request_id: request_id.clone(), account_id: account_id.clone(), roles };
    refused!(
        desk,
        set_roles,
        good.clone(),
        [by(2), |_| {}, "FORBIDDEN"],
        [Who::Nobody, |_| {}, "UNAUTHENTICATED"],
        [Who::Signs(Principal::new(PrincipalKind::Staff, id(2))), |_| {}, "NOT_STAFF"],
        [by_staff(), |m| m.account_id.clear(), "FIELD_INVALID"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [by_staff(), |m| m.roles = vec![77], "FIELD_INVALID"],
        [by_staff(), |m| m.account_id = id(1).to_string(), "LAST_STAFF"],
    );
    let cause = "case 7".to_owned();
    let good =
        wire::SuspendAccountRequest { request_id: request_id.clone(), account_id: account_id.clone(), cause };
    refused!(
        desk,
        suspend_account,
        good.clone(),
        [by(3), |_| {}, "FORBIDDEN"],
        [by_staff(), |m| m.cause.clear(), "CAUSE_INVALID"],
        [by_staff(), |m| m.cause = "x".repeat(129), "CAUSE_INVALID"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [by_staff(), |m| m.account_id = id(1).to_string(), "LAST_STAFF"],
    );
    let good = wire::ReinstateAccountRequest { request_id, account_id };
    refused!(
        desk,
        reinstate_account,
        good.clone(),
        [by(2), |_| {}, "FORBIDDEN"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [by_staff(), |m| m.account_id = "é".into(), "FIELD_INVALID"],
    );
}

#[test]
fn reads_tell_nobody_of_others() {
    let desk = Desk::new();
    let good = wire::GetAccountRequest { account_id: id(2).to_string() };
    refused!(
        desk,
        get_account,
        good.clone(),
        [Who::Nobody, |_| {}, "UNAUTHENTICATED"],
        [by(3), |_| {}, "ACCOUNT_NOT_FOUND"],
        [by(3), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
        [by(3), |m| m.account_id = NOT_AN_ID.into(), "FIELD_INVALID"],
        [by_staff(), |m| m.account_id = nobody(), "ACCOUNT_NOT_FOUND"],
    );
    refused!(
        desk,
        list_accounts,
        wire::ListAccountsRequest::default(),
        [Who::Nobody, |_| {}, "UNAUTHENTICATED"],
        [by(2), |_| {}, "FORBIDDEN"],
        [by_staff(), |m| m.page_token = "-1".into(), "FIELD_INVALID"],
        [by_staff(), |m| m.page_token = "next".into(), "FIELD_INVALID"],
    );
}

#[test]
fn one_request_id_does_one_thing() {
    let desk = Desk::new();
    let message = desk.new_api_key(1);
    call!(desk, by(2), create_api_key, message.clone()).unwrap();
    let other = wire::CreateApiKeyRequest { request_id: message.request_id, ..desk.new_api_key(2) };
    refused!(desk, create_api_key, other.clone(), [by(2), |_| {}, "REQUEST_ID_REUSED"]);
}
