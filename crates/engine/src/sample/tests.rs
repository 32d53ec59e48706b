use super::*;

fn hot(temperature: f32) -> Sampling {
    Sampling { temperature, ..Sampling::default() }
}

fn frequencies(logits: &[f32], sampling: Sampling, draws: u64) -> Vec<u64> {
    let mut counts = vec![0; logits.len()];
    for position in 0..draws {
        counts[choose(logits, &Sampling { position, ..sampling }).unwrap().token as usize] += 1;
    }
    counts
}

/// Chi-square of the counts against the weights, over those with weight.
fn chi_square(counts: &[u64], weights: &[f64]) -> f64 {
    let (draws, total) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<f64>());
    let mut sum = 0.0;
    for (&n, &w) in counts.iter().zip(weights) {
        let expected = draws * w / total;
        if expected == 0.0 {
            assert_eq!(n, 0, "a token without weight was drawn");
        } else {
            sum += (n as f64 - expected).powi(2) / expected;
        }
    }
    sum
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(choose(&[0.0, 3.0, 3.0, -1.0], &hot(0.0)).unwrap().token, 1);
}

#[test]
fn logits_that_are_not_numbers_choose_nothing() {
    assert_eq!(choose(&[0.0, f32::NAN], &hot(0.0)), None);
    assert_eq!(choose(&[0.0, f32::INFINITY], &hot(1.0)), None);
    assert_eq!(choose(&[f32::NEG_INFINITY; 2], &hot(1.0)), None);
    assert_eq!(choose(&[], &hot(0.0)), None);
}

#[test]
fn draws_follow_the_softmax_at_the_temperature() {
    let logits = [1.0f32, 0.5, -1.0, 2.0, f32::NEG_INFINITY];
    for temperature in [0.5, 1.0, 2.0] {
        let weights: Vec<f64> =
            logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp()).collect();
        let chi = chi_square(&frequencies(&logits, hot(temperature), 20_000), &weights);
        assert!(chi < 16.3, "chi-square {chi} at temperature {temperature} (3 degrees, p = 0.001)");
    }
}

#[test]
fn top_k_and_top_p_cut_what_they_say() {
    let weights = [0.4f64, 0.3, 0.2, 0.1];
    let logits: Vec<f32> = weights.iter().map(|w| w.ln() as f32).collect();
    let with = |top_k, top_p| frequencies(&logits, Sampling { top_k, top_p, ..hot(1.0) }, 10_000);
    assert!(chi_square(&with(2, 1.0), &[0.4, 0.3, 0.0, 0.0]) < 10.8);
    assert!(chi_square(&with(0, 0.6), &[0.4, 0.3, 0.0, 0.0]) < 10.8);
    assert!(chi_square(&with(0, 0.75), &[0.4, 0.3, 0.2, 0.0]) < 13.8);
    // top-p is a share of what top-k left: 0.4 / 0.7 alone reaches 0.5
    assert_eq!(with(2, 0.5)[0], 10_000);
}

#[test]
fn a_nucleus_wider_than_the_first_look_is_complete() {
    let logits = vec![0.0f32; 3000];
    let kept = candidates(&logits, &Sampling { top_p: 0.5, ..hot(1.0) }, |_| 1.0);
    assert_eq!(kept.len(), 1500);
    assert!(kept.iter().enumerate().all(|(i, c)| c.0 == i as u32));
}

#[test]
fn the_same_seed_and_position_choose_the_same_token() {
    let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
    let at = |seed, position| choose(&logits, &Sampling { seed, position, ..hot(1.0) }).unwrap().token;
    let row = |seed| (0..50).map(|p| at(seed, p)).collect::<Vec<_>>();
    assert_eq!(row(7), row(7));
    assert_ne!(row(7), row(8));
}

#[test]
fn log_probabilities_are_those_of_the_model_and_sum_to_one() {
    let logits = [0.1f32, -2.0, 1.5];
    let chosen = choose(&logits, &Sampling { logprobs: Some(3), ..hot(0.7) }).unwrap();
    let logprobs = chosen.logprobs.unwrap();
    let sum: f64 = logprobs.top.iter().map(|&(_, p)| f64::from(p).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 0, 1]);
    let own = logprobs.top.iter().find(|t| t.0 == chosen.token).unwrap();
    assert_eq!(own.1, logprobs.chosen);
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    assert_eq!(hot(-1.0).check(), Err(SamplingError::Temperature(-1.0)));
    assert!(hot(f32::NAN).check().is_err());
    assert_eq!(Sampling { top_p: 0.0, ..hot(1.0) }.check(), Err(SamplingError::TopP(0.0)));
    assert_eq!(Sampling { logprobs: Some(21), ..hot(1.0) }.check(), Err(SamplingError::TopLogprobs(21)));
    assert_eq!(Sampling { top_k: 5, top_p: 0.9, ..hot(0.7) }.check(), Ok(()));
}
