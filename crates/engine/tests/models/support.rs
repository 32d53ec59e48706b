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
