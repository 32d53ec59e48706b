//! The ledger's governed numbers: unit, default, bounds and largest step of each. Profiles fill them at genesis; from
//! then on they live in the state.

use holmes_kernel::governed::asset_name;
use holmes_kernel::window::WindowLimits;
use holmes_kernel::{Amount, BadParams, Governed, Ratio};
use holmes_proto::ledger::v1 as wire;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::rate::RateLimit;

/// E-2.2: most transfers of one request.
pub const MOST_TRANSFERS_PER_REQUEST: usize = 8_190;
/// E-2.2: most transfers of one chain.
pub const MOST_TRANSFERS_PER_CHAIN: usize = 256;
/// Most transfers of one command: so many, each as large as can be, fit one entry of the log (a test proves it).
pub const MOST_TRANSFERS_PER_COMMAND: usize = 1_850;
/// Most holds that one due command ends.
pub const MOST_EXPIRED_PER_TICK: usize = 256;
/// Most registered bulk submitters.
pub const MOST_SUBMITTERS: usize = 1_024;
/// Most bytes of an outside reference or of a system account's name.
pub const MOST_NAME_BYTES: usize = 128;
/// E-1.6: what staff pays from where a profile names nothing else: the ecosystem's liquidity, until there is a desk that
/// sells it (E-9.7). Nobody keeps books of it, as some service does of every other account of the platform.
const STAFF_SPENDS: &str = "ecosystem";
/// Most names of accounts that staff pays from.
const MOST_STAFF_SPENDS: usize = 16;
/// Most assets of a cell.
const MOST_ASSETS: usize = 64;

/// E-2.4. H: 0; F: 0.1 %.
pub const BURN_RATE: Governed = Governed::new("burn_rate_ppb", "ppb", 0, (0, 10_000_000), 500_000);
/// E-2.3.
pub const WINDOW_ENTRIES: Governed =
    Governed::new("window_entries", "ids", 20_000_000, (10_000, 100_000_000), 10_000_000);
/// E-2.3.
pub const WINDOW_ENTRIES_PER_PRINCIPAL: Governed =
    Governed::new("window_entries_per_principal", "ids", 2_000_000, (1_000, 100_000_000), 1_000_000);
/// So that accounts, which are never forgotten, cannot be opened without end.
pub const MOST_ACCOUNTS_PER_OWNER: Governed =
    Governed::new("most_accounts_per_owner", "accounts", 1_000, (10, 1_000_000), 10_000);
/// So that holds, which may be open for ever, cannot be opened without end. The last quarter is the platform's.
pub const MOST_OPEN_HOLDS: Governed =
    Governed::new("most_open_holds", "holds", 10_000_000, (1_000, 100_000_000), 5_000_000);
/// 90 days.
pub const LONGEST_HOLD: Governed =
    Governed::new("longest_hold_ms", "ms", 90 * DAY_MS, (60_000, 400 * DAY_MS), 90 * DAY_MS);
/// E-2.5. By default there is none.
pub const DEFAULT_RATE_UNITS: Governed =
    Governed::new("default_rate_units", "base units", 0, (0, u64::MAX), u64::MAX);
/// E-2.5. By default there is none.
pub const DEFAULT_RATE_WINDOW: Governed =
    Governed::new("default_rate_window_ms", "ms", 0, (0, 400 * DAY_MS), 30 * DAY_MS);

/// All of them.
pub const GOVERNED: [Governed; 8] = [
    BURN_RATE,
    WINDOW_ENTRIES,
    WINDOW_ENTRIES_PER_PRINCIPAL,
    MOST_ACCOUNTS_PER_OWNER,
    MOST_OPEN_HOLDS,
    LONGEST_HOLD,
    DEFAULT_RATE_UNITS,
    DEFAULT_RATE_WINDOW,
];

const DAY_MS: u64 = 86_400_000;

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// E-2.4.
    pub burn_rate: Ratio,
    /// E-2.3.
    pub window: WindowLimits,
    /// Accounts of one owner other than a service.
    pub most_accounts_per_owner: u32,
    /// Open holds in all.
    pub most_open_holds: u64,
    /// Longest time of a hold that expires, ms.
    pub longest_hold_ms: u64,
    /// E-2.5: of a party's new account.
    pub default_rate: Option<RateLimit>,
    /// The accounts of the platform that staff pays from, each without its asset: `<name>/<asset>`.
    pub staff_spends: Vec<String>,
}

/// An asset as the profile gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetParams {
    /// Its number.
    pub id: u32,
    /// Upper-case letters and digits.
    pub name: String,
    /// Digits behind the point where people read amounts.
    pub decimals: u32,
    /// E-1.1: all that will ever be; `None` for an asset that comes from outside.
    pub cap: Option<Amount>,
}

/// The defaults, with the given assets: what a profile starts from.
pub fn defaults(assets: Vec<wire::Asset>) -> wire::Params {
    wire::Params {
        assets,
        burn_rate_ppb: BURN_RATE.default,
        window_entries: WINDOW_ENTRIES.default,
        window_entries_per_principal: WINDOW_ENTRIES_PER_PRINCIPAL.default,
        most_accounts_per_owner: MOST_ACCOUNTS_PER_OWNER.default as u32,
        most_open_holds: MOST_OPEN_HOLDS.default,
        longest_hold_ms: LONGEST_HOLD.default,
        default_rate_units: DEFAULT_RATE_UNITS.default,
        default_rate_window_ms: DEFAULT_RATE_WINDOW.default,
        staff_spends: vec![STAFF_SPENDS.into()],
    }
}

/// The defaults as a log's opening holds them, with no asset yet: a profile names them.
pub fn encoded_defaults() -> Vec<u8> {
    defaults(Vec::new()).encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When a number is out of its bounds or the assets are not a rising row of distinct names.
pub fn read(wire: &wire::Params) -> Result<(Params, Vec<AssetParams>), BadParams> {
    let window_ms = DEFAULT_RATE_WINDOW.check(wire.default_rate_window_ms)?;
    let default_rate = RateLimit::new(DEFAULT_RATE_UNITS.check(wire.default_rate_units)?, window_ms)
        .ok_or_else(|| BadParams("default_rate_units needs a default_rate_window_ms".into()))?;
    let accounts = MOST_ACCOUNTS_PER_OWNER.check(wire.most_accounts_per_owner.into())?;
    let params = Params {
        burn_rate: Ratio::from_ppb(BURN_RATE.check(wire.burn_rate_ppb)?),
        window: WindowLimits {
            entries: WINDOW_ENTRIES.check(wire.window_entries)?,
            per_principal: WINDOW_ENTRIES_PER_PRINCIPAL.check(wire.window_entries_per_principal)?,
        },
        most_accounts_per_owner: accounts as u32,
        most_open_holds: MOST_OPEN_HOLDS.check(wire.most_open_holds)?,
        longest_hold_ms: LONGEST_HOLD.check(wire.longest_hold_ms)?,
        default_rate: default_rate.limited(),
        staff_spends: staff_spends(&wire.staff_spends)?,
    };
    Ok((params, assets(&wire.assets)?))
}

fn staff_spends(names: &[String]) -> Result<Vec<String>, BadParams> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let named = |name: &String| (1..=64).contains(&name.len()) && name.bytes().all(plain);
    if names.len() > MOST_STAFF_SPENDS || !names.iter().all(named) {
        let what =
            format!("staff_spends holds at most {MOST_STAFF_SPENDS} names of a-z, 0-9 and _: {names:?}");
        return Err(BadParams(what));
    }
    Ok(names.to_vec())
}

fn assets(wire: &[wire::Asset]) -> Result<Vec<AssetParams>, BadParams> {
    let bad = |what: String| Err(BadParams(what));
    if wire.is_empty() || wire.len() > MOST_ASSETS {
        return bad(format!("{} assets; a cell has 1 to {MOST_ASSETS}", wire.len()));
    }
    let mut assets: Vec<AssetParams> = Vec::with_capacity(wire.len());
    for asset in wire {
        let name = asset_name("asset name", &asset.name)?;
        if asset.decimals > 18 {
            return bad(format!("{} decimals of {}: at most 18", asset.decimals, asset.name));
        }
        if assets.last().is_some_and(|before| before.id >= asset.id) {
            return bad(format!("asset {} stands behind a greater number", asset.id));
        }
        if assets.iter().any(|other| other.name == asset.name) {
            return bad(format!("two assets are named {}", asset.name));
        }
        assets.push(AssetParams {
            id: asset.id,
            name,
            decimals: asset.decimals,
            cap: (asset.cap_units > 0).then(|| Amount::new(asset.cap_units)),
        });
    }
    Ok(assets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hol(id: u32, name: &str) -> wire::Asset {
        wire::Asset { id, name: name.into(), decimals: 9, cap_units: 1 }
    }

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        read(&defaults(vec![hol(1, "HOL")])).unwrap();
        for number in GOVERNED {
            assert_eq!(number.check(number.default), Ok(number.default), "{}", number.name);
        }
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let good = defaults(vec![hol(1, "HOL")]);
        let bad = [
            wire::Params { burn_rate_ppb: BURN_RATE.max + 1, ..good.clone() },
            wire::Params { window_entries: 0, ..good.clone() },
            wire::Params { default_rate_units: 1, ..good.clone() },
            wire::Params { assets: vec![], ..good.clone() },
            wire::Params { staff_spends: vec!["ecosystem/HOL".into()], ..good.clone() },
            wire::Params { assets: vec![hol(1, "HOL"), hol(2, "HOL")], ..good.clone() },
            wire::Params { assets: vec![hol(2, "A"), hol(1, "B")], ..good.clone() },
            wire::Params { assets: vec![hol(1, "hol/x")], ..good },
        ];
        for params in bad {
            assert!(read(&params).is_err(), "{params:?} was taken");
        }
    }
}
