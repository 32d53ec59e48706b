//! The description inside a GGUF file. Field names: ggml's `gguf.md`.

use super::{ConfigError, Decoder, Naming, RopePairs, bad, rope};
use crate::format::{Metadata, Tensor, Tensors, Value};

/// Fields of the architecture that are read below; any other one is refused.
const KNOWN: [&str; 16] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];

/// Reads a Llama decoder.
pub(super) fn decoder(
    metadata: &Metadata,
    rope_divisors: Option<&Tensor>,
    tensors: &Tensors,
) -> Result<Decoder, ConfigError> {
    match metadata.get("general.architecture") {
        Some(Value::Text(name)) if name == "llama" => {}
        Some(Value::Text(name)) => return Err(ConfigError::Architecture(name.clone())),
        _ => return Err(ConfigError::MissingField("general.architecture".into())),
    }
    refuse_unknown(metadata)?;
    let fields = Fields(metadata);
    let (hidden, heads) = (fields.count("embedding_length")?, fields.count("attention.head_count")?);
    if heads == 0 {
        return Err(bad("attention.head_count", heads, "at least 1"));
    }
    let head_dim = fields.count_or("attention.key_length", hidden / heads)?;
    fields.must_equal("attention.value_length", head_dim)?;
    fields.must_equal("rope.dimension_count", head_dim)?; // rotating a part of the head is another maths
    Decoder {
        naming: Naming::Gguf,
        layers: fields.count("block_count")?,
        hidden,
        intermediate: fields.count("feed_forward_length")?,
        heads,
        kv_heads: fields.count_or("attention.head_count_kv", heads)?,
        head_dim,
        vocab: vocab(&fields, tensors)?,
        context: fields.count("context_length")?,
        norm_eps: fields.float("attention.layer_norm_rms_epsilon")?.ok_or_else(|| missing("norm epsilon"))?
            as f32,
        rope: frequencies(&fields, head_dim, rope_divisors)?,
        rope_pairs: RopePairs::Interleaved,
        tied: !tensors.contains_key("output.weight"),
        attention_bias: tensors.contains_key("blk.0.attn_q.bias"),
        mlp_bias: tensors.contains_key("blk.0.ffn_up.bias"),
    }
    .checked()
}

fn refuse_unknown(metadata: &Metadata) -> Result<(), ConfigError> {
    for key in metadata.keys() {
        if let Some(field) = key.strip_prefix("llama.")
            && KNOWN.binary_search(&field).is_err()
        {
            return Err(ConfigError::UnknownField(key.clone()));
        }
    }
    Ok(())
}

/// The rows of the embedding table; `vocab_size` may be absent but not different.
fn vocab(fields: &Fields<'_>, tensors: &Tensors) -> Result<usize, ConfigError> {
    let table = "token_embd.weight";
    let rows = tensors.get(table).and_then(|t| t.shape().first().copied());
    let rows = rows.ok_or_else(|| ConfigError::MissingTensor(table.into()))?;
    fields.must_equal("vocab_size", rows)?;
    Ok(rows)
}

fn frequencies(
    fields: &Fields<'_>,
    head_dim: usize,
    divisors: Option<&Tensor>,
) -> Result<Vec<f64>, ConfigError> {
    let base = fields.float("rope.freq_base")?.unwrap_or(10_000.0);
    let mut out = rope::frequencies(base, head_dim)?;
    let kind = fields.text("rope.scaling.type")?;
    match kind.as_deref() {
        None | Some("none") => {}
        Some("linear") => {
            let factor =
                fields.float("rope.scaling.factor")?.ok_or_else(|| missing("rope.scaling.factor"))?;
            rope::scale_linear(&mut out, factor)?;
        }
        Some(other) => return Err(unsupported("rope.scaling.type", other)),
    }
    if let Some(factor) = fields.float("rope.scale_linear")?
        && factor != 1.0
    {
        return Err(unsupported("rope.scale_linear", factor));
    }
    if kind.is_none() && fields.float("rope.scaling.factor")?.is_some_and(|f| f != 1.0) {
        return Err(missing("rope.scaling.type"));
    }
    if let Some(tensor) = divisors {
        rope::scale_by(&mut out, &tensor.to_f32())?;
    }
    Ok(out)
}

fn missing(field: &str) -> ConfigError {
    ConfigError::MissingField(field.into())
}

fn unsupported(field: &str, value: impl ToString) -> ConfigError {
    ConfigError::UnsupportedField { field: field.into(), value: value.to_string() }
}

/// The architecture's fields, by their names without its prefix.
struct Fields<'a>(&'a Metadata);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(&format!("llama.{field}"))
    }

    fn count(&self, field: &str) -> Result<usize, ConfigError> {
        match self.get(field) {
            Some(Value::Unsigned(n)) => usize::try_from(*n).map_err(|_| bad(field, n, "a count")),
            Some(Value::Signed(n)) => usize::try_from(*n).map_err(|_| bad(field, n, "a count")),
            Some(other) => Err(bad(field, format!("{other:?}"), "one count")),
            None => Err(missing(field)),
        }
    }

    fn count_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        if self.get(field).is_some() { self.count(field) } else { Ok(default) }
    }

    fn must_equal(&self, field: &str, value: usize) -> Result<(), ConfigError> {
        let found = self.count_or(field, value)?;
        if found == value { Ok(()) } else { Err(unsupported(field, found)) }
    }

    fn float(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(field) {
            Some(Value::Float(f)) => Ok(Some(*f)),
            Some(other) => Err(bad(field, format!("{other:?}"), "a float")),
            None => Ok(None),
        }
    }

    fn text(&self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.get(field) {
            Some(Value::Text(t)) => Ok(Some(t.clone())),
            Some(other) => Err(bad(field, format!("{other:?}"), "text")),
            None => Ok(None),
        }
    }
}
