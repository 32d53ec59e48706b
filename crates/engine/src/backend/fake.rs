//! A backend without arithmetic, for exact tests of paging and for scenarios: its cache holds the token ids themselves,
//! and what it "chooses" is a hash of the ids it reads back through the pages.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Backend, Facts, Footprint, Limits, LoadError, PAGE_TOKENS, SeqOutput, StepError, StepInput, StepOutput,
    Ticket, Want, check_step,
};
use crate::program::Program;
use crate::sample::Chosen;

/// The next token after a history.
pub(crate) fn next_token(history: &[u32], vocab: usize) -> u32 {
    let bytes: Vec<u8> = history.iter().flat_map(|t| t.to_le_bytes()).collect();
    let hash = blake3::hash(&bytes);
    (u32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], 0]) as usize % vocab)
        as u32
}

/// What a prompt must be continued with.
#[cfg(test)]
pub(crate) fn continuation(prompt: &[u32], count: usize, vocab: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        history.push(next_token(&history, vocab));
    }
    history.split_off(prompt.len())
}

/// A backend whose next token follows from those before it by a hash. A step that breaks the rules of paging, which its
/// scheduler must keep, panics: finding that is what it is for.
#[derive(Default)]
pub struct FakeBackend {
    loaded: Option<(Arc<Program>, Limits)>,
    /// Token by page and slot; `None` = never written.
    cache: Vec<[Option<u32>; PAGE_TOKENS]>,
    results: BTreeMap<Ticket, StepOutput>,
    steps: u64,
}

impl Backend for FakeBackend {
    fn facts(&self) -> Facts {
        Facts { name: "fake", instructions: "none", threads: 1 }
    }

    fn load(&mut self, program: Arc<Program>, limits: &Limits) -> Result<Footprint, LoadError> {
        self.cache = vec![[None; PAGE_TOKENS]; limits.pages];
        self.loaded = Some((program, *limits));
        Ok(Footprint { weights: 0, cache: 0, buffers: 0 })
    }

    fn submit(&mut self, step: StepInput) -> Result<Ticket, StepError> {
        let (program, limits) = self.loaded.as_ref().expect("loaded");
        check_step(program, limits, &step)?;
        let mut written = HashSet::new();
        for seq in &step.sequences {
            for (position, &token) in (seq.start..).zip(&seq.tokens) {
                let at = (seq.pages[position / PAGE_TOKENS].0 as usize, position % PAGE_TOKENS);
                assert!(written.insert(at), "two sequences write page {} slot {}", at.0, at.1);
                self.cache[at.0][at.1] = Some(token);
            }
        }
        let mut sequences = Vec::new();
        for seq in &step.sequences {
            let end = seq.start + seq.tokens.len();
            let read = |p: usize| self.cache[seq.pages[p / PAGE_TOKENS].0 as usize][p % PAGE_TOKENS];
            let history: Vec<u32> = (0..end).map(|p| read(p).expect("a page that was written")).collect();
            sequences.push(match seq.want {
                Want::Token(_) => {
                    SeqOutput::Token(Chosen { token: next_token(&history, program.vocab), logprobs: None })
                }
                _ => SeqOutput::Nothing,
            });
        }
        let ticket = Ticket(self.steps);
        self.steps += 1;
        self.results.insert(ticket, StepOutput { sequences });
        Ok(ticket)
    }

    fn poll(&mut self, ticket: Ticket, _: Duration) -> Option<Result<StepOutput, StepError>> {
        Some(self.results.remove(&ticket).ok_or(StepError::UnknownTicket(ticket)))
    }
}
