//! Accounts: created by staff or by a wallet itself, given roles, suspended.

use holmes_kernel::{Ctx, Id};
use holmes_proto::accounts::v1::event::Event as Kind;
use holmes_proto::accounts::v1::{AccountCreated, AccountReinstated, AccountSuspended, RolesChanged};

use super::caller::{Caller, Lost, can_be_administered};
use super::{Decided, account_of, found, is_text, offered, refuse_if};
use crate::Roles;
use crate::command::{NewAccount, Rejection};
use crate::params::{MOST_CAUSE_BYTES, MOST_NAME_BYTES};
use crate::state::State;

/// A wallet's own account: what it offers as its key is all that proves it, so the id must follow from that key.
pub(super) fn create_own(state: &State, new: &NewAccount, ctx: &Ctx) -> Decided {
    refuse_if(!state.params.self_registration, || Rejection::RegistrationClosed)?;
    let own = new.key.as_ref().is_some_and(|key| Id::of_key(&key.public_key) == new.account);
    refuse_if(!own || ctx.principal != account_of(new.account), || Rejection::OwnKeyNeeded)?;
    let open = state.params.open_roles;
    refuse_if(!open.contain(new.roles), || Rejection::RoleNotOpen { open })?;
    created(state, new, ctx.principal.room(state.params.most_accounts))
}

/// An account by staff's hand.
pub(super) fn create(state: &State, new: &NewAccount, caller: &Caller) -> Decided {
    caller.only_staff(
        "only staff creates accounts for others; a wallet creates its own without another proof",
    )?;
    let of_key = new.key.as_ref().is_some_and(|key| Id::of_key(&key.public_key) == new.account);
    let valid = of_key || new.account.moment().is_some();
    refuse_if(!valid, || Rejection::AccountIdInvalid(new.account))?;
    created(state, new, state.params.most_accounts)
}

/// An account, where fewer than so many exist.
fn created(state: &State, new: &NewAccount, room: u64) -> Decided {
    refuse_if(!is_text(&new.name, 1, MOST_NAME_BYTES), || Rejection::NameInvalid)?;
    if state.accounts.contains(&new.account) {
        refuse_if(!is_same(state, new), || Rejection::AccountExists(new.account))?;
        return Ok(Vec::new());
    }
    refuse_if(state.accounts.len() as u64 >= room, || Rejection::TooManyAccounts)?;
    let account = new.account.to_bytes().to_vec();
    let mut events =
        vec![Kind::AccountCreated(AccountCreated { account: account.into(), name: new.name.clone() })];
    if !new.roles.is_empty() {
        events.push(roles_changed(new.account, new.roles));
    }
    if let Some(key) = &new.key {
        events.push(offered(state, account_of(new.account), Some(new.account), key)?);
    }
    Ok(events)
}

/// Whether the account that is there was created with this content and has not been changed in it.
fn is_same(state: &State, new: &NewAccount) -> bool {
    let first = state.holders.get(&account_of(new.account)).and_then(|places| places.first());
    let first = first.and_then(|place| state.public_keys.at(*place)).map(|(public_key, _)| public_key);
    let there = state.account(&new.account);
    there.is_some_and(|there| there.name == new.name && there.roles == new.roles)
        && first == new.key.as_ref().map(|key| &key.public_key)
}

/// Staff gives an account other roles.
pub(super) fn set_roles(state: &State, id: Id, roles: Roles, caller: &Caller) -> Decided {
    caller.only_staff("only staff changes roles")?;
    let account = found(state, id)?;
    if account.roles == roles {
        return Ok(Vec::new());
    }
    if !roles.contain(Roles::STAFF) {
        keep_staff(state, Lost::Account(id))?;
    }
    Ok(vec![roles_changed(id, roles)])
}

/// Staff suspends an account. Said again, the first cause stays.
pub(super) fn suspend(state: &State, id: Id, cause: &str, caller: &Caller) -> Decided {
    caller.only_staff("only staff suspends accounts")?;
    refuse_if(!is_text(cause, 1, MOST_CAUSE_BYTES), || Rejection::CauseInvalid)?;
    if found(state, id)?.suspended.is_some() {
        return Ok(Vec::new());
    }
    keep_staff(state, Lost::Account(id))?;
    let account = id.to_bytes().to_vec().into();
    Ok(vec![Kind::AccountSuspended(AccountSuspended { account, cause: cause.to_owned() })])
}

/// Staff reinstates an account.
pub(super) fn reinstate(state: &State, id: Id, caller: &Caller) -> Decided {
    caller.only_staff("only staff reinstates accounts")?;
    if found(state, id)?.suspended.is_none() {
        return Ok(Vec::new());
    }
    let account = id.to_bytes().to_vec().into();
    Ok(vec![Kind::AccountReinstated(AccountReinstated { account })])
}

/// Refuses what would leave the cell without staff.
pub(super) fn keep_staff(state: &State, lost: Lost) -> Result<(), Rejection> {
    refuse_if(!can_be_administered(state, lost), || Rejection::LastStaff)
}

fn roles_changed(id: Id, roles: Roles) -> Kind {
    Kind::RolesChanged(RolesChanged { account: id.to_bytes().to_vec().into(), roles: roles.numbers() })
}
