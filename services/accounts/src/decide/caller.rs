//! Who asks, what the proof lets that one do, and what must not be lost by it.

use holmes_kernel::{Ctx, Id, PrincipalKind, Time};

use crate::Roles;
use crate::command::{By, Rejection};
use crate::state::{ApiKey, Denied, State};

use super::{found, refuse_if};

/// Who asks, its proof judged.
pub(super) struct Caller {
    /// As it came.
    principal: holmes_kernel::Principal,
    /// Its account.
    pub(super) account: Id,
    /// What the proof lets it act as.
    roles: Roles,
    /// Whether it acts as staff.
    pub(super) is_staff: bool,
}

/// Judges the proof: only a signature, or an API key with the scope `admin`, changes anything here.
pub(super) fn caller(state: &State, by: By, ctx: &Ctx) -> Result<Caller, Rejection> {
    let principal = ctx.principal;
    let is_staff = match principal.kind {
        PrincipalKind::Staff => true,
        PrincipalKind::Account => false,
        _ => {
            let needs = "only the owners of accounts and staff change keys, roles and accounts";
            return Err(Rejection::Forbidden { who: principal, needs });
        }
    };
    let account = found(state, principal.id)?;
    refuse_if(account.suspended.is_some(), || Denied::AccountSuspended(principal.id).into())?;
    let roles = match by {
        By::Signature => account.roles,
        By::ApiKey(hash) => {
            let (key, roles) = state.usable_api_key(&hash, ctx.now)?;
            refuse_if(key.account != principal.id, || Denied::KeyUnknown.into())?;
            refuse_if(!key.admin, || Rejection::AdminNeeded)?;
            roles
        }
        By::OfferedKey | By::Nothing => return Err(Rejection::ProofMissing),
    };
    refuse_if(is_staff && !roles.contain(Roles::STAFF), || Denied::NotStaff(principal.id).into())?;
    Ok(Caller { principal, account: principal.id, roles, is_staff })
}

impl Caller {
    /// What only staff may do.
    pub(super) fn only_staff(&self, needs: &'static str) -> Result<(), Rejection> {
        refuse_if(!self.is_staff, || Rejection::Forbidden { who: self.principal, needs })
    }

    /// Its own account, or as staff any.
    pub(super) fn may_manage(&self, account: Id) -> Result<(), Rejection> {
        let needs = "only its owner and staff change the keys of an account";
        refuse_if(!self.owns(account), || Rejection::Forbidden { who: self.principal, needs })
    }

    /// Whether it may see and change what belongs to an account.
    pub(super) fn owns(&self, account: Id) -> bool {
        self.is_staff || self.account == account
    }

    /// Nobody grants more than he has: otherwise a lesser key could make itself a greater one.
    pub(super) fn may_grant(&self, roles: Roles) -> Result<(), Rejection> {
        let enough = self.is_staff || self.roles.contain(roles);
        refuse_if(!enough, || Rejection::MoreThanCaller { has: self.roles })
    }
}

/// What a command would take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing.
    Nothing,
    /// An account's role staff, or all that counts of it.
    Account(Id),
    /// An API key.
    ApiKey(Id),
    /// A public key.
    PublicKey([u8; 32]),
}

/// Whether somebody can still administer the cell: an account that acts as staff, is not suspended and has a public
/// key, or an API key that acts as staff, has the scope `admin` and that time alone does not end. Cost: keys of staff.
pub fn can_be_administered(state: &State, lost: Lost) -> bool {
    state.staff.iter().filter(|id| lost != Lost::Account(**id)).any(|id| {
        let lasting = |key: &ApiKey| key.expires.is_none() && key.roles.contain(Roles::STAFF);
        let active = state.account(id).is_some_and(|account| account.suspended.is_none());
        active && has_admin_key(state, *id, lost, lasting)
    })
}

/// Whether the account's own keys can still administer it at a moment.
pub(super) fn can_administer(state: &State, account: Id, lost: Lost, now: Time) -> bool {
    has_admin_key(state, account, lost, |key| key.lasts_beyond(now))
}

fn has_admin_key(state: &State, account: Id, lost: Lost, counts: impl Fn(&ApiKey) -> bool) -> bool {
    let own = state.own_keys(account).any(|(public_key, _)| lost != Lost::PublicKey(*public_key));
    own || state.account(&account).is_some_and(|of| {
        state.api_keys_of(of).any(|(id, key)| key.admin && lost != Lost::ApiKey(id) && counts(key))
    })
}
