//! What the tests share: random models small enough to compute by hand-written f64 loops, and files of them.

mod files;

use std::sync::Arc;

use half::{bf16, f16};

use crate::config::{Decoder, Encoder, Naming, Pooling, RopePairs};
use crate::format::{Dtype, Storage, Tensor, Tensors};

pub(crate) use files::{GgufFile, gguf_model, safetensors_file, write_hf_model};

/// Reproducible numbers (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// −1..1
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }

    pub(crate) fn tokens(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Packs floats, quantising by the extremes of each block.
pub(crate) fn pack(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    let nibbles = |q: &dyn Fn(f32) -> u8, block: &[f32]| -> Vec<u8> {
        (0..16).map(|i| q(block[i]) | q(block[i + 16]) << 4).collect()
    };
    for block in values.chunks(dtype.block().0) {
        let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        match dtype {
            Dtype::F32 => out.extend(block[0].to_le_bytes()),
            Dtype::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
            Dtype::Bf16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
            Dtype::Q8_0 => {
                let d = f16::from_f32(largest / 127.0);
                out.extend(d.to_le_bytes());
                out.extend(block.iter().map(|x| (x / d.to_f32()).round() as i8 as u8));
            }
            Dtype::Q4_0 => {
                let d = f16::from_f32(largest / 7.0);
                out.extend(d.to_le_bytes());
                out.extend(nibbles(&|x| ((x / d.to_f32()).round() + 8.0).clamp(0.0, 15.0) as u8, block));
            }
            Dtype::Q4_1 => {
                let (d, m) = (f16::from_f32((high - low) / 15.0), f16::from_f32(low));
                out.extend(d.to_le_bytes());
                out.extend(m.to_le_bytes());
                out.extend(nibbles(
                    &|x| ((x - m.to_f32()) / d.to_f32()).round().clamp(0.0, 15.0) as u8,
                    block,
                ));
            }
            Dtype::I64 => out.extend((block[0] as i64).to_le_bytes()),
        }
    }
    out
}

pub(crate) fn tensor(dtype: Dtype, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = pack(dtype, values);
    let range = 0..bytes.len();
    Tensor::new(dtype, shape.to_vec(), Arc::new(Storage::Owned(bytes)), range).unwrap()
}

/// A decoder of odd sizes: 2 layers, 2 query heads per key-value head.
pub(crate) fn decoder(naming: Naming, head_dim: usize, tied: bool, biased: bool) -> Decoder {
    let rope_pairs = if naming == Naming::Gguf { RopePairs::Interleaved } else { RopePairs::Halves };
    Decoder {
        naming,
        layers: 2,
        hidden: 64,
        intermediate: 96,
        heads: 4,
        kv_heads: 2,
        head_dim,
        vocab: 259,
        context: 128,
        norm_eps: 1e-5,
        rope: (0..head_dim / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / head_dim as f64)).collect(),
        rope_pairs,
        tied,
        attention_bias: biased,
        mlp_bias: biased,
    }
}

pub(crate) fn encoder(pooling: Pooling) -> Encoder {
    Encoder {
        layers: 2,
        hidden: 64,
        intermediate: 160,
        heads: 2,
        vocab: 211,
        positions: 48,
        types: 2,
        max_tokens: 40,
        norm_eps: 1e-12,
        pooling,
        normalize: pooling == Pooling::Mean,
    }
}

/// Tensors by name and shape: matrices of `dtype`, vectors of F32 around 1 (weights) or 0 (biases).
fn tensors(names: Vec<(String, Vec<usize>)>, dtype: Dtype, random: &mut Random) -> Tensors {
    let mut out = Tensors::new();
    for (name, shape) in names {
        let count = shape.iter().product();
        let made = if shape.len() == 1 {
            let centre = if name.ends_with("bias") { 0.0 } else { 1.0 };
            let values: Vec<f32> = random.floats(count, 0.2).iter().map(|x| x + centre).collect();
            tensor(Dtype::F32, &shape, &values)
        } else {
            let scale = 2.0 / (shape[1] as f32).sqrt();
            tensor(dtype, &shape, &random.floats(count, scale))
        };
        out.insert(name, made);
    }
    out
}

pub(crate) fn decoder_tensors(d: &Decoder, dtype: Dtype, seed: u64) -> Tensors {
    let gguf = d.naming == Naming::Gguf;
    let (q, kv) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    let pick = |a: &str, b: &str| if gguf { a.to_owned() } else { b.to_owned() };
    let mut names = vec![
        (pick("token_embd.weight", "model.embed_tokens.weight"), vec![d.vocab, d.hidden]),
        (pick("output_norm.weight", "model.norm.weight"), vec![d.hidden]),
    ];
    if !d.tied {
        names.push((pick("output.weight", "lm_head.weight"), vec![d.vocab, d.hidden]));
    }
    for l in 0..d.layers {
        let at = |a: &str, b: &str| pick(&format!("blk.{l}.{a}"), &format!("model.layers.{l}.{b}"));
        let matrices = [
            (at("attn_q", "self_attn.q_proj"), q, d.hidden, d.attention_bias),
            (at("attn_k", "self_attn.k_proj"), kv, d.hidden, d.attention_bias),
            (at("attn_v", "self_attn.v_proj"), kv, d.hidden, d.attention_bias),
            (at("attn_output", "self_attn.o_proj"), d.hidden, q, d.attention_bias),
            (at("ffn_gate", "mlp.gate_proj"), d.intermediate, d.hidden, d.mlp_bias),
            (at("ffn_up", "mlp.up_proj"), d.intermediate, d.hidden, d.mlp_bias),
            (at("ffn_down", "mlp.down_proj"), d.hidden, d.intermediate, d.mlp_bias),
        ];
        for (stem, n, k, biased) in matrices {
            names.push((format!("{stem}.weight"), vec![n, k]));
            if biased {
                names.push((format!("{stem}.bias"), vec![n]));
            }
        }
        names.push((at("attn_norm", "input_layernorm") + ".weight", vec![d.hidden]));
        names.push((at("ffn_norm", "post_attention_layernorm") + ".weight", vec![d.hidden]));
    }
    tensors(names, dtype, &mut Random(seed))
}

pub(crate) fn encoder_tensors(e: &Encoder, dtype: Dtype, seed: u64) -> Tensors {
    let h = e.hidden;
    let mut names = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![e.vocab, h]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![e.positions, h]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![e.types, h]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![h]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![h]),
        ("pooler.dense.weight".to_owned(), vec![h, h]),
        ("pooler.dense.bias".to_owned(), vec![h]),
    ];
    for l in 0..e.layers {
        for (part, n, k) in [
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", e.intermediate, h),
            ("output.dense", h, e.intermediate),
        ] {
            names.push((format!("encoder.layer.{l}.{part}.weight"), vec![n, k]));
            names.push((format!("encoder.layer.{l}.{part}.bias"), vec![n]));
        }
        for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
            names.push((format!("encoder.layer.{l}.{part}.weight"), vec![h]));
            names.push((format!("encoder.layer.{l}.{part}.bias"), vec![h]));
        }
    }
    tensors(names, dtype, &mut Random(seed))
}
