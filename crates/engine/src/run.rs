//! The front door: a model on a backend, driven by a thread of its own.
//!
//! [`Engine::generate`] and [`Engine::embed`] check and tokenise in the caller's thread, refuse what cannot be
//! served, and queue the rest; the queue is bounded. Results come through plain channels or a callback, so that
//! any runtime can be on the other side. One engine serves one model.

mod drive;
mod embed;
mod model;
mod request;
mod stop;

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Facts, Footprint, Limits, LoadError, PAGE_TOKENS};
use crate::config::Spec;
use drive::{Command, Driver, Job};

pub use drive::{Sink, Stats};
pub use embed::Embeddings;
pub use model::{Model, OpenError};
pub use request::{Done, Event, FinishReason, Prompt, Refused, Request, Token, Usage};

/// Most stop strings of one request: OpenAI takes 4, other engines 16.
pub const MAX_STOP_STRINGS: usize = 16;
/// Most bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most texts of one call to [`Engine::embed`], as the OpenAI interface has it.
pub const MAX_EMBED_TEXTS: usize = 2048;

/// How much an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Computing threads; 0 = as many as the system can run at once.
    pub threads: usize,
    /// Longest sequence in tokens, at most the model's own; 0 = the model's own.
    pub context: usize,
    /// Tokens of the key-value cache, all sequences together; 0 = one sequence of the longest context.
    pub cache_tokens: usize,
    /// Most tokens of one step. Smaller steps stall decoding sequences less while prompts are read.
    pub step_tokens: usize,
    /// Most sequences that compute at the same time.
    pub running: usize,
    /// Most requests that wait; more are refused.
    pub waiting: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: 0, context: 0, cache_tokens: 0, step_tokens: 256, running: 32, waiting: 256 }
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backend refused the model.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl StartError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            StartError::Open(e) => e.reason(),
            StartError::Load(e) => e.reason(),
        }
    }
}

/// What an engine serves, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Whether it generates (else it embeds).
    pub generates: bool,
    /// Longest sequence in tokens, answer included.
    pub context: usize,
    /// Width of an embedding; of the residual stream for a generator.
    pub width: usize,
    /// Whether conversations can be rendered.
    pub chat: bool,
    /// The backend.
    pub backend: Facts,
    /// Its memory.
    pub footprint: Footprint,
}

/// A running model. Dropping it ends what is still running.
pub struct Engine {
    card: Card,
    model: Model,
    options: Options,
    commands: Sender<Command>,
    /// Requests that have not ended.
    open: Arc<AtomicUsize>,
    stats: Arc<Mutex<Stats>>,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Opens a model and runs it on the CPU.
    pub fn open(path: &Path, options: Options) -> Result<Engine, StartError> {
        let model = Model::open(path)?;
        Engine::start(model, Box::new(CpuBackend::new(options.threads)), options)
    }

    /// Runs an opened model on a backend that has none.
    pub fn start(
        model: Model,
        mut backend: Box<dyn Backend>,
        options: Options,
    ) -> Result<Engine, StartError> {
        let (own, generates) = (model.program.context, model.program.generates());
        let context = if options.context == 0 { own } else { own.min(options.context) };
        // a pool that cannot hold the longest sequence would pre-empt for ever
        let cache = if generates { options.cache_tokens.max(context) } else { 0 };
        let step_tokens = if generates { options.step_tokens } else { options.step_tokens.max(context) };
        let limits = Limits {
            step_tokens,
            step_sequences: options.running,
            step_outputs: if generates { options.running } else { 0 },
            pages: cache.div_ceil(PAGE_TOKENS),
        };
        let footprint = backend.load(model.program.clone(), &limits)?;
        let chat = model.text.template().is_some();
        let width = model.program.hidden;
        let card = Card { generates, context, width, chat, backend: backend.facts(), footprint };
        let (commands, inbox) = mpsc::channel();
        let stats = Arc::default();
        let driver = Driver::new(backend, model.text.clone(), limits, Arc::clone(&stats));
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || driver.run(&inbox))
            .map_err(|e| LoadError::Threads(e.to_string()))?;
        Ok(Engine {
            card,
            model,
            options,
            commands,
            open: Arc::default(),
            stats,
            next: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What it serves.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The model's description.
    pub fn spec(&self) -> &Spec {
        &self.model.spec
    }

    /// What it has done and is doing, as of its last step.
    pub fn stats(&self) -> Stats {
        self.stats.lock().map_or_else(|_| Stats::default(), |stats| *stats)
    }

    /// The tokens of a prompt, as [`Engine::generate`] would compute them.
    pub fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, Refused> {
        request::tokens(&self.model, prompt)
    }

    /// Refuses what cannot be served of a request whose prompt has so many tokens; nothing is queued.
    pub fn check(&self, request: &Request, prompt: usize) -> Result<(), Refused> {
        request::check(request, prompt, self.card.context).map(|_| ())
    }

    /// Queues a request; its events come through the stream.
    pub fn generate(&self, request: Request) -> Result<Stream, Refused> {
        let (events, received) = mpsc::channel();
        let call = self.generate_into(request, Box::new(move |event| events.send(event).is_ok()))?;
        Ok(Stream { received, call })
    }

    /// Queues a request; `sink` gets its events in the engine's thread and must not block. It returns whether
    /// anybody still listens.
    pub fn generate_into(&self, request: Request, sink: Sink) -> Result<Call, Refused> {
        if !self.card.generates {
            return Err(Refused::WrongModel("it makes embeddings"));
        }
        let tokens = request::tokens(&self.model, &request.prompt)?;
        let max_tokens = request::check(&request, tokens.len(), self.card.context)?;
        let ticket = self.admit()?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let job = Job { id, tokens, max_tokens, request, sink, ticket };
        self.commands.send(Command::Generate(Box::new(job))).map_err(|_| Refused::Closed)?;
        Ok(Call { id, commands: self.commands.clone() })
    }

    /// The vectors of texts, in their order; waits for them. A text that is too long is cut as the model's
    /// authors do.
    pub fn embed(&self, texts: &[String]) -> Result<Embeddings, Refused> {
        if self.card.generates {
            return Err(Refused::WrongModel("it generates text"));
        }
        if texts.len() > MAX_EMBED_TEXTS {
            return Err(Refused::TooManyTexts(texts.len()));
        }
        let encode = |text: &String| self.model.text.encode(text).map_err(Refused::Text);
        let tokens = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let ticket = self.admit()?;
        let (reply, answer) = mpsc::channel();
        let job = embed::Job::new(tokens, reply, ticket);
        self.commands.send(Command::Embed(job)).map_err(|_| Refused::Closed)?;
        answer.recv().map_err(|_| Refused::Closed)?
    }

    /// Counts a request in, or refuses it because too many are open.
    fn admit(&self) -> Result<Ticket, Refused> {
        let most = self.options.running.saturating_add(self.options.waiting);
        let admitted =
            self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        admitted.map(|_| Ticket(self.open.clone())).map_err(|open| Refused::QueueFull { open, most })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop); // gone already if a device failed
        if let Some(thread) = self.thread.lock().ok().and_then(|mut t| t.take()) {
            let _ = thread.join(); // its panic ended every stream
        }
    }
}

/// A request's place among the open ones; given back when dropped.
pub(crate) struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A queued or running request. Dropping it cancels nothing; [`Call::cancel`] does.
#[derive(Debug)]
pub struct Call {
    id: u64,
    commands: Sender<Command>,
}

impl Call {
    /// Ends the request: its pages are free before the next step. Its last event is `Done`, reason `Cancelled`.
    pub fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel(self.id)); // an engine that is gone has nothing to cancel
    }
}

/// A request's events. Dropping it cancels the request.
#[derive(Debug)]
pub struct Stream {
    received: Receiver<Event>,
    call: Call,
}

impl Stream {
    /// Ends the request; see [`Call::cancel`].
    pub fn cancel(&self) {
        self.call.cancel();
    }
}

impl Iterator for Stream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.received.recv().ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.call.cancel();
    }
}

#[cfg(test)]
mod tests;
