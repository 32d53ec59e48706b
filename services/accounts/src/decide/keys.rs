//! Keys: created, added, rotated, registered, revoked. A key that was ever known is never taken again.

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind};
use holmes_proto::accounts::v1::event::Event as Kind;
use holmes_proto::accounts::v1::{ApiKeyCreated, ApiKeyRevoked};

use super::accounts::keep_staff;
use super::caller::{Caller, Lost, can_administer};
use super::{Decided, account_of, found, is_text, key_changed, offered, refuse_if};
use crate::Roles;
use crate::command::{Holder, NewApiKey, Rejection};
use crate::params::MOST_LABEL_BYTES;
use crate::possession::OfferedKey;
use crate::state::{Account, ApiKey, PublicKey, State};

/// An API key: some of its account's roles, and none that the caller lacks.
pub(super) fn create_api_key(state: &State, new: &NewApiKey, caller: &Caller, ctx: &Ctx) -> Decided {
    caller.may_manage(new.account)?;
    let account = found(state, new.account)?;
    refuse_if(new.key.moment().is_none(), || Rejection::ApiKeyIdInvalid(new.key))?;
    refuse_if(!is_text(&new.label, 0, MOST_LABEL_BYTES), || Rejection::LabelInvalid)?;
    if let Some(there) = state.api_keys.get(&new.key) {
        refuse_if(!is_same(there, new), || Rejection::ApiKeyExists(new.key))?;
        return Ok(Vec::new());
    }
    refuse_if(state.hashes.contains(&new.hash), || Rejection::HashUsed)?;
    refuse_if(!account.roles.contain(new.roles), || Rejection::RoleNotHeld { has: account.roles })?;
    caller.may_grant(new.roles)?;
    refuse_if(new.expires.is_some_and(|at| at <= ctx.now), || Rejection::ExpiryPast)?;
    room_ever(state, new.account, account)?;
    room("API keys", state.api_keys_of(account).count(), state.params.most_api_keys)?;
    Ok(vec![Kind::ApiKeyCreated(ApiKeyCreated {
        account: new.account.to_bytes().to_vec().into(),
        key: new.key.to_bytes().to_vec().into(),
        hash: new.hash.to_vec().into(),
        label: new.label.clone(),
        roles: new.roles.numbers(),
        admin: new.admin,
        expires_us: new.expires.map_or(0, |at| at.micros()),
    })])
}

/// Whether the key that is there was created with this content; a revoked one is never what was asked for.
fn is_same(there: &ApiKey, new: &NewApiKey) -> bool {
    let mine = (there.account, there.hash, &there.label, there.roles, there.admin, there.expires);
    mine == (new.account, new.hash, &new.label, new.roles, new.admin, new.expires) && there.revoked.is_none()
}

/// Ends an API key. That somebody else's is there is not told.
pub(super) fn revoke_api_key(state: &State, id: Id, caller: &Caller, ctx: &Ctx) -> Decided {
    let key = state.api_keys.get(&id).filter(|key| caller.owns(key.account));
    let key = key.ok_or(Rejection::ApiKeyNotFound(id))?;
    if key.revoked.is_some() {
        return Ok(Vec::new());
    }
    keep_key(state, key.account, Lost::ApiKey(id), caller, ctx)?;
    Ok(vec![Kind::ApiKeyRevoked(ApiKeyRevoked { key: id.to_bytes().to_vec().into() })])
}

/// A further key of an account. It acts as all that its account may, so the caller must have all of that.
pub(super) fn add(state: &State, id: Id, key: &OfferedKey, caller: &Caller) -> Decided {
    caller.may_manage(id)?;
    let account = found(state, id)?;
    caller.may_grant(account.roles)?;
    if is_there(state, account_of(id), Some(id), key) {
        return Ok(Vec::new());
    }
    room_ever(state, id, account)?;
    room("public keys", state.own_keys(id).count(), state.params.most_public_keys)?;
    Ok(vec![offered(state, account_of(id), Some(id), key)?])
}

/// A key in the place of another one: the account has a key at every moment, so no limit and no last key matters.
pub(super) fn rotate(state: &State, id: Id, old: &[u8; 32], key: &OfferedKey, caller: &Caller) -> Decided {
    caller.may_manage(id)?;
    let account = found(state, id)?;
    caller.may_grant(account.roles)?;
    let of = account_of(id);
    let old_key = state.public_keys.get(old).filter(|key| key.holder == of);
    let revoked = old_key.ok_or(Rejection::PublicKeyNotFound)?.revoked.is_some();
    if revoked && is_there(state, of, Some(id), key) {
        return Ok(Vec::new());
    }
    refuse_if(revoked, || Rejection::PublicKeyRevoked)?;
    room_ever(state, id, account)?;
    Ok(vec![offered(state, of, Some(id), key)?, key_changed(of, Some(id), old, None)])
}

/// The key of a node, gateway or service.
pub(super) fn register(state: &State, holder: Holder, key: &OfferedKey, caller: &Caller) -> Decided {
    let machine = |kind| Principal::new(kind, Id::of_key(&key.public_key));
    let (of, owner) = match holder {
        Holder::Node { owner } => {
            caller.may_manage(owner)?;
            let runs = found(state, owner)?.roles.both(Roles::OPERATOR | Roles::VERIFIER);
            refuse_if(runs.is_empty(), || Rejection::NotAnOperator(owner))?;
            caller.may_grant(runs)?;
            (machine(PrincipalKind::Node), Some(owner))
        }
        Holder::Gateway { owner } => {
            caller.only_staff("only staff registers gateways: they vouch for renters")?;
            (machine(PrincipalKind::Gateway), Some(owner))
        }
        Holder::Service(number) => {
            caller.only_staff("only staff registers the keys of services")?;
            refuse_if(number.0 == 0, || Rejection::ServiceInvalid)?;
            (Principal::service(number), None)
        }
    };
    if is_there(state, of, owner, key) {
        return Ok(Vec::new());
    }
    match owner {
        Some(id) => {
            let account = found(state, id)?;
            room_ever(state, id, account)?;
            room("machines", state.unrevoked(&account.machines).count(), state.params.most_machines)?;
        }
        None => {
            let places = state.holders.get(&of).map_or(&[][..], Vec::as_slice);
            room("public keys", state.unrevoked(places).count(), state.params.most_public_keys)?;
        }
    }
    Ok(vec![offered(state, of, owner, key)?])
}

/// Ends a public key. That somebody else's is there is not told.
pub(super) fn revoke(state: &State, public_key: &[u8; 32], caller: &Caller, ctx: &Ctx) -> Decided {
    let mine = |key: &&PublicKey| key.owner.map_or(caller.is_staff, |owner| caller.owns(owner));
    let key = state.public_keys.get(public_key).filter(mine).ok_or(Rejection::PublicKeyNotFound)?;
    if key.revoked.is_some() {
        return Ok(Vec::new());
    }
    if key.holder.kind == PrincipalKind::Account {
        keep_key(state, key.holder.id, Lost::PublicKey(*public_key), caller, ctx)?;
    }
    Ok(vec![key_changed(key.holder, key.owner, public_key, None)])
}

/// Whether a key counts already for this holder: asked for again, it is so.
fn is_there(state: &State, holder: Principal, owner: Option<Id>, key: &OfferedKey) -> bool {
    let there = state.public_keys.get(&key.public_key);
    there.is_some_and(|there| {
        there.holder == holder && there.owner == owner && there.label == key.label && there.revoked.is_none()
    })
}

/// Refuses what would lock an account, unless staff does it, or the cell.
fn keep_key(state: &State, account: Id, lost: Lost, caller: &Caller, ctx: &Ctx) -> Result<(), Rejection> {
    let locked = !caller.is_staff && !can_administer(state, account, lost, ctx.now);
    refuse_if(locked, || Rejection::LastKey)?;
    keep_staff(state, lost)
}

fn room(what: &'static str, count: usize, most: u64) -> Result<(), Rejection> {
    refuse_if(count as u64 >= most, || Rejection::TooManyKeys { what, most })
}

fn room_ever(state: &State, id: Id, account: &Account) -> Result<(), Rejection> {
    let own = state.holders.get(&account_of(id)).map_or(0, Vec::len);
    let (ever, most) =
        ((own + account.api_keys.len() + account.machines.len()) as u64, state.params.most_keys_ever);
    refuse_if(ever >= most, || Rejection::TooManyKeysEver { most })
}
