//! The invariants of accounts as code.

use holmes_kernel::Place;
use holmes_kernel::{Broken, Id, Principal, PrincipalKind};
use holmes_proto::accounts::v1::Event;
use holmes_proto::accounts::v1::event::Event as Kind;

use super::{Account, ApiKey, PublicKey, State};
use crate::Roles;
use crate::decide::{Lost, can_be_administered};
use crate::params::{MOST_LABEL_BYTES, MOST_NAME_BYTES};

/// What one command's events can break: what they name is there and is as they say, and somebody administers the cell.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    events.iter().try_for_each(|event| check_event(state, event))?;
    check_staff(state)
}

fn check_event(state: &State, event: &Event) -> Result<(), Broken> {
    match &event.event {
        Some(Kind::AccountCreated(e)) => check_named(state, &e.account).map(|_| ()),
        Some(Kind::ApiKeyCreated(e)) => {
            check_named(state, &e.account)?;
            let place = Id::from_slice(&e.key).and_then(|id| state.api_keys.place(&id));
            let indexed = state.hashes.get(e.hash.as_ref()).copied();
            ensure(place.is_some() && place == indexed, || format!("API key {:?} is not found", e.key))
        }
        Some(Kind::ApiKeyRevoked(e)) => {
            let key = Id::from_slice(&e.key).and_then(|id| state.api_keys.get(&id));
            ensure(key.is_some_and(|key| key.revoked.is_some()), || format!("API key {:?} lives", e.key))
        }
        Some(Kind::KeyChanged(e)) => {
            let key = state.public_keys.get(e.public_key.as_ref());
            let holder = Principal::from_slice(&e.holder);
            let so = key.is_some_and(|key| key.revoked.is_some() == e.revoked && Some(key.holder) == holder);
            ensure(so, || format!("public key {:?} is not as its event says", e.public_key))
        }
        Some(Kind::RolesChanged(e)) => {
            let (_, account) = check_named(state, &e.account)?;
            let roles = Roles::read(&e.roles);
            ensure(roles == Some(account.roles), || format!("roles {:?} were not taken", e.roles))
        }
        Some(Kind::AccountSuspended(e)) => {
            let (id, account) = check_named(state, &e.account)?;
            ensure(account.suspended.is_some(), || format!("account {id} is not suspended"))
        }
        Some(Kind::AccountReinstated(e)) => {
            let (id, account) = check_named(state, &e.account)?;
            ensure(account.suspended.is_none(), || format!("account {id} is still suspended"))
        }
        None => Ok(()),
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what())) }
}

fn check_named<'a>(state: &'a State, id: &[u8]) -> Result<(Id, &'a Account), Broken> {
    let named = Id::from_slice(id).and_then(|id| Some((id, state.account(&id)?)));
    let (id, account) = named.ok_or_else(|| Broken(format!("an event names account {id:?}: not there")))?;
    check_limits(state, id, account)?;
    Ok((id, account))
}

fn check_limits(state: &State, id: Id, account: &Account) -> Result<(), Broken> {
    let params = &state.params;
    let own = state.holders.get(&Principal::new(PrincipalKind::Account, id)).map_or(0, Vec::len);
    let ever = own + account.api_keys.len() + account.machines.len();
    for (what, found, most) in [
        ("API keys", state.api_keys_of(account).count(), params.most_api_keys),
        ("public keys", state.own_keys(id).count(), params.most_public_keys),
        ("machines", state.unrevoked(&account.machines).count(), params.most_machines),
        ("keys ever", ever, params.most_keys_ever),
        ("bytes of a name", account.name.len(), MOST_NAME_BYTES as u64),
    ] {
        ensure(found as u64 <= most, || format!("account {id}: {found} {what}, of {most} at most"))?;
    }
    Ok(())
}

fn check_staff(state: &State) -> Result<(), Broken> {
    ensure(can_be_administered(state, Lost::Nothing), || "nobody can administer the cell".into())
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    broken.extend(check_staff(state).err());
    let accounts = state.accounts.len() as u64;
    let most = state.params.most_accounts;
    broken.extend(ensure(accounts <= most, || format!("{accounts} accounts, of {most} at most")).err());
    for (id, account) in state.accounts.iter() {
        broken.extend(check_limits(state, *id, account).err());
        broken.extend(check_account(state, *id, account).err());
    }
    check_api_keys(state, &mut broken);
    check_public_keys(state, &mut broken);
    broken
}

fn check_account(state: &State, id: Id, account: &Account) -> Result<(), Broken> {
    let is_staff = account.roles.contain(Roles::STAFF);
    ensure(is_staff == state.staff.contains(&id), || format!("account {id} and the row of staff differ"))?;
    let keys = account.api_keys.iter().filter_map(|at| state.api_keys.at(*at));
    let own = keys.filter(|(_, key)| key.account == id).count();
    ensure(own == account.api_keys.len(), || format!("account {id} lists an API key that is not its own"))?;
    let keys = account.machines.iter().filter_map(|at| state.public_keys.at(*at));
    let own = keys.filter(|(_, key)| key.owner == Some(id)).count();
    ensure(own == account.machines.len(), || format!("account {id} lists a machine that is not its own"))
}

fn check_api_keys(state: &State, broken: &mut Vec<Broken>) {
    let mut ensure = |holds: bool, what: String| broken.extend((!holds).then_some(Broken(what)));
    let (keys, hashes) = (state.api_keys.len(), state.hashes.len());
    ensure(keys == hashes, format!("{keys} API keys, {hashes} hashes: one stands twice, or is not found"));
    let listed: usize = state.accounts.values().map(|account| account.api_keys.len()).sum();
    ensure(keys == listed, format!("{keys} API keys, {listed} of accounts"));
    for (place, (id, key)) in (0 as Place..).zip(state.api_keys.iter()) {
        let ApiKey { account, hash, ref label, .. } = *key;
        ensure(state.hashes.get(&hash) == Some(&place), format!("API key {id} is not found by its hash"));
        ensure(state.accounts.contains(&account), format!("API key {id} belongs to nobody"));
        ensure(label.len() <= MOST_LABEL_BYTES, format!("API key {id} has too long a label"));
    }
}

fn check_public_keys(state: &State, broken: &mut Vec<Broken>) {
    let mut ensure = |holds: bool, what: String| broken.extend((!holds).then_some(Broken(what)));
    let (keys, held): (_, usize) = (state.public_keys.len(), state.holders.values().map(Vec::len).sum());
    ensure(keys == held, format!("{keys} public keys, {held} held"));
    let machines: usize = state.accounts.values().map(|account| account.machines.len()).sum();
    let of_machines = state.public_keys.values().filter(|key| is_machine(&key.holder)).count();
    ensure(machines == of_machines, format!("{of_machines} keys of machines, {machines} of accounts"));
    for (place, (public_key, key)) in (0 as Place..).zip(state.public_keys.iter()) {
        let PublicKey { holder, owner, ref label, .. } = *key;
        let name = Id::of_key(public_key);
        let held = state.holders.get(&holder).is_some_and(|places| places.contains(&place));
        ensure(held, format!("public key {name} is not among those of {holder}"));
        let answered = match holder.kind {
            PrincipalKind::Account => owner == Some(holder.id),
            PrincipalKind::Node | PrincipalKind::Gateway => holder.id == name && owner.is_some(),
            PrincipalKind::Service => owner.is_none(),
            PrincipalKind::System | PrincipalKind::Staff => false,
        };
        let known = owner.is_none_or(|id| state.accounts.contains(&id));
        ensure(answered && known, format!("public key {name} of {holder} has owner {owner:?}"));
        ensure(label.len() <= MOST_LABEL_BYTES, format!("public key {name} has too long a label"));
    }
    for (holder, places) in state.holders.iter() {
        let most = if is_machine(holder) { 1 } else { state.params.most_public_keys };
        let found = state.unrevoked(places).count();
        ensure(found as u64 <= most, format!("{holder}: {found} public keys, of {most} at most"));
    }
}

fn is_machine(holder: &Principal) -> bool {
    matches!(holder.kind, PrincipalKind::Node | PrincipalKind::Gateway)
}
