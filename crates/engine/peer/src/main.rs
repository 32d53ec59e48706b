//! The engine beside candle on the same weights, in one process:
//! `cargo run --release --manifest-path crates/engine/peer/Cargo.toml -- .tools/models/smollm2-135m-instruct`.
//!
//! candle gets the GGUF's weights dequantised to f32 (its own Q4_1 kernel is scalar, so f32 is its fast path), with
//! the rows of Q and K put back into Hugging Face's order. Both decode the same tokens after the same prompt.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::backend::{Backend, Limits, PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, Want};
use holmes_engine::config::{Decoder, Spec};
use holmes_engine::format::ModelFiles;
use holmes_engine::run::Model;
use holmes_engine::sample::Sampling;
use holmes_engine::text::Message;

const DECODE_TOKENS: usize = 96;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: holmes-engine-peer MODEL_DIR")?);
    let model = Model::open(&dir)?;
    let Spec::Decoder(spec) = &model.spec else { return Err("not a decoder".into()) };
    let content = "Explain how a steam engine works.".to_owned();
    let prompt = model.text.encode_chat(&[Message { role: "user".into(), content }])?;
    let candle = candle_model(spec, &dir)?;
    for round in 1..=ROUNDS {
        let ours = run_ours(&model, &prompt)?;
        let theirs = run_candle(&candle.0, &candle.1, &prompt, &ours.tokens)?;
        let error = ours.first.iter().zip(&theirs.first).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        let same = ours.tokens.iter().zip(&theirs.tokens).filter(|(a, b)| a == b).count();
        println!(
            "round {round}: engine {:.1} tokens/s, candle f32 {:.1} tokens/s, ratio {:.1}; prompt of {}: {:.0} and {:.0} \
             tokens/s; largest difference of a first logit {error:.1e}; {same} of {} greedy tokens equal",
            ours.decode, theirs.decode, ours.decode / theirs.decode,
            prompt.len(), ours.prefill, theirs.prefill, ours.tokens.len()
        );
    }
    Ok(())
}

/// Rates in tokens per second, the logits after the prompt, greedy tokens.
struct Run {
    prefill: f64,
    decode: f64,
    first: Vec<f32>,
    tokens: Vec<u32>,
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

fn run_ours(model: &Model, prompt: &[u32]) -> Result<Run, Box<dyn Error>> {
    let pages = (prompt.len() + DECODE_TOKENS).div_ceil(PAGE_TOKENS);
    let mut backend = CpuBackend::new(0);
    let limits = Limits { step_tokens: prompt.len(), step_sequences: 1, step_outputs: prompt.len(), pages };
    backend.load(model.program.clone(), &limits)?;
    let pages: Vec<PageId> = (0..pages as u32).map(PageId).collect();
    let mut step = |tokens: Vec<u32>, start, want| -> Result<SeqOutput, Box<dyn Error>> {
        let sequences = vec![SeqStep { tokens, start, pages: pages.clone(), want }];
        let ticket = backend.submit(StepInput { sequences })?;
        Ok(backend.poll(ticket, Duration::from_secs(60)).ok_or("a step takes a minute")??.sequences.remove(0))
    };
    let greedy = Want::Token(Sampling::default());
    step(prompt.to_vec(), 0, Want::Nothing)?; // touches every weight but the head
    let SeqOutput::Logits(first) = step(vec![prompt[prompt.len() - 1]], prompt.len() - 1, Want::Logits)? else {
        return Err("no logits".into());
    };
    let begin = Instant::now();
    let mut result = step(prompt.to_vec(), 0, greedy.clone())?;
    let prefill = rate(prompt.len(), begin.elapsed());
    let mut tokens = Vec::new();
    let begin = Instant::now();
    while let SeqOutput::Token(chosen) = &result {
        tokens.push(chosen.token);
        if tokens.len() == DECODE_TOKENS {
            break;
        }
        result = step(vec![chosen.token], prompt.len() + tokens.len() - 1, greedy.clone())?;
    }
    Ok(Run { prefill, decode: rate(tokens.len() - 1, begin.elapsed()), first, tokens })
}

/// candle's run; it is fed the engine's tokens, so that both do the same work.
fn run_candle(llama: &Llama, config: &Config, prompt: &[u32], feed: &[u32]) -> Result<Run, Box<dyn Error>> {
    let device = Device::Cpu;
    let mut cache = Cache::new(true, DType::F32, config, &device)?;
    let mut step = |tokens: &[u32], start| -> candle_core::Result<Tensor> {
        llama.forward(&Tensor::new(tokens, &device)?.unsqueeze(0)?, start, &mut cache)?.squeeze(0)
    };
    let begin = Instant::now();
    let mut logits = step(prompt, 0)?;
    let prefill = rate(prompt.len(), begin.elapsed());
    let first = logits.to_vec1()?;
    let mut tokens = vec![logits.argmax(0)?.to_scalar()?];
    let begin = Instant::now();
    for (i, &token) in feed[..feed.len() - 1].iter().enumerate() {
        logits = step(&[token], prompt.len() + i)?;
        tokens.push(logits.argmax(0)?.to_scalar()?);
    }
    Ok(Run { prefill, decode: rate(tokens.len() - 1, begin.elapsed()), first, tokens })
}

/// The same model in candle.
fn candle_model(spec: &Decoder, dir: &std::path::Path) -> Result<(Llama, Config), Box<dyn Error>> {
    let mut tensors = HashMap::new();
    for (name, tensor) in &ModelFiles::open(dir)?.tensors {
        let mut values = tensor.to_f32();
        if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") {
            values = halves(&values, spec.head_dim, tensor.shape()[1]);
        }
        tensors.insert(hf_name(name), Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?);
    }
    let config = Config {
        hidden_size: spec.hidden,
        intermediate_size: spec.intermediate,
        vocab_size: spec.vocab,
        num_hidden_layers: spec.layers,
        num_attention_heads: spec.heads,
        num_key_value_heads: spec.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: spec.norm_eps.into(),
        rope_theta: spec.rope[1].powf(-(spec.head_dim as f64) / 2.0) as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: spec.context,
        tie_word_embeddings: spec.tied,
    };
    Ok((Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)?, config))
}

/// Rows (0, 1), (2, 3) … of each head back to (0, d/2), (1, d/2 + 1) …
fn halves(values: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(width).collect();
    let head = |head: &[&[f32]]| -> Vec<f32> {
        let order = (0..head_dim).step_by(2).chain((1..head_dim).step_by(2));
        order.flat_map(|row| head[row].to_vec()).collect()
    };
    rows.chunks(head_dim).flat_map(head).collect()
}

fn hf_name(gguf: &str) -> String {
    match gguf {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    [
        ("blk.", "model.layers."),
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ]
    .iter()
    .fold(gguf.to_owned(), |name, (from, to)| name.replace(from, to))
}
