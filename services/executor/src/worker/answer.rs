//! The engine's events of one call as outputs. A message carries whole characters: tokens whose text the engine holds
//! back wait for the one that completes it.

use std::sync::Arc;

use holmes_engine::run::{Done, Event, FinishReason as Why, Refused, Token};
use holmes_engine::sample::Logprobs;
use holmes_engine::text::Text;
use holmes_proto::blame::callers;
use holmes_proto::inference::v1::output::Output;
use holmes_proto::inference::v1::{Failed, FinishReason, Finished, TokenLogprob, Tokens, TopLogprob, Usage};

use super::outbox::Outbox;

/// Most tokens without text that wait: a model that writes none at all still shows that it goes on.
const MOST_HELD: usize = 64;

/// One call's answer on its way out.
pub(super) struct Answer {
    call: u64,
    outbox: Arc<Outbox>,
    text: Arc<Text>,
    /// Tokens that the renter has already.
    resume_from: usize,
    /// The last token waits for the next one: stop texts cut into what was held back, and the rest must have a token.
    waits: bool,
    seen: usize,
    held: Tokens,
    /// Nobody took the tokens.
    dropped: bool,
}

impl Answer {
    pub(super) fn new(
        call: u64,
        outbox: Arc<Outbox>,
        text: Arc<Text>,
        resume_from: u32,
        has_stops: bool,
    ) -> Answer {
        Answer {
            call,
            outbox,
            text,
            resume_from: resume_from as usize,
            waits: has_stops,
            seen: 0,
            held: Tokens::default(),
            dropped: false,
        }
    }

    /// Takes an event; whether the call goes on, and whether this was the last.
    pub(super) fn take(&mut self, event: Event) -> (bool, bool) {
        match event {
            Event::Token(token) => {
                self.token(token);
                (!self.dropped, false)
            }
            Event::Done(done) => {
                self.done(done);
                (false, true)
            }
            Event::Failed(why) => {
                self.fail(&why);
                (false, true)
            }
        }
    }

    /// It has no end of its own. An engine that has ended takes the worker with it: another one is started.
    fn fail(&mut self, why: &Refused) {
        self.flush();
        self.outbox.end(self.call, failed(why));
        if is_over(why) {
            self.outbox.breaks();
        }
    }

    fn token(&mut self, token: Token) {
        self.seen += 1;
        if self.seen <= self.resume_from {
            return;
        }
        if self.waits && !self.held.text.is_empty() {
            self.flush();
        }
        if self.held.ids.is_empty() {
            self.held.first = u32::try_from(self.seen - 1).unwrap_or(u32::MAX);
        }
        self.held.ids.push(token.id);
        self.held.text += &token.text;
        self.held.logprobs.extend(token.logprobs.map(|of| self.logprob(token.id, of)));
        if (!self.waits && !self.held.text.is_empty()) || self.held.ids.len() > MOST_HELD {
            self.flush();
        }
    }

    fn done(&mut self, done: Done) {
        if !self.held.ids.is_empty() {
            self.held.text += &done.text;
        }
        self.flush();
        if self.dropped {
            let message = "the answer was not read in time: read it faster, or ask for less";
            return self.outbox.end(self.call, failure("SLOW_READER", message));
        }
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let usage = Usage {
            input_tokens: count(done.usage.prompt_tokens),
            output_tokens: count(self.seen.saturating_sub(self.resume_from)),
            cached_tokens: count(done.usage.cached_tokens),
        };
        let reason = match done.reason {
            Why::Stop => FinishReason::Stop,
            Why::Length => FinishReason::Length,
            Why::Cancelled => FinishReason::Cancelled,
        };
        self.outbox.end(self.call, Output::Finished(Finished { reason: reason.into(), usage: Some(usage) }));
    }

    /// Sends what is held.
    fn flush(&mut self) {
        let tokens = std::mem::take(&mut self.held);
        if !tokens.ids.is_empty() && !self.dropped {
            self.dropped = !self.outbox.tokens(self.call, tokens);
        }
    }

    fn logprob(&self, id: u32, of: Logprobs) -> TokenLogprob {
        let text = |id| self.text.decode(&[id]).unwrap_or_default();
        let top = |(id, logprob)| TopLogprob { id, text: text(id), logprob };
        TokenLogprob { id, text: text(id), logprob: of.chosen, top: of.top.into_iter().map(top).collect() }
    }
}

/// Whether the engine computes no more.
pub(super) fn is_over(why: &Refused) -> bool {
    matches!(why, Refused::Closed | Refused::Device(_))
}

/// Why a call has no answer, as an output.
pub(super) fn failed(why: &Refused) -> Output {
    failure(why.reason(), &why.to_string())
}

/// The same of a reason. What does not lie in the question lies with this node: it is short of something, or broken.
pub(super) fn failure(reason: &str, message: &str) -> Output {
    let caller = callers(reason).is_some();
    Output::Failed(Failed { reason: reason.to_owned(), message: message.to_owned(), caller })
}

#[cfg(test)]
mod tests {
    use holmes_engine::text::TextError;

    use super::*;

    #[test]
    fn a_caller_is_blamed_for_the_question_and_not_for_what_is_broken_here() {
        let blamed = |why: Refused| matches!(failed(&why), Output::Failed(failed) if failed.caller);
        let questions = [
            Refused::EmptyPrompt,
            Refused::PromptTooLong { tokens: 9, context: 8 },
            Refused::MaxTokens(9, 8),
            Refused::Stop,
            Refused::TooManyTexts(9),
            Refused::WrongModel("write"),
            Refused::Text(TextError::Messages(String::new())),
            Refused::Text(TextError::NoTemplate),
            Refused::Text(TextError::TooLong(9)),
        ];
        for why in questions {
            assert!(blamed(why.clone()), "{why:?}");
        }
        let ours = [
            Refused::QueueFull { open: 1, most: 1 },
            Refused::Closed,
            Refused::NotFinite,
            Refused::UnknownToken(9),
            Refused::Text(TextError::Tokenizer(String::new())),
            Refused::Text(TextError::Template(String::new())),
        ];
        for why in ours {
            assert!(!blamed(why.clone()), "{why:?}");
        }
    }
}
