//! Requests, what they are refused for, and what comes back.

use super::{MAX_EMBED_TEXTS, MAX_STOP_BYTES, MAX_STOP_STRINGS, Model};
use crate::backend::StepError;
use crate::sample::{Logprobs, Sampling, SamplingError};
use crate::text::{Message, TextError};

/// What is to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// A conversation, rendered by the model's template.
    Chat(Vec<Message>),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
}

/// A request to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be continued.
    pub prompt: Prompt,
    /// Most tokens of the answer; `None` = what the context leaves.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen; its `position` is set by the engine.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// More tokens that end the answer.
    pub stop_tokens: Vec<u32>,
    /// Whether the model's own end tokens end nothing (for measurements of a fixed length).
    pub ignore_end: bool,
    /// Whose request it is: cached prompts are shared only within one tenant.
    pub tenant: Vec<u8>,
}

impl Request {
    /// A greedy request with nothing else set.
    pub fn new(prompt: Prompt) -> Request {
        Request {
            prompt,
            max_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_end: false,
            tenant: Vec::new(),
        }
    }
}

/// Why a request was refused or ended without an answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum Refused {
    /// The prompt's text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The sampling parameters.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A prompt without tokens.
    #[error("the prompt has no tokens; send at least one")]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the context is {context}; shorten it")]
    PromptTooLong {
        /// The prompt's tokens.
        tokens: usize,
        /// The context.
        context: usize,
    },
    /// An answer that would not fit.
    #[error(
        "max_tokens is {0}, but must be at least 1 and fit into the context after the prompt ({1} tokens)"
    )]
    MaxTokens(usize, usize),
    /// A token id beyond the vocabulary.
    #[error("token {0} is not in the vocabulary; send tokens of this model's own tokenizer")]
    UnknownToken(u32),
    /// Stop strings that are too many, too long or empty.
    #[error(
        "a request may have {MAX_STOP_STRINGS} stop strings of 1 to {MAX_STOP_BYTES} bytes, and as many stop tokens"
    )]
    Stop,
    /// Too many texts at once.
    #[error("{0} texts at once; the most is {MAX_EMBED_TEXTS}: send them in parts")]
    TooManyTexts(usize),
    /// The wrong kind of model.
    #[error("this model cannot do that: {0}; ask a model that can")]
    WrongModel(&'static str),
    /// Too many requests are open. Try again later.
    #[error("{open} requests are open, the most is {most}; try again later")]
    QueueFull {
        /// Open now.
        open: usize,
        /// The limit.
        most: usize,
    },
    /// The engine has ended.
    #[error("the engine has ended; start it again")]
    Closed,
    /// The model computed something that is not a number.
    #[error("the model's result is not a number; its weights are damaged: download it again")]
    NotFinite,
    /// The device failed.
    #[error(transparent)]
    Device(#[from] StepError),
}

impl Refused {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::Text(e) => e.reason(),
            Refused::Sampling(_) => "SAMPLING_INVALID",
            Refused::EmptyPrompt => "PROMPT_EMPTY",
            Refused::PromptTooLong { .. } => "PROMPT_TOO_LONG",
            Refused::MaxTokens(..) => "MAX_TOKENS_INVALID",
            Refused::UnknownToken(_) => "TOKEN_UNKNOWN",
            Refused::Stop => "STOP_INVALID",
            Refused::TooManyTexts(_) => "TEXTS_TOO_MANY",
            Refused::WrongModel(_) => "MODEL_KIND_WRONG",
            Refused::QueueFull { .. } => "QUEUE_FULL",
            Refused::Closed => "ENGINE_CLOSED",
            Refused::NotFinite => "RESULT_NOT_FINITE",
            Refused::Device(e) => e.reason(),
        }
    }
}

/// What happens to a request, in order: tokens, then one `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One more token.
    Token(Token),
    /// The end.
    Done(Done),
    /// The end, without a full answer.
    Failed(Refused),
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it completes: empty while a character is unfinished, while the text could become a stop
    /// string, and for tokens that are no text.
    pub text: String,
    /// Log probabilities, if wanted.
    pub logprobs: Option<Logprobs>,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back until now.
    pub text: String,
    /// What it took.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens`, or the context.
    Length,
    /// It was cancelled, or nobody listened any more.
    Cancelled,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of the prompt, and found in the prefix cache.
    pub cached_tokens: usize,
    /// Generated, an end token included.
    pub completion_tokens: usize,
}

/// The prompt's tokens.
pub(super) fn tokens(model: &Model, prompt: &Prompt) -> Result<Vec<u32>, Refused> {
    let tokens = match prompt {
        Prompt::Text(text) => model.text.encode(text)?,
        Prompt::Chat(messages) => model.text.encode_chat(messages)?,
        Prompt::Tokens(tokens) => tokens.clone(),
    };
    match tokens.iter().find(|&&t| t as usize >= model.program.vocab) {
        Some(&token) => Err(Refused::UnknownToken(token)),
        None if tokens.is_empty() => Err(Refused::EmptyPrompt),
        None => Ok(tokens),
    }
}

/// Refuses what cannot be served; the most tokens of the answer.
pub(super) fn check(request: &Request, prompt: usize, context: usize) -> Result<usize, Refused> {
    request.sampling.check()?;
    let fits = |s: &String| (1..=MAX_STOP_BYTES).contains(&s.len());
    let few = request.stop.len() <= MAX_STOP_STRINGS && request.stop_tokens.len() <= MAX_STOP_STRINGS;
    if !few || !request.stop.iter().all(fits) {
        return Err(Refused::Stop);
    }
    let room = context.saturating_sub(prompt);
    match request.max_tokens.unwrap_or(room) {
        _ if room == 0 => Err(Refused::PromptTooLong { tokens: prompt, context }),
        max if (1..=room).contains(&max) => Ok(max),
        max => Err(Refused::MaxTokens(max, room)),
    }
}
