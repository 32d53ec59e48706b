//! Who asks, and with what keys.

use arbitrary::Unstructured;
use holmes_accounts::command::{By, Change, Command, NewAccount};
use holmes_accounts::possession::{Network, OfferedKey, statement};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::edge::Roles;
use holmes_sim::world::{BANK, GENESIS, OWNERS, RENTERS, World, gateway, node, party, public, signed, staff};

/// The parties' numbers.
pub(super) fn all() -> impl Iterator<Item = u8> {
    OWNERS.chain(RENTERS)
}

/// One of them, as often as any other.
pub(super) fn any(u: &mut Unstructured<'_>) -> arbitrary::Result<u8> {
    u.int_in_range(*OWNERS.start()..=*RENTERS.end())
}

/// Whether somebody is one of the parties.
pub(super) fn is_party(who: Principal) -> bool {
    all().any(|n| party(n) == who)
}

/// The id that follows from a key.
pub(super) fn id(n: u8) -> Id {
    Id::of_key(&public(n))
}

/// Mostly one of those whom a method is for, by their numbers in `holmes.Caller`; parties where it is for all.
pub(super) fn caller(meant: Vec<i32>, u: &mut Unstructured<'_>) -> arbitrary::Result<Principal> {
    let node = Principal::new(PrincipalKind::Node, node(1));
    let one_of_all = u.int_in_range(0..=11u8)?;
    if one_of_all < 10 && !meant.is_empty() {
        return Ok(match u.choose(&meant)? {
            2 => party(any(u)?),
            3 => staff(),
            4 => BANK,
            5 => gateway(),
            _ => node,
        });
    }
    Ok(match one_of_all {
        0..=6 => party(any(u)?),
        7 => party(*RENTERS.end() + 1), // who is not known anywhere
        8 => staff(),
        9 => gateway(),
        10 => node,
        _ => BANK,
    })
}

/// A wallet makes its account by itself.
pub(super) fn register(world: &mut World, n: u8) {
    let network = Network { genesis: GENESIS, cell: 1 };
    let possession = signed(n, &statement(&network, party(n), Some(id(n)), &public(n)));
    let key = OfferedKey { public_key: public(n), label: String::new(), possession };
    let roles = Roles::RENTER | Roles::OPERATOR;
    let new = NewAccount { account: id(n), name: format!("party {n}"), roles, key: Some(key) };
    let command = Command { by: By::OfferedKey, change: Change::CreateAccount(new) };
    world.ask(&world.accounts.clone(), party(n), command).unwrap();
}
