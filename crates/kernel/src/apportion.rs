//! Shares of a whole (E-0.4): nothing is lost and nothing is made.

use ethnum::U256;

use crate::Amount;

/// Cuts `total` by `weights`: the floor of each exact share, then one unit each to the largest remainders, ties to
/// the smaller id. The shares stand in the order of `weights` and sum to `total`, unless every weight is 0: then
/// nothing is paid. Ids must be distinct. Weights are exact integers, never divided first.
pub fn apportion<I: Ord>(total: Amount, weights: &[(I, u128)]) -> Vec<Amount> {
    let whole: U256 = weights.iter().map(|(_, w)| U256::from(*w)).sum();
    if whole == U256::ZERO {
        return vec![Amount::ZERO; weights.len()];
    }
    let mut left = total.units();
    let mut shares = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    for (at, (_, weight)) in weights.iter().enumerate() {
        let product = U256::from(total.units()) * U256::from(*weight); // < 2^192
        let share = (product / whole).as_u64(); // ≤ total
        remainders.push((product % whole, at));
        shares.push(share);
        left -= share;
    }
    // The remainders sum to left · whole and each is below whole, so more than `left` of them are positive.
    let left = left as usize;
    if left > 0 {
        let order = |(ra, a): &(U256, usize), (rb, b): &(U256, usize)| {
            rb.cmp(ra).then_with(|| weights[*a].0.cmp(&weights[*b].0))
        };
        remainders.select_nth_unstable_by(left - 1, order);
        for (_, at) in &remainders[..left] {
            shares[*at] += 1;
        }
    }
    shares.into_iter().map(Amount::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_smaller_id_whatever_the_order_of_the_weights() {
        let shares = apportion(Amount::new(2), &[("c", 1), ("a", 1), ("b", 1)]);
        assert_eq!(shares.iter().map(|s| s.units()).collect::<Vec<_>>(), [0, 1, 1]);
    }

    #[test]
    fn weights_near_the_limit_of_u128_do_not_overflow() {
        let shares = apportion(Amount::MAX, &[(1, u128::MAX), (2, u128::MAX), (3, u128::MAX)]);
        assert_eq!(Amount::sum(shares), Some(Amount::MAX));
    }

    proptest! {
        #[test]
        fn the_sum_is_exactly_the_total_and_no_share_is_a_unit_off(
            total: u64,
            weights in proptest::collection::vec(prop_oneof![0..5u128, any::<u128>()], 1..40),
        ) {
            let named: Vec<(usize, u128)> = weights.iter().copied().enumerate().collect();
            let shares = apportion(Amount::new(total), &named);
            let whole: U256 = weights.iter().map(|w| U256::from(*w)).sum();
            if whole == U256::ZERO {
                prop_assert!(shares.iter().all(|s| s.is_zero()));
                return Ok(());
            }
            prop_assert_eq!(Amount::sum(shares.iter().copied()), Some(Amount::new(total)));
            for (share, weight) in shares.iter().zip(&weights) {
                let floor = (U256::from(total) * U256::from(*weight) / whole).as_u64();
                prop_assert!(share.units() == floor || (share.units() == floor + 1 && *weight > 0));
            }
        }

        #[test]
        fn the_order_in_which_weights_arrive_changes_nothing(total: u64, weights in proptest::collection::vec(0..9u128, 1..20)) {
            let named: Vec<(usize, u128)> = weights.iter().copied().enumerate().collect();
            let reversed: Vec<(usize, u128)> = named.iter().rev().copied().collect();
            let mut back = apportion(Amount::new(total), &reversed);
            back.reverse();
            prop_assert_eq!(apportion(Amount::new(total), &named), back);
        }
    }
}
