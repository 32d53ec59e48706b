//! Genesis as a row of steps that follows from the parameters alone (E-1.1, E-1.2): open the allocations' accounts, share
//! the cap out in one chain of transfers, pay the grants. Each step is one send to the ledger.
//!
//! Ids follow from what they are for, so that an auditor can name them. Accounts with a name have the ledger's id for it.
//! A grant's account is the UUIDv7 of `tge_at` and "holmes treasury grants", asset and owner: one account for all grants
//! of one owner. A transfer is the UUIDv7 of the moment at which it is sent, its business key, and how often that was
//! refused before: the ledger remembers a refusal for an hour and would give it again under the same id, and what was
//! refused has moved nothing.

use holmes_kernel::{Id, Principal, Time};

use crate::params::{Allocation, Grant, Params, VESTING_PREFIX};
use crate::wire::{self, Transfer};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Open an account with this name.
    OpenAccount(String),
    /// Move the cap from `genesis/<asset>` to the allocations' accounts.
    ShareOut,
    /// Open an account for the owner of a grant.
    OpenGrantAccount(&'a Grant),
    /// Move a grant to its owner.
    PayGrant(&'a Grant),
}

/// How many steps there are.
pub fn steps(params: &Params) -> u32 {
    (account_names(params).count() + 1 + 2 * params.grants.len()) as u32
}

/// The step at a place; `None` behind the last.
pub fn step(params: &Params, at: u32) -> Option<Step<'_>> {
    let at = at as usize;
    if let Some(name) = account_names(params).nth(at) {
        return Some(Step::OpenAccount(name));
    }
    let Some(behind) = at.checked_sub(account_names(params).count() + 1) else {
        return Some(Step::ShareOut);
    };
    let grant = params.grants.get(behind / 2)?;
    Some(if behind % 2 == 0 { Step::OpenGrantAccount(grant) } else { Step::PayGrant(grant) })
}

/// What a step asks of the ledger.
pub fn command(params: &Params, step: &Step<'_>, tge_at: Time, now: Time, attempt: u32) -> Vec<u8> {
    match step {
        Step::OpenAccount(name) => wire::open_named(params.asset, name.clone()),
        Step::ShareOut => wire::chain(&shares(params, now, attempt)),
        Step::OpenGrantAccount(grant) => {
            wire::open_owned(params.asset, grant_account(params, &grant.owner, tge_at), grant.owner)
        }
        Step::PayGrant(grant) => {
            let payer = &params.allocations[params.grants_from as usize];
            wire::chain(&[Transfer {
                id: Id::derive(now, format!("holmes treasury grant {}", grant.name).as_bytes(), attempt),
                debit: wire::account_id(&spending_account(params, payer)),
                credit: grant_account(params, &grant.owner, tge_at),
                amount: grant.amount,
            }])
        }
    }
}

/// The account from which an allocation is spent.
pub fn spending_account(params: &Params, allocation: &Allocation) -> String {
    format!("{}/{}", allocation.name, params.asset_name)
}

/// The account in which an allocation lies until it vests, if it does.
pub fn vesting_account(params: &Params, allocation: &Allocation) -> Option<String> {
    allocation.schedule.map(|_| format!("{VESTING_PREFIX}{}", spending_account(params, allocation)))
}

/// The account that an allocation is paid to at genesis.
pub fn first_account(params: &Params, allocation: &Allocation) -> String {
    vesting_account(params, allocation).unwrap_or_else(|| spending_account(params, allocation))
}

/// The account that an owner's grants are paid to.
pub fn grant_account(params: &Params, owner: &Principal, tge_at: Time) -> Id {
    let mut cause = b"holmes treasury grants".to_vec();
    cause.extend(params.asset.to_be_bytes());
    cause.extend(owner.to_bytes());
    Id::derive(tge_at, &cause, 0)
}

fn account_names(params: &Params) -> impl Iterator<Item = String> {
    let of = |allocation| {
        vesting_account(params, allocation).into_iter().chain([spending_account(params, allocation)])
    };
    params.allocations.iter().flat_map(of)
}

/// E-0.4: the shares come to the cap. One of nothing, which only a tiny cap has, is no transfer.
fn shares(params: &Params, now: Time, attempt: u32) -> Vec<Transfer> {
    let genesis = wire::account_id(&format!("genesis/{}", params.asset_name));
    let share = |allocation: &Allocation| Transfer {
        id: Id::derive(now, format!("holmes treasury allocation {}", allocation.name).as_bytes(), attempt),
        debit: genesis,
        credit: wire::account_id(&first_account(params, allocation)),
        amount: allocation.amount,
    };
    params.allocations.iter().filter(|allocation| !allocation.amount.is_zero()).map(share).collect()
}
