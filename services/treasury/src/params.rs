//! What the profile says of genesis: the cap, its allocations, who gets grants, when days begin. Nothing here is governed
//! afterwards: these are facts of the network's first day, and they live in the state.

use std::collections::BTreeSet;

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Principal, PrincipalKind, Ratio, Time, apportion, governed};
use holmes_proto::treasury::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::vesting::Schedule;

/// Most allocations: their transfers are one chain of the ledger (E-2.2), far below its length.
pub const MOST_ALLOCATIONS: usize = 64;
/// Most grants: each is two steps of genesis.
pub const MOST_GRANTS: usize = 256;
/// Longest epoch, seconds.
const LONGEST_EPOCH_S: u32 = 31 * DAY_S;
/// The end of the year 9999, so that ids can carry the moment.
const LATEST_TGE_MS: u64 = 253_402_300_799_999;
/// Accounts that the ledger keeps for itself.
const RESERVED: [&str; 5] = ["genesis", "burn_inbox", "external", "fees", "rounding"];
/// What stands before an allocation's name in the name of the account where it lies until it vests.
pub const VESTING_PREFIX: &str = "vesting_";
/// The default epoch.
pub const DAY_S: u32 = 86_400;

/// E-1.2, profile H: name, percent of the cap, days to vest, days of the cliff.
const ALLOCATIONS: [(&str, u32, u32, u32); 11] = [
    ("team", 15, 1_460, 365),
    ("fundraising", 15, 1_460, 365),
    ("insurance", 2, 0, 0),
    ("security", 3, 0, 0),
    ("grants", 4, 0, 0),
    ("reserve", 3, 0, 0),
    ("ecosystem", 8, 0, 0),
    ("trr_pool", 30, 0, 0),
    ("br_pool", 10, 0, 0),
    ("early_join_pool", 6, 0, 0),
    ("verifier_pool", 4, 0, 0),
];

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Asset number of the token.
    pub asset: u32,
    /// Its name.
    pub asset_name: String,
    /// E-1.1: all that will ever be.
    pub cap: Amount,
    /// E-0.5: when day 0 begins; `None` for the midnight before the log is first run.
    pub tge_at: Option<Time>,
    /// E-0.5: length of an epoch, seconds.
    pub epoch_s: u32,
    /// E-1.2: where the cap goes; the amounts sum to it.
    pub allocations: Vec<Allocation>,
    /// Place of the allocation that pays the grants.
    pub grants_from: u32,
    /// Who gets tokens at genesis.
    pub grants: Vec<Grant>,
}

/// An allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Its name.
    pub name: String,
    /// Its part of the cap.
    pub share: Ratio,
    /// The same in base units (E-0.4).
    pub amount: Amount,
    /// When it vests; `None` when it is there at once.
    pub schedule: Option<Schedule>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its name.
    pub name: String,
    /// Whose account it is paid to.
    pub owner: Principal,
    /// How much.
    pub amount: Amount,
}

impl Params {
    /// What all grants come to; [`read`] has checked that it is no more than the allocation that pays them.
    pub fn granted(&self) -> Amount {
        Amount::sum(self.grants.iter().map(|grant| grant.amount)).unwrap_or(Amount::MAX)
    }
}

/// What a profile that names nothing gets: E-1.2 of profile H, without grants.
pub fn defaults() -> wire::Params {
    let allocation = |(name, percent, vesting_days, cliff_days): &(&str, u32, u32, u32)| {
        let share_ppb = Ratio::from_percent(*percent).ppb();
        wire::AllocationParams {
            name: (*name).into(),
            share_ppb,
            vesting_days: *vesting_days,
            cliff_days: *cliff_days,
        }
    };
    wire::Params {
        asset: 1,
        asset_name: "HOL".into(),
        cap_units: 1_000_000_000_000_000_000,
        tge_at_ms: 0,
        epoch_s: DAY_S,
        allocations: ALLOCATIONS.iter().map(allocation).collect(),
        grants_from: "ecosystem".into(),
        grants: Vec::new(),
    }
}

/// The same, encoded: what a profile's section is laid over.
pub fn encoded_defaults() -> Vec<u8> {
    defaults().encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When anything does not add up.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    let asset_name = governed::asset_name("asset_name", &wire.asset_name)?;
    refuse_if(wire.cap_units == 0, || "cap_units = 0: there would be nothing to share out".into())?;
    // with days of 24 hours that is 00:00 UTC
    let on_grid = wire.epoch_s == 0 || wire.tge_at_ms.is_multiple_of(u64::from(wire.epoch_s) * 1_000);
    refuse_if(!on_grid || wire.tge_at_ms > LATEST_TGE_MS, || {
        format!(
            "tge_at_ms = {} is not the beginning of an epoch (00:00 UTC where it is a day) before the year 10000 (E-0.5)",
            wire.tge_at_ms
        )
    })?;
    refuse_if(wire.epoch_s == 0 || wire.epoch_s > LONGEST_EPOCH_S, || {
        format!("epoch_s = {} is not within 1 and {LONGEST_EPOCH_S} s", wire.epoch_s)
    })?;
    let cap = Amount::new(wire.cap_units);
    let allocations = allocations(cap, &wire.allocations)?;
    let grants_from = payer(&allocations, &wire.grants_from)?;
    let params = Params {
        asset: wire.asset,
        asset_name,
        cap,
        tge_at: (wire.tge_at_ms > 0).then(|| Time::from_millis(wire.tge_at_ms)),
        epoch_s: wire.epoch_s,
        grants: grants(allocations[grants_from as usize].amount, &wire.grants)?,
        grants_from,
        allocations,
    };
    Ok(params)
}

/// E-1.2: parts that come to the whole, cut by E-0.4, so that nothing is lost.
fn allocations(cap: Amount, wire: &[wire::AllocationParams]) -> Result<Vec<Allocation>, BadParams> {
    refuse_if(wire.is_empty() || wire.len() > MOST_ALLOCATIONS, || {
        format!("{} allocations; a network has 1 to {MOST_ALLOCATIONS}", wire.len())
    })?;
    names("allocation", wire.iter().map(|allocation| allocation.name.as_str()))?;
    let sum: u128 = wire.iter().map(|allocation| u128::from(allocation.share_ppb)).sum();
    refuse_if(sum != u128::from(Ratio::ONE.ppb()), || {
        format!("the allocations' share_ppb come to {sum}, not to {}", Ratio::ONE.ppb())
    })?;
    let weights: Vec<(&str, u128)> =
        wire.iter().map(|allocation| (allocation.name.as_str(), allocation.share_ppb.into())).collect();
    wire.iter().zip(apportion(cap, &weights)).map(|(wire, amount)| allocation(wire, amount)).collect()
}

fn allocation(wire: &wire::AllocationParams, amount: Amount) -> Result<Allocation, BadParams> {
    let wire::AllocationParams { name, share_ppb, vesting_days, cliff_days } = wire;
    let ours = RESERVED.contains(&name.as_str()) || name.starts_with(VESTING_PREFIX);
    refuse_if(ours, || format!("allocation {name:?}: accounts of this name have a use of their own"))?;
    refuse_if(*share_ppb == 0, || format!("allocation {name:?} has no share: leave it out"))?;
    refuse_if(cliff_days > vesting_days, || {
        format!("allocation {name:?}: a cliff of {cliff_days} days, but all has vested after {vesting_days}")
    })?;
    let schedule = Schedule { start_day: 0, cliff_days: *cliff_days, vesting_days: *vesting_days };
    Ok(Allocation {
        name: name.clone(),
        share: Ratio::from_ppb(*share_ppb),
        amount,
        schedule: (*vesting_days > 0).then_some(schedule),
    })
}

fn payer(allocations: &[Allocation], name: &str) -> Result<u32, BadParams> {
    let at = allocations.iter().position(|allocation| allocation.name == name);
    let at = at.ok_or_else(|| BadParams(format!("grants_from {name:?} is no allocation")))?;
    refuse_if(allocations[at].schedule.is_some(), || {
        format!("grants_from {name:?} vests: it has nothing to pay grants from at genesis")
    })?;
    Ok(at as u32)
}

fn grants(most: Amount, wire: &[wire::GrantParams]) -> Result<Vec<Grant>, BadParams> {
    refuse_if(wire.len() > MOST_GRANTS, || format!("{} grants; at most {MOST_GRANTS}", wire.len()))?;
    names("grant", wire.iter().map(|grant| grant.name.as_str()))?;
    let grants: Vec<Grant> = wire.iter().map(grant).collect::<Result<_, _>>()?;
    let sum = Amount::sum(grants.iter().map(|grant| grant.amount));
    refuse_if(sum.is_none_or(|sum| sum > most), || {
        format!("the grants come to more than the {most} units of the allocation that pays them")
    })?;
    Ok(grants)
}

fn grant(wire: &wire::GrantParams) -> Result<Grant, BadParams> {
    let name = &wire.name;
    let owner: Option<Principal> = wire.owner.parse().ok();
    let owner = owner
        .filter(|owner| matches!(owner.kind, PrincipalKind::Account | PrincipalKind::Node))
        .ok_or_else(|| BadParams(format!("grant {name:?}: owner {:?} is no account/<id>", wire.owner)))?;
    refuse_if(wire.amount_units == 0, || format!("grant {name:?} has no amount_units"))?;
    Ok(Grant { name: name.clone(), owner, amount: Amount::new(wire.amount_units) })
}

fn names<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), BadParams> {
    let mut seen = BTreeSet::new();
    for name in names {
        governed::pool_name(&format!("{what} name"), name)?;
        refuse_if(!seen.insert(name), || format!("two {what}s are named {name}"))?;
    }
    Ok(())
}

fn refuse_if(wrong: bool, why: impl FnOnce() -> String) -> Result<(), BadParams> {
    if wrong { Err(BadParams(why())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(name: &str, owner: &str, amount_units: u64) -> wire::GrantParams {
        wire::GrantParams { name: name.into(), owner: owner.into(), amount_units }
    }

    const OWNER: &str = "account/0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69";

    #[test]
    fn the_defaults_are_the_allocation_of_profile_h() {
        // E-1.2
        let params = read(&wire::Params::decode(encoded_defaults().as_slice()).unwrap()).unwrap();
        let percent = |name: &str| {
            let found = params.allocations.iter().find(|allocation| allocation.name == name);
            found.unwrap().amount.units() / (params.cap.units() / 100)
        };
        let community = ["trr_pool", "br_pool", "early_join_pool", "verifier_pool"];
        let treasury = ["insurance", "security", "grants", "reserve"];
        assert_eq!(community.map(percent), [30, 10, 6, 4]);
        assert_eq!(treasury.map(percent), [2, 3, 4, 3]);
        assert_eq!(["team", "fundraising", "ecosystem"].map(percent), [15, 15, 8]);
        assert_eq!(Amount::sum(params.allocations.iter().map(|a| a.amount)), Some(params.cap));
    }

    #[test]
    fn the_grants_may_take_all_of_their_allocation_and_no_unit_more() {
        let ecosystem = 80_000_000_000_000_000;
        let with = |units| wire::Params { grants: vec![grant("op", OWNER, units)], ..defaults() };
        assert_eq!(read(&with(ecosystem)).unwrap().granted(), Amount::new(ecosystem));
        assert!(read(&with(ecosystem + 1)).is_err());
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let shares = |change: fn(&mut Vec<wire::AllocationParams>)| {
            let mut params = defaults();
            change(&mut params.allocations);
            params
        };
        let grants = |grants: Vec<wire::GrantParams>| wire::Params { grants, ..defaults() };
        let bad = [
            wire::Params { asset_name: "hol/x".into(), ..defaults() },
            wire::Params { cap_units: 0, ..defaults() },
            wire::Params { tge_at_ms: 1, ..defaults() },
            wire::Params { tge_at_ms: u64::MAX / 86_400_000 * 86_400_000, ..defaults() },
            wire::Params { epoch_s: 0, ..defaults() },
            wire::Params { epoch_s: u32::MAX, ..defaults() },
            wire::Params { grants_from: "nobody".into(), ..defaults() },
            wire::Params { grants_from: "team".into(), ..defaults() },
            shares(Vec::clear),
            shares(|row| row[0].share_ppb += 1),
            shares(|row| row[0].share_ppb = u64::MAX),
            shares(|row| row[1].name = row[0].name.clone()),
            shares(|row| row[0].name = "genesis".into()),
            shares(|row| row[0].name = "vesting_team".into()),
            shares(|row| row[0].name = "Team".into()),
            shares(|row| row[0].cliff_days = 1_461),
            shares(|row| row[2].cliff_days = 1),
            shares(|row| {
                row[1].share_ppb += row[0].share_ppb;
                row[0].share_ppb = 0;
            }),
            grants(vec![grant("op", "service/7", 1)]),
            grants(vec![grant("op", "me", 1)]),
            grants(vec![grant("op", OWNER, 0)]),
            grants(vec![grant("", OWNER, 1)]),
            grants(vec![grant("op", OWNER, 1), grant("op", OWNER, 1)]),
            grants(vec![grant("a", OWNER, u64::MAX), grant("b", OWNER, u64::MAX)]),
        ];
        for params in bad {
            assert!(read(&params).is_err(), "{params:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn the_allocations_come_to_the_cap_whatever_it_is(cap_units in 1u64..) {
            let params = read(&wire::Params { cap_units, ..defaults() }).unwrap();
            let sum = Amount::sum(params.allocations.iter().map(|allocation| allocation.amount));
            prop_assert_eq!(sum, Some(Amount::new(cap_units)));
        }
    }
}
