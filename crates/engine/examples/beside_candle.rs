//! Tokens per second beside candle's, on the same weights, in one process:
//! `cargo run --release -p holmes-engine --example beside_candle -- .tools/models/smollm2-135m-instruct`.
//!
//! Both decode the same tokens after the same prompt, in turn, so that what else the machine does strikes both. That
//! the answers are right is the tests' concern (`tests/models/candle.rs`).

#[path = "../tests/models/candle_llama.rs"]
mod candle_llama;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_llama::CandleLlama;
use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::backend::{Backend, Limits, PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, Want};
use holmes_engine::config::Spec;
use holmes_engine::run::Model;
use holmes_engine::sample::Sampling;
use holmes_engine::text::Message;

const DECODE_TOKENS: usize = 96;
const TURNS: usize = 9;

/// Tokens per second of one turn.
struct Rates {
    prompt: f64,
    decode: f64,
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().map(PathBuf::from);
    let turns = args.next().map_or(Some(TURNS), |turns| turns.to_str()?.parse().ok());
    let (Some(dir), Some(turns @ 1..)) = (dir, turns) else {
        eprintln!("usage: beside_candle MODEL_DIR [TURNS] (the directory of a Llama; {TURNS} turns)");
        std::process::exit(2);
    };
    if cfg!(debug_assertions) {
        eprintln!(
            "WARNING: without --release candle is not optimised, so its rates and the ratio say nothing"
        );
    }
    if let Err(why) = compare(&dir, turns) {
        eprintln!("error: {why}");
        std::process::exit(1);
    }
}

fn compare(dir: &Path, turns: usize) -> Result<(), Box<dyn Error>> {
    let model = Model::open(dir)?;
    let Spec::Decoder(spec) = &model.spec else { return Err("the model makes embeddings".into()) };
    let content = "Explain how a steam engine works.".to_owned();
    let prompt = model.text.encode_chat(&[Message { role: "user".into(), content }])?;
    let candle = CandleLlama::open(dir, spec)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 1..=turns {
        let (rates, tokens) = run_engine(&model, &prompt)?;
        ours.push(rates);
        theirs.push(run_candle(&candle, &prompt, &tokens)?);
        eprintln!(
            "turn {turn} of {turns}: {:.1} and {:.1} tokens/s",
            ours[turn - 1].decode,
            theirs[turn - 1].decode
        );
    }
    println!(
        "{turns} turns of {DECODE_TOKENS} tokens after a prompt of {}: smallest, median, largest",
        prompt.len()
    );
    for (what, rate) in [("decode", (|r| r.decode) as fn(&Rates) -> f64), ("prompt", |r| r.prompt)] {
        println!("{what}, engine, tokens/s:     {}", spread(ours.iter().map(rate)));
        println!("{what}, candle f32, tokens/s: {}", spread(theirs.iter().map(rate)));
        println!(
            "{what}, ratio of a turn:      {}",
            spread(ours.iter().zip(&theirs).map(|(a, b)| rate(a) / rate(b)))
        );
    }
    Ok(())
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    format!("{:.2}, {:.2}, {:.2}", values[0], values[values.len() / 2], values[values.len() - 1])
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

/// The engine's rates, and the tokens that it chose.
fn run_engine(model: &Model, prompt: &[u32]) -> Result<(Rates, Vec<u32>), Box<dyn Error>> {
    let pages = (prompt.len() + DECODE_TOKENS).div_ceil(PAGE_TOKENS);
    let mut backend = CpuBackend::new(0);
    let limits = Limits { step_tokens: prompt.len(), step_sequences: 1, step_outputs: 1, pages };
    backend.load(model.program.clone(), &limits)?;
    let pages: Vec<PageId> = (0..pages as u32).map(PageId).collect();
    let mut step = |tokens: Vec<u32>, start| -> Result<u32, Box<dyn Error>> {
        let want = Want::Token(Sampling::default());
        let sequences = vec![SeqStep { tokens, start, pages: pages.clone(), want }];
        let ticket = backend.submit(StepInput { sequences })?;
        let output = backend.poll(ticket, Duration::from_secs(60)).ok_or("a step takes a minute")??;
        match &output.sequences[..] {
            [SeqOutput::Token(chosen)] => Ok(chosen.token),
            other => Err(format!("no token but {other:?}").into()),
        }
    };
    step(prompt.to_vec(), 0)?; // touches every weight once, as candle's were when they became f32
    let begin = Instant::now();
    let mut tokens = vec![step(prompt.to_vec(), 0)?];
    let read = rate(prompt.len(), begin.elapsed());
    let begin = Instant::now();
    while tokens.len() < DECODE_TOKENS {
        tokens.push(step(vec![tokens[tokens.len() - 1]], prompt.len() + tokens.len() - 1)?);
    }
    Ok((Rates { prompt: read, decode: rate(tokens.len() - 1, begin.elapsed()) }, tokens))
}

/// candle's rates; it is fed the engine's tokens, so that both do the same work.
fn run_candle(candle: &CandleLlama, prompt: &[u32], feed: &[u32]) -> Result<Rates, Box<dyn Error>> {
    let mut sequence = candle.sequence()?;
    let begin = Instant::now();
    sequence.logits(prompt)?;
    let read = rate(prompt.len(), begin.elapsed());
    let begin = Instant::now();
    for token in &feed[..feed.len() - 1] {
        sequence.logits(&[*token])?;
    }
    Ok(Rates { prompt: read, decode: rate(feed.len() - 1, begin.elapsed()) })
}
