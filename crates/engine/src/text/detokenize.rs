//! Text from tokens as they come. A character whose bytes are spread over several tokens appears whole.

use std::sync::Arc;

use tokenizers::Tokenizer;

use super::{TextError, decode};

/// Most tokens held back for an unfinished character: four bytes, and as many again for odd vocabularies.
const MAX_HELD: usize = 8;

/// Turns one sequence's tokens into text.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The tokens last shown, then those held back: decoders look at the token before.
    window: Vec<u32>,
    shown: usize,
    /// The text of the shown part of the window.
    prefix: String,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Detokenizer {
        Detokenizer { tokenizer, window: Vec::new(), shown: 0, prefix: String::new() }
    }

    /// The same for another sequence.
    pub(crate) fn fresh(&self) -> Detokenizer {
        Detokenizer::new(self.tokenizer.clone())
    }

    /// The text that the token completes; empty while a character is unfinished.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.window.push(token);
        let text = decode(&self.tokenizer, &self.window)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() - self.shown < MAX_HELD {
            return Ok(String::new());
        }
        self.show(&text)
    }

    /// The text still held back: U+FFFD for a character that never came whole.
    pub fn finish(&mut self) -> Result<String, TextError> {
        let text = decode(&self.tokenizer, &self.window)?;
        self.show(&text)
    }

    fn show(&mut self, text: &str) -> Result<String, TextError> {
        let new = text.get(self.prefix.len()..).unwrap_or_default().to_owned();
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        self.prefix = decode(&self.tokenizer, &self.window)?;
        Ok(new)
    }
}
