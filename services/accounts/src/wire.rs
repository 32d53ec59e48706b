//! Between the wire's messages and the types of accounts: parsed once, then types carry the proof.

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{Id, Principal, ServiceId, Time};
use holmes_proto::accounts::v1 as wire;
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Parsed, Proof, Scope, malformed};

use crate::Roles;
use crate::command::{Change, Holder, NewAccount, NewApiKey};
use crate::possession::OfferedKey;
use crate::state::{Account, ApiKey, Denied, PublicKey, State};

/// A key that the edge of another process asks for.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// BLAKE3-256 of an API key's text.
    ApiKey([u8; 32]),
    /// Who signs.
    Principal(Principal),
}

/// Which key is asked for.
pub fn asked(request: &wire::FindKeyRequest) -> Parsed<Asked> {
    match &request.key {
        Some(wire::find_key_request::Key::ApiKeyHash(hash)) => {
            Ok(Asked::ApiKey(bytes_32("api_key_hash", hash)?))
        }
        Some(wire::find_key_request::Key::Principal(who)) => Principal::from_slice(who).map_or_else(
            || malformed("principal", "17 bytes: a kind, then an id"),
            |who| Ok(Asked::Principal(who)),
        ),
        None => malformed("key", "an API key's hash or a principal"),
    }
}

/// A key that is known, and what it may do, or why it may nothing.
pub fn key_found(
    who: Principal,
    public_key: Option<[u8; 32]>,
    scope: Result<Scope, Denied>,
) -> wire::FindKeyResponse {
    let found = wire::FindKeyResponse {
        principal: who.to_bytes().to_vec().into(),
        public_key: public_key.map(|key| key.to_vec()).unwrap_or_default().into(),
        ..wire::FindKeyResponse::default()
    };
    match scope {
        Ok(scope) => wire::FindKeyResponse {
            roles: scope.roles.numbers(),
            admin: matches!(scope.by, Proof::Key { admin: true }),
            ..found
        },
        Err(denied) => wire::FindKeyResponse {
            denied_reason: denied.reason().to_owned(),
            denied_message: denied.to_string(),
            ..found
        },
    }
}

/// A key that is not known, or opens nothing.
pub fn key_denied(denied: &Denied) -> wire::FindKeyResponse {
    wire::FindKeyResponse {
        denied_reason: denied.reason().to_owned(),
        denied_message: denied.to_string(),
        ..wire::FindKeyResponse::default()
    }
}

/// An id in a text field, or where it is empty the caller's own.
pub fn id_or(field: &'static str, text: &str, own: Id) -> Parsed<Id> {
    if text.is_empty() { Ok(own) } else { id(field, text) }
}

fn bytes_32(field: &'static str, bytes: &[u8]) -> Parsed<[u8; 32]> {
    bytes.try_into().or_else(|_| malformed(field, "32 bytes"))
}

fn roles(numbers: &[i32]) -> Parsed<Roles> {
    let expected = "ROLE_RENTER, ROLE_OPERATOR, ROLE_VERIFIER and ROLE_STAFF only";
    Roles::read(numbers).map_or_else(|| malformed("roles", expected), Ok)
}

fn key(offered: Option<&wire::OfferedKey>) -> Parsed<OfferedKey> {
    let Some(offered) = offered else { return malformed("key", "a public key and its proof of possession") };
    let public_key = bytes_32("key.public_key", &offered.public_key)?;
    let (Some(r), Some(s)) = (offered.possession.get(..32), offered.possession.get(32..)) else {
        return malformed("key.possession", "64 bytes");
    };
    let half = |bytes: &[u8]| bytes.try_into().or_else(|_| malformed("key.possession", "64 bytes"));
    Ok(OfferedKey { public_key, label: offered.label.clone(), possession: [half(r)?, half(s)?] })
}

/// An account to create. Without an id it has that of its key.
pub fn new_account(request: &wire::CreateAccountRequest) -> Parsed<NewAccount> {
    let key = request.key.as_ref().map(|offered| key(Some(offered))).transpose()?;
    let account = match (request.account_id.as_str(), &key) {
        ("", Some(key)) => Id::of_key(&key.public_key),
        ("", None) => return malformed("account_id", "a UUIDv7, or a key from which it follows"),
        (text, _) => id("account_id", text)?,
    };
    Ok(NewAccount { account, name: request.name.clone(), roles: roles(&request.roles)?, key })
}

/// An API key to create, for the caller's own account unless the request says otherwise.
pub fn create_api_key(request: &wire::CreateApiKeyRequest, own: Id) -> Parsed<Change> {
    Ok(Change::CreateApiKey(NewApiKey {
        account: id_or("account_id", &request.account_id, own)?,
        key: id("key_id", &request.key_id)?,
        hash: bytes_32("hash", &request.hash)?,
        label: request.label.clone(),
        roles: roles(&request.roles)?,
        admin: request.admin,
        expires: (request.expires_at_us > 0).then(|| Time::from_micros(request.expires_at_us)),
    }))
}

/// An API key to end.
pub fn revoke_api_key(request: &wire::RevokeApiKeyRequest) -> Parsed<Change> {
    Ok(Change::RevokeApiKey { key: id("key_id", &request.key_id)? })
}

/// A public key to add.
pub fn add_public_key(request: &wire::AddPublicKeyRequest, own: Id) -> Parsed<Change> {
    let account = id_or("account_id", &request.account_id, own)?;
    Ok(Change::AddPublicKey { account, key: key(request.key.as_ref())? })
}

/// A public key to put in the place of another.
pub fn rotate_key(request: &wire::RotateKeyRequest, own: Id) -> Parsed<Change> {
    let account = id_or("account_id", &request.account_id, own)?;
    let old = bytes_32("old_public_key", &request.old_public_key)?;
    Ok(Change::RotateKey { account, old, key: key(request.key.as_ref())? })
}

/// A public key to end.
pub fn revoke_public_key(request: &wire::RevokePublicKeyRequest) -> Parsed<Change> {
    Ok(Change::RevokePublicKey { public_key: bytes_32("public_key", &request.public_key)? })
}

/// A node's key, and the node's id.
pub fn register_node_key(request: &wire::RegisterNodeKeyRequest, own: Id) -> Parsed<(Change, Id)> {
    let owner = id_or("owner_account_id", &request.owner_account_id, own)?;
    register(Holder::Node { owner }, request.key.as_ref())
}

/// A gateway's key, and the gateway's id.
pub fn register_gateway_key(request: &wire::RegisterGatewayKeyRequest, own: Id) -> Parsed<(Change, Id)> {
    let owner = id_or("owner_account_id", &request.owner_account_id, own)?;
    register(Holder::Gateway { owner }, request.key.as_ref())
}

/// A service's key.
pub fn register_service_key(request: &wire::RegisterServiceKeyRequest) -> Parsed<Change> {
    let number = u16::try_from(request.service_number).ok().filter(|number| *number > 0);
    let Some(number) = number else { return malformed("service_number", "1 to 65,535") };
    register(Holder::Service(ServiceId(number)), request.key.as_ref()).map(|(change, _)| change)
}

fn register(holder: Holder, offered: Option<&wire::OfferedKey>) -> Parsed<(Change, Id)> {
    let key = key(offered)?;
    let id = Id::of_key(&key.public_key);
    Ok((Change::RegisterKey { holder, key }, id))
}

/// Roles to set.
pub fn set_roles(request: &wire::SetRolesRequest) -> Parsed<Change> {
    Ok(Change::SetRoles { account: id("account_id", &request.account_id)?, roles: roles(&request.roles)? })
}

/// An account to suspend.
pub fn suspend(request: &wire::SuspendAccountRequest) -> Parsed<Change> {
    Ok(Change::Suspend { account: id("account_id", &request.account_id)?, cause: request.cause.clone() })
}

/// An account to reinstate.
pub fn reinstate(request: &wire::ReinstateAccountRequest) -> Parsed<Change> {
    Ok(Change::Reinstate { account: id("account_id", &request.account_id)? })
}

/// An account as callers see it.
pub fn account(state: &State, id: Id, account: &Account) -> wire::Account {
    wire::Account {
        account_id: id.to_string(),
        name: account.name.clone(),
        roles: account.roles.numbers(),
        suspended: account.suspended.is_some(),
        cause: account.suspended.clone().unwrap_or_default(),
        created_at_us: account.created.micros(),
        machines: state.unrevoked(&account.machines).count() as u32,
    }
}

/// An account with its keys that are not revoked.
pub fn account_and_keys(state: &State, id: Id, of: &Account) -> wire::GetAccountResponse {
    wire::GetAccountResponse {
        account: Some(account(state, id, of)),
        api_keys: state.api_keys_of(of).map(|(id, key)| api_key(id, key)).collect(),
        public_keys: state.own_keys(id).map(|(bytes, key)| public_key(bytes, key)).collect(),
    }
}

fn api_key(id: Id, key: &ApiKey) -> wire::ApiKey {
    wire::ApiKey {
        key_id: id.to_string(),
        label: key.label.clone(),
        roles: key.roles.numbers(),
        admin: key.admin,
        created_at_us: key.created.micros(),
        expires_at_us: key.expires.map_or(0, |at| at.micros()),
    }
}

fn public_key(bytes: &[u8; 32], key: &PublicKey) -> wire::PublicKey {
    wire::PublicKey {
        public_key: bytes.to_vec().into(),
        label: key.label.clone(),
        added_at_us: key.added.micros(),
    }
}
