//! The governed numbers of scheduling: unit, default, bounds and largest step of each. Profiles fill them at genesis;
//! from then on they live in the state.

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Calendar, Ratio, Time, governed};
use holmes_proto::scheduling::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

/// Most items that one step of a job handles.
pub const MOST_PER_STEP: usize = 255;
/// Most models that one node serves.
pub const MOST_MODELS: usize = 16;
/// Most nodes that a placement leaves out.
pub const MOST_AVOIDED: usize = 8;
/// Most bytes of a model's name.
pub const MOST_NAME_BYTES: usize = 128;
/// Most bytes of a claim of a node: hardware, region, software.
pub const MOST_CLAIM_BYTES: usize = 64;
/// Most bytes of a node's capabilities.
pub const MOST_CAPABILITY_BYTES: usize = 8_192;
/// Most nodes of one report of presence, and of one event of it.
pub const MOST_NODES_PER_REPORT: usize = 256;
/// Most beats of one report of presence, so that a report is taken in within a millisecond.
pub const MOST_BEATS_PER_REPORT: u32 = 1_024;
/// Most calls of one report.
pub const MOST_LINES: usize = 256;
/// Most calls of one lease: what is kept of them until the lease is forgotten is bounded. A session takes another lease.
pub const MOST_CALLS_PER_LEASE: usize = 65_536;
/// Most leases that one report of what runs names.
pub const MOST_LEASES_PER_REPORT: usize = 1_024;
/// Most calls that are known by their ids beyond their leases: as many as requests are remembered.
pub const MOST_CALLS_KNOWN: usize = 20_000_000;
/// Most gateways that have ever started in a cell.
pub const MOST_GATEWAYS: usize = 65_536;

const PICO_PER_MICRO: u64 = 1_000_000;
const PPB: u64 = 1_000_000_000;

governed! {
    wire::Params:
    tge_at_ms, "ms", 0, 0, 1 << 50, 0;
    epoch_s, "s", 86_400, 1, 86_400, 0;
    beat_s, "s", 15, 1, 3_600, 0;
    seal_after_ms, "ms", 5_000, 0, 600_000, 5_000;
    longest_lease_ms, "ms", 60_000, 1_000, 3_600_000, 60_000;
    late_calls_ms, "ms", 600_000, 1_000, 86_400_000, 600_000;
    late_close_ms, "ms", 5_000, 0, 600_000, 5_000;
    gateway_timeout_ms, "ms", 15_000, 1_000, 600_000, 15_000;
    most_allowance_micro_usd, "micro-dollars", 10_000_000, 1, 1_000_000_000_000, 10_000_000;
    most_leases, "leases", 1_000_000, 1, 10_000_000, 1_000_000;
    most_leases_per_session, "leases", 256, 1, 4_096, 256;
    most_nodes, "nodes", 1_000_000, 1, 10_000_000, 1_000_000;
    most_slots, "calls", 256, 1, 4_096, 256;
    least_owners, "owners", 3, 1, 100, 2;
    owner_share_ppb, "ppb", 500_000_000, 1_000_000, PPB, 100_000_000;
    beat_quorum_ppb, "ppb", 500_000_000, 0, PPB, 100_000_000;
    score, "points", 488, 0, 1_000, 0;
}

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// E-0.5.
    pub calendar: Calendar,
    /// E-0.5: length of a beat, a part of an epoch, s.
    pub beat_s: u64,
    /// After an epoch's end, until it is sealed, ms.
    pub seal_after_ms: u64,
    /// Longest time of a lease, ms.
    pub longest_lease_ms: u64,
    /// Calls of a lease that ended can be reported for so long, ms.
    pub late_calls_ms: u64,
    /// Calls of a closing session can be reported for so long after its last lease has ended, ms.
    pub late_close_ms: u64,
    /// A gateway that is not heard of for so long has lost its nodes, ms.
    pub gateway_timeout_ms: u64,
    /// Greatest allowance of a lease, pico-dollars.
    pub most_allowance: u64,
    /// Leases that are open; as many that have ended are remembered.
    pub most_leases: usize,
    /// Leases of one session that are open.
    pub most_leases_per_session: usize,
    /// Nodes.
    pub most_nodes: usize,
    /// Calls that one node may be given at a time.
    pub most_slots: u32,
    /// E-3.2.
    pub least_owners: u32,
    /// E-3.2.
    pub owner_share: Ratio,
    /// E-0.6.
    pub beat_quorum: Ratio,
    /// E-8.1: the score of every node until reputation exists.
    pub score: u32,
    /// Ed25519: what leases are signed with; `None` where no lease can be.
    pub public_key: Option<[u8; 32]>,
}

impl Params {
    /// E-0.5: when an epoch is sealed: until then its presence can be reported.
    pub fn seals_at(&self, epoch: u64) -> Time {
        self.calendar.ends(epoch).after_millis(self.seal_after_ms)
    }

    /// How many beats an epoch has.
    pub fn beats(&self) -> u32 {
        (self.calendar.epoch_s() / self.beat_s) as u32 // at most 86,400
    }

    /// When a beat of an epoch begins.
    pub fn beat_begins(&self, epoch: u64, beat: u32) -> Time {
        self.calendar.begins(epoch).after_millis(u64::from(beat) * self.beat_s * 1_000)
    }
}

/// The defaults: what a profile starts from.
pub fn defaults() -> wire::Params {
    let mut params = wire::Params::default();
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
/// When a number is out of its bounds, an epoch is not a row of whole beats, or the key is none.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    governed::check_all(wire, GOVERNED)?;
    if !wire.epoch_s.is_multiple_of(wire.beat_s) {
        return Err(BadParams(format!("epoch_s {} is no multiple of beat_s {}", wire.epoch_s, wire.beat_s)));
    }
    let public_key = match wire.public_key.as_ref() {
        [] => None,
        key => Some(key.try_into().map_err(|_| BadParams("public_key has 32 bytes, or none".into()))?),
    };
    Ok(Params {
        calendar: Calendar::new(Time::from_millis(wire.tge_at_ms), wire.epoch_s),
        beat_s: wire.beat_s,
        seal_after_ms: wire.seal_after_ms,
        longest_lease_ms: wire.longest_lease_ms,
        late_calls_ms: wire.late_calls_ms,
        late_close_ms: wire.late_close_ms,
        gateway_timeout_ms: wire.gateway_timeout_ms,
        most_allowance: wire.most_allowance_micro_usd.saturating_mul(PICO_PER_MICRO),
        most_leases: wire.most_leases as usize,
        most_leases_per_session: wire.most_leases_per_session as usize,
        most_nodes: wire.most_nodes as usize,
        most_slots: wire.most_slots as u32,
        least_owners: wire.least_owners as u32,
        owner_share: Ratio::from_ppb(wire.owner_share_ppb),
        beat_quorum: Ratio::from_ppb(wire.beat_quorum_ppb),
        score: wire.score as u32,
        public_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        let defaults = wire::Params::decode(encoded_defaults().as_slice()).unwrap();
        assert_eq!(read(&defaults).unwrap().most_allowance, 10_000_000_000_000); // 10 USD
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let good = defaults;
        let mut bad = vec![
            wire::Params { epoch_s: 46, beat_s: 15, ..good() },
            wire::Params { public_key: vec![1; 31].into(), ..good() },
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
    fn an_epoch_is_a_row_of_beats_and_is_sealed_a_while_after_its_end() {
        // E-0.5
        let epochs = wire::Params { tge_at_ms: 100_000, epoch_s: 45, beat_s: 1, ..defaults() };
        let params = read(&wire::Params { seal_after_ms: 5_000, ..epochs }).unwrap();
        let at = |s: u64| Time::from_millis(s * 1_000);
        assert_eq!((params.beats(), params.seals_at(1)), (45, at(150)));
        assert_eq!([(1, 0), (2, 3)].map(|(epoch, beat)| params.beat_begins(epoch, beat)), [at(100), at(148)]);
    }
}
