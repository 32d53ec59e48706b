//! Tokens per second on this machine: `cargo run --release -p holmes-engine --example bench -- MODEL_DIR`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::backend::{Backend, Limits, PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, Want};
use holmes_engine::run::Model;
use holmes_engine::sample::Sampling;

const PROMPT_TOKENS: usize = 512;
const DECODE_TOKENS: usize = 128;

fn main() {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: bench MODEL_DIR (a GGUF file, or a directory with a model)");
        std::process::exit(2);
    };
    let model = Model::open(&dir).unwrap_or_else(|e| {
        eprintln!("{}: {e}", e.reason());
        std::process::exit(1);
    });
    for batch in [1, 8] {
        let pages = (PROMPT_TOKENS + DECODE_TOKENS).div_ceil(PAGE_TOKENS);
        let limits = Limits {
            step_tokens: PROMPT_TOKENS,
            step_sequences: batch,
            step_outputs: batch,
            pages: batch * pages,
        };
        let mut backend = CpuBackend::new(0);
        if let Err(e) = backend.load(model.program.clone(), &limits) {
            eprintln!("{}: {e}", e.reason());
            std::process::exit(1);
        }
        let prompt = PROMPT_TOKENS / batch;
        let mut sequences: Vec<SeqStep> = (0..batch)
            .map(|s| SeqStep {
                tokens: (0..prompt).map(|i| ((i * 7919 + s * 31) % model.program.vocab) as u32).collect(),
                start: 0,
                pages: (s * pages..(s + 1) * pages).map(|p| PageId(p as u32)).collect(),
                want: Want::Token(Sampling::default()),
            })
            .collect();
        step(&mut backend, &mut sequences); // touches every weight once
        for seq in &mut sequences {
            seq.tokens = (0..prompt).map(|i| (i * 104_729 % model.program.vocab) as u32).collect();
            seq.start = 0;
        }
        let begin = Instant::now();
        step(&mut backend, &mut sequences);
        let prefill = begin.elapsed();
        let begin = Instant::now();
        for _ in 0..DECODE_TOKENS {
            step(&mut backend, &mut sequences);
        }
        let decode = begin.elapsed();
        let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64();
        println!(
            "{:?} batch {batch}: prompt of {prompt} {:.0} tokens/s, decode {:.1} tokens/s",
            backend.facts(),
            rate(prompt * batch, prefill),
            rate(DECODE_TOKENS * batch, decode)
        );
    }
}

/// Runs a step and makes the chosen tokens the next step's.
fn step(backend: &mut CpuBackend, sequences: &mut [SeqStep]) {
    let result = backend
        .submit(StepInput { sequences: sequences.to_vec() })
        .and_then(|ticket| backend.poll(ticket, Duration::from_secs(600)).expect("ten minutes are enough"));
    match result {
        Ok(output) => {
            for (seq, result) in sequences.iter_mut().zip(output.sequences) {
                let SeqOutput::Token(chosen) = result else { continue };
                seq.start += seq.tokens.len();
                seq.tokens = vec![chosen.token];
            }
        }
        Err(e) => {
            eprintln!("{}: {e}", e.reason());
            std::process::exit(1);
        }
    }
}
