//! What two services must agree on: money that one of them answers for lies in the ledger to the unit. Each check is a
//! function of two states and nothing else, for `verify` over logs and for tests over machines that run.
//!
//! Two logs end at different moments. A send that its service has not heard the answer of may have moved its amount or
//! not; so much, and no more, may the two differ.

use std::collections::BTreeMap;
use std::fmt;

use holmes_emission::state::{ACCOUNTS, Account, Awaited as Rewarded};
use holmes_kernel::{Id, Principal, Time};
use holmes_ledger::State as Ledger;
use holmes_ledger::state::Balance;
use holmes_market::state::{Purse, Session};
use holmes_staking::state::Awaited as Staked;
use holmes_treasury::genesis::{spending_account, vesting_account};

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// The two agree to the unit.
    Holds,
    /// They cannot agree yet, for this reason.
    Waits(String),
    /// They do not agree, and nothing on its way explains it.
    Differs(String),
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Agreement::Holds => f.write_str("holds"),
            Agreement::Waits(why) | Agreement::Differs(why) => f.write_str(why),
        }
    }
}

impl Agreement {
    /// Whether nothing is wrong.
    pub(crate) fn is_ok(&self) -> bool {
        !matches!(self, Agreement::Differs(_))
    }

    /// One answer of many: what differs counts most.
    fn of(all: impl IntoIterator<Item = Agreement>) -> Agreement {
        let (mut differs, mut waits) = (Vec::new(), None);
        for one in all {
            match one {
                Agreement::Holds => {}
                Agreement::Waits(why) => waits = Some(why),
                Agreement::Differs(why) => differs.push(why),
            }
        }
        match (differs.is_empty(), waits) {
            (false, _) => Agreement::Differs(differs.join("; ")),
            (true, Some(why)) => Agreement::Waits(why),
            (true, None) => Agreement::Holds,
        }
    }
}

/// An amount as the ledger has it and as its service has it, which has sent `moving` and not heard the answers.
fn equal(what: impl fmt::Display, ledger: u128, service: u128, moving: &[u64]) -> Agreement {
    let apart = ledger.abs_diff(service);
    let explained: u128 = moving.iter().map(|units| u128::from(*units)).sum();
    match apart {
        0 => Agreement::Holds,
        _ if apart <= explained => Agreement::Waits(format!("in flight: {}", moving.len())),
        _ => Agreement::Differs(format!("{what} is {ledger} in the ledger, {service} in its service")),
    }
}

fn balance(ledger: &Ledger, id: Id) -> Balance {
    ledger.account(&id).map(|account| account.balance).unwrap_or_default()
}

fn lies(ledger: &Ledger, id: Id) -> u128 {
    balance(ledger, id).net().0.into()
}

fn named(name: &str) -> Id {
    holmes_ledger::system_account(name)
}

/// E-6.5: bonds and unbondings are what lies in `bonds/<asset>`.
pub(crate) fn bonds(ledger: &Ledger, staking: &holmes_staking::State) -> Agreement {
    let stake = staking.classes.iter().map(|class| u128::from(class.stake())).sum();
    let moving = staking.awaited.values().filter_map(|awaited| match awaited {
        Staked::Vault => None,
        Staked::Bond { offer, .. } => Some(offer.amount),
        Staked::Payout { unbonding, .. } => staking.unbondings.get(unbonding).map(|part| part.paying),
    });
    let moving: Vec<u64> = moving.collect();
    equal("what is bonded", lies(ledger, staking.vault.account), stake, &moving)
}

/// E-2.2, E-9.1: every session's hold stands in the ledger with its amount, and the market has opened no other.
/// `at` is the ledger's time: what has expired there the market may not have heard.
pub(crate) fn holds(ledger: &Ledger, at: Time, market: &holmes_market::State) -> Agreement {
    let us = Principal::service(holmes_proto::service("market").unwrap_or_default());
    let ours = ledger.holds.iter().filter(|(_, hold)| hold.opener == us);
    let mut open: BTreeMap<Id, u64> = ours.map(|(id, hold)| (*id, hold.amount)).collect();
    let (mut answers, mut asked) = (Vec::new(), 0usize);
    for session in market.sessions.values() {
        let stands = session.hold.map(|hold| (hold, open.remove(&hold.id)));
        if session.asked.is_some() {
            asked += 1;
            continue;
        }
        let Some((hold, stands)) = stands else { continue };
        let until = session.expires_at.after_millis(market.params.hold_grace_ms);
        answers.push(match stands {
            None if until <= at => Agreement::Waits(format!("hold {} has just expired", hold.id)),
            stands => equal(
                format_args!("hold {}", hold.id),
                stands.unwrap_or_default().into(),
                hold.units.into(),
                &[],
            ),
        });
    }
    // Who has asked may have got one that it has not heard of.
    answers.push(match open.len() {
        0 => Agreement::Holds,
        more if more <= asked => Agreement::Waits(format!("in flight: {asked}")),
        _ => Agreement::Differs(format!("holds of no session are open: {:?}", open.keys())),
    });
    Agreement::of(answers)
}

/// E-9.1: what lies in the market's own accounts is what its sessions have taken and not passed on, and what it owes.
pub(crate) fn purses(ledger: &Ledger, market: &holmes_market::State) -> Agreement {
    let params = &market.params;
    let answers = [&params.usd, &params.token].into_iter().flat_map(|asset| {
        let mine = |session: &&Session| session.asset == asset.id;
        let left = market.sessions.values().filter(mine).map(|session| session.totals.left_over()).sum();
        let asked = market.sessions.values().filter(mine).filter(|session| session.asked.is_some());
        let mut moving: Vec<u64> = asked.filter_map(|session| Some(session.hold?.units)).collect();
        let owed = || market.owed.iter().filter(|((_, of), _)| *of == asset.id).map(|(_, owed)| owed);
        moving.extend(owed().filter(|owed| owed.asked.is_some()).map(|owed| owed.sending));
        let waits = owed().map(|owed| u128::from(owed.units)).sum();
        [(Purse::Market, left), (Purse::Unclaimed, waits)].map(|(purse, units)| {
            let name = purse.name(&asset.name);
            equal(&name, lies(ledger, named(&name)), units, &moving)
        })
    });
    Agreement::of(answers)
}

/// E-4.1, E-5.4: what emission believes to be in its pools, locked, and owed, lies there.
pub(crate) fn pools(ledger: &Ledger, emission: &holmes_emission::State) -> Agreement {
    let begun = emission
        .params
        .pools
        .iter()
        .all(|pool| pool.initial.is_zero() || balance(ledger, named(&pool.account)).credits_posted > 0);
    if !begun {
        return Agreement::Waits("genesis has not filled the pools".into());
    }
    let kept = ACCOUNTS.into_iter().zip(emission.held).filter(|(account, _)| *account != Account::Burn);
    Agreement::of(kept.map(|(account, held)| {
        let name = emission.account_name(account);
        equal(&name, lies(ledger, named(&name)), held.into(), &sent(emission, account))
    }))
}

/// What is on its way to an account of emission's, or from it.
fn sent(emission: &holmes_emission::State, of: Account) -> Vec<u64> {
    let mut moving = Vec::new();
    for awaited in emission.awaited.values() {
        match awaited {
            Rewarded::Opening(_) => {}
            Rewarded::Move(number) => {
                let legs = emission.moves.get(number).into_iter().flat_map(|sent| sent.legs.iter());
                moving.extend(legs.filter(|(from, to, _)| [*from, *to].contains(&of)).map(|leg| leg.2));
            }
            Rewarded::Payments(rows) if of == Account::Pot => moving.extend(rows.iter().map(|row| row.1)),
            Rewarded::Payments(_) => {}
        }
    }
    moving
}

/// E-1.2, E-1.5: every allocation was paid in once and whole, and what has not vested lies where it vests.
pub(crate) fn allocations(ledger: &Ledger, treasury: &holmes_treasury::State) -> Agreement {
    if treasury.genesis.completed_at.is_none() {
        return Agreement::Waits("genesis is under way".into());
    }
    let params = &treasury.params;
    let rows = (0..).zip(&params.allocations).flat_map(|(at, allocation)| {
        let spending = spending_account(params, allocation);
        let credited = balance(ledger, named(&spending)).credits_posted;
        let Some(vesting) = treasury.vesting(at) else {
            return vec![equal(&spending, credited, allocation.amount.wide(), &[])];
        };
        let rest = vesting.granted.saturating_sub(vesting.released);
        let moving: Vec<u64> = vesting.errand.awaits.map(|_| rest.units()).into_iter().collect();
        let locked = vesting_account(params, allocation).unwrap_or_default();
        vec![
            equal(&locked, lies(ledger, named(&locked)), rest.wide(), &moving),
            equal(&spending, credited, vesting.released.wide(), &moving),
        ]
    });
    Agreement::of(rows)
}

/// E-1.1: all balances of the token and what was destroyed come to the cap that genesis knew.
pub(crate) fn supply(ledger: &Ledger, treasury: &holmes_treasury::State) -> Agreement {
    let params = &treasury.params;
    let Some(at) = ledger.asset(params.asset) else {
        return Agreement::Differs(format!("the ledger has no asset {}", params.asset));
    };
    let destroyed = ledger.asset_at(at).map_or(0, |asset| asset.destroyed);
    let of_asset = ledger.accounts.values().filter(|account| account.asset == at);
    let there: u128 = of_asset.map(|account| u128::from(account.balance.net().0)).sum();
    equal("the supply", there + u128::from(destroyed), params.cap.wide(), &[])
}
