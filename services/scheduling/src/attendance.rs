//! Who was there in an epoch (E-0.6): bitmaps of beats, and which beats count.

use holmes_kernel::Ratio;
use holmes_kernel::wide::mul_div_ceil;

const PPB: u128 = 1_000_000_000;

/// Bytes of a bitmap of so many beats.
pub fn bytes_of(beats: u32) -> usize {
    beats.div_ceil(8) as usize
}

/// Whether a bitmap has bits behind its last beat: then it speaks of more than it says.
pub fn overflows(bitmap: &[u8], beats: u32) -> bool {
    let rest = beats % 8;
    rest != 0 && bitmap.last().is_some_and(|last| last >> rest != 0)
}

/// Adds the beats of a report to what is known of a node: both bitmaps together. An epoch has so many: what is beyond them
/// would be kept for nothing.
pub fn unite(known: &mut Vec<u8>, first_beat: u32, reported: &[u8], beats: u32) {
    for at in set(reported).filter_map(|beat| first_beat.checked_add(beat)).filter(|at| *at < beats) {
        let byte = at as usize / 8;
        if known.len() <= byte {
            known.resize(byte + 1, 0);
        }
        known[byte] |= 1 << (at % 8);
    }
}

/// The beats that are set in a bitmap, rising.
pub fn set(bitmap: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let bits = |(at, byte): (usize, &u8)| {
        let byte = *byte;
        (0..8u32).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at as u32 * 8 + bit)
    };
    bitmap.iter().enumerate().flat_map(bits)
}

/// How many beats are set.
pub fn count(bitmap: &[u8]) -> u32 {
    bitmap.iter().map(|byte| byte.count_ones()).sum()
}

/// In how many of the counted beats a node was seen.
pub fn seen(bitmap: &[u8], counted: &[u8]) -> u32 {
    bitmap.iter().zip(counted).map(|(seen, counts)| (seen & counts).count_ones()).sum()
}

/// E-0.6: which beats count, as a bitmap. `weights[b]` is the required collateral of the previous epoch's Active nodes
/// that were seen in beat b, `total` that of all of them: a beat under the quorum counts for nobody. Where nobody was
/// Active before, every beat counts.
pub fn counted(weights: &[u128], total: u128, quorum: Ratio) -> Vec<u8> {
    let mut bitmap = vec![0; bytes_of(weights.len() as u32)];
    // Ceiled: a beat just under the quorum does not count.
    let Some(least) = mul_div_ceil(total, u128::from(quorum.ppb()), PPB) else { return bitmap };
    for (beat, _) in weights.iter().enumerate().filter(|(_, weight)| **weight >= least) {
        bitmap[beat / 8] |= 1 << (beat % 8);
    }
    bitmap
}

/// E-0.6: online in at least half of the beats that counted. Where none counted nobody was.
pub fn was_online(seen: u32, counted: u32) -> bool {
    counted > 0 && u64::from(seen) * 2 >= u64::from(counted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_beat_counts_when_half_of_the_collateral_was_seen() {
        // E-0.6
        let half = Ratio::from_percent(50);
        assert_eq!(counted(&[49, 50, 51, 0, 101], 100, half), [0b10110]);
        assert_eq!(counted(&[50, 51], 101, half), [0b10]); // 50 of 101 is under a half
    }

    #[test]
    fn every_beat_counts_where_nobody_was_active_before() {
        assert_eq!(counted(&[0; 10], 0, Ratio::from_percent(50)), [0xff, 0b11]);
    }

    #[test]
    fn half_of_the_counted_beats_is_enough_and_none_is_not() {
        assert!(was_online(5, 10) && was_online(6, 11) && !was_online(5, 11) && !was_online(0, 0));
        assert_eq!(seen(&[0b1011], &[0b0011, 0xff]), 2);
    }

    #[test]
    fn what_is_beyond_the_epoch_is_not_kept() {
        let mut known = Vec::new();
        unite(&mut known, u32::MAX - 3, &[0xff], 45);
        assert!(known.is_empty(), "{} bytes", known.len());
        unite(&mut known, 44, &[0b11], 45);
        assert_eq!(known, [0, 0, 0, 0, 0, 0b1_0000]);
    }

    #[test]
    fn bits_behind_the_last_beat_are_seen() {
        assert!(!overflows(&[0b111], 3) && overflows(&[0b1111], 3) && !overflows(&[0xff], 8));
    }

    proptest! {
        #[test]
        fn a_report_adds_its_beats_and_takes_none(a: Vec<u8>, first in 0u32..200, b: Vec<u8>) {
            let mut both = a.clone();
            unite(&mut both, first, &b, u32::MAX);
            let mut expected: std::collections::BTreeSet<u32> = set(&a).collect();
            expected.extend(set(&b).map(|beat| beat + first));
            prop_assert!(set(&both).eq(expected.iter().copied()));
            prop_assert_eq!(count(&both) as usize, expected.len());
        }
    }
}
