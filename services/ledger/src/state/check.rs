//! The ledger's invariants as code.

use std::collections::BTreeMap;

use holmes_kernel::Place;
use holmes_kernel::{Broken, Id, Time};
use holmes_proto::columns::ids;
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, TransferCode, TransferKind};

use super::{Account, Asset, Balance, State};
use crate::rows;

/// What one command's events can break: the supply, and the limits of the accounts that they name.
pub fn check_step(state: &State, events: &[Event]) -> Result<(), Broken> {
    state.assets.iter().try_for_each(check_supply)?;
    let account = |bytes: &[u8]| check_named(state, Id::from_slice(bytes));
    for event in events {
        match &event.event {
            Some(Kind::TransfersRecorded(e)) => {
                for row in rows::rows(e).filter(|row| row.code == TransferCode::Ok) {
                    check_named(state, Some(row.debit))?;
                    check_named(state, Some(row.credit))?;
                }
            }
            Some(Kind::AccountOpened(e)) => account(&e.account)?,
            Some(Kind::AccountClosed(e)) => account(&e.account)?,
            Some(Kind::AccountFrozen(e)) => account(&e.account)?,
            Some(Kind::LimitsSet(e)) => account(&e.account)?,
            Some(Kind::DepositRecorded(e)) => account(&e.account)?,
            Some(Kind::WithdrawalRecorded(e)) => account(&e.account)?,
            Some(Kind::HoldsExpired(e)) => {
                if let Some(id) = ids(&e.holds).find(|id| state.holds.contains(id)) {
                    return Err(Broken(format!("hold {id} expired and is still open")));
                }
            }
            Some(Kind::TokensDestroyed(_) | Kind::SubmitterRegistered(_)) | None => {}
        }
    }
    Ok(())
}

fn check_named(state: &State, id: Option<Id>) -> Result<(), Broken> {
    let named = id.and_then(|id| Some((id, state.account(&id)?)));
    let Some((id, account)) = named else {
        return Err(Broken(format!("an event names account {id:?}, which is not there")));
    };
    if account.is_within_limits() {
        Ok(())
    } else {
        Err(Broken(format!("account {id} is beyond its limits: {:?}", account.balance)))
    }
}

/// E-1.1: cap = Σ balances + destroyed; of any other asset the sum is 0.
fn check_supply(asset: &Asset) -> Result<(), Broken> {
    let exists = asset.params.cap.map_or(0, |cap| cap.wide());
    // Both sides as sums, so that nothing can be negative.
    if exists + asset.debits == asset.credits + u128::from(asset.destroyed) {
        return Ok(());
    }
    let name = &asset.params.name;
    Err(Broken(format!("E-1.1: {name} is not conserved: {} debits, {} credits", asset.debits, asset.credits)))
}

/// Every invariant.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    broken.extend(state.assets.iter().filter_map(|asset| check_supply(asset).err()));
    check_accounts(state, &mut broken);
    check_holds(state, &mut broken);
    broken
}

fn check_accounts(state: &State, broken: &mut Vec<Broken>) {
    let mut wrong = |what: String| broken.push(Broken(what));
    let mut sums = vec![(0u128, 0u128); state.assets.len()];
    for (id, account) in state.accounts.iter() {
        let Account { balance, asset, .. } = account;
        if !account.is_within_limits() {
            wrong(format!("account {id} is beyond its limits: {balance:?}"));
        }
        if account.closed && !balance.is_empty() {
            wrong(format!("account {id} is closed and not empty: {balance:?}"));
        }
        let Some((debits, credits)) = sums.get_mut(*asset as usize) else {
            wrong(format!("account {id} has an asset that is not there"));
            continue;
        };
        *debits += balance.debits_posted;
        *credits += balance.credits_posted;
        let named = account_is_owned(state, id, account);
        if !named {
            wrong(format!("account {id} is not among those of its owner"));
        }
    }
    for (asset, (debits, credits)) in state.assets.iter().zip(sums) {
        if (asset.debits, asset.credits) != (debits, credits) {
            let name = &asset.params.name;
            wrong(format!("E-1.1: the accounts of {name} sum to {debits} debits and {credits} credits"));
        }
    }
    let owned: usize = state.owners.values().map(Vec::len).sum();
    if owned != state.accounts.len() {
        wrong(format!("{} accounts, {owned} owned", state.accounts.len()));
    }
}

fn account_is_owned(state: &State, id: &Id, account: &Account) -> bool {
    let place = state.accounts.place(id);
    let owned = state.owners.get(&account.owner);
    owned.is_some_and(|places| place.is_some_and(|place| places.binary_search(&place).is_ok()))
}

/// E-2.2: what accounts hold pending is exactly what open holds reserve, and exactly those that expire are awaited.
fn check_holds(state: &State, broken: &mut Vec<Broken>) {
    let mut pending: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    let mut held = vec![0u128; state.assets.len()];
    let mut expiring = 0;
    for (id, hold) in state.holds.iter() {
        let debit = &mut pending.entry(hold.debit).or_default().0;
        *debit = debit.saturating_add(hold.amount);
        let credit = &mut pending.entry(hold.credit).or_default().1;
        *credit = credit.saturating_add(hold.amount);
        let asset = state.accounts.at(hold.debit).and_then(|(_, a)| held.get_mut(a.asset as usize));
        if let Some(held) = asset {
            *held += u128::from(hold.amount);
        }
        expiring += usize::from(hold.expires.is_some());
        let known = state.transfer(*id).filter(|known| known.moved_as() == TransferKind::Hold);
        if known.is_some_and(|known| (known.result(), known.amount) != (TransferCode::Ok, hold.amount)) {
            broken.push(Broken(format!("E-2.3: hold {id} is not what the window remembers of it")));
        }
        let awaited = |at: Time| state.expiring.contains(&(at, *id));
        if !hold.expires.is_none_or(awaited) {
            broken.push(Broken(format!("E-2.2: hold {id} expires and nobody waits for it")));
        }
    }
    if expiring != state.expiring.len() {
        broken.push(Broken(format!("E-2.2: {expiring} holds expire, {} awaited", state.expiring.len())));
    }
    if state.assets.iter().map(|asset| asset.held).ne(held) {
        broken.push(Broken("E-2.2: an asset's held sum is not that of its open holds".into()));
    }
    for (place, (id, account)) in (0..).zip(state.accounts.iter()) {
        let Balance { debits_pending, credits_pending, .. } = account.balance;
        let (debits, credits) = pending.get(&place).copied().unwrap_or_default();
        if (debits_pending, credits_pending) != (debits, credits) {
            broken.push(Broken(format!("E-2.2: account {id} has other sums pending than its open holds")));
        }
    }
}
