//! all-MiniLM-L6-v2 against an independent float64 program (`oracle/minilm.py`, `data/minilm.json`).

use crate::support::{load, model_dir, step};
use holmes_engine::backend::{Limits, SeqOutput, SeqStep, Want};
use holmes_engine::run::{Embeddings, Engine, Options, Prompt, Request};
use serde_json::Value as Json;

const LIMITS: Limits = Limits { step_tokens: 512, step_sequences: 8, step_outputs: 0, pages: 0 };

#[test]
fn embeddings_equal_the_oracles_and_those_of_a_batch_the_single_ones() {
    let Some(dir) = model_dir("all-minilm-l6-v2") else { return };
    let (model, mut backend) = load(&dir, LIMITS);
    let golden: Json = serde_json::from_str(include_str!("../data/minilm.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let mut steps = Vec::new();
    for case in cases {
        let tokens = model.text.encode(case["text"].as_str().unwrap()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(tokens, expected, "tokens of {}", case["text"]);
        steps.push(SeqStep { tokens, start: 0, pages: Vec::new(), want: Want::Vector });
    }
    let batch = step(&mut backend, steps.clone());
    let (mut largest, mut lowest) = (0.0f64, 1.0f64);
    for ((case, one), batched) in cases.iter().zip(steps).zip(batch) {
        let alone = step(&mut backend, vec![one]).remove(0);
        assert_eq!(alone, batched, "{}", case["text"]);
        let SeqOutput::Vector(vector) = alone else { panic!("{alone:?}") };
        let expected: Vec<f64> = serde_json::from_value(case["embedding"].clone()).unwrap();
        assert_eq!(vector.len(), expected.len());
        let pairs = || vector.iter().map(|&x| f64::from(x)).zip(&expected);
        largest = pairs().fold(largest, |m, (a, b)| m.max((a - b).abs()));
        lowest = lowest.min(pairs().map(|(a, b)| a * b).sum());
    }
    println!("largest difference {largest:.1e}, lowest cosine {lowest:.9}");
    assert!(largest < 2e-6 && lowest > 0.999_999, "largest difference {largest:e}, lowest cosine {lowest}");
}

#[test]
fn the_engine_embeds_texts_in_their_order() {
    let Some(dir) = model_dir("all-minilm-l6-v2") else { return };
    let engine = Engine::open(&dir, Options::default()).unwrap();
    let texts: Vec<String> = (0..20).map(|i| "word ".repeat(1 + 7 * i % 60)).collect();
    let made = engine.embed(&texts).unwrap();
    let vectors = made.vectors;
    assert_eq!(made.tokens, (0..20).map(|i| 3 + 7 * i % 60).sum::<usize>());
    assert_eq!(vectors.len(), texts.len());
    for i in [0, 7, 19] {
        assert_eq!(engine.embed(&texts[i..=i]).unwrap().vectors[0], vectors[i]);
        let length: f32 = vectors[i].iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert_eq!(engine.embed(&[]).unwrap(), Embeddings::default());
    let generate = engine.generate(Request::new(Prompt::Text("x".into())));
    assert_eq!(generate.unwrap_err().reason(), "MODEL_KIND_WRONG");
}
