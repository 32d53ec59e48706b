//! SmolLM2-135M-Instruct against candle, which knows nothing of this code: the same file, every weight as f32.

use crate::candle_llama::CandleLlama;
use crate::support::{LOGIT_ERROR_LIMIT, MarginRule, Sequence, best, load, model_dir};
use holmes_engine::backend::Limits;
use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::config::Spec;
use holmes_engine::text::Message;

/// A step's logits: ours and candle's.
type Logits = (Vec<f32>, Vec<f32>);

/// Text of several kinds, short and long, so that many rotations are compared; and how many tokens to answer.
fn questions() -> [(String, usize); 3] {
    let lines = (1..=20).map(|i| format!("Line {i}: the engine reads {} pages.\n", 7 * i % 11));
    [
        ("Explain how a steam engine works.".to_owned(), 40),
        ("Übersetze ins Englische: „Guten Morgen, 東京!“ und 3,14159 × 2".to_owned(), 16),
        (lines.collect::<String>() + "What does the engine read in line 13?", 16),
    ]
}

/// The logits after the prompt and after each token of candle's greedy answer. candle's token is fed to both, so a
/// step that rounding decides ends no comparison.
fn answer(backend: &mut CpuBackend, candle: &CandleLlama, prompt: Vec<u32>, tokens: usize) -> Vec<Logits> {
    let (mut ours, mut theirs) = (Sequence::new(), candle.sequence().unwrap());
    let mut next = prompt;
    let step = |_| {
        let logits = (ours.logits(backend, &next), theirs.logits(&next).unwrap());
        next = vec![best(&logits.1).0];
        logits
    };
    (0..tokens).map(step).collect()
}

fn difference((ours, theirs): &Logits) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

#[test]
fn logits_equal_candles_and_greedy_tokens_wherever_its_margin_decides() {
    let Some(dir) = model_dir("smollm2-135m-instruct") else { return };
    let limits = Limits { step_tokens: 512, step_sequences: 1, step_outputs: 1, pages: 32 };
    let (model, mut backend) = load(&dir, limits);
    let Spec::Decoder(spec) = &model.spec else { panic!("not a decoder") };
    let candle = CandleLlama::open(&dir, spec).unwrap();
    let answers = questions().map(|(content, tokens)| {
        let prompt = model.text.encode_chat(&[Message { role: "user".into(), content }]).unwrap();
        println!("a prompt of {} tokens", prompt.len());
        answer(&mut backend, &candle, prompt, tokens)
    });
    let most = |logits: &mut dyn Iterator<Item = &Logits>| logits.map(difference).fold(0.0, f32::max);
    let largest = most(&mut answers.iter().flatten());
    println!("largest difference of a logit {largest:.1e}");
    assert!(largest < LOGIT_ERROR_LIMIT, "largest difference of a logit: {largest}");
    let mut rule = MarginRule::new(most(&mut answers.iter().map(|answer| &answer[0])));
    for (question, answer) in answers.iter().enumerate() {
        for (i, (ours, theirs)) in answer.iter().enumerate() {
            let (token, margin) = best(theirs);
            rule.hold(ours, token, margin, &format!("token {i} of answer {question}"));
        }
    }
    rule.close();
}
