//! What executes a program. A backend holds one model at a time; dropping it unloads the model.
//!
//! `submit` returns at once and `poll` hands out the result, so a scheduler can prepare while a step runs.

pub mod cpu;
pub mod fake;

use std::sync::Arc;
use std::time::Duration;

use crate::program::Program;
use crate::sample::{Chosen, Sampling};

/// Tokens per page of the key-value cache. It equals the lanes of the CPU kernels: one vector scores one page.
pub const PAGE_TOKENS: usize = 16;

/// A page of the key-value cache, the same number in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// What a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The backend's name: `cpu`.
    pub name: &'static str,
    /// The instruction set chosen at start: `avx512`, `avx2`, `neon`, `portable`.
    pub instructions: &'static str,
    /// Threads that compute.
    pub threads: usize,
}

/// How much a loaded model may use. Memory is planned from these at `load` and never grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one step, all sequences together.
    pub step_tokens: usize,
    /// Most sequences of one step.
    pub step_sequences: usize,
    /// Most rows of one step whose logits are computed.
    pub step_outputs: usize,
    /// Pages of the key-value cache (0 for an encoder).
    pub pages: usize,
}

/// What a loaded model takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Packed weights, as mapped.
    pub weights: usize,
    /// The key-value cache.
    pub cache: usize,
    /// Buffers between ops.
    pub buffers: usize,
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    /// A backend value holds one model.
    #[error("a model is loaded already; use another backend value")]
    Occupied,
    /// A shape that this backend's kernels cannot do.
    #[error(
        "{what} is {size}, but this backend needs a multiple of {multiple}; use another variant of the model"
    )]
    Shape {
        /// What is wrong.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The step it needs.
        multiple: usize,
    },
    /// A limit that cannot work.
    #[error("limit {what} is {value}, but must be at least {least} for this model; raise it")]
    Limit {
        /// Which.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The least that works.
        least: usize,
    },
    /// The planned memory is not to be had.
    #[error("{bytes} bytes of memory for {what} cannot be had; lower the limits or use a smaller model")]
    Memory {
        /// For what.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// The system gave no threads.
    #[error("threads could not be started ({0}); raise the process's limits")]
    Threads(String),
}

impl LoadError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            LoadError::Occupied => "BACKEND_OCCUPIED",
            LoadError::Shape { .. } => "SHAPE_UNSUPPORTED",
            LoadError::Limit { .. } => "LIMIT_TOO_LOW",
            LoadError::Memory { .. } => "OUT_OF_MEMORY",
            LoadError::Threads(_) => "THREADS_UNAVAILABLE",
        }
    }
}

/// What a sequence wants of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// Only that its keys and values are stored: a chunk of a prompt.
    Nothing,
    /// The token after its last one.
    Token(Sampling),
    /// The logits of each of its rows, `[tokens, vocab]`.
    Logits,
    /// An encoder's vector.
    Vector,
}

/// One sequence's part in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct SeqStep {
    /// New tokens, at least one.
    pub tokens: Vec<u32>,
    /// How many tokens of the sequence are in the cache already.
    pub start: usize,
    /// Pages that hold positions 0, 16, 32 … of the sequence; enough for the new tokens too. Empty for encoders.
    pub pages: Vec<PageId>,
    /// What is wanted.
    pub want: Want,
}

/// One step: new tokens of several sequences. No page may be written by two of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepInput {
    /// The sequences.
    pub sequences: Vec<SeqStep>,
}

/// One sequence's result.
#[derive(Clone, Debug, PartialEq)]
pub enum SeqOutput {
    /// Nothing was wanted.
    Nothing,
    /// The chosen token.
    Token(Chosen),
    /// Logits, row after row.
    Logits(Vec<f32>),
    /// The vector.
    Vector(Vec<f32>),
    /// The model computed something that is not a number: the weights or the prompt break it.
    NotFinite,
}

/// The results, in the order of [`StepInput::sequences`].
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    /// One per sequence.
    pub sequences: Vec<SeqOutput>,
}

/// A submitted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Why a step failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepError {
    /// The step breaks a rule of [`StepInput`] or a limit; nothing was computed.
    #[error("the step is invalid: {0}; this is a fault of the scheduler")]
    Invalid(String),
    /// The device is gone; its model is lost.
    #[error("the device failed: {0}; load the model again")]
    Device(String),
    /// No such ticket, or its result was handed out already.
    #[error("ticket {} is not known", .0.0)]
    UnknownTicket(Ticket),
}

impl StepError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            StepError::Invalid(_) => "STEP_INVALID",
            StepError::Device(_) => "DEVICE_FAILED",
            StepError::UnknownTicket(_) => "TICKET_UNKNOWN",
        }
    }
}

/// Executes programs.
pub trait Backend: Send {
    /// What it is.
    fn facts(&self) -> Facts;

    /// Plans memory for the program under the limits and makes it ready. A second load is refused.
    fn load(&mut self, program: Arc<Program>, limits: &Limits) -> Result<Footprint, LoadError>;

    /// Starts a step; steps run in the order of their submission.
    fn submit(&mut self, step: StepInput) -> Result<Ticket, StepError>;

    /// The step's result, once; `None` if it is not ready within `patience`. Tickets are polled in their order.
    fn poll(&mut self, ticket: Ticket, patience: Duration) -> Option<Result<StepOutput, StepError>>;
}

/// Refuses a step that breaks the rules; what passes is safe to execute.
pub(crate) fn check_step(program: &Program, limits: &Limits, step: &StepInput) -> Result<(), StepError> {
    let invalid = |why: String| Err(StepError::Invalid(why));
    let (mut rows, mut outputs) = (0, 0);
    for (i, seq) in step.sequences.iter().enumerate() {
        let end = seq.start.saturating_add(seq.tokens.len());
        rows += seq.tokens.len();
        outputs += match seq.want {
            Want::Token(_) => 1,
            Want::Logits => seq.tokens.len(),
            Want::Nothing | Want::Vector => 0,
        };
        if seq.tokens.is_empty() || end > program.context {
            return invalid(format!("sequence {i} covers {}..{end} of {}", seq.start, program.context));
        }
        if let Some(token) = seq.tokens.iter().find(|&&t| t as usize >= program.vocab) {
            return invalid(format!("token {token} is not in the vocabulary of {}", program.vocab));
        }
        if program.generates() == (seq.want == Want::Vector) {
            return invalid(format!("sequence {i} wants {:?} of another kind of model", seq.want));
        }
        let pages = seq.pages.len().min(limits.pages);
        let enough = if program.generates() { pages * PAGE_TOKENS >= end } else { seq.start == 0 };
        if !enough || seq.pages.iter().any(|p| p.0 as usize >= limits.pages) {
            return invalid(format!("sequence {i} has pages {:?} for {end} tokens", seq.pages));
        }
    }
    let counts = [
        ("tokens", rows, limits.step_tokens),
        ("sequences", step.sequences.len(), limits.step_sequences),
        ("outputs", outputs, limits.step_outputs),
    ];
    match counts.into_iter().find(|(_, n, most)| n > most) {
        Some((what, n, most)) => invalid(format!("{n} {what}, at most {most}")),
        None => Ok(()),
    }
}
