//! Who may take from an account and who may pay into one. What the platform has, its pools, bonds, escrow, fees, is what
//! its services have written down of it: money that comes or goes behind their backs would make their books wrong for ever.

use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::ledger::v1::TransferCode as Code;

use super::is_service;
use crate::command::Coordinator;
use crate::state::{Account, State, is_party, system_account};

/// Whether an account is the platform's: some service answers for what is in it.
pub(super) fn is_system(account: &Account) -> bool {
    matches!(account.owner.kind, PrincipalKind::System | PrincipalKind::Service)
}

/// Who may let money leave an account: its owner and services; staff for each other, and of the platform's accounts those
/// that it spends from.
pub(super) fn debit(state: &State, who: &Principal, id: Id, account: &Account) -> Result<(), Code> {
    if *who == account.owner || is_service(who) || is_off(Guard::Owner) {
        return Ok(());
    }
    if who.kind != PrincipalKind::Staff || is_party(&account.owner) {
        return Err(Code::Forbidden);
    }
    if !is_system(account) || staff_spends(state, id, account) { Ok(()) } else { Err(Code::SystemDebit) }
}

fn staff_spends(state: &State, id: Id, account: &Account) -> bool {
    let asset = state.asset_at(account.asset).map_or("", |asset| &asset.params.name);
    state.params.staff_spends.iter().any(|name| id == system_account(&format!("{name}/{asset}")))
}

/// Who may pay into an account: anybody into a party's. Into the platform's, its service, and into the ledger's own any
/// service; anybody else only by a hold that its service coordinates, and so takes or leaves: that is how bonds are made.
/// No other service: a party that names where it is paid could make one pay into a pool.
pub(super) fn credit(who: &Principal, account: &Account, by: Option<&Coordinator>) -> Result<(), Code> {
    let taken = by.is_some_and(|by| account.owner == Principal::service(by.service));
    let own = is_service(who) && (account.owner == *who || account.owner == Principal::SYSTEM);
    if !is_system(account) || own || taken { Ok(()) } else { Err(Code::SystemCredit) }
}
