//! Texts on their way to vectors: as many at a time as fit into a step.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use super::Ticket;
use super::request::Refused;
use crate::backend::{Limits, SeqOutput, SeqStep, StepInput, StepOutput, Want};

/// The vectors of a call's texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// One per text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts after cutting, special tokens included.
    pub tokens: usize,
}

/// What a call to `embed` waits for.
pub(super) type Answer = Result<Embeddings, Refused>;

/// One call.
pub(super) struct Job {
    left: VecDeque<Vec<u32>>,
    made: Embeddings,
    reply: Sender<Answer>,
    _ticket: Ticket,
}

impl Job {
    pub(super) fn new(texts: Vec<Vec<u32>>, reply: Sender<Answer>, ticket: Ticket) -> Job {
        let tokens = texts.iter().map(Vec::len).sum();
        Job { left: texts.into(), made: Embeddings { vectors: Vec::new(), tokens }, reply, _ticket: ticket }
    }

    fn answer(self, failed: Option<Refused>) {
        // a caller that is gone wants nothing
        let _ = self.reply.send(failed.map_or(Ok(self.made), Err));
    }
}

/// Calls in the order of their arrival.
#[derive(Default)]
pub(super) struct Embedding {
    jobs: VecDeque<Job>,
}

impl Embedding {
    pub(super) fn add(&mut self, job: Job) {
        if job.left.is_empty() {
            return job.answer(None);
        }
        self.jobs.push_back(job);
    }

    /// The next step: texts of the oldest calls until it is full.
    pub(super) fn plan(&mut self, limits: &Limits) -> Option<StepInput> {
        let mut step = StepInput::default();
        let mut tokens = 0;
        for text in self.jobs.iter().flat_map(|job| &job.left) {
            tokens += text.len();
            if tokens > limits.step_tokens || step.sequences.len() == limits.step_sequences {
                break;
            }
            step.sequences.push(SeqStep {
                tokens: text.clone(),
                start: 0,
                pages: Vec::new(),
                want: Want::Vector,
            });
        }
        (!step.sequences.is_empty()).then_some(step)
    }

    /// Takes the result of the step that was planned last.
    pub(super) fn done(&mut self, output: StepOutput) {
        for result in output.sequences {
            let Some(job) = self.jobs.front_mut() else { return };
            let failed = match result {
                SeqOutput::Vector(vector) => {
                    job.made.vectors.push(vector);
                    None
                }
                _ => Some(Refused::NotFinite),
            };
            job.left.pop_front();
            // a failed text fails its call; its other texts are computed for nothing, at most one step of them
            if (job.left.is_empty() || failed.is_some())
                && let Some(job) = self.jobs.pop_front()
            {
                job.answer(failed);
            }
        }
    }

    /// Ends every call.
    pub(super) fn fail(&mut self, why: &Refused) {
        self.jobs.drain(..).for_each(|job| job.answer(Some(why.clone())));
    }
}
