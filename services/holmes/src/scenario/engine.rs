//! What answers questions: the engine as executors run it, on one thread, over arithmetic or without any.

use anyhow::{Context as _, Result};
use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::backend::fake::FakeBackend;
use holmes_engine::run::{self, Event, FinishReason, Model, Options, Prompt, Request};
use holmes_engine::text::Message;
use holmes_kernel::{Code, Refusal};
use holmes_proto::blame::callers;
use holmes_runtime::config::Config;

use super::file::Engine as Kind;
use crate::models::{OWN_MODEL, Store};

/// A model that answers.
pub(super) struct Engine(run::Engine);

/// An answer: what was read, and the text of each token.
pub(super) struct Answer {
    pub input: u64,
    pub tokens: Vec<String>,
    pub finish: FinishReason,
}

impl Engine {
    /// The model that the binary carries.
    pub(super) fn open(kind: Kind, config: &Config) -> Result<Engine> {
        let path = Store::of(config)?.path(OWN_MODEL)?;
        let options = Options { threads: 1, ..Options::default() };
        let model = Model::open(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let engine = match kind {
            Kind::Fake => run::Engine::start(model, Box::<FakeBackend>::default(), options),
            Kind::Tiny => run::Engine::start(model, Box::new(CpuBackend::new(options.threads)), options),
        };
        Ok(Engine(engine.context("the engine did not start")?))
    }

    /// Longest sequence, tokens.
    pub(super) fn context(&self) -> u32 {
        u32::try_from(self.0.card().context).unwrap_or(u32::MAX)
    }

    /// Answers, greedily: nothing is left to chance.
    pub(super) fn answer(&self, prompt: &str, max_tokens: u32) -> Result<Answer, Refusal> {
        let message = Message { role: "user".into(), content: prompt.to_owned() };
        let asked = match self.0.card().chat {
            true => Prompt::Chat(vec![message]),
            false => Prompt::Text(prompt.to_owned()),
        };
        let request = Request { max_tokens: Some(max_tokens as usize), ..Request::new(asked) };
        let stream = self.0.generate(request).map_err(|why| refused(&why))?;
        let mut tokens = Vec::new();
        for event in stream {
            match event {
                Event::Token(token) => tokens.push(token.text),
                Event::Done(done) => {
                    if let Some(last) = tokens.last_mut() {
                        last.push_str(&done.text);
                    }
                    let input = done.usage.prompt_tokens as u64;
                    return Ok(Answer { input, tokens, finish: done.reason });
                }
                Event::Failed(why) => return Err(refused(&why)),
            }
        }
        Err(refused(&run::Refused::Closed))
    }

    /// Whether prompts are conversations.
    pub(super) fn chats(&self) -> bool {
        self.0.card().chat
    }
}

/// A question's own fault is told apart from the engine's.
fn refused(why: &run::Refused) -> Refusal {
    let code = if callers(why.reason()).is_some() { Code::Invalid } else { Code::Internal };
    Refusal::new(code, why.reason(), why.to_string())
}
