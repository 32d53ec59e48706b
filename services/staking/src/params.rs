//! The governed numbers of staking: unit, default, bounds and largest step of each. Profiles fill them at genesis; from
//! then on they live in the state.

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Amount, Governed, Ratio, Time};
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

/// The place of a governed number in the parameters as they are written.
pub type Place = fn(&mut wire::Params) -> &mut u64;

/// Writes the table below: each number with its field.
macro_rules! governed {
    ($($field:ident, $unit:literal, $default:expr, $min:expr, $max:expr, $step:expr;)*) => {
        /// All of them, in the order of their fields; what each is stands at its field.
        pub const GOVERNED: &[(Governed, Place)] = &[$((
            Governed::new(stringify!($field), $unit, $default, ($min, $max), $step),
            |params| &mut params.$field,
        )),*];
    };
}

// E_next: what TRR, BR and the verifiers' pool schedule on day one (E-4.8, E-4.5). C: what the desk offers at TGE
// (E-1.6), so that the bonded share counts from the first day on.
governed! {
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
    /// First wait before the ledger is asked again, ms.
    pub retry_first_ms: u64,
    /// Longest wait, ms.
    pub retry_longest_ms: u64,
    /// After an epoch's end, until it is sealed, ms.
    pub seal_after_ms: u64,
}

/// E-0.5: a day is an epoch of log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    tge_at_ms: u64,
    epoch_s: u64,
}

impl Calendar {
    /// The day of a moment; what lies before TGE belongs to the first.
    pub fn day(&self, at: Time) -> u64 {
        at.millis().saturating_sub(self.tge_at_ms) / (self.epoch_s * 1_000)
    }

    /// When a day begins.
    pub fn start(&self, day: u64) -> Time {
        self.after(Time::from_millis(self.tge_at_ms), day)
    }

    /// So many days later.
    pub fn after(&self, at: Time, days: u64) -> Time {
        at.after_millis(days.saturating_mul(self.epoch_s).saturating_mul(1_000))
    }
}

impl Params {
    /// E-6.5: days until a bond may leave.
    pub fn unbonding_days(&self, kind: NodeKind) -> u64 {
        self.unbonding_days[usize::from(kind == NodeKind::Verifier)]
    }

    /// When the ledger is asked again, after so many refusals: twice as long each time.
    pub fn retry_at(&self, now: Time, refusals: u32) -> Time {
        let wait = self.retry_first_ms.saturating_mul(1u64 << refusals.min(32));
        now.after_millis(wait.min(self.retry_longest_ms.max(self.retry_first_ms)))
    }
}

/// The defaults: what a profile starts from.
pub fn defaults() -> wire::Params {
    let mut params = wire::Params { asset: 1, asset_name: "HOL".into(), ..Default::default() };
    for (number, place) in GOVERNED {
        *place(&mut params) = number.default;
    }
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
    let mut wire = wire.clone();
    for (number, place) in GOVERNED {
        number.check(*place(&mut wire))?;
    }
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    if wire.asset_name.is_empty() || wire.asset_name.len() > 12 || !wire.asset_name.bytes().all(plain) {
        return Err(BadParams(format!(
            "asset_name {:?}: 1 to 12 upper-case letters and digits",
            wire.asset_name
        )));
    }
    if wire.least_per_cu_units > wire.most_per_cu_units {
        return Err(BadParams("least_per_cu_units is above most_per_cu_units".into()));
    }
    Ok(Params {
        asset: wire.asset,
        asset_name: wire.asset_name,
        calendar: Calendar { tge_at_ms: wire.tge_at_ms, epoch_s: wire.epoch_s },
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
        retry_first_ms: wire.retry_first_ms,
        retry_longest_ms: wire.retry_longest_ms,
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

    #[test]
    fn days_are_epochs_since_tge() {
        // E-0.5
        let calendar = Calendar { tge_at_ms: 100_000, epoch_s: 45 };
        let at = |s: u64| Time::from_millis(s * 1_000);
        assert_eq!([99, 100, 144, 145].map(|s| calendar.day(at(s))), [0, 0, 0, 1]);
        assert_eq!((calendar.start(2), calendar.after(at(1), 14)), (at(190), at(631)));
    }

    #[test]
    fn the_wait_doubles_up_to_the_longest() {
        let params = read(&defaults()).unwrap();
        let waits = [0, 1, 20, 500].map(|n| params.retry_at(Time::default(), n).millis());
        assert_eq!(waits, [60_000, 120_000, 21_600_000, 21_600_000]);
    }
}
