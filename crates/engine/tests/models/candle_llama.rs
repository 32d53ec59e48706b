//! The same GGUF Llama in candle, every weight dequantised to f32. Its own quantised products are scalar and round
//! otherwise, so f32 is both its exact path and its fast one.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use holmes_engine::config::Decoder;
use holmes_engine::format::ModelFiles;

/// A model that candle has loaded.
pub(crate) struct CandleLlama {
    llama: Llama,
    config: Config,
}

impl CandleLlama {
    /// Loads the model in `dir`, which `spec` describes.
    pub(crate) fn open(dir: &Path, spec: &Decoder) -> Result<CandleLlama, Box<dyn Error>> {
        let mut tensors = HashMap::new();
        for (name, tensor) in &ModelFiles::open(dir)?.tensors {
            let mut values = tensor.to_f32();
            if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") {
                values = halves(&values, spec.head_dim, tensor.shape()[1]);
            }
            tensors.insert(hf_name(name), Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?);
        }
        let config = config(spec);
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Ok(CandleLlama { llama: Llama::load(weights, &config)?, config })
    }

    /// A sequence without tokens.
    pub(crate) fn sequence(&self) -> CandleResult<CandleSequence<'_>> {
        let cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        Ok(CandleSequence { llama: &self.llama, cache, tokens: 0 })
    }
}

/// One sequence and its keys and values.
pub(crate) struct CandleSequence<'m> {
    llama: &'m Llama,
    cache: Cache,
    tokens: usize,
}

impl CandleSequence<'_> {
    /// Runs tokens after those already run; the logits after the last.
    pub(crate) fn logits(&mut self, tokens: &[u32]) -> CandleResult<Vec<f32>> {
        let batch = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.llama.forward(&batch, self.tokens, &mut self.cache)?;
        self.tokens += tokens.len();
        logits.squeeze(0)?.to_vec1()
    }
}

fn config(spec: &Decoder) -> Config {
    Config {
        hidden_size: spec.hidden,
        intermediate_size: spec.intermediate,
        vocab_size: spec.vocab,
        num_hidden_layers: spec.layers,
        num_attention_heads: spec.heads,
        num_key_value_heads: spec.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: spec.norm_eps.into(),
        // the second of the inverse frequencies, base^(-2/d)
        rope_theta: spec.rope[1].powf(-(spec.head_dim as f64) / 2.0) as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: spec.context,
        tie_word_embeddings: spec.tied,
    }
}

/// GGUF interleaves the rows that are turned together, (0, 1), (2, 3) …; candle wants Hugging Face's order,
/// (0, d/2), (1, d/2 + 1) …
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
