//! 256-bit intermediates (E-0.1): products of two u128 are exact before they are divided.

use ethnum::U256;

/// `floor(a · b / d)`, exact; `None` when `d` is 0 or the quotient does not fit 128 bits.
pub fn mul_div_floor(a: u128, b: u128, d: u128) -> Option<u128> {
    let (q, _) = mul_div(a, b, d)?;
    u128::try_from(q).ok()
}

/// `ceil(a · b / d)`, exact; `None` when `d` is 0 or the quotient does not fit 128 bits.
pub fn mul_div_ceil(a: u128, b: u128, d: u128) -> Option<u128> {
    let (q, r) = mul_div(a, b, d)?;
    let q = if r == U256::ZERO { q } else { q.checked_add(U256::ONE)? };
    u128::try_from(q).ok()
}

fn mul_div(a: u128, b: u128, d: u128) -> Option<(U256, U256)> {
    if d == 0 {
        return None;
    }
    let product = U256::from(a) * U256::from(b); // < 2^256, never wraps
    Some(product.div_rem(U256::from(d)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_operands_do_not_wrap() {
        assert_eq!(mul_div_floor(u128::MAX, u128::MAX, u128::MAX), Some(u128::MAX));
        assert_eq!(mul_div_floor(u128::MAX, 2, 1), None);
        assert_eq!(mul_div_ceil(1, 1, 0), None);
    }

    proptest! {
        #[test]
        fn floor_and_ceil_differ_by_one_exactly_when_there_is_a_remainder(a: u64, b: u64, d in 1u64..) {
            let (a, b, d) = (u128::from(a), u128::from(b), u128::from(d));
            let floor = mul_div_floor(a, b, d).unwrap();
            let ceil = mul_div_ceil(a, b, d).unwrap();
            prop_assert_eq!(floor, a * b / d);
            prop_assert_eq!(ceil - floor, u128::from((a * b) % d != 0));
        }
    }
}
