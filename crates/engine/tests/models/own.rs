//! The model that the repository ships answers prompts that its training never saw.

use std::path::Path;

use holmes_engine::run::{Engine, Event, FinishReason, Options, Prompt, Request};
use holmes_engine::text::Message;
use serde_json::Value as Json;

/// Part of the held-out prompts that must be answered exactly: what its model card promises.
const PROMISED: f64 = 0.9;

#[test]
fn the_own_model_answers_nine_of_ten_held_out_prompts_exactly() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/holmes-tiny");
    let cases = std::fs::read_to_string(dir.join("heldout.jsonl")).unwrap();
    let cases: Vec<Json> = cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() >= 400, "{} prompts are too few to say", cases.len());
    let weights = std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(weights <= 4_000_000, "{weights} bytes");
    let options = Options { waiting: cases.len(), ..Options::default() };
    let engine = Engine::open(&dir, options).unwrap();
    let asked: Vec<_> = cases
        .iter()
        .map(|case| {
            let content = case["prompt"].as_str().unwrap().to_owned();
            let prompt = Prompt::Chat(vec![Message { role: "user".into(), content }]);
            engine.generate(Request::new(prompt)).unwrap()
        })
        .collect();
    let mut right = 0;
    for (case, stream) in cases.iter().zip(asked) {
        let mut said = String::new();
        for event in stream {
            match event {
                Event::Token(token) => said.push_str(&token.text),
                Event::Done(done) => {
                    said.push_str(&done.text);
                    right += usize::from(done.reason == FinishReason::Stop && case["answer"] == said);
                }
                Event::Failed(why) => panic!("{why}"),
            }
        }
    }
    let part = right as f64 / cases.len() as f64;
    assert!(part >= PROMISED, "{right} of {} are exact", cases.len());
}
