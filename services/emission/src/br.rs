//! Base rewards: what a node's presence weighs (E-4.6): `min(stake, required)^a · score^b · beats`.

use ethnum::U256;
use holmes_kernel::Amount;

/// The exponents, in quarters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exponents {
    /// a: 4 to 6.
    pub stake: u32,
    /// b: 0 to 8.
    pub score: u32,
}

/// The weight. A broken exponent scales all weights alike, by 2^8. One that does not fit 128 bits counts as the greatest
/// that does.
pub fn weight(stake: Amount, required: Amount, score: u64, beats: u32, exponents: Exponents) -> u128 {
    let stake = power(stake.min(required).units(), exponents.stake);
    let weight = stake * power(score, exponents.score); // together below 2^248 for exponents of at most 2
    let weight = weight.checked_mul(U256::from(beats)).map(|weight| weight >> scale(exponents.stake));
    weight.and_then(|weight| u128::try_from(weight).ok()).unwrap_or(u128::MAX)
}

/// Of a stake the scale is taken away again: base units are fine enough.
fn scale(quarters: u32) -> u32 {
    if quarters.is_multiple_of(4) { 0 } else { 8 }
}

/// `base^(quarters / 4)`: the whole part exact; of the rest the fourth root of the exact power, floored at 2^-8.
fn power(base: u64, quarters: u32) -> U256 {
    let (base, whole, rest) = (U256::from(base), quarters / 4, quarters % 4);
    let exact = base.pow(whole);
    if rest == 0 {
        return exact;
    }
    exact * root(root(base.pow(rest) << 32u32)) // (x^r · 2^32)^(1/4) = x^(r/4) · 2^8; below 2^224 inside
}

/// `floor(sqrt(n))`, by Newton's method from above.
fn root(n: U256) -> U256 {
    if n < U256::new(2) {
        return n;
    }
    let mut guess = U256::ONE << (256 - n.leading_zeros()).div_ceil(2);
    loop {
        let next = (guess + n / guess) >> 1u32;
        if next >= guess {
            return guess;
        }
        guess = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Exponents = Exponents { stake: 4, score: 4 };

    #[test]
    fn with_exponents_of_one_it_is_the_plain_product() {
        // E-4.6
        assert_eq!(weight(Amount::new(300), Amount::new(200), 488, 5_760, ONE), 200 * 488 * 5_760);
        assert_eq!(weight(Amount::new(100), Amount::new(200), 488, 5_760, ONE), 100 * 488 * 5_760);
        assert_eq!(weight(Amount::new(100), Amount::new(200), 488, 0, ONE), 0);
        let no_score = Exponents { score: 0, ..ONE };
        assert_eq!(weight(Amount::new(100), Amount::new(200), 0, 3, no_score), 300);
    }

    #[test]
    fn a_power_of_three_halves_is_exact_where_it_is_whole() {
        let exponents = Exponents { stake: 6, score: 4 };
        assert_eq!(weight(Amount::new(49), Amount::new(49), 1, 1, exponents), 343);
        let of_16 = Exponents { stake: 5, score: 4 };
        assert_eq!(weight(Amount::new(16), Amount::new(16), 1, 1, of_16), 32);
        let of_score = Exponents { stake: 4, score: 2 };
        assert_eq!(weight(Amount::new(1), Amount::new(1), 2, 1, of_score), 362); // floor(sqrt(2) · 2^8)
    }

    proptest! {
        #[test]
        fn a_root_is_the_greatest_number_whose_square_is_not_above(hi: u128, lo: u128) {
            let n = U256::from_words(hi, lo);
            let r = root(n);
            prop_assert!(r * r <= n);
            prop_assert!((r + U256::ONE).checked_mul(r + U256::ONE).is_none_or(|above| above > n));
        }

        #[test]
        fn more_stake_score_or_presence_never_weighs_less(
            stake in 0..1u64 << 54, more in 0..1u64 << 20, score in 0..1_000u64, beats in 0..5_760u32,
            a in 4..=6u32, b in 0..=8u32,
        ) {
            let exponents = Exponents { stake: a, score: b };
            let all = |stake, score, beats| weight(Amount::new(stake), Amount::MAX, score, beats, exponents);
            let least = all(stake, score, beats);
            prop_assert!(least <= all(stake + more, score, beats));
            prop_assert!(least <= all(stake, score + 1, beats));
            prop_assert!(least <= all(stake, score, beats + 1));
        }
    }
}
