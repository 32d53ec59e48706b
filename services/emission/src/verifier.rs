//! Verifiers' rewards: what completed checks weigh (E-4.5). No check is made yet, so the pool's m is 0 at every close.

/// E-4.5: `checks · (500 + score)`, never divided first (E-0.4).
pub fn weight(checks: u64, score: u64) -> u128 {
    u128::from(checks) * (500 + u128::from(score))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{Amount, apportion};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_pool_is_shared_as_in_the_golden_vectors() {
        // E-4.5, E-0.4
        let file: Value = serde_json::from_str(include_str!("../tests/golden/verifier_pay.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |value: &Value| value.as_u64().unwrap();
            let rows = case["in"]["verifiers"].as_array().unwrap();
            let weights: Vec<(&str, u128)> = rows
                .iter()
                .map(|row| (row[0].as_str().unwrap(), weight(number(&row[1]), number(&row[2]))))
                .collect();
            let shares = apportion(Amount::new(number(&case["in"]["pool"])), &weights);
            for ((id, _), share) in weights.iter().zip(shares) {
                assert_eq!(share.units(), number(&case["out"][*id]), "{id} of {case}");
            }
        }
    }
}
