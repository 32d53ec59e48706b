//! What the integration tests share: where real models lie, and steps by hand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::backend::{Backend, Limits, PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, Want};
use holmes_engine::run::Model;

/// The directory of a real model; `None`, after one loud line, where it is absent and not required.
pub(crate) fn model_dir(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("HOLMES_MODELS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/models"),
    };
    let dir = root.join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    let message = format!(
        "NOT TESTED: the model {name} is not at {}; fetch it with `cargo xtask models`, or set HOLMES_MODELS",
        dir.display()
    );
    assert!(std::env::var_os("HOLMES_REQUIRE_MODELS").is_none_or(|v| v != "1"), "{message}");
    eprintln!("{message}");
    None
}

/// Opens a model and loads it on the CPU.
pub(crate) fn load(dir: &Path, limits: Limits) -> (Model, CpuBackend) {
    let model = Model::open(dir).unwrap();
    let mut backend = CpuBackend::new(0);
    backend.load(model.program.clone(), &limits).unwrap();
    (model, backend)
}

/// One sequence, with the pages 0, 1, 2 … of the cache.
pub(crate) struct Sequence {
    tokens: usize,
}

impl Sequence {
    pub(crate) fn new() -> Sequence {
        Sequence { tokens: 0 }
    }

    /// Runs tokens after those already run; the result of the last.
    pub(crate) fn run(&mut self, backend: &mut CpuBackend, tokens: &[u32], want: Want) -> SeqOutput {
        let (start, end) = (self.tokens, self.tokens + tokens.len());
        let pages = (0..end.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
        self.tokens = end;
        step(backend, vec![SeqStep { tokens: tokens.to_vec(), start, pages, want }]).remove(0)
    }

    /// The logits after `tokens`, whose last one is run by itself.
    pub(crate) fn logits(&mut self, backend: &mut CpuBackend, tokens: &[u32]) -> Vec<f32> {
        let (last, before) = tokens.split_last().unwrap();
        if !before.is_empty() {
            self.run(backend, before, Want::Nothing);
        }
        match self.run(backend, &[*last], Want::Logits) {
            SeqOutput::Logits(logits) => logits,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs one step to its end.
pub(crate) fn step(backend: &mut CpuBackend, sequences: Vec<SeqStep>) -> Vec<SeqOutput> {
    let ticket = backend.submit(StepInput { sequences }).unwrap();
    backend.poll(ticket, Duration::from_secs(60)).expect("a step ends within a minute").unwrap().sequences
}

/// More than this and the arithmetic is wrong, not just rounded otherwise: the largest seen is 7e-5 for the stored
/// answers, of which 5e-5 is the rounding of their numbers, and 1.3e-4 beside candle after a prompt of 556.
pub(crate) const LOGIT_ERROR_LIMIT: f32 = 0.01;

/// The two largest logits: (token, margin).
pub(crate) fn best(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.select_nth_unstable_by(1, |&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0] as u32, logits[order[0]] - logits[order[1]])
}

/// Two programs that round otherwise may choose another token where the two best logits are close. So a token must be
/// the oracle's where the oracle's margin is four times the largest difference of a first logit, and nearly all must
/// be so decided.
pub(crate) struct MarginRule {
    error: f32,
    decided: usize,
    all: usize,
}

impl MarginRule {
    /// The rule where first logits differ by as much as `error`.
    pub(crate) fn new(error: f32) -> MarginRule {
        assert!(error < LOGIT_ERROR_LIMIT, "largest error of a first logit: {error}");
        MarginRule { error, decided: 0, all: 0 }
    }

    /// Holds logits to the oracle's token and margin; whether the margin decided.
    pub(crate) fn hold(&mut self, logits: &[f32], token: u32, margin: f32, place: &str) -> bool {
        self.all += 1;
        if margin < 4.0 * self.error {
            return false;
        }
        self.decided += 1;
        let (ours, our_margin) = best(logits);
        assert_eq!(ours, token, "{place} (margin {margin})");
        assert!((our_margin - margin).abs() < 2.0 * LOGIT_ERROR_LIMIT, "{place}: {our_margin} for {margin}");
        true
    }

    /// Says how much was decided, and fails where that was too little to mean anything.
    pub(crate) fn close(self) {
        let MarginRule { error, decided, all } = self;
        println!(
            "largest error of a first logit {error:.1e}; {decided} of {all} tokens decided by their margin"
        );
        assert!(decided * 10 > all * 9, "{decided} of {all} tokens decided: the rule hardly tests anything");
    }
}
