//! Calls that are computed: each is checked and queued in a thread of its own, so that a long prompt holds nobody up.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use holmes_engine::run::{self, Event, MAX_EMBED_TEXTS, Prompt, Refused, Request};
use holmes_engine::sample::Sampling;
use holmes_engine::text::Message;
use holmes_proto::inference::v1::output::Output;
use holmes_proto::inference::v1::{
    EmbedWork, FinishReason, Finished, GenerateWork, Usage, Vectors, Work, generate_work, work,
};

use super::Loaded;
use super::answer::{Answer, failed, failure, is_over};
use super::outbox::Outbox;

/// Most calls at a time, all models together; the agent has its own, lower limit.
const MOST_CALLS: usize = 1_024;
/// Texts that are embedded before a cancellation is looked for.
const TEXTS_AT_A_TIME: usize = 16;

/// Bytes of vectors that fit the one message in which they reach a gateway: 16 MiB, and some for the rest of it.
const MOST_VECTOR_BYTES: usize = (16 << 20) - (64 << 10);

/// The calls of a worker.
#[derive(Clone)]
pub(super) struct Calls(Arc<Shared>);

struct Shared {
    models: Vec<Loaded>,
    outbox: Arc<Outbox>,
    running: Mutex<BTreeMap<u64, Running>>,
    ended: Condvar,
}

/// A call that has not ended.
#[derive(Default)]
struct Running {
    cancelled: bool,
    /// What the engine knows it by, once it does.
    engine: Option<run::Call>,
}

impl Calls {
    pub(super) fn new(models: Vec<Loaded>, outbox: Arc<Outbox>) -> Calls {
        Calls(Arc::new(Shared { models, outbox, running: Mutex::default(), ended: Condvar::new() }))
    }

    /// Begins a call; what comes of it goes to the outbox, its end always.
    pub(super) fn start(&self, call: u64, work: Work) {
        let mut running = self.lock();
        let count = running.len();
        if count >= MOST_CALLS {
            drop(running);
            let why = Refused::QueueFull { open: count, most: MOST_CALLS };
            return self.0.outbox.end(call, failed(&why));
        }
        if running.contains_key(&call) {
            eprintln!("call {call} runs already; the second start was ignored");
            return;
        }
        running.insert(call, Running::default());
        drop(running);
        let calls = self.clone();
        let compute = move || {
            if catch_unwind(AssertUnwindSafe(|| calls.compute(call, work))).is_err() {
                calls.end(call, failure("WORKER_PANICKED", "the worker could not read the call"));
            }
        };
        let spawned = thread::Builder::new().name("call".into()).spawn(compute);
        if let Err(why) = spawned {
            self.end(call, failure("WORKER_BUSY", &format!("the system starts no more threads: {why}")));
        }
    }

    /// Ends a call within a step; one that has ended is none.
    pub(super) fn cancel(&self, call: u64) {
        if let Some(running) = self.lock().get_mut(&call) {
            running.cancelled = true;
            if let Some(engine) = &running.engine {
                engine.cancel();
            }
        }
    }

    /// Waits until every call has ended.
    pub(super) fn finish(&self) {
        let mut running = self.lock();
        while !running.is_empty() {
            running = self.0.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn compute(&self, call: u64, work: Work) {
        let Some(at) = self.0.models.iter().position(|loaded| loaded.name == work.model) else {
            let message = format!("this node does not serve {:?}", work.model);
            return self.end(call, failure("MODEL_NOT_SERVED", &message));
        };
        match work.work {
            Some(work::Work::Generate(work)) => self.generate(call, at, work),
            Some(work::Work::Embed(work)) => match self.embed(call, &self.0.models[at], &work) {
                Ok(output) => self.end(call, output),
                Err(why) => self.refuse(call, &why),
            },
            None => self.end(call, failure("WORK_MISSING", "the call asks for nothing")),
        }
    }

    fn generate(&self, call: u64, at: usize, work: GenerateWork) {
        let loaded = &self.0.models[at];
        let (resume_from, has_stops) = (work.resume_from, !work.stop.is_empty());
        let prepared = request(work).and_then(|mut request| {
            let tokens = loaded.engine.tokenize(&request.prompt).map_err(|why| failed(&why))?;
            // What does not fit is its caller's to shorten, whatever the lease would have paid.
            loaded.engine.check(&request, tokens.len()).map_err(|why| failed(&why))?;
            self.0.outbox.read(call, tokens.len() as u64);
            request.prompt = Prompt::Tokens(tokens);
            Ok(request)
        });
        let request = match prepared {
            Ok(request) => request,
            Err(why) => return self.end(call, why),
        };
        let answer = Answer::new(call, self.0.outbox.clone(), loaded.text.clone(), resume_from, has_stops);
        let dropped = Arc::new(AtomicBool::new(false));
        let mut listener =
            Listener { call, answer, calls: self.clone(), over: false, dropped: dropped.clone() };
        let sink = Box::new(move |event| listener.take(event));
        match loaded.engine.generate_into(request, sink) {
            Err(why) => self.refuse(call, &why),
            Ok(engine) => {
                // it may have ended already, or been cancelled while its prompt was read
                if let Some(running) = self.lock().get_mut(&call) {
                    if running.cancelled {
                        engine.cancel();
                    }
                    running.engine = Some(engine);
                }
                if dropped.load(Ordering::SeqCst) {
                    self.refuse(call, &Refused::Closed);
                }
            }
        }
    }

    fn embed(&self, call: u64, loaded: &Loaded, work: &EmbedWork) -> Result<Output, Refused> {
        let texts = &work.texts;
        if texts.is_empty() {
            return Ok(failure("TEXTS_EMPTY", "there is no text; send 1 to 2,048"));
        }
        if texts.len() > MAX_EMBED_TEXTS {
            return Err(Refused::TooManyTexts(texts.len()));
        }
        let count =
            |text: &String| loaded.engine.tokenize(&Prompt::Text(text.clone())).map(|t| t.len() as u64);
        self.0.outbox.read(call, texts.iter().map(count).sum::<Result<u64, Refused>>()?);
        let mut vectors = Vectors::default();
        let (mut values, mut tokens) = (Vec::new(), 0);
        for texts in texts.chunks(TEXTS_AT_A_TIME) {
            if self.lock().get(&call).is_none_or(|running| running.cancelled) {
                let reason = FinishReason::Cancelled.into();
                return Ok(Output::Finished(Finished { reason, usage: Some(Usage::default()) }));
            }
            let made = loaded.engine.embed(texts)?;
            tokens += made.tokens;
            vectors.width = made.vectors.first().map_or(0, |vector| vector.len() as u32);
            if let Some(most) = too_many(work.texts.len(), vectors.width as usize) {
                let message =
                    format!("the vectors of so many texts fit no message: send {most} at once at most");
                return Ok(failure("VECTORS_TOO_LONG", &message));
            }
            values.extend(made.vectors.iter().flatten().flat_map(|value| value.to_le_bytes()));
        }
        vectors.values = values.into();
        let input_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        vectors.usage = Some(Usage { input_tokens, ..Usage::default() });
        Ok(Output::Vectors(vectors))
    }

    /// Ends a call that the engine does not take; an engine that has ended takes the worker with it.
    fn refuse(&self, call: u64, why: &Refused) {
        self.end(call, failed(why));
        if is_over(why) {
            self.0.outbox.breaks();
        }
    }

    /// Says the last of a call, unless it was said, and forgets it.
    fn end(&self, call: u64, output: Output) {
        let mut running = self.lock();
        if running.remove(&call).is_some() {
            self.0.outbox.end(call, output); // before anybody sees that all have ended, and closes the outbox
        }
        self.0.ended.notify_all();
    }

    /// Forgets a call whose last was said.
    fn ended(&self, call: u64) {
        self.lock().remove(&call);
        self.0.ended.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many texts may be sent, where vectors of this width fit no message: it would break the stream with all its calls.
fn too_many(texts: usize, width: usize) -> Option<usize> {
    let most = MOST_VECTOR_BYTES / (width.max(1) * size_of::<f32>());
    (texts > most).then_some(most)
}

/// The engine's end of a call. An engine that dies drops it: then the call ends all the same.
struct Listener {
    call: u64,
    answer: Answer,
    calls: Calls,
    over: bool,
    dropped: Arc<AtomicBool>,
}

impl Listener {
    fn take(&mut self, event: Event) -> bool {
        let (goes_on, last) = self.answer.take(event);
        if last {
            self.over = true;
            self.calls.ended(self.call);
        }
        goes_on
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.dropped.store(true, Ordering::SeqCst);
        // a call that the engine never took is dropped too: whoever asked it says why
        if self.calls.lock().get(&self.call).is_some_and(|running| running.engine.is_some()) {
            self.calls.refuse(self.call, &Refused::Closed);
        }
    }
}

/// What the engine is asked.
fn request(work: GenerateWork) -> Result<Request, Output> {
    let prompt = match work.prompt {
        Some(generate_work::Prompt::Text(text)) => Prompt::Text(text),
        Some(generate_work::Prompt::Chat(chat)) => {
            let message =
                |m: holmes_proto::inference::v1::ChatMessage| Message { role: m.role, content: m.content };
            Prompt::Chat(chat.messages.into_iter().map(message).collect())
        }
        None => return Err(failure("PROMPT_MISSING", "there is no prompt: send text or chat")),
    };
    let asked = work.sampling.unwrap_or_default();
    if work.resume_from > 0 && asked.temperature > 0.0 && asked.seed == 0 {
        let message = "only an answer that can be repeated can be continued: temperature 0, or a seed";
        return Err(failure("RESUME_NOT_REPRODUCIBLE", message));
    }
    let sampling = Sampling {
        temperature: asked.temperature,
        top_k: asked.top_k,
        top_p: if asked.top_p == 0.0 { 1.0 } else { asked.top_p },
        seed: asked.seed,
        position: 0,
        logprobs: asked.logprobs.map(|most| u8::try_from(most).unwrap_or(u8::MAX)),
    };
    Ok(Request {
        max_tokens: (work.max_tokens > 0).then_some(work.max_tokens as usize),
        sampling,
        stop: work.stop,
        tenant: work.tenant.to_vec(),
        ..Request::new(prompt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_fit_no_message_are_refused_with_how_many_texts_would() {
        assert_eq!(too_many(MAX_EMBED_TEXTS, 384), None);
        assert_eq!(too_many(MAX_EMBED_TEXTS, 2_048), Some(2_040));
        assert_eq!((too_many(2_040, 2_048), too_many(1, 0)), (None, None));
    }
}
