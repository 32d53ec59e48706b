//! E-0.4 through the kernel's public face.

use holmes_kernel::{Amount, apportion};
use serde_json::Value;

/// E-0.4, `apportion.json`.
#[test]
fn every_golden_apportionment_comes_out_exactly() {
    let file: Value = serde_json::from_str(include_str!("../golden/apportion.json")).unwrap();
    assert_eq!(file["rule"], "0.4");
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 20, "the golden file has lost cases");
    for case in cases {
        let total = Amount::new(case["in"]["total"].as_u64().unwrap());
        let weights: Vec<(&str, u128)> = case["in"]["weights"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row[0].as_str().unwrap(), row[1].to_string().parse().unwrap()))
            .collect();
        for ((id, _), share) in weights.iter().zip(apportion(total, &weights)) {
            assert_eq!(case["out"][id].as_u64(), Some(share.units()), "share of {id} in {}", case["in"]);
        }
    }
}
