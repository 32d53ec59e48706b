//! The program of a BERT-family encoder.

use super::weights::Builder;
use super::{Buf, Epilogue, Heads, NormKind, Op, Program};
use crate::config::{ConfigError, Encoder, RopePairs};
use crate::format::Tensors;

pub(super) fn build(e: &Encoder, tensors: Tensors) -> Result<Program, ConfigError> {
    // sentence-transformers stores names without a prefix, transformers with "bert."
    let prefix = if tensors.contains_key("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let mut b = Builder::new(tensors);
    let stream = b.buffer(e.hidden);
    let parts = Parts {
        prefix,
        stream,
        sum: b.buffer(e.hidden),
        q: b.buffer(e.hidden),
        k: b.buffer(e.hidden),
        v: b.buffer(e.hidden),
        attn: b.buffer(e.hidden),
        inner: b.buffer(e.intermediate),
    };
    let mut table =
        |name: &str, rows| b.take(&format!("{prefix}embeddings.{name}.weight"), &[rows, e.hidden]);
    let tokens = table("word_embeddings", e.vocab)?;
    let positions = Some(table("position_embeddings", e.positions)?);
    let types = Some(table("token_type_embeddings", e.types)?);
    let mut ops = vec![Op::Embed { tokens, positions, types, out: stream }];
    ops.push(norm(e, &mut b, &format!("{prefix}embeddings.LayerNorm"), stream, stream)?);
    for layer in 0..e.layers {
        push_layer(e, &mut b, &parts, layer, &mut ops)?;
    }
    ops.push(Op::Pool { pooling: e.pooling, normalize: e.normalize, input: stream });
    // the pooler head serves next-sentence prediction, not embeddings; position_ids is 0, 1, 2 …
    b.finish(|name| name.contains("pooler.dense.") || name.ends_with("embeddings.position_ids"))?;
    let dim = e.hidden / e.heads;
    Ok(Program {
        ops,
        buffers: b.buffers,
        weights: b.weights,
        heads: Heads { query: e.heads, kv: e.heads, dim, rope: Vec::new(), pairs: RopePairs::Halves },
        cache_layers: 0,
        hidden: e.hidden,
        vocab: e.vocab,
        context: e.max_tokens,
    })
}

struct Parts {
    prefix: &'static str,
    stream: Buf,
    sum: Buf,
    q: Buf,
    k: Buf,
    v: Buf,
    attn: Buf,
    inner: Buf,
}

fn norm(e: &Encoder, b: &mut Builder, stem: &str, input: Buf, out: Buf) -> Result<Op, ConfigError> {
    let weight = b.take(&format!("{stem}.weight"), &[e.hidden])?;
    let bias = b.take(&format!("{stem}.bias"), &[e.hidden])?;
    Ok(Op::Norm { kind: NormKind::Layer { bias }, weight, eps: e.norm_eps, input, out })
}

fn push_layer(
    e: &Encoder,
    b: &mut Builder,
    parts: &Parts,
    layer: usize,
    ops: &mut Vec<Op>,
) -> Result<(), ConfigError> {
    let &Parts { prefix, stream, sum, q, k, v, attn, inner } = parts;
    let stem = |name: &str| format!("{prefix}encoder.layer.{layer}.{name}");
    let mut linear = |name: &str, n: usize, width: usize, input, out, epilogue| -> Result<Op, ConfigError> {
        let weight = b.take(&format!("{}.weight", stem(name)), &[n, width])?;
        let bias = Some(b.take(&format!("{}.bias", stem(name)), &[n])?);
        Ok(Op::Linear { weight, bias, input, out, epilogue })
    };
    let (h, i) = (e.hidden, e.intermediate);
    ops.extend([
        linear("attention.self.query", h, h, stream, q, Epilogue::None)?,
        linear("attention.self.key", h, h, stream, k, Epilogue::None)?,
        linear("attention.self.value", h, h, stream, v, Epilogue::None)?,
        Op::AttnVarlen { q, k, v, out: attn },
        linear("attention.output.dense", h, h, attn, sum, Epilogue::Add(stream))?,
    ]);
    let up = linear("intermediate.dense", i, h, stream, inner, Epilogue::Gelu)?;
    let down = linear("output.dense", h, i, inner, sum, Epilogue::Add(stream))?;
    ops.push(norm(e, b, &stem("attention.output.LayerNorm"), sum, stream)?);
    ops.extend([up, down]);
    ops.push(norm(e, b, &stem("output.LayerNorm"), sum, stream)?);
    Ok(())
}
