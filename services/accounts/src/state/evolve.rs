//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Id, Meta, Principal, Time};
use holmes_proto::accounts::v1::event::Event as Kind;
use holmes_proto::accounts::v1::{AccountCreated, ApiKeyCreated, Event, KeyChanged, RolesChanged};

use super::{Account, ApiKey, PublicKey, State};
use crate::Roles;

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    match &event.event {
        Some(Kind::AccountCreated(e)) => state.account_created(e, meta),
        Some(Kind::ApiKeyCreated(e)) => state.api_key_created(e, meta),
        Some(Kind::ApiKeyRevoked(e)) => {
            if let Some(key) = Id::from_slice(&e.key).and_then(|id| state.api_keys.get_mut(&id)) {
                key.revoked = Some(meta.ts);
            }
        }
        Some(Kind::KeyChanged(e)) => state.key_changed(e, meta),
        Some(Kind::RolesChanged(e)) => state.roles_changed(e),
        Some(Kind::AccountSuspended(e)) => state.suspended(&e.account, Some(e.cause.clone())),
        Some(Kind::AccountReinstated(e)) => state.suspended(&e.account, None),
        None => {}
    }
}

impl State {
    fn account_created(&mut self, event: &AccountCreated, meta: &Meta) {
        let Some(id) = Id::from_slice(&event.account) else { return };
        let account = Account { name: event.name.clone(), created: meta.ts, ..Account::default() };
        self.accounts.get_or_insert_with(id, || account);
    }

    fn api_key_created(&mut self, event: &ApiKeyCreated, meta: &Meta) {
        let (Some(account), Some(id)) = (Id::from_slice(&event.account), Id::from_slice(&event.key)) else {
            return;
        };
        let (Ok(hash), Some(roles)) = (event.hash.as_ref().try_into(), Roles::read(&event.roles)) else {
            return;
        };
        let key = ApiKey {
            account,
            hash,
            label: event.label.clone(),
            roles,
            admin: event.admin,
            created: meta.ts,
            expires: (event.expires_us > 0).then(|| Time::from_micros(event.expires_us)),
            revoked: None,
        };
        self.add_api_key(id, key);
    }

    fn key_changed(&mut self, event: &KeyChanged, meta: &Meta) {
        let Ok(public_key) = <[u8; 32]>::try_from(event.public_key.as_ref()) else { return };
        if event.revoked {
            if let Some(key) = self.public_keys.get_mut(&public_key) {
                key.revoked = Some(meta.ts);
            }
            return;
        }
        let Some(holder) = Principal::from_slice(&event.holder) else { return };
        let owner = Id::from_slice(&event.owner);
        let key = PublicKey { holder, owner, label: event.label.clone(), added: meta.ts, revoked: None };
        self.add_public_key(public_key, key);
    }

    fn roles_changed(&mut self, event: &RolesChanged) {
        if let (Some(id), Some(roles)) = (Id::from_slice(&event.account), Roles::read(&event.roles)) {
            self.set_roles(id, roles);
        }
    }

    fn suspended(&mut self, account: &[u8], cause: Option<String>) {
        if let Some(account) = Id::from_slice(account).and_then(|id| self.accounts.get_mut(&id)) {
            account.suspended = cause;
        }
    }
}
