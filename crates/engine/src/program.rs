//! A model as a program: a list of ops as data over named buffers, with the weights they use.
//!
//! A backend executes the list in order for all rows of a step at once. Rows are tokens; a buffer holds one
//! vector per row. Fusion is a matter of the list (epilogues) and of the backend, never of the model.

mod decoder;
mod encoder;
mod weights;

use crate::config::{ConfigError, Pooling, RopePairs, Spec};
use crate::format::{Tensor, Tensors};

/// A buffer of one vector per row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buf(pub usize);

/// A weight: its place in [`Program::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// A normalisation of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) · weight`
    Rms,
    /// `(x − mean) / sqrt(var + eps) · weight + bias`
    Layer {
        /// The bias.
        bias: WeightId,
    },
}

/// What happens to a linear layer's result before it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Added to a buffer (which may be the output): the residual.
    Add(Buf),
    /// `x · Φ(x)`, exact by erf.
    Gelu,
    /// `silu(input · gateᵀ + gate_bias) · x`
    SwiGlu {
        /// The gate's matrix, of the layer's own shape.
        gate: WeightId,
        /// The gate's bias.
        gate_bias: Option<WeightId>,
    },
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// `out[row] = tokens[token] + positions[position] + types[0]`
    Embed {
        /// `[vocab, hidden]`
        tokens: WeightId,
        /// `[positions, hidden]`
        positions: Option<WeightId>,
        /// `[types, hidden]`
        types: Option<WeightId>,
        /// `[hidden]`
        out: Buf,
    },
    /// Normalises each row.
    Norm {
        /// Which one.
        kind: NormKind,
        /// `[width]`
        weight: WeightId,
        /// Added under the root.
        eps: f32,
        /// Read.
        input: Buf,
        /// Written; may be `input`.
        out: Buf,
    },
    /// `out = epilogue(input · weightᵀ + bias)`, weight `[N, K]`.
    Linear {
        /// `[N, K]`
        weight: WeightId,
        /// `[N]`
        bias: Option<WeightId>,
        /// Rows of K.
        input: Buf,
        /// Rows of N; never `input`.
        out: Buf,
        /// The last touch.
        epilogue: Epilogue,
    },
    /// Rotates q and k by their rows' positions and stores k and v in the sequence's pages.
    RopeKv {
        /// The layer of the cache.
        layer: usize,
        /// Rotated in place.
        q: Buf,
        /// Rotated in place.
        k: Buf,
        /// Stored.
        v: Buf,
    },
    /// Causal attention over the pages.
    AttnPaged {
        /// The layer of the cache.
        layer: usize,
        /// Queries, heads one after the other.
        q: Buf,
        /// Written.
        out: Buf,
    },
    /// Attention of every row over all rows of its sequence; no cache.
    AttnVarlen {
        /// Queries.
        q: Buf,
        /// Keys.
        k: Buf,
        /// Values.
        v: Buf,
        /// Written.
        out: Buf,
    },
    /// One vector per sequence.
    Pool {
        /// How.
        pooling: Pooling,
        /// Whether it is scaled to length 1.
        normalize: bool,
        /// Read.
        input: Buf,
    },
    /// Copies the rows whose logits are wanted.
    Gather {
        /// Read.
        input: Buf,
        /// Written, one row per wanted row.
        out: Buf,
    },
    /// Hands out logits and chooses tokens.
    Sample {
        /// Rows of logits.
        logits: Buf,
    },
}

/// How many rows a buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per row whose logits are wanted.
    Outputs,
}

/// A buffer's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSpec {
    /// Elements per row.
    pub width: usize,
    /// How many rows.
    pub rows: Rows,
}

/// The attention's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads.
    pub kv: usize,
    /// Elements per head.
    pub dim: usize,
    /// Radians per position of each rotated pair; empty where positions are learned.
    pub rope: Vec<f64>,
    /// Which elements form a pair.
    pub pairs: RopePairs,
}

/// A model as a program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Executed in order.
    pub ops: Vec<Op>,
    /// Sizes by [`Buf`].
    pub buffers: Vec<BufferSpec>,
    /// Weights by [`WeightId`].
    pub weights: Vec<Tensor>,
    /// The attention's shape.
    pub heads: Heads,
    /// Layers of the cache; 0 for an encoder, which has none.
    pub cache_layers: usize,
    /// Width of the residual stream, and of an encoder's vector.
    pub hidden: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
}

impl Program {
    /// Builds the program of a described model. Every tensor must have its place, and each place its tensor.
    pub fn build(spec: &Spec, tensors: Tensors) -> Result<Program, ConfigError> {
        match spec {
            Spec::Decoder(decoder) => decoder::build(decoder, tensors),
            Spec::Encoder(encoder) => encoder::build(encoder, tensors),
        }
    }

    /// Whether it generates tokens (else it makes vectors).
    pub fn generates(&self) -> bool {
        self.cache_layers > 0
    }

    /// The tensor behind an id.
    pub fn weight(&self, id: WeightId) -> &Tensor {
        &self.weights[id.0]
    }
}
