//! The program of a Llama-family decoder.

use super::weights::Builder;
use super::{Buf, Epilogue, Heads, NormKind, Op, Program, Rows, WeightId};
use crate::config::{ConfigError, Decoder, Naming};
use crate::format::Tensors;

/// A tensor's part in the model.
#[derive(Clone, Copy)]
enum Part {
    AttnNorm,
    Q,
    K,
    V,
    O,
    MlpNorm,
    Gate,
    Up,
    Down,
}

/// The stem of a layer's tensor name, without `.weight` or `.bias`.
fn stem(naming: Naming, layer: usize, part: Part) -> String {
    let (gguf, hf) = match part {
        Part::AttnNorm => ("attn_norm", "input_layernorm"),
        Part::Q => ("attn_q", "self_attn.q_proj"),
        Part::K => ("attn_k", "self_attn.k_proj"),
        Part::V => ("attn_v", "self_attn.v_proj"),
        Part::O => ("attn_output", "self_attn.o_proj"),
        Part::MlpNorm => ("ffn_norm", "post_attention_layernorm"),
        Part::Gate => ("ffn_gate", "mlp.gate_proj"),
        Part::Up => ("ffn_up", "mlp.up_proj"),
        Part::Down => ("ffn_down", "mlp.down_proj"),
    };
    match naming {
        Naming::Gguf => format!("blk.{layer}.{gguf}"),
        Naming::HuggingFace => format!("model.layers.{layer}.{hf}"),
    }
}

/// The buffers that all layers share.
struct Buffers {
    stream: Buf,
    normed: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    attn: Buf,
    inner: Buf,
}

pub(super) fn build(d: &Decoder, tensors: Tensors) -> Result<Program, ConfigError> {
    let mut b = Builder::new(tensors);
    let (q_width, kv_width) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    let buffers = Buffers {
        stream: b.buffer(d.hidden),
        normed: b.buffer(d.hidden),
        q: b.buffer(q_width),
        k: b.buffer(kv_width),
        v: b.buffer(kv_width),
        attn: b.buffer(q_width),
        inner: b.buffer(d.intermediate),
    };
    let (embed, norm, head) = match d.naming {
        Naming::Gguf => ("token_embd.weight", "output_norm.weight", "output.weight"),
        Naming::HuggingFace => ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
    };
    let table = b.take(embed, &[d.vocab, d.hidden])?;
    let mut ops = vec![Op::Embed { tokens: table, positions: None, types: None, out: buffers.stream }];
    for layer in 0..d.layers {
        push_layer(d, &mut b, &buffers, layer, &mut ops)?;
    }
    let last = b.rows_buffer(d.hidden, Rows::Outputs);
    let logits = b.rows_buffer(d.vocab, Rows::Outputs);
    ops.push(Op::Gather { input: buffers.stream, out: last });
    let weight = b.take(norm, &[d.hidden])?;
    ops.push(Op::Norm { kind: NormKind::Rms, weight, eps: d.norm_eps, input: last, out: last });
    let weight = if d.tied { table } else { b.take(head, &[d.vocab, d.hidden])? };
    ops.push(Op::Linear { weight, bias: None, input: last, out: logits, epilogue: Epilogue::None });
    ops.push(Op::Sample { logits });
    // divisors are in the frequencies; some exporters store the frequencies themselves; some a tied head's copy
    b.finish(|name| {
        name == "rope_freqs.weight"
            || name.ends_with(".rotary_emb.inv_freq")
            || (d.tied && name == "lm_head.weight")
    })?;
    let rope = d.rope.clone();
    let heads = Heads { query: d.heads, kv: d.kv_heads, dim: d.head_dim, rope, pairs: d.rope_pairs };
    Ok(Program {
        ops,
        buffers: b.buffers,
        weights: b.weights,
        heads,
        cache_layers: d.layers,
        hidden: d.hidden,
        vocab: d.vocab,
        context: d.context,
    })
}

fn push_layer(
    d: &Decoder,
    b: &mut Builder,
    buffers: &Buffers,
    layer: usize,
    ops: &mut Vec<Op>,
) -> Result<(), ConfigError> {
    let &Buffers { stream, normed, q, k, v, attn, inner } = buffers;
    let (q_width, kv_width) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    let mut matrix =
        |part, n: usize, width: usize, biased| -> Result<(WeightId, Option<WeightId>), ConfigError> {
            let stem = stem(d.naming, layer, part);
            let weight = b.take(&format!("{stem}.weight"), &[n, width])?;
            Ok((weight, b.take_if(biased, &format!("{stem}.bias"), &[n])?))
        };
    let mut linear = |part, n, width, biased, input, out, epilogue| {
        matrix(part, n, width, biased).map(|(weight, bias)| Op::Linear { weight, bias, input, out, epilogue })
    };
    let attention = [
        linear(Part::Q, q_width, d.hidden, d.attention_bias, normed, q, Epilogue::None)?,
        linear(Part::K, kv_width, d.hidden, d.attention_bias, normed, k, Epilogue::None)?,
        linear(Part::V, kv_width, d.hidden, d.attention_bias, normed, v, Epilogue::None)?,
        Op::RopeKv { layer, q, k, v },
        Op::AttnPaged { layer, q, out: attn },
        linear(Part::O, d.hidden, q_width, d.attention_bias, attn, stream, Epilogue::Add(stream))?,
    ];
    let down =
        linear(Part::Down, d.hidden, d.intermediate, d.mlp_bias, inner, stream, Epilogue::Add(stream))?;
    let (gate, gate_bias) = matrix(Part::Gate, d.intermediate, d.hidden, d.mlp_bias)?;
    let (weight, bias) = matrix(Part::Up, d.intermediate, d.hidden, d.mlp_bias)?;
    let epilogue = Epilogue::SwiGlu { gate, gate_bias };
    let up = Op::Linear { weight, bias, input: normed, out: inner, epilogue };
    let mut norm = |part| -> Result<Op, ConfigError> {
        let weight = b.take(&format!("{}.weight", stem(d.naming, layer, part)), &[d.hidden])?;
        Ok(Op::Norm { kind: NormKind::Rms, weight, eps: d.norm_eps, input: stream, out: normed })
    };
    ops.push(norm(Part::AttnNorm)?);
    ops.extend(attention);
    ops.push(norm(Part::MlpNorm)?);
    ops.extend([up, down]);
    Ok(())
}
