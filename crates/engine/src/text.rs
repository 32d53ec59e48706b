//! Text to tokens and back: the tokenizer and chat template that came with the model.

mod detokenize;
mod gguf;
mod guard;
mod huggingface;
mod template;

use std::sync::Arc;

use tokenizers::{Tokenizer, TruncationParams};

use crate::config::Spec;
use crate::format::{Description, ModelFiles};
use guard::guarded;

pub use detokenize::Detokenizer;
pub use template::{Message, Template};

/// Most bytes of one text: 1 M tokens of context hold no more.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Most tokens that end an answer; known models have up to four.
pub const MAX_END_TOKENS: usize = 64;

/// Why a tokenizer was refused, or a text.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum TextError {
    /// A pre-tokeniser this build does not know.
    #[error(
        "tokenizer.ggml.pre is {0:?}; known are smollm, gpt-2 and default: guessing would give other tokens"
    )]
    UnknownPreTokenizer(String),
    /// A kind of tokenizer this build does not know.
    #[error("tokenizer.ggml.model is {0:?}; only gpt2 (byte-level BPE) is known: use the Hugging Face files")]
    UnknownTokenizer(String),
    /// The tokenizer does not hold together.
    #[error("the tokenizer is damaged ({0}); download the model again")]
    Tokenizer(String),
    /// The template does not parse.
    #[error("the chat template is damaged ({0}); download the model again")]
    Template(String),
    /// The template refused the messages.
    #[error("the chat template refused the messages: {0}")]
    Messages(String),
    /// The model has no chat template.
    #[error("the model has no chat template; send a plain prompt")]
    NoTemplate,
    /// A text longer than [`MAX_TEXT_BYTES`].
    #[error("the text has {0} bytes, more than {MAX_TEXT_BYTES}; shorten it")]
    TooLong(usize),
}

impl TextError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            TextError::UnknownPreTokenizer(_) => "PRE_TOKENIZER_UNKNOWN",
            TextError::UnknownTokenizer(_) => "TOKENIZER_UNKNOWN",
            TextError::Tokenizer(_) => "TOKENIZER_INVALID",
            TextError::Template(_) => "TEMPLATE_INVALID",
            TextError::Messages(_) => "MESSAGES_REFUSED",
            TextError::NoTemplate => "TEMPLATE_MISSING",
            TextError::TooLong(_) => "TEXT_TOO_LONG",
        }
    }
}

/// A model's way with text.
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Option<Template>,
    /// Put before every plain prompt.
    begin: Option<u32>,
    end: Vec<u32>,
}

/// What the files of a model say, before it is checked.
struct Parts {
    tokenizer: Tokenizer,
    template: Option<Template>,
    begin: Option<u32>,
    end: Vec<u32>,
}

impl Text {
    /// Reads the tokenizer and template of an opened model.
    pub fn read(files: &ModelFiles, spec: &Spec) -> Result<Text, TextError> {
        let parts = match &files.description {
            Description::Gguf(metadata) => gguf::read(metadata)?,
            Description::HuggingFace(hf) => huggingface::read(hf)?,
        };
        let Parts { mut tokenizer, template, begin, mut end } = parts;
        let (vocab, max_tokens) = match spec {
            Spec::Decoder(d) => (d.vocab, None),
            Spec::Encoder(e) => (e.vocab, Some(e.max_tokens)),
        };
        let damaged = |e: String| TextError::Tokenizer(e);
        // ids beyond the embedding table would read outside of it
        let tokens = tokenizer.get_vocab(true); // their ids need not be dense
        if let Some(id) = begin.iter().chain(&end).chain(tokens.values()).find(|id| **id as usize >= vocab) {
            return Err(damaged(format!("token {id} for {vocab} rows")));
        }
        // files may carry the padding and truncation of their training
        tokenizer.with_padding(None);
        let truncation = max_tokens.map(|max_length| TruncationParams { max_length, ..Default::default() });
        guarded(|| tokenizer.with_truncation(truncation).map(|_| ()))?;
        end.sort_unstable();
        end.dedup();
        end.truncate(MAX_END_TOKENS);
        Ok(Text { tokenizer: Arc::new(tokenizer), template, begin, end })
    }

    /// Tokens that end an answer, ascending.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end
    }

    /// The chat template, where the model has one.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// The tokens of a plain text, with the special tokens that the model puts around every text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        ids.extend(self.tokens(text, true)?);
        Ok(ids)
    }

    /// The tokens of a conversation that the model is to continue.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, TextError> {
        let text = self.template.as_ref().ok_or(TextError::NoTemplate)?.render(messages)?;
        self.tokens(&text, false)
    }

    /// The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        decode(&self.tokenizer, ids)
    }

    /// Turns tokens into text as they come.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.tokenizer.clone())
    }

    fn tokens(&self, text: &str, around: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong(text.len()));
        }
        let encoding = guarded(|| self.tokenizer.encode_fast(text, around))?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, TextError> {
    guarded(|| tokenizer.decode(ids, true))
}

#[cfg(test)]
mod tests;
