//! The governed numbers of staking: unit, default, bounds and largest step of each. Profiles fill them at genesis; from
//! then on they live in the state.

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Backoff, Calendar, Ratio, Time, governed};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::NodeKind;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::collateral::Inputs;
use crate::leaving::Throttle;

/// Most nodes that one event of a job or of time's passing changes: with the job's own, they fit one entry.
pub const MOST_NODES_PER_STEP: usize = 255;
/// Most bytes of a cause.
pub const MOST_CAUSE_BYTES: usize = 128;
/// Holds that are kept for one node; a further one takes the place of the oldest.
pub const MOST_OFFERS_PER_NODE: usize = 16;
/// The greatest rating of one node, milli-CU: 125 times the largest box of today.
pub const MOST_RATING_MILLI_CU: u32 = 1_000_000;

const HOL: u64 = 1_000_000_000;
const ALL: u64 = u64::MAX;

// E_next: what TRR, BR and the verifiers' pool schedule on day one (E-4.8, E-4.5). C: what the desk offers at TGE
// (E-1.6), so that the bonded share counts from the first day on.
governed! {
    wire::Params:
    tge_at_ms, "ms", 0, 0, 1 << 50, 0;
    epoch_s, "s", 86_400, 1, 86_400, 0;
    next_emission_units, "base units", 256_110_767_856_694, 0, ALL, ALL;
    circulating_units, "base units", 20_000_000 * HOL, 0, ALL, ALL;
    bonded_share_ppb, "ppb", 300_000_000, 0, 1_000_000_000, 50_000_000;
    reward_days, "d", 20, 0, 365, 5;
    target_nodes, "nodes", 2_000, 1, 1_000_000, 500;
    target_milli_cu, "milli-CU", 20_000_000, 1_000, 1_000_000_000_000, 5_000_000;
    least_per_cu_units, "base units", 250 * HOL, 1, 100_000 * HOL, 50 * HOL;
    most_per_cu_units, "base units", 10_000 * HOL, 1, 1_000_000 * HOL, 2_000 * HOL;
    base_step_ppb, "ppb", 100_000_000, 1_000_000, 500_000_000, 50_000_000;
    recompute_days, "d", 7, 1, 90, 7;
    rise_days, "d", 30, 0, 365, 10;
    least_rating_milli_cu, "milli-CU", 500, 1, 100_000, 250;
    verifier_bond_units, "base units", 1_000 * HOL, 1, 1_000_000 * HOL, 250 * HOL;
    hardware_pass_days, "d", 7, 1, 90, 7;
    compute_unbonding_days, "d", 14, 1, 365, 7;
    verifier_unbonding_days, "d", 21, 1, 365, 7;
    leaving_share_ppb, "ppb", 90_000_000, 1_000_000, 1_000_000_000, 20_000_000;
    leaving_floor_units, "base units", 50_000 * HOL, 1, ALL, 10_000 * HOL;
    most_nodes, "nodes", 1_000_000, 100, 10_000_000, 1_000_000;
    most_nodes_per_owner, "nodes", 1_000, 1, 4_096, 1_000;
    most_unbondings_per_node, "unbondings", 32, 1, 1_024, 32;
    retry_first_ms, "ms", 60_000, 1_000, 3_600_000, 60_000;
    retry_longest_ms, "ms", 21_600_000, 1_000, 604_800_000, 3_600_000;
    seal_after_ms, "ms", 5_000, 0, 3_600_000, 5_000;
}

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Number of the asset that is bonded.
    pub asset: u32,
    /// Its name.
    pub asset_name: String,
    /// E-0.5.
    pub calendar: Calendar,
    /// E-6.2: what the base follows from, without what the state knows.
    pub inputs: Inputs,
    /// E-6.2.
    pub least_per_cu: Amount,
    /// E-6.2.
    pub most_per_cu: Amount,
    /// E-6.2.
    pub base_step: Ratio,
    /// E-6.2.
    pub recompute_days: u64,
    /// E-6.2.
    pub rise_days: u64,
    /// E-6.2.
    pub least_rating_milli_cu: u64,
    /// E-6.2.
    pub verifier_bond: Amount,
    /// E-0.6.
    pub hardware_pass_days: u64,
    /// E-6.5: of a compute node and of a verifier.
    pub unbonding_days: [u64; 2],
    /// E-6.5.
    pub throttle: Throttle,
    /// Nodes in all.
    pub most_nodes: u64,
    /// Nodes of one owner.
    pub most_nodes_per_owner: u64,
    /// Unbondings of one node that are not paid.
    pub most_unbondings_per_node: u64,
    /// When the ledger is asked again.
    pub retry: Backoff,
    /// After an epoch's end, until it is sealed, ms.
    pub seal_after_ms: u64,
}

impl Params {
    /// E-6.5: days until a bond may leave.
    pub fn unbonding_days(&self, kind: NodeKind) -> u64 {
        self.unbonding_days[usize::from(kind == NodeKind::Verifier)]
    }
}

/// The defaults: what a profile starts from.
pub fn defaults() -> wire::Params {
    let mut params = wire::Params { asset: 1, asset_name: "HOL".into(), ..Default::default() };
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
/// When a number is out of its bounds, the least per CU is above the most, or the asset has no name.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    governed::check_all(wire, GOVERNED)?;
    if wire.least_per_cu_units > wire.most_per_cu_units {
        return Err(BadParams("least_per_cu_units is above most_per_cu_units".into()));
    }
    Ok(Params {
        asset: wire.asset,
        asset_name: governed::asset_name("asset_name", &wire.asset_name)?,
        calendar: Calendar::new(Time::from_millis(wire.tge_at_ms), wire.epoch_s),
        inputs: Inputs {
            next_emission: Amount::new(wire.next_emission_units),
            circulating: Amount::new(wire.circulating_units),
            bonded_share: Ratio::from_ppb(wire.bonded_share_ppb),
            reward_days: wire.reward_days,
            target_nodes: wire.target_nodes,
            target_milli_cu: wire.target_milli_cu,
            ..Inputs::default()
        },
        least_per_cu: Amount::new(wire.least_per_cu_units),
        most_per_cu: Amount::new(wire.most_per_cu_units),
        base_step: Ratio::from_ppb(wire.base_step_ppb),
        recompute_days: wire.recompute_days,
        rise_days: wire.rise_days,
        least_rating_milli_cu: wire.least_rating_milli_cu,
        verifier_bond: Amount::new(wire.verifier_bond_units),
        hardware_pass_days: wire.hardware_pass_days,
        unbonding_days: [wire.compute_unbonding_days, wire.verifier_unbonding_days],
        throttle: Throttle {
            share: Ratio::from_ppb(wire.leaving_share_ppb),
            floor: Amount::new(wire.leaving_floor_units),
        },
        most_nodes: wire.most_nodes,
        most_nodes_per_owner: wire.most_nodes_per_owner,
        most_unbondings_per_node: wire.most_unbondings_per_node,
        retry: Backoff { first_ms: wire.retry_first_ms, longest_ms: wire.retry_longest_ms },
        seal_after_ms: wire.seal_after_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        let defaults = wire::Params::decode(encoded_defaults().as_slice()).unwrap();
        read(&defaults).unwrap();
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let good = defaults;
        let mut bad = vec![
            wire::Params { asset_name: "hol/x".into(), ..good() },
            wire::Params { least_per_cu_units: 2, most_per_cu_units: 1, ..good() },
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
