use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::backend::cpu::CpuBackend;
use crate::backend::fake::{FakeBackend, continuation};
use crate::backend::{Backend, Limits};
use crate::config::{Naming, Spec};
use crate::format::Dtype;
use crate::program::Program;
use crate::testkit::{Random, decoder, decoder_tensors};

const VOCAB: usize = 259;

fn program() -> Arc<Program> {
    let d = decoder(Naming::Gguf, 32, true, false);
    let tensors = decoder_tensors(&d, Dtype::Q4_1, 6);
    Arc::new(Program::build(&Spec::Decoder(d), tensors).unwrap())
}

/// A scheduler on a backend, and what each sequence got.
struct Bench<B> {
    backend: B,
    scheduler: Scheduler,
    wanted: HashMap<SeqId, usize>,
    got: HashMap<SeqId, Vec<u32>>,
}

impl<B: Backend> Bench<B> {
    fn new(mut backend: B, budget: Budget) -> Bench<B> {
        let limits = Limits {
            step_tokens: budget.step_tokens,
            step_sequences: budget.running,
            step_outputs: budget.running,
            pages: budget.pages,
        };
        backend.load(program(), &limits).unwrap();
        Bench { backend, scheduler: Scheduler::new(budget), wanted: HashMap::new(), got: HashMap::new() }
    }

    fn add(&mut self, prompt: &[u32], count: usize, sampling: Sampling, tenant: &[u8]) -> SeqId {
        assert!(self.scheduler.fits(prompt.len() + count));
        let id = self.scheduler.add(prompt.to_vec(), sampling, tenant);
        self.wanted.insert(id, count);
        self.got.insert(id, Vec::new());
        id
    }

    /// One step; false if there was nothing to do. The tokens that were computed.
    fn step(&mut self) -> Option<usize> {
        let plan = self.scheduler.plan()?;
        let ticket = self.backend.submit(plan.step.clone()).unwrap();
        let output = self.backend.poll(ticket, Duration::from_secs(60)).unwrap().unwrap();
        for (id, progress) in self.scheduler.done(&plan, output) {
            let Progress::Token(chosen) = progress else { panic!("{progress:?}") };
            let got = self.got.get_mut(&id).unwrap();
            got.push(chosen.token);
            if got.len() == self.wanted[&id] {
                self.scheduler.remove(id);
            }
        }
        Some(plan.step.sequences.iter().map(|s| s.tokens.len()).sum())
    }

    /// Steps to the end; tokens computed.
    fn finish(&mut self) -> usize {
        let computed = std::iter::from_fn(|| self.step()).sum();
        assert_eq!(self.scheduler.load(), (0, 0));
        assert_eq!(self.scheduler.free_pages(), self.scheduler.budget.pages, "pages leaked");
        computed
    }
}

fn fake(budget: Budget) -> Bench<FakeBackend> {
    Bench::new(FakeBackend::default(), budget)
}

#[test]
fn every_sequence_gets_its_tokens_whatever_the_paging() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let budget = Budget {
            step_tokens: 1 + random.below(40),
            running: 1 + random.below(6),
            pages: 5 + random.below(12),
        };
        let mut bench = fake(budget);
        let mut expected = Vec::new();
        let shared = random.tokens(40, VOCAB);
        for _ in 0..12 {
            let mut prompt = shared[..random.below(40)].to_vec();
            let more = 1 + random.below(20);
            prompt.extend(random.tokens(more, VOCAB));
            let count = 1 + random.below(20);
            let id = bench.add(&prompt, count, Sampling::default(), b"");
            expected.push((id, continuation(&prompt, count, VOCAB)));
            for _ in 0..random.below(5) {
                bench.step();
            }
        }
        bench.finish();
        for (id, tokens) in expected {
            assert_eq!(bench.got[&id], tokens, "seed {seed}, {id:?}");
        }
    }
}

#[test]
fn a_shared_prefix_is_computed_once_for_a_tenant_and_never_across_tenants() {
    let budget = Budget { step_tokens: 64, running: 4, pages: 32 };
    let mut bench = fake(budget);
    let prompt = Random(1).tokens(50, VOCAB);
    bench.add(&prompt, 1, Sampling::default(), b"a");
    assert_eq!(bench.finish(), 50);
    let again = bench.add(&prompt, 2, Sampling::default(), b"a");
    bench.step();
    assert_eq!(bench.scheduler.cached_tokens(again), 48);
    assert_eq!(bench.finish(), 1);
    bench.add(&prompt[..48], 1, Sampling::default(), b"a");
    assert_eq!(bench.finish(), 16, "the last page is computed for its logits");
    bench.add(&prompt, 1, Sampling::default(), b"b");
    assert_eq!(bench.finish(), 50);
}

#[test]
fn prefixes_are_forgotten_when_their_pages_are_needed_the_longest_unused_first() {
    let mut bench = fake(Budget { step_tokens: 64, running: 1, pages: 6 });
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| Random(i).tokens(33, VOCAB)).collect();
    for prompt in &prompts {
        bench.add(prompt, 1, Sampling::default(), b"");
        bench.finish();
    }
    // the third took one page of the first, whose beginning is still of use
    for (prompt, computed) in [(&prompts[2], 1), (&prompts[1], 1), (&prompts[0], 17)] {
        bench.add(prompt, 1, Sampling::default(), b"");
        assert_eq!(bench.finish(), computed);
    }
}

#[test]
fn the_oldest_is_never_preempted_and_the_preempted_continue_exactly() {
    let mut bench = fake(Budget { step_tokens: 32, running: 3, pages: 6 });
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| Random(i).tokens(20, VOCAB)).collect();
    let ids: Vec<SeqId> = prompts.iter().map(|p| bench.add(p, 60, Sampling::default(), b"")).collect();
    let mut first_done = None;
    while bench.step().is_some() {
        let lengths: Vec<usize> = ids.iter().map(|id| bench.got[id].len()).collect();
        if lengths[0] == 60 {
            first_done.get_or_insert(lengths);
        }
    }
    assert!(bench.scheduler.preemptions() > 0, "the test must preempt");
    assert!(first_done.unwrap()[1..].iter().all(|&n| n < 60));
    for (id, prompt) in ids.iter().zip(&prompts) {
        assert_eq!(bench.got[id], continuation(prompt, 60, VOCAB));
    }
}

#[test]
fn decoding_goes_on_while_a_long_prompt_is_read_in_chunks() {
    let mut bench = fake(Budget { step_tokens: 16, running: 4, pages: 32 });
    let first = bench.add(&[1, 2, 3], 40, Sampling::default(), b"");
    bench.step();
    bench.add(&Random(2).tokens(100, VOCAB), 1, Sampling::default(), b"");
    for n in 1..=8 {
        assert!(bench.step().unwrap() <= 16);
        assert_eq!(bench.got[&first].len(), n + 1, "a decoding sequence moves in every step");
    }
    bench.finish();
}

#[test]
fn a_cancelled_sequence_frees_its_pages_before_the_next_step() {
    let mut bench = fake(Budget { step_tokens: 64, running: 4, pages: 8 });
    let ids: Vec<SeqId> =
        (0..3).map(|i| bench.add(&Random(i).tokens(40, VOCAB), 9, Sampling::default(), b"")).collect();
    bench.step();
    let free = bench.scheduler.free_pages();
    bench.scheduler.remove(ids[0]); // runs
    bench.scheduler.remove(ids[2]); // waits
    bench.scheduler.remove(SeqId(99)); // is not known
    assert!(bench.scheduler.free_pages() > free);
    bench.finish();
    assert_eq!(bench.got[&ids[1]], continuation(&Random(1).tokens(40, VOCAB), 9, VOCAB));
    assert!(bench.got[&ids[2]].is_empty());
}

#[test]
fn on_the_processor_batches_chunks_prefixes_and_preemption_change_no_token() {
    let sampling = |i: u64| match i % 2 {
        0 => Sampling::default(),
        _ => Sampling { temperature: 1.0, top_p: 0.95, seed: i, ..Sampling::default() },
    };
    let shared = Random(77).tokens(30, VOCAB);
    let prompt = |i: u64| [&shared[..], &Random(i).tokens(3 + i as usize, VOCAB)].concat();
    let mut alone = Vec::new();
    for i in 0..6 {
        let mut bench = Bench::new(CpuBackend::new(1), Budget { step_tokens: 96, running: 1, pages: 8 });
        let id = bench.add(&prompt(i), 30, sampling(i), b"");
        bench.finish();
        alone.push(bench.got.remove(&id).unwrap());
    }
    assert_ne!(alone[0], alone[1]);
    let mut bench = Bench::new(CpuBackend::new(2), Budget { step_tokens: 19, running: 5, pages: 11 });
    let ids: Vec<SeqId> = (0..6).map(|i| bench.add(&prompt(i), 30, sampling(i), b"")).collect();
    bench.finish();
    assert!(bench.scheduler.preemptions() > 0, "the test must preempt");
    for (id, alone) in ids.iter().zip(alone) {
        assert_eq!(bench.got[id], alone, "{id:?}");
    }
}
