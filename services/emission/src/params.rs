//! The governed numbers of emission: unit, default, bounds and largest step of each. Profiles fill them at genesis; from
//! then on they live in the state.

use std::collections::BTreeSet;

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Backoff, Calendar, Ratio, ServiceId, Time, governed};
use holmes_proto::emission::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::br::Exponents;
use crate::decay::Decay;
use crate::trr::Kappa;
use crate::vesting::Terms;
use crate::{MARKET, SCHEDULING, STAKING};

/// Most nodes that one step of a job looks at, and most that one event pays.
pub const MOST_NODES_PER_STEP: usize = 256;
/// Grants behind which a step of unlocking takes no further node.
pub const MOST_GRANTS_PER_STEP: usize = 256;
/// Most sources, and most classes of hardware.
pub const MOST_ROWS: usize = 64;

const HOL: u64 = 1_000_000_000;
const ALL: u64 = u64::MAX;

/// E-3.1.
const CLASSES: [(&str, u32); 8] = [
    ("3060", 500),
    ("3090", 850),
    ("4090", 1_000),
    ("5090", 1_700),
    ("a100", 2_000),
    ("h100", 4_000),
    ("h200", 4_800),
    ("b200", 8_000),
];

governed! {
    wire::Params:
    tge_at_ms, "ms", 0, 0, 1 << 50, 0;
    epoch_s, "s", 86_400, 1, 86_400, 0;
    trr_units, "base units", 300_000_000 * HOL, 0, ALL, 0;
    br_units, "base units", 100_000_000 * HOL, 0, ALL, 0;
    verifier_units, "base units", 40_000_000 * HOL, 0, ALL, 0;
    target_nodes, "nodes", 2_000, 1, 1_000_000, 500;
    score, "points", 488, 0, 1_000, 1_000;
    stake_quarters, "quarters", 4, 4, 6, 1;
    score_quarters, "quarters", 4, 0, 8, 1;
    quarter_ppb, "ppb", 250_000_000, 0, 1_000_000_000, 100_000_000;
    kappa_full_ppb, "ppb", 5_000_000_000, 0, 20_000_000_000, 1_000_000_000;
    kappa_quarter_ppb, "ppb", 500_000_000, 0, 20_000_000_000, 250_000_000;
    ceiling_ppb, "ppb", 1_200_000_000, 1_000_000_000, 2_000_000_000, 100_000_000;
    token_units, "base units", HOL, 1, ALL, 0;
    circulating_units, "base units", 20_000_000 * HOL, 0, ALL, 0;
    liquid_ppb, "ppb", 250_000_000, 0, 1_000_000_000, 50_000_000;
    median_days, "d", 180, 0, 3_650, 30;
    capacity_days, "d", 18, 0, 3_650, 6;
    linear_days, "d", 30, 0, 540, 10;
    full_days, "d", 540, 1, 3_650, 90;
    exit_burn_ppb, "ppb", 500_000_000, 0, 1_000_000_000, 100_000_000;
    offline_days, "d", 3, 1, 365, 1;
    return_days, "d", 7, 0, 365, 7;
    without_after_ms, "ms", 21_600_000, 0, 604_800_000, 3_600_000;
    keep_epochs, "epochs", 400, 2, 100_000, 100;
    keep_rewards, "epochs", 8, 1, 400, 10;
    retry_first_ms, "ms", 60_000, 1_000, 3_600_000, 60_000;
    retry_longest_ms, "ms", 21_600_000, 1_000, 604_800_000, 3_600_000;
}

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Number of the token.
    pub asset: u32,
    /// Its name.
    pub asset_name: String,
    /// E-0.5.
    pub calendar: Calendar,
    /// E-1.2, E-4.2, E-4.3, E-4.5: TRR, BR, verifiers.
    pub pools: [PoolParams; 3],
    /// E-4.3.
    pub target_nodes: u64,
    /// E-8.1.
    pub score: u64,
    /// E-4.6.
    pub exponents: [u32; 2],
    /// E-3.2.
    pub quarter: Ratio,
    /// E-3.2, κ: of full and of other work.
    pub kappa: [Ratio; 2],
    /// E-4.7.
    pub ceiling: Ratio,
    /// Base units of one whole token.
    pub token_units: u64,
    /// E-0.6: at TGE.
    pub circulating: Amount,
    /// E-5.
    pub terms: Terms,
    /// E-7.1.
    pub offline_days: u64,
    /// E-5.3.
    pub return_days: u64,
    /// After an epoch's end, until it may be closed without a source, ms.
    pub without_after_ms: u64,
    /// Closed epochs that are remembered.
    pub keep_epochs: u64,
    /// Closed epochs of which every node is remembered.
    pub keep_rewards: u64,
    /// When the ledger is asked again.
    pub retry: Backoff,
    /// Whose facts a close waits for, and from which epoch on.
    pub sources: Vec<(ServiceId, u64)>,
    /// E-3.1: ratings of the classes, rising.
    pub classes: Vec<u32>,
}

/// A pool at genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolParams {
    /// Its account's name.
    pub account: String,
    /// What it holds.
    pub initial: Amount,
    /// λ.
    pub decay: Decay,
}

impl Params {
    /// E-4.6: a and b.
    pub fn exponents(&self) -> Exponents {
        Exponents { stake: self.exponents[0], score: self.exponents[1] }
    }

    /// E-3.2.
    pub fn kappa(&self) -> Kappa {
        Kappa { full: self.kappa[0], quarter: self.kappa[1], token: self.token_units }
    }

    /// E-3.1: the class of a rating: the highest that it reaches, or the lowest.
    pub fn class(&self, rating_milli_cu: u32) -> usize {
        self.classes.iter().rposition(|least| *least <= rating_milli_cu).unwrap_or(0)
    }
}

/// The defaults: what a profile starts from.
pub fn defaults() -> wire::Params {
    let source = |service: ServiceId| wire::Source { service: service.0.into(), first_epoch: 1 };
    let class =
        |(name, rating_milli_cu): (&str, u32)| wire::HardwareClass { name: name.into(), rating_milli_cu };
    let mut params = wire::Params {
        asset: 1,
        asset_name: "HOL".into(),
        trr_pool: "trr_pool".into(),
        br_pool: "br_pool".into(),
        verifier_pool: "verifier_pool".into(),
        trr_lambda_q128: "340120963895082053022182018437844622363".into(),
        br_lambda_q128: "339959637426048117187196252907708701238".into(),
        verifier_lambda_q128: "340120963895082053022182018437844622363".into(),
        sources: [STAKING, SCHEDULING, MARKET].map(source).to_vec(),
        classes: CLASSES.map(class).to_vec(),
        ..Default::default()
    };
    governed::fill(&mut params, GOVERNED);
    params
}

/// The defaults in the encoding of `Opened.params`: what a profile's section overlays.
pub fn encoded_defaults() -> Vec<u8> {
    defaults().encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When a number is out of its bounds, a name or a decay factor is none, or sources or classes do not rise.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    governed::check_all(wire, GOVERNED)?;
    let asset_name = governed::asset_name("asset_name", &wire.asset_name)?;
    let pools = [
        pool(&asset_name, &wire.trr_pool, wire.trr_units, &wire.trr_lambda_q128)?,
        pool(&asset_name, &wire.br_pool, wire.br_units, &wire.br_lambda_q128)?,
        pool(&asset_name, &wire.verifier_pool, wire.verifier_units, &wire.verifier_lambda_q128)?,
    ];
    let names: BTreeSet<&str> = pools.iter().map(|pool| pool.account.as_str()).collect();
    if names.len() < pools.len() || Amount::sum(pools.iter().map(|pool| pool.initial)).is_none() {
        return Err(BadParams("the pools share an account, or come to more than 2^64 - 1 units".into()));
    }
    Ok(Params {
        asset: wire.asset,
        calendar: Calendar::new(Time::from_millis(wire.tge_at_ms), wire.epoch_s),
        pools,
        target_nodes: wire.target_nodes,
        score: wire.score,
        exponents: [wire.stake_quarters as u32, wire.score_quarters as u32],
        quarter: Ratio::from_ppb(wire.quarter_ppb),
        kappa: [Ratio::from_ppb(wire.kappa_full_ppb), Ratio::from_ppb(wire.kappa_quarter_ppb)],
        ceiling: Ratio::from_ppb(wire.ceiling_ppb),
        token_units: wire.token_units,
        circulating: Amount::new(wire.circulating_units),
        terms: Terms {
            liquid: Ratio::from_ppb(wire.liquid_ppb),
            median_days: wire.median_days,
            capacity_days: wire.capacity_days,
            linear_days: wire.linear_days,
            full_days: wire.full_days,
            exit_burn: Ratio::from_ppb(wire.exit_burn_ppb),
        },
        offline_days: wire.offline_days,
        return_days: wire.return_days,
        without_after_ms: wire.without_after_ms,
        keep_epochs: wire.keep_epochs,
        keep_rewards: wire.keep_rewards,
        retry: Backoff { first_ms: wire.retry_first_ms, longest_ms: wire.retry_longest_ms },
        sources: sources(&wire.sources)?,
        classes: classes(&wire.classes)?,
        asset_name,
    })
}

fn pool(asset: &str, name: &str, units: u64, lambda: &str) -> Result<PoolParams, BadParams> {
    let name = governed::pool_name("pool", name)?;
    let bits = lambda.parse().map_err(|_| BadParams(format!("{name}: λ·2^128 {lambda:?} is no u128")))?;
    Ok(PoolParams {
        account: format!("{name}/{asset}"),
        initial: Amount::new(units),
        decay: Decay::from_q128(bits),
    })
}

/// Only services whose logs this build reads can be waited for.
fn sources(wire: &[wire::Source]) -> Result<Vec<(ServiceId, u64)>, BadParams> {
    let known = [STAKING, SCHEDULING, MARKET];
    let read = |source: &wire::Source| {
        let service = u16::try_from(source.service).ok().map(ServiceId);
        service.filter(|service| known.contains(service)).map(|service| (service, source.first_epoch))
    };
    let sources: Option<Vec<_>> = wire.iter().map(read).collect();
    sources.filter(|rows| !rows.is_empty() && rows.windows(2).all(|pair| pair[0].0 < pair[1].0)).ok_or_else(
        || {
            BadParams(
                "sources: one or more of staking (3), scheduling (4), market (5), numbers rising".into(),
            )
        },
    )
}

fn classes(wire: &[wire::HardwareClass]) -> Result<Vec<u32>, BadParams> {
    let ratings: Vec<u32> = wire.iter().map(|class| class.rating_milli_cu).collect();
    let rises = ratings.windows(2).all(|pair| pair[0] < pair[1]);
    if ratings.is_empty() || ratings.len() > MOST_ROWS || !rises {
        return Err(BadParams(format!("classes: 1 to {MOST_ROWS}, ratings rising")));
    }
    Ok(ratings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        let params = read(&wire::Params::decode(encoded_defaults().as_slice()).unwrap()).unwrap();
        assert_eq!(params.pools[0].account, "trr_pool/HOL");
        // E-3.1
        assert_eq!([499, 500, 999, 1_000, 9_000].map(|rating| params.class(rating)), [0, 0, 1, 2, 7]);
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let good = defaults;
        let source = |service, first_epoch| wire::Source { service, first_epoch };
        let class = |rating_milli_cu| wire::HardwareClass { name: "x".into(), rating_milli_cu };
        let mut bad = vec![
            wire::Params { asset_name: "hol/x".into(), ..good() },
            wire::Params { trr_pool: "TRR".into(), ..good() },
            wire::Params { trr_pool: "br_pool".into(), ..good() },
            wire::Params { br_units: u64::MAX, ..good() },
            wire::Params { trr_lambda_q128: "0.9".into(), ..good() },
            wire::Params { verifier_lambda_q128: "340282366920938463463374607431768211456".into(), ..good() },
            wire::Params { sources: vec![], ..good() },
            wire::Params { sources: vec![source(9, 1)], ..good() },
            wire::Params { sources: vec![source(4, 1), source(3, 1)], ..good() },
            wire::Params { classes: vec![], ..good() },
            wire::Params { classes: vec![class(2), class(2)], ..good() },
        ];
        for (number, place) in GOVERNED {
            for beyond in [number.min.checked_sub(1), number.max.checked_add(1)].into_iter().flatten() {
                let mut params = good();
                *place(&mut params) = beyond;
                bad.push(params);
            }
        }
        for params in bad {
            assert!(read(&params).is_err(), "{params:?} was taken");
        }
    }
}
