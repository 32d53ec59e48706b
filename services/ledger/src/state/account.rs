//! An account: whose it is, what is in it, what may leave it.

use holmes_kernel::{Principal, PrincipalKind, Time};
use serde::{Deserialize, Serialize};

use crate::rate::{Outflow, RateLimit};

/// An account. It is never removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What is in it.
    pub balance: Balance,
    /// Whose it is.
    pub owner: Principal,
    /// Index of its asset in the state.
    pub asset: u32,
    /// Only `external/<asset>`: debits may exceed credits without limit (E-2.1).
    pub may_be_overdrawn: bool,
    /// One of those that the ledger's rules need.
    pub reserved: bool,
    /// E-2.5: outgoing transfers are refused.
    pub frozen_out: bool,
    /// Takes part in nothing any more.
    pub closed: bool,
    /// Readers keep every balance it ever had.
    pub history: bool,
    /// E-2.5: how far it may be overdrawn, base units.
    pub credit_limit: u64,
    /// E-2.5: how fast money may leave it.
    pub rate: Option<RateLimit>,
}

/// What is in an account. Sums only grow; the balance is their difference (E-2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// All that ever left it.
    pub debits_posted: u128,
    /// All that ever came to it.
    pub credits_posted: u128,
    /// Reserved by open holds that debit it.
    pub debits_pending: u64,
    /// Expected from open holds that credit it.
    pub credits_pending: u64,
    /// What left it lately, where a rate limit counts it.
    pub outflow: Outflow,
}

/// Whether a principal is a party of its own, not the platform: transfers between two of them are external (E-2.4).
pub fn is_party(principal: &Principal) -> bool {
    match principal.kind {
        PrincipalKind::Account | PrincipalKind::Node | PrincipalKind::Gateway => true,
        PrincipalKind::System | PrincipalKind::Service | PrincipalKind::Staff => false,
    }
}

impl Account {
    /// An empty account.
    pub fn new(asset: u32, owner: Principal, history: bool, rate: Option<RateLimit>) -> Account {
        Account {
            balance: Balance::default(),
            owner,
            asset,
            may_be_overdrawn: false,
            reserved: false,
            frozen_out: false,
            closed: false,
            history,
            credit_limit: 0,
            rate,
        }
    }

    /// One of those that the ledger's rules need.
    pub(super) fn system(asset: u32) -> Account {
        Account { reserved: true, ..Account::new(asset, Principal::SYSTEM, true, None) }
    }

    /// What may leave it now, base units: pending and posted both count (E-2.2).
    pub fn available(&self, balance: &Balance) -> u64 {
        if self.may_be_overdrawn {
            return u64::MAX;
        }
        let has = balance.credits_posted.saturating_add(self.credit_limit.into());
        let gone = balance.debits_posted.saturating_add(balance.debits_pending.into());
        u64::try_from(has.saturating_sub(gone)).unwrap_or(u64::MAX)
    }

    /// How much of what is available its rate limit lets go now.
    pub fn room(&self, balance: &Balance, now: Time) -> u64 {
        self.rate.map_or(u64::MAX, |rate| rate.room(balance.outflow, now))
    }

    /// Whether its limits hold.
    pub fn is_within_limits(&self) -> bool {
        let Balance { debits_posted, credits_posted, debits_pending, .. } = self.balance;
        let has = credits_posted.saturating_add(self.credit_limit.into());
        let fits = self.balance.fits();
        fits && (self.may_be_overdrawn || debits_posted.saturating_add(debits_pending.into()) <= has)
    }
}

impl Balance {
    /// Whether every balance that it can have when its holds end fits 64 bits (E-0.1).
    pub fn fits(&self) -> bool {
        let most = self.credits_posted.saturating_add(self.credits_pending.into());
        let least = self.debits_posted.saturating_add(self.debits_pending.into());
        let bound = u128::from(u64::MAX);
        most.saturating_sub(self.debits_posted) <= bound && least.saturating_sub(self.credits_posted) <= bound
    }

    /// Posted credits less posted debits, and how far they fall short of 0.
    pub fn net(&self) -> (u64, u64) {
        let difference = |a: u128, b: u128| u64::try_from(a.saturating_sub(b)).unwrap_or(u64::MAX);
        (
            difference(self.credits_posted, self.debits_posted),
            difference(self.debits_posted, self.credits_posted),
        )
    }

    /// Whether nothing is in it and nothing pends.
    pub fn is_empty(&self) -> bool {
        self.credits_posted == self.debits_posted && self.debits_pending == 0 && self.credits_pending == 0
    }

    /// Lets units leave.
    pub fn debit(&mut self, units: u64) {
        self.debits_posted = self.debits_posted.saturating_add(units.into());
    }

    /// Lets units come.
    pub fn credit(&mut self, units: u64) {
        self.credits_posted = self.credits_posted.saturating_add(units.into());
    }

    /// Reserves units that will leave.
    pub fn hold_debit(&mut self, units: u64) {
        self.debits_pending = self.debits_pending.saturating_add(units);
    }

    /// Expects units that will come.
    pub fn hold_credit(&mut self, units: u64) {
        self.credits_pending = self.credits_pending.saturating_add(units);
    }

    /// Frees reserved units.
    pub fn release_debit(&mut self, units: u64) {
        self.debits_pending = self.debits_pending.saturating_sub(units);
    }

    /// Expects units no more.
    pub fn release_credit(&mut self, units: u64) {
        self.credits_pending = self.credits_pending.saturating_sub(units);
    }
}

/// The balance with units counted against a rate limit, where there is one (E-2.5).
pub fn balance_after(mut balance: Balance, rate: Option<RateLimit>, units: u64, now: Time) -> Balance {
    if let Some(rate) = rate {
        balance.outflow = rate.after(balance.outflow, units, now);
    }
    balance
}
