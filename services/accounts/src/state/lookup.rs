//! Whom a key speaks for, and which key speaks for whom: what the edge asks before every call.

use holmes_kernel::Place;
use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Id, Principal, PrincipalKind, Time};
use holmes_proto::edge::Scope;

use super::{Account, ApiKey, PublicKey, State};
use crate::Roles;

/// Why a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody's.
    #[error("the key is not known: check it, or register it first")]
    KeyUnknown,
    /// Ended by its owner or by staff.
    #[error("the key is revoked: use another one")]
    KeyRevoked,
    /// Ended by time.
    #[error("the key has expired: create a new one")]
    KeyExpired,
    /// Nothing of its account counts.
    #[error("account {0} is suspended: ask the network's staff")]
    AccountSuspended(Id),
    /// The account does not act as staff.
    #[error("account {0} is not staff: call as account/{0}")]
    NotStaff(Id),
}

impl Refuses for Denied {
    fn code(&self) -> Code {
        match self {
            Denied::KeyUnknown | Denied::KeyRevoked | Denied::KeyExpired => Code::Unauthenticated,
            Denied::AccountSuspended(_) | Denied::NotStaff(_) => Code::Forbidden,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Denied::KeyUnknown => "KEY_UNKNOWN",
            Denied::KeyRevoked => "KEY_REVOKED",
            Denied::KeyExpired => "KEY_EXPIRED",
            Denied::AccountSuspended(_) => "ACCOUNT_SUSPENDED",
            Denied::NotStaff(_) => "NOT_STAFF",
        }
    }
}

impl State {
    /// An account by its id.
    pub fn account(&self, id: &Id) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// Whom an API key speaks for at a moment, by BLAKE3-256 of its text, and as what: never as more than its account.
    /// A key that acts as staff speaks for `staff/<account>`, any other for `account/<account>`.
    ///
    /// # Errors
    /// When the key does not count, with the reason.
    pub fn api_key(&self, hash: &[u8; 32], now: Time) -> Result<(Principal, Scope), Denied> {
        let (key, roles) = self.usable_api_key(hash, now)?;
        let kind = if roles.contain(Roles::STAFF) { PrincipalKind::Staff } else { PrincipalKind::Account };
        Ok((Principal::new(kind, key.account), Scope::key(roles, key.admin)))
    }

    /// An API key that counts, and what it acts as.
    pub(crate) fn usable_api_key(&self, hash: &[u8; 32], now: Time) -> Result<(&ApiKey, Roles), Denied> {
        let key = self.hashes.get(hash).and_then(|place| self.api_keys.at(*place));
        let (_, key) = key.ok_or(Denied::KeyUnknown)?;
        if key.revoked.is_some() {
            return Err(Denied::KeyRevoked);
        }
        if !key.lasts_beyond(now) {
            return Err(Denied::KeyExpired);
        }
        let account = self.usable_account(key.account)?;
        Ok((key, key.roles.both(account.roles)))
    }

    /// What a principal's signature may do: all that its account may. What is no account has no roles.
    pub fn signature(&self, principal: &Principal) -> Scope {
        let of_account = matches!(principal.kind, PrincipalKind::Account | PrincipalKind::Staff);
        let account = self.account(&principal.id).filter(|_| of_account);
        Scope::signature(account.map_or(Roles::NONE, |account| account.roles))
    }

    /// Which public key a principal signs requests with, its newest one that is not revoked or else its newest one, and
    /// why its signature counts for nothing, where that is so: for those alone who have that key.
    ///
    /// # Errors
    /// When it never had a key.
    pub fn public_key(&self, principal: &Principal) -> Result<([u8; 32], Result<(), Denied>), Denied> {
        let Principal { kind, id } = *principal;
        let holder = if kind == PrincipalKind::Staff { PrincipalKind::Account } else { kind };
        let places = self.holders.get(&Principal::new(holder, id)).ok_or(Denied::KeyUnknown)?;
        let last = || places.last().and_then(|at| self.public_keys.at(*at));
        let (public_key, key) = self.unrevoked(places).last().or_else(last).ok_or(Denied::KeyUnknown)?;
        Ok((*public_key, self.may_sign(principal, key)))
    }

    fn may_sign(&self, principal: &Principal, key: &PublicKey) -> Result<(), Denied> {
        if key.revoked.is_some() {
            return Err(Denied::KeyRevoked);
        }
        let owner = key.owner.map(|owner| self.usable_account(owner)).transpose()?;
        let staff = owner.is_some_and(|account| account.roles.contain(Roles::STAFF));
        if principal.kind == PrincipalKind::Staff && !staff {
            return Err(Denied::NotStaff(principal.id));
        }
        Ok(())
    }

    /// Those of some public keys that are not revoked, in their order.
    pub(crate) fn unrevoked<'a>(
        &'a self,
        places: &'a [Place],
    ) -> impl Iterator<Item = (&'a [u8; 32], &'a PublicKey)> {
        places.iter().filter_map(|at| self.public_keys.at(*at)).filter(|(_, key)| key.revoked.is_none())
    }

    /// An account's own public keys that are not revoked, the oldest first.
    pub fn own_keys(&self, account: Id) -> impl Iterator<Item = (&[u8; 32], &PublicKey)> {
        let holder = Principal::new(PrincipalKind::Account, account);
        self.unrevoked(self.holders.get(&holder).map_or(&[], Vec::as_slice))
    }

    /// An account's API keys that are not revoked, the oldest first; expired ones too.
    pub fn api_keys_of<'a>(&'a self, account: &'a Account) -> impl Iterator<Item = (Id, &'a ApiKey)> {
        let keys = account.api_keys.iter().filter_map(|at| self.api_keys.at(*at));
        keys.filter(|(_, key)| key.revoked.is_none()).map(|(id, key)| (*id, key))
    }

    fn usable_account(&self, id: Id) -> Result<&Account, Denied> {
        let account = self.account(&id).ok_or(Denied::KeyUnknown)?;
        if account.suspended.is_some() { Err(Denied::AccountSuspended(id)) } else { Ok(account) }
    }
}

impl ApiKey {
    /// Whether time has not ended it at a moment.
    pub fn lasts_beyond(&self, now: Time) -> bool {
        self.expires.is_none_or(|at| now < at)
    }
}
