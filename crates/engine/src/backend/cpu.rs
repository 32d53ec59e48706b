//! The CPU backend: packed weights, kernels for the best instruction set found at start, its own threads.
//!
//! All arithmetic is f32 with weights unpacked exactly; activations are never quantised. Every result depends
//! on its own row (and its sequence's keys) alone, in one fixed order, on every instruction set: see
//! `simd` and `linear`. So this backend has no other mode than the deterministic one.

mod attention;
mod cache;
mod exec;
mod linear;
mod rows;
mod simd;
mod team;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::exec::Machine;
use self::simd::Level;
use self::team::Team;
use super::{
    Backend, Facts, Footprint, Limits, LoadError, StepError, StepInput, StepOutput, Ticket, check_step,
};
use crate::program::Program;

/// Most threads of one backend: more do not pay on any machine without NUMA-aware weights.
pub const MAX_THREADS: usize = 256;

/// Runs programs on the processor.
pub struct CpuBackend {
    threads: usize,
    level: Level,
    loaded: Option<Loaded>,
}

/// The device thread and the way to it.
struct Loaded {
    program: Arc<Program>,
    limits: Limits,
    steps: Option<Sender<(Ticket, StepInput)>>,
    results: Receiver<(Ticket, Result<StepOutput, StepError>)>,
    /// Results that came while another ticket was polled.
    ready: BTreeMap<Ticket, Result<StepOutput, StepError>>,
    submitted: u64,
    received: u64,
    handle: Option<JoinHandle<()>>,
}

impl CpuBackend {
    /// A backend with `threads` computing threads; 0 = as many as the system says can run at once.
    pub fn new(threads: usize) -> CpuBackend {
        let available = thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { available } else { threads }.min(MAX_THREADS);
        CpuBackend { threads, level: Level::detect(), loaded: None }
    }

    #[cfg(test)]
    pub(crate) fn with_each_level(threads: usize) -> Vec<CpuBackend> {
        Level::available().into_iter().map(|level| CpuBackend { threads, level, loaded: None }).collect()
    }
}

impl Backend for CpuBackend {
    fn facts(&self) -> Facts {
        Facts { name: "cpu", instructions: self.level.name(), threads: self.threads }
    }

    fn load(&mut self, program: Arc<Program>, limits: &Limits) -> Result<Footprint, LoadError> {
        if self.loaded.is_some() {
            return Err(LoadError::Occupied);
        }
        let no_threads = |e: std::io::Error| LoadError::Threads(e.to_string());
        let team = Team::new(self.threads).map_err(no_threads)?;
        let machine = Machine::new(program.clone(), limits, self.level, team)?;
        let footprint = machine.footprint();
        let (steps, inbox) = mpsc::channel();
        let (outbox, results) = mpsc::channel();
        let handle = thread::Builder::new()
            .name("engine-cpu-0".into())
            .spawn(move || serve(machine, &inbox, &outbox))
            .map_err(no_threads)?;
        self.loaded = Some(Loaded {
            program,
            limits: *limits,
            steps: Some(steps),
            results,
            ready: BTreeMap::new(),
            submitted: 0,
            received: 0,
            handle: Some(handle),
        });
        Ok(footprint)
    }

    fn submit(&mut self, step: StepInput) -> Result<Ticket, StepError> {
        let loaded = self.loaded.as_mut().ok_or_else(|| StepError::Invalid("no model is loaded".into()))?;
        check_step(&loaded.program, &loaded.limits, &step)?;
        let ticket = Ticket(loaded.submitted);
        let gone = || StepError::Device("its thread has ended".into());
        loaded.steps.as_ref().ok_or_else(gone)?.send((ticket, step)).map_err(|_| gone())?;
        loaded.submitted += 1;
        Ok(ticket)
    }

    fn poll(&mut self, ticket: Ticket, patience: Duration) -> Option<Result<StepOutput, StepError>> {
        let unknown = Some(Err(StepError::UnknownTicket(ticket)));
        let Some(loaded) = self.loaded.as_mut().filter(|l| ticket.0 < l.submitted) else { return unknown };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(result) = loaded.ready.remove(&ticket) {
                return Some(result);
            }
            if ticket.0 < loaded.received {
                return unknown; // results come in order: this one was handed out
            }
            match loaded.results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((done, result)) => {
                    loaded.ready.insert(done, result);
                    loaded.received += 1;
                }
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err(StepError::Device("its thread has ended".into())));
                }
            }
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.steps = None; // ends the device thread
        if let Some(handle) = self.handle.take() {
            let _ = handle.join(); // its panics were answered as StepError::Device
        }
    }
}

/// The device thread: runs steps until nobody can submit any more.
fn serve(
    mut machine: Machine,
    inbox: &Receiver<(Ticket, StepInput)>,
    outbox: &Sender<(Ticket, Result<StepOutput, StepError>)>,
) {
    while let Ok((ticket, step)) = inbox.recv() {
        let result = catch_unwind(AssertUnwindSafe(|| machine.step(&step)));
        let failed = result.is_err();
        let result = result.map_err(|_| StepError::Device("a kernel panicked; see the error output".into()));
        if outbox.send((ticket, result)).is_err() || failed {
            return; // nobody listens, or the buffers are in an unknown state
        }
    }
}
