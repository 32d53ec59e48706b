//! The engine's thread: commands in, steps through the backend, events out.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Ticket;
use super::embed::{self, Embedding};
use super::request::{Done, Event, FinishReason, Refused, Request, Token, Usage};
use super::stop::StopStrings;
use crate::backend::{Backend, Limits, StepError, StepInput, StepOutput};
use crate::sample::Chosen;
use crate::sched::{Budget, Progress, Scheduler, SeqId};
use crate::text::{Detokenizer, Text};

/// How long one step may take before the device is given up: the longest prompt chunk of the largest model on
/// the slowest processor takes seconds.
const STEP_PATIENCE: Duration = Duration::from_secs(300);

/// Takes events; returns whether anybody still listens.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// What the thread is told.
pub(super) enum Command {
    Generate(Box<Job>),
    Embed(embed::Job),
    Cancel(u64),
    Stop,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Generate(_) => "Generate",
            Command::Embed(_) => "Embed",
            Command::Cancel(_) => "Cancel",
            Command::Stop => "Stop",
        })
    }
}

/// A checked request.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) tokens: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) request: Request,
    pub(super) sink: Sink,
    pub(super) ticket: Ticket,
}

/// An answer in the making.
struct Answer {
    id: u64,
    sink: Sink,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Tokens that end it.
    ends: Vec<u32>,
    max_tokens: usize,
    usage: Usage,
    _ticket: Ticket,
}

/// What an engine has done and is doing, for metrics. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold pages.
    pub running: usize,
    /// Sequences that wait for some.
    pub waiting: usize,
    /// Pages of the cache that no sequence holds.
    pub free_pages: usize,
    /// Steps computed.
    pub steps: u64,
    /// Tokens computed, those of prompts and those that were computed again included.
    pub computed_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Sequences that lost their pages to an older one.
    pub preemptions: u64,
}

/// The thread's state.
pub(super) struct Driver {
    backend: Box<dyn Backend>,
    text: Arc<Text>,
    limits: Limits,
    scheduler: Scheduler,
    answers: HashMap<SeqId, Answer>,
    embedding: Embedding,
    stats: Stats,
    published: Arc<Mutex<Stats>>,
}

impl Driver {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        text: Arc<Text>,
        limits: Limits,
        published: Arc<Mutex<Stats>>,
    ) -> Driver {
        let budget =
            Budget { step_tokens: limits.step_tokens, running: limits.step_sequences, pages: limits.pages };
        Driver {
            backend,
            text,
            limits,
            scheduler: Scheduler::new(budget),
            answers: HashMap::new(),
            embedding: Embedding::default(),
            stats: Stats::default(),
            published,
        }
    }

    /// Runs until it is told to stop, nobody can tell it anything any more, or the device fails.
    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let why = loop {
            match self.turn(inbox) {
                Ok(true) => {}
                Ok(false) => break Refused::Closed,
                Err(e) => break Refused::Device(e),
            }
        };
        self.embedding.fail(&why);
        for (_, mut answer) in self.answers.drain() {
            (answer.sink)(Event::Failed(why.clone()));
        }
    }

    /// Shows the numbers as they are now.
    fn publish(&mut self) {
        (self.stats.running, self.stats.waiting) = self.scheduler.load();
        self.stats.free_pages = self.scheduler.free_pages();
        self.stats.preemptions = self.scheduler.preemptions();
        if let Ok(mut published) = self.published.lock() {
            *published = self.stats;
        }
    }

    /// All commands that are there, then one step; false when it is over.
    fn turn(&mut self, inbox: &Receiver<Command>) -> Result<bool, StepError> {
        loop {
            match inbox.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(false),
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => break,
            }
        }
        self.publish();
        if let Some(plan) = self.scheduler.plan() {
            let output = self.compute(plan.step.clone())?;
            for (id, progress) in self.scheduler.done(&plan, output) {
                self.stats.generated_tokens += 1;
                self.progress(id, progress);
            }
        } else if let Some(step) = self.embedding.plan(&self.limits) {
            let output = self.compute(step)?;
            self.embedding.done(output);
        } else {
            match inbox.recv() {
                Ok(Command::Stop) | Err(_) => return Ok(false),
                Ok(command) => self.obey(command),
            }
        }
        Ok(true)
    }

    fn compute(&mut self, step: StepInput) -> Result<StepOutput, StepError> {
        self.stats.steps += 1;
        self.stats.computed_tokens += step.sequences.iter().map(|s| s.tokens.len() as u64).sum::<u64>();
        let ticket = self.backend.submit(step)?;
        let stuck = || Err(StepError::Device("a step did not end in time".into()));
        self.backend.poll(ticket, STEP_PATIENCE).unwrap_or_else(stuck)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self.start(*job),
            Command::Embed(job) => self.embedding.add(job),
            Command::Cancel(id) => {
                let found = self.answers.iter().find(|(_, a)| a.id == id).map(|(seq, _)| *seq);
                if let Some(seq) = found {
                    self.end(seq, FinishReason::Cancelled);
                }
            }
            Command::Stop => {} // `turn` has seen it
        }
    }

    fn start(&mut self, job: Job) {
        let Job { id, tokens, max_tokens, request, sink, ticket } = job;
        let usage = Usage { prompt_tokens: tokens.len(), ..Usage::default() };
        let mut ends = request.stop_tokens;
        if !request.ignore_end {
            ends.extend(self.text.end_tokens());
        }
        let seq = self.scheduler.add(tokens, request.sampling, &request.tenant);
        let answer = Answer {
            id,
            sink,
            detokenizer: self.text.detokenizer(),
            stops: StopStrings::new(request.stop),
            ends,
            max_tokens,
            usage,
            _ticket: ticket,
        };
        self.answers.insert(seq, answer);
    }

    fn progress(&mut self, seq: SeqId, progress: Progress) {
        let cached = self.scheduler.cached_tokens(seq);
        let Some(answer) = self.answers.get_mut(&seq) else { return };
        let result = match progress {
            Progress::Token(chosen) => answer.take(chosen, cached),
            Progress::NotFinite => Err(Refused::NotFinite),
        };
        match result {
            Ok(None) => {}
            Ok(Some(reason)) => self.end(seq, reason),
            Err(why) => {
                self.scheduler.remove(seq);
                if let Some(mut answer) = self.answers.remove(&seq) {
                    (answer.sink)(Event::Failed(why));
                }
            }
        }
    }

    /// Frees a sequence's pages and says goodbye.
    fn end(&mut self, seq: SeqId, reason: FinishReason) {
        self.scheduler.remove(seq);
        let Some(mut answer) = self.answers.remove(&seq) else { return };
        let event = match answer.rest(reason) {
            Ok(text) => Event::Done(Done { reason, text, usage: answer.usage }),
            Err(why) => Event::Failed(why),
        };
        (answer.sink)(event);
    }
}

impl Answer {
    /// Takes a token; the reason if it is the last.
    fn take(&mut self, chosen: Chosen, cached: usize) -> Result<Option<FinishReason>, Refused> {
        self.usage.completion_tokens += 1;
        self.usage.cached_tokens = cached;
        let ended = self.ends.contains(&chosen.token);
        let (text, stopped) = if ended {
            (String::new(), true)
        } else {
            self.stops.push(&self.detokenizer.push(chosen.token)?)
        };
        if stopped && !ended {
            self.detokenizer = self.detokenizer.fresh(); // what comes after a stop string is not shown
        }
        let heard = (self.sink)(Event::Token(Token { id: chosen.token, text, logprobs: chosen.logprobs }));
        Ok(match () {
            () if !heard => Some(FinishReason::Cancelled),
            () if stopped => Some(FinishReason::Stop),
            () if self.usage.completion_tokens >= self.max_tokens => Some(FinishReason::Length),
            () => None,
        })
    }

    /// The text that was held back.
    fn rest(&mut self, reason: FinishReason) -> Result<String, Refused> {
        let (mut text, stopped) = self.stops.push(&self.detokenizer.finish()?);
        if !stopped && reason != FinishReason::Cancelled {
            text += &self.stops.finish();
        }
        Ok(text)
    }
}
