//! The description in a Hugging Face directory: `config.json` and what sentence-transformers adds.

use serde_json::{Map, Value as Json};

use super::{ConfigError, Decoder, Encoder, Naming, Pooling, RopePairs, Spec, bad, rope};
use crate::format::HfFiles;

/// Fields that say nothing about the maths of inference (training, provenance, ids read elsewhere).
const INNOCENT: [&str; 33] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "mlp_dropout",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "rope_interleaved",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// Reads `config.json` by its architecture.
pub(super) fn read(files: &HfFiles) -> Result<Spec, ConfigError> {
    let json = files.config.as_object().ok_or_else(|| ConfigError::MissingField("config.json".into()))?;
    let named = json.get("architectures").and_then(|a| a.get(0)).and_then(Json::as_str);
    let fields = Fields { json, used: std::cell::RefCell::default() };
    let spec = match named {
        Some("LlamaForCausalLM") => Spec::Decoder(decoder(&fields)?.checked()?),
        Some("BertModel") => Spec::Encoder(encoder(&fields, files)?.checked()?),
        Some(other) => return Err(ConfigError::Architecture(other.into())),
        None => return Err(ConfigError::MissingField("architectures".into())),
    };
    fields.refuse_unread()?;
    Ok(spec)
}

fn decoder(f: &Fields<'_>) -> Result<Decoder, ConfigError> {
    f.only("hidden_act", "silu")?;
    f.only("pretraining_tp", 1)?;
    f.only("rope_interleaved", false)?;
    let (hidden, heads) = (f.count("hidden_size")?, f.count("num_attention_heads")?);
    if heads == 0 {
        return Err(bad("num_attention_heads", heads, "at least 1"));
    }
    let head_dim = f.count_or("head_dim", hidden / heads)?;
    Ok(Decoder {
        naming: Naming::HuggingFace,
        layers: f.count("num_hidden_layers")?,
        hidden,
        intermediate: f.count("intermediate_size")?,
        heads,
        kv_heads: f.count_or("num_key_value_heads", heads)?,
        head_dim,
        vocab: f.count("vocab_size")?,
        context: f.count("max_position_embeddings")?,
        norm_eps: f.float("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: frequencies(f, head_dim)?,
        rope_pairs: RopePairs::Halves,
        tied: f.flag("tie_word_embeddings", false)?,
        attention_bias: f.flag("attention_bias", false)?,
        mlp_bias: f.flag("mlp_bias", false)?,
    })
}

/// `rope_theta` and `rope_scaling`, or both inside `rope_parameters` (transformers 5).
fn frequencies(f: &Fields<'_>, head_dim: usize) -> Result<Vec<f64>, ConfigError> {
    let mut base = f.float("rope_theta")?.unwrap_or(10_000.0);
    let scaling = match (f.get("rope_scaling"), f.get("rope_parameters")) {
        (None | Some(Json::Null), None | Some(Json::Null)) => return rope::frequencies(base, head_dim),
        (Some(s), None | Some(Json::Null)) | (None | Some(Json::Null), Some(s)) => s,
        (Some(s), Some(_)) => return Err(unsupported("rope_scaling", s)),
    };
    let json = scaling.as_object().ok_or_else(|| bad("rope_scaling", scaling, "an object"))?;
    let s = Fields { json, used: std::cell::RefCell::default() };
    base = s.float("rope_theta")?.unwrap_or(base);
    let mut out = rope::frequencies(base, head_dim)?;
    let need = |field: &str| s.float(field)?.ok_or_else(|| ConfigError::MissingField(field.into()));
    let kind = s.get("rope_type").or_else(|| s.get("type")).and_then(Json::as_str).unwrap_or("default");
    s.get("type"); // the old spelling, which some files keep beside the new one
    match kind {
        "default" => {}
        "linear" => rope::scale_linear(&mut out, need("factor")?)?,
        "llama3" => {
            let constants = rope::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original_context: need("original_max_position_embeddings")?,
            };
            rope::scale_llama3(&mut out, &constants)?;
        }
        other => return Err(unsupported("rope_type", other)),
    }
    s.refuse_unread()?;
    Ok(out)
}

fn encoder(f: &Fields<'_>, files: &HfFiles) -> Result<Encoder, ConfigError> {
    f.only("hidden_act", "gelu")?;
    f.only("position_embedding_type", "absolute")?;
    f.only("is_decoder", false)?;
    f.only("add_cross_attention", false)?;
    let positions = f.count("max_position_embeddings")?;
    let (pooling, normalize) = pooling(files)?;
    Ok(Encoder {
        layers: f.count("num_hidden_layers")?,
        hidden: f.count("hidden_size")?,
        intermediate: f.count("intermediate_size")?,
        heads: f.count("num_attention_heads")?,
        vocab: f.count("vocab_size")?,
        positions,
        types: f.count("type_vocab_size")?,
        max_tokens: max_tokens(files, positions)?,
        norm_eps: f.float("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        pooling,
        normalize,
    })
}

fn max_tokens(files: &HfFiles, positions: usize) -> Result<usize, ConfigError> {
    let Some(json) = files.sentence.as_ref().and_then(Json::as_object) else { return Ok(positions) };
    let s = Fields { json, used: std::cell::RefCell::default() };
    s.only("do_lower_case", false)?;
    s.count_or("max_seq_length", positions)
}

/// What `1_Pooling/config.json` and `modules.json` say; without them nobody can know how to pool.
fn pooling(files: &HfFiles) -> Result<(Pooling, bool), ConfigError> {
    let json = files.pooling.as_ref().and_then(Json::as_object);
    let json = json.ok_or_else(|| ConfigError::MissingField("1_Pooling/config.json".into()))?;
    let on: Vec<&str> = json
        .iter()
        .filter(|(k, v)| k.starts_with("pooling_mode") && **v == true)
        .map(|(k, _)| k.as_str())
        .collect();
    let pooling = match on.as_slice() {
        ["pooling_mode_mean_tokens"] => Pooling::Mean,
        ["pooling_mode_cls_token"] => Pooling::First,
        other => return Err(unsupported("pooling_mode", format!("{other:?}"))),
    };
    let mut normalize = false;
    for module in files.modules.as_ref().and_then(Json::as_array).into_iter().flatten() {
        let kind = module.get("type").and_then(Json::as_str).unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Pooling" => {}
            "Normalize" => normalize = true,
            _ => return Err(unsupported("modules.json", kind)),
        }
    }
    Ok((pooling, normalize))
}

fn unsupported(field: &str, value: impl ToString) -> ConfigError {
    ConfigError::UnsupportedField { field: field.into(), value: value.to_string() }
}

/// An object whose fields must all be read or innocent.
struct Fields<'a> {
    json: &'a Map<String, Json>,
    used: std::cell::RefCell<Vec<String>>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Json> {
        self.used.borrow_mut().push(field.to_owned());
        self.json.get(field)
    }

    fn count(&self, field: &str) -> Result<usize, ConfigError> {
        match self.get(field) {
            Some(value) => {
                value.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| bad(field, value, "a count"))
            }
            None => Err(ConfigError::MissingField(field.into())),
        }
    }

    fn count_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        if matches!(self.get(field), None | Some(Json::Null)) { Ok(default) } else { self.count(field) }
    }

    fn float(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(field) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| bad(field, value, "a number")),
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(field) {
            None | Some(Json::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| bad(field, value, "true or false")),
        }
    }

    /// A field that may be absent but has only one value whose maths is implemented.
    fn only(&self, field: &str, value: impl Into<Json>) -> Result<(), ConfigError> {
        match self.get(field) {
            Some(found) if !found.is_null() && *found != value.into() => Err(unsupported(field, found)),
            _ => Ok(()),
        }
    }

    fn refuse_unread(&self) -> Result<(), ConfigError> {
        let used = self.used.borrow();
        let unread =
            self.json.keys().find(|k| !used.contains(k) && INNOCENT.binary_search(&k.as_str()).is_err());
        unread.map_or(Ok(()), |key| Err(ConfigError::UnknownField(key.clone())))
    }
}
