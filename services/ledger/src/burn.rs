//! E-2.4: what an external transfer of the token burns.

use holmes_kernel::{Amount, Ratio};

/// `ceil(amount · rate)`: what the network takes rounds up (E-0.3). `None` when nothing would be left.
pub fn burned(amount: Amount, rate: Ratio) -> Option<Amount> {
    let burned = rate.mul_ceil(amount)?;
    (burned < amount).then_some(burned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_burn_is_that_of_the_golden_vectors() {
        // E-2.4
        let text = include_str!("../tests/golden/transfer_burn.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |value: &serde_json::Value| value.as_u64().unwrap();
            let (amount, ppb) = (number(&case["in"]["amount"]), number(&case["in"]["burn_ppb"]));
            let out = Ratio::from_ppb(ppb).mul_ceil(Amount::new(amount));
            assert_eq!(out, Some(Amount::new(number(&case["out"]))), "{case}");
            let refused = number(&case["out"]) == amount;
            assert_eq!(burned(Amount::new(amount), Ratio::from_ppb(ppb)).is_none(), refused, "{case}");
        }
    }

    proptest! {
        #[test]
        fn something_always_arrives_or_the_transfer_is_refused(amount in 1u64.., ppb in 0..=1_000_000_000u64) {
            match burned(Amount::new(amount), Ratio::from_ppb(ppb)) {
                Some(burned) => prop_assert!(burned.units() < amount),
                None => prop_assert!(u128::from(amount) * u128::from(ppb) > u128::from(amount - 1) * 1_000_000_000),
            }
        }
    }
}
