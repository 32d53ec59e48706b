//! What a model is: its family, sizes and constants, read from GGUF metadata or `config.json`.
//!
//! A field that changes the maths is either implemented or refused; a field that is not known at all is refused
//! too, because nobody can say that it does not change the maths.

mod gguf;
mod huggingface;
mod rope;

use crate::format::{Description, ModelFiles};

pub use rope::RopePairs;

/// Most layers: the deepest open decoders have 126.
pub const MAX_LAYERS: usize = 512;
/// Widest residual stream or feed-forward layer, in elements.
pub const MAX_WIDTH: usize = 1 << 18;
/// Most tokens in a vocabulary.
pub const MAX_VOCAB: usize = 1 << 20;
/// Longest context, in tokens.
pub const MAX_CONTEXT: usize = 1 << 20;
/// Widest attention head, in elements.
pub const MAX_HEAD_DIM: usize = 256;

/// Why a model's description was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// An architecture this build does not know.
    #[error(
        "architecture {0:?} is not supported; supported are llama (GGUF), LlamaForCausalLM and BertModel"
    )]
    Architecture(String),
    /// A field that must be there is not.
    #[error("the model's description lacks {0:?}; convert or download the model again")]
    MissingField(String),
    /// A field has a value that cannot be.
    #[error("field {field:?} has the impossible value {value} ({why}); convert or download the model again")]
    BadField {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What a possible value would be.
        why: &'static str,
    },
    /// A field asks for maths that is not implemented.
    #[error(
        "field {field:?} = {value} asks for maths this build does not implement; use another variant of the model"
    )]
    UnsupportedField {
        /// The field.
        field: String,
        /// Its value.
        value: String,
    },
    /// A field nobody here knows.
    #[error("field {0:?} is not known and may change the maths; use a build that knows it")]
    UnknownField(String),
    /// A tensor that the architecture needs is not there.
    #[error("tensor {0:?} is missing; the model is incomplete: download it again")]
    MissingTensor(String),
    /// A tensor that the architecture does not use.
    #[error(
        "tensor {0:?} has no place in the architecture; ignoring it would give other answers than the model's"
    )]
    UnexpectedTensor(String),
    /// A tensor of another shape than the description says.
    #[error(
        "tensor {tensor:?} has shape {found:?} where the description needs {needed:?}; the model is damaged"
    )]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        needed: Vec<usize>,
    },
}

impl ConfigError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            ConfigError::Architecture(_) => "ARCHITECTURE_UNSUPPORTED",
            ConfigError::MissingField(_) => "CONFIG_FIELD_MISSING",
            ConfigError::BadField { .. } => "CONFIG_FIELD_INVALID",
            ConfigError::UnsupportedField { .. } => "CONFIG_FIELD_UNSUPPORTED",
            ConfigError::UnknownField(_) => "CONFIG_FIELD_UNKNOWN",
            ConfigError::MissingTensor(_) => "TENSOR_MISSING",
            ConfigError::UnexpectedTensor(_) => "TENSOR_UNEXPECTED",
            ConfigError::TensorShape { .. } => "TENSOR_SHAPE_INVALID",
        }
    }
}

/// A model's description.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Generates tokens.
    Decoder(Decoder),
    /// Turns text into a vector.
    Encoder(Encoder),
}

/// Whose names the tensors bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`
    HuggingFace,
}

/// A Llama-family decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Names of the tensors.
    pub naming: Naming,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
    /// Added to the mean square before the root.
    pub norm_eps: f32,
    /// Radians per position of each rotated pair, scaling included; `head_dim / 2` of them.
    pub rope: Vec<f64>,
    /// Which elements form a pair.
    pub rope_pairs: RopePairs,
    /// Whether the output head is the embedding table.
    pub tied: bool,
    /// Whether the attention's linear layers must have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward's linear layers must have biases.
    pub mlp_bias: bool,
}

/// A BERT-family encoder: learned positions, layer norm after each residual, GELU by erf.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Learned positions.
    pub positions: usize,
    /// Learned token types; only type 0 is used.
    pub types: usize,
    /// Longest text in tokens, special tokens included; longer texts are cut by the tokenizer.
    pub max_tokens: usize,
    /// Added to the variance before the root.
    pub norm_eps: f32,
    /// How the vectors of the tokens become one.
    pub pooling: Pooling,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
}

/// How an encoder's token vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token's vector.
    First,
}

impl Spec {
    /// Reads the description of an opened model.
    pub fn read(files: &ModelFiles) -> Result<Spec, ConfigError> {
        match &files.description {
            Description::Gguf(metadata) => {
                gguf::decoder(metadata, files.tensors.get("rope_freqs.weight"), &files.tensors)
                    .map(Spec::Decoder)
            }
            Description::HuggingFace(hf) => huggingface::read(hf),
        }
    }
}

impl Decoder {
    /// The rules that hold whatever the file format.
    fn checked(self) -> Result<Decoder, ConfigError> {
        within("layers", self.layers, MAX_LAYERS)?;
        within("hidden size", self.hidden, MAX_WIDTH)?;
        within("feed-forward size", self.intermediate, MAX_WIDTH)?;
        within("attention heads", self.heads, MAX_WIDTH)?;
        within("key-value heads", self.kv_heads, self.heads)?;
        within("head size", self.head_dim, MAX_HEAD_DIM)?;
        within("vocabulary", self.vocab, MAX_VOCAB)?;
        within("context", self.context, MAX_CONTEXT)?;
        positive("norm epsilon", self.norm_eps.into())?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(bad("key-value heads", self.kv_heads, "a divisor of the attention heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(bad("head size", self.head_dim, "even, because rotation works on pairs"));
        }
        Ok(self)
    }
}

impl Encoder {
    fn checked(self) -> Result<Encoder, ConfigError> {
        within("layers", self.layers, MAX_LAYERS)?;
        within("hidden size", self.hidden, MAX_WIDTH)?;
        within("feed-forward size", self.intermediate, MAX_WIDTH)?;
        within("attention heads", self.heads, self.hidden)?;
        within("vocabulary", self.vocab, MAX_VOCAB)?;
        within("positions", self.positions, MAX_CONTEXT)?;
        within("token types", self.types, MAX_VOCAB)?;
        within("max_seq_length", self.max_tokens, self.positions)?;
        positive("norm epsilon", self.norm_eps.into())?;
        if !self.hidden.is_multiple_of(self.heads) || self.hidden / self.heads > MAX_HEAD_DIM {
            return Err(bad(
                "attention heads",
                self.heads,
                "a divisor of the hidden size, heads of at most 256",
            ));
        }
        Ok(self)
    }
}

fn within(field: &str, value: usize, most: usize) -> Result<(), ConfigError> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(bad(field, value, "at least 1 and within the limits"))
    }
}

fn positive(field: &str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(bad(field, value, "positive and finite")) }
}

fn bad(field: &str, value: impl ToString, why: &'static str) -> ConfigError {
    ConfigError::BadField { field: field.into(), value: value.to_string(), why }
}

#[cfg(test)]
mod tests;
