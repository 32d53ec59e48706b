//! SmolLM2-135M-Instruct (GGUF, Q4_1) against the answers of an independent numpy program
//! (`../data/smollm2.json`: weights dequantised to f32, no cache).

use crate::support::{MarginRule, Sequence, load, model_dir};
use holmes_engine::backend::Limits;
use holmes_engine::run::{Engine, Event, FinishReason, Options, Prompt, Request, Stream};
use holmes_engine::text::Message;
use serde_json::Value as Json;

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(json: &Json) -> Vec<f32> {
    json.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn greedy_answers_equal_the_oracle_wherever_its_margin_decides() {
    let Some(dir) = model_dir("smollm2-135m-instruct") else { return };
    let limits = Limits { step_tokens: 64, step_sequences: 1, step_outputs: 1, pages: 16 };
    let (model, mut backend) = load(&dir, limits);
    let vectors: Json = serde_json::from_str(include_str!("../data/smollm2.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();

    let mut first_logits = Vec::new();
    let mut error = 0.0f32;
    for case in cases {
        let content = case["user"].as_str().unwrap().to_owned();
        let prompt = model.text.encode_chat(&[Message { role: "user".into(), content }]).unwrap();
        assert_eq!(prompt, ids(&case["prompt_tokens"]), "prompt of {}", case["user"]);
        let logits = Sequence::new().logits(&mut backend, &prompt);
        for pair in case["first_logits"].as_array().unwrap() {
            let (id, expected) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32);
            error = error.max((logits[id] - expected).abs());
        }
        first_logits.push((prompt, logits));
    }
    let mut rule = MarginRule::new(error);

    for (case, (prompt, logits)) in cases.iter().zip(first_logits) {
        let mut tokens = ids(&case["tokens"]);
        let margins = floats(&case["margins"]);
        let text = model.text.decode(&tokens).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap());
        if case["stopped"].as_bool().unwrap() {
            tokens.push(model.text.end_tokens()[0]);
        }
        let mut sequence = Sequence::new();
        sequence.logits(&mut backend, &prompt);
        let mut logits = logits;
        let mut undecided = None;
        // the oracle's token is fed at every step, so a step that rounding decides ends no comparison
        for (i, (&token, &margin)) in tokens.iter().zip(&margins).enumerate() {
            if !rule.hold(&logits, token, margin, &format!("token {i} of {}", case["user"])) {
                undecided.get_or_insert(i);
            }
            logits = sequence.logits(&mut backend, &[token]);
        }
        println!("{}: {} tokens, first margin too small at {undecided:?}", case["user"], tokens.len());
    }
    rule.close();
}

#[test]
fn the_engine_streams_the_oracles_answers_to_concurrent_requests() {
    let Some(dir) = model_dir("smollm2-135m-instruct") else { return };
    let options = Options { context: 256, cache_tokens: 1024, step_tokens: 48, ..Options::default() };
    let engine = Engine::open(&dir, options).unwrap();
    let vectors: Json = serde_json::from_str(include_str!("../data/smollm2.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let streams: Vec<Stream> = cases
        .iter()
        .map(|case| {
            let content = case["user"].as_str().unwrap().to_owned();
            let prompt = Prompt::Chat(vec![Message { role: "user".into(), content }]);
            let max_tokens = Some(ids(&case["tokens"]).len() + usize::from(case["stopped"] == true));
            engine.generate(Request { max_tokens, ..Request::new(prompt) }).unwrap()
        })
        .collect();
    for (case, stream) in cases.iter().zip(streams) {
        let (mut text, mut end) = (String::new(), None);
        for event in stream {
            match event {
                Event::Token(token) => text += &token.text,
                Event::Done(done) => {
                    text += &done.text;
                    end = Some(done.reason);
                }
                Event::Failed(why) => panic!("{why}"),
            }
        }
        // every margin of these answers decides (see the test above), so the texts are equal
        assert_eq!(text, case["text"].as_str().unwrap());
        let stopped = case["stopped"] == true;
        assert_eq!(end, Some(if stopped { FinishReason::Stop } else { FinishReason::Length }));
    }
}
