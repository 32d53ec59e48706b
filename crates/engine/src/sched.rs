//! Continuous batching: which sequences run in the next step, on which pages.
//!
//! Pure bookkeeping, no clock and no thread: [`Scheduler::plan`] makes a step, [`Scheduler::done`] takes its
//! result. Rules: sequences that decode come before prompts; prompts are cut into chunks that fill what is left
//! of a step; the oldest sequence never loses pages to a younger one; a sequence that loses its pages computes
//! them again later and goes on as if nothing had happened, because a token depends on the sequence alone.

mod pages;

use std::collections::VecDeque;

use crate::backend::{PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, StepOutput, Want};
use crate::sample::{Chosen, Sampling};

use pages::{Hash, Pages};

/// A sequence's name, unique for the scheduler's life; older ones are smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// What a scheduler may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most tokens of one step.
    pub step_tokens: usize,
    /// Most sequences that hold pages at the same time.
    pub running: usize,
    /// Pages of the cache.
    pub pages: usize,
}

/// One sequence.
struct Sequence {
    id: SeqId,
    /// The prompt and what was generated.
    tokens: Vec<u32>,
    prompt: usize,
    /// How many tokens' keys are in the pages.
    computed: usize,
    pages: Vec<PageId>,
    /// Hash of each full page's tokens and all before them.
    hashes: Vec<Hash>,
    root: Hash,
    sampling: Sampling,
    /// Prompt tokens found in the cache when it first ran; `None` before.
    cached: Option<usize>,
}

/// What a step did for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// It has one more token.
    Token(Chosen),
    /// Its logits are no numbers; it was taken out.
    NotFinite,
}

/// A planned step.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For the backend.
    pub step: StepInput,
    /// The sequences of the step, in its order.
    ids: Vec<SeqId>,
}

/// Sequences, their pages, and the next step.
pub struct Scheduler {
    budget: Budget,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    next: u64,
    preemptions: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(budget: Budget) -> Scheduler {
        let pages = Pages::new(budget.pages);
        Scheduler { budget, pages, waiting: VecDeque::new(), running: Vec::new(), next: 0, preemptions: 0 }
    }

    /// Whether a sequence of so many tokens, answer included, can ever run.
    pub fn fits(&self, tokens: usize) -> bool {
        tokens.div_ceil(PAGE_TOKENS) <= self.budget.pages
    }

    /// Queues a prompt (at least one token). Sequences share cached pages only within a `tenant`. The caller sees to
    /// it that [`Scheduler::fits`] holds for the prompt and all that it will let the sequence generate.
    pub fn add(&mut self, prompt: Vec<u32>, sampling: Sampling, tenant: &[u8]) -> SeqId {
        let id = SeqId(self.next);
        self.next += 1;
        self.waiting.push_back(Sequence {
            id,
            prompt: prompt.len(),
            tokens: prompt,
            computed: 0,
            pages: Vec::new(),
            hashes: Vec::new(),
            root: pages::root(tenant),
            sampling,
            cached: None,
        });
        id
    }

    /// Takes a sequence out, finished or not; its pages are free for the next step. Nothing if it is not known.
    pub fn remove(&mut self, id: SeqId) {
        if let Some(at) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.remove(at);
            self.pages.release(&sequence.pages);
        }
        self.waiting.retain(|s| s.id != id);
    }

    /// Sequences that hold pages, and sequences that wait for some.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.pages.available()
    }

    /// How often a sequence lost its pages.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Prompt tokens of a running sequence that came from the cache when it first ran.
    pub fn cached_tokens(&self, id: SeqId) -> usize {
        self.running.iter().find(|s| s.id == id).and_then(|s| s.cached).unwrap_or(0)
    }

    /// The next step; `None` if there is nothing to do. Its result must come to [`Scheduler::done`] before the
    /// next call.
    pub fn plan(&mut self) -> Option<Plan> {
        let mut planned: Vec<(SeqId, usize)> = Vec::new();
        let mut budget = self.budget.step_tokens;
        for decoding in [true, false] {
            let ids: Vec<SeqId> = self.running.iter().map(|s| s.id).collect();
            for id in ids {
                // an earlier one of this loop may have taken its pages
                let Some(at) = self.running.iter().position(|s| s.id == id) else { continue };
                let missing = self.running[at].tokens.len() - self.running[at].computed;
                let count = missing.min(budget);
                if (missing == 1) == decoding && count > 0 && self.provide(id, count, &planned) {
                    planned.push((id, count));
                    budget -= count;
                }
            }
        }
        while budget > 0
            && self.running.len() < self.budget.running
            && let Some((id, missing)) = self.admit()
        {
            let count = missing.min(budget);
            if self.provide(id, count, &planned) {
                planned.push((id, count));
                budget -= count;
            }
        }
        (!planned.is_empty()).then(|| self.step_of(&planned))
    }

    /// Makes sure that a running sequence has pages for `count` more tokens, at the cost of younger ones that are
    /// not in the step yet.
    fn provide(&mut self, id: SeqId, count: usize, planned: &[(SeqId, usize)]) -> bool {
        loop {
            let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) else { return false };
            let needed = (sequence.computed + count).div_ceil(PAGE_TOKENS);
            while sequence.pages.len() < needed
                && let Some(page) = self.pages.take()
            {
                sequence.pages.push(page);
            }
            if sequence.pages.len() >= needed {
                return true;
            }
            let victim = self.running.iter().rposition(|s| s.id > id && planned.iter().all(|p| p.0 != s.id));
            let Some(victim) = victim else { return false };
            let mut victim = self.running.remove(victim);
            self.pages.release(&victim.pages);
            victim.pages.clear();
            victim.computed = 0;
            self.preemptions += 1;
            self.waiting.push_front(victim); // the youngest goes first, so the queue stays by age
        }
    }

    /// Moves the first waiting sequence to the running ones if pages for all its tokens are free, with what
    /// the cache has of it.
    fn admit(&mut self) -> Option<(SeqId, usize)> {
        let sequence = self.waiting.front_mut()?;
        sequence.hash_full_pages();
        // the last token is always computed: its logits are wanted
        let reusable = (sequence.tokens.len() - 1) / PAGE_TOKENS;
        let found = self.pages.find(&sequence.hashes[..reusable.min(sequence.hashes.len())]);
        let needed = (sequence.tokens.len() + 1).div_ceil(PAGE_TOKENS).min(self.budget.pages) - found.len();
        if needed > self.pages.available() {
            self.pages.release(&found);
            return None;
        }
        let mut sequence = self.waiting.pop_front()?;
        sequence.computed = found.len() * PAGE_TOKENS;
        sequence.cached.get_or_insert(sequence.computed.min(sequence.prompt));
        sequence.pages = found;
        let admitted = (sequence.id, sequence.tokens.len() - sequence.computed);
        let at = self.running.partition_point(|s| s.id < sequence.id);
        self.running.insert(at, sequence);
        Some(admitted)
    }

    fn step_of(&self, planned: &[(SeqId, usize)]) -> Plan {
        let mut step = StepInput::default();
        for (id, count) in planned {
            let Some(s) = self.running.iter().find(|s| s.id == *id) else { continue };
            let end = s.computed + count;
            let position = s.tokens.len() as u64;
            let last = end == s.tokens.len();
            step.sequences.push(SeqStep {
                tokens: s.tokens[s.computed..end].to_vec(),
                start: s.computed,
                pages: s.pages.clone(),
                want: if last { Want::Token(Sampling { position, ..s.sampling }) } else { Want::Nothing },
            });
        }
        Plan { step, ids: planned.iter().map(|p| p.0).collect() }
    }

    /// Takes the result of a planned step. Sequences with a new token go on until they are removed.
    pub fn done(&mut self, plan: &Plan, output: StepOutput) -> Vec<(SeqId, Progress)> {
        let mut progress = Vec::new();
        for ((id, part), result) in plan.ids.iter().zip(&plan.step.sequences).zip(output.sequences) {
            // removed while the step ran
            let Some(sequence) = self.running.iter_mut().find(|s| s.id == *id) else { continue };
            sequence.computed += part.tokens.len();
            sequence.hash_full_pages();
            let full = (sequence.computed / PAGE_TOKENS).min(sequence.hashes.len());
            for (page, hash) in sequence.pages.iter().zip(&sequence.hashes[..full]) {
                self.pages.publish(*page, *hash);
            }
            match result {
                SeqOutput::Token(chosen) => {
                    sequence.tokens.push(chosen.token);
                    progress.push((*id, Progress::Token(chosen)));
                }
                SeqOutput::NotFinite => {
                    self.remove(*id);
                    progress.push((*id, Progress::NotFinite));
                }
                SeqOutput::Nothing | SeqOutput::Logits(_) | SeqOutput::Vector(_) => {}
            }
        }
        progress
    }
}

impl Sequence {
    fn hash_full_pages(&mut self) {
        for page in self.tokens.chunks_exact(PAGE_TOKENS).skip(self.hashes.len()) {
            let parent = self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(pages::chain(parent, page));
        }
    }
}

#[cfg(test)]
mod tests;
