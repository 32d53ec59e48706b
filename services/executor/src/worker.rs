//! The child that owns the device: it loads models, reads what to compute from its standard input and writes what came
//! of it to its standard output. It knows nothing of leases, prices or the network.

mod answer;
mod calls;
mod digest;
mod outbox;

use std::fs::File;
use std::io::{self, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail};
use holmes_engine::backend::cpu::CpuBackend;
use holmes_engine::run::{Engine, Model, Options};
use holmes_engine::text::Text;
use holmes_proto::inference::v1::{ToWorker, WorkerModel, WorkerReady, from_worker, to_worker};

use crate::pipe;
use calls::Calls;
use outbox::Outbox;

/// How much a worker may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerOptions {
    /// Computing threads, all models together; 0 for as many as the system can run at once.
    pub threads: usize,
    /// Longest sequence of each model, tokens; 0 for the model's own.
    pub context: usize,
    /// Tokens of each model's key-value cache, all calls together; 0 for one sequence of the longest context.
    pub cache_tokens: usize,
}

/// A model that is loaded.
struct Loaded {
    name: String,
    engine: Engine,
    text: Arc<Text>,
    digest: [u8; 32],
}

/// Loads the models and computes what standard input asks until it ends; what runs then is finished. Talk goes to
/// standard error, also that of libraries: standard output carries messages and nothing else.
///
/// # Errors
/// A model cannot be loaded; standard input carries something else than messages; standard output is closed.
pub fn worker_main(models: Vec<(String, PathBuf)>, options: WorkerOptions) -> Result<()> {
    let out = own_stdout().context("standard output cannot be set apart")?;
    let models = load(&models, options)?;
    let outbox = Arc::new(Outbox::default());
    outbox.announce(ready(&models));
    let writer = {
        let outbox = outbox.clone();
        thread::Builder::new().name("writer".into()).spawn(move || write_all(&outbox, out))?
    };
    let calls = Calls::new(models, outbox.clone());
    let read = read_all(&calls);
    calls.finish();
    outbox.close();
    let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    read.context("standard input carries something else than messages")?;
    written.context("standard output is closed")
}

/// Takes standard output for messages alone: what anything else prints from now on goes to standard error.
fn own_stdout() -> io::Result<File> {
    let out = rustix::io::dup(io::stdout())?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(File::from(out))
}

fn load(models: &[(String, PathBuf)], options: WorkerOptions) -> Result<Vec<Loaded>> {
    if models.is_empty() {
        bail!("a worker needs a model: --model NAME=PATH");
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = if options.threads == 0 { cores } else { options.threads };
    // engines compute at the same time: each gets its part, so that they do not take turns on the cores
    let each = (threads / models.len()).max(1);
    let engine = Options {
        threads: each,
        context: options.context,
        cache_tokens: options.cache_tokens,
        ..Options::default()
    };
    let mut loaded: Vec<Loaded> = Vec::new();
    for (name, path) in models {
        if loaded.iter().any(|other| other.name == *name) {
            bail!("the model {name} is given twice");
        }
        loaded.push(
            load_one(name, path, engine).with_context(|| format!("the model {name} cannot be loaded"))?, // the cause names the path
        );
    }
    Ok(loaded)
}

fn load_one(name: &str, path: &Path, options: Options) -> Result<Loaded> {
    let digest = digest::of(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let model = Model::open(path)?;
    let text = model.text.clone();
    let engine = Engine::start(model, Box::new(CpuBackend::new(options.threads)), options)?;
    Ok(Loaded { name: name.to_owned(), engine, text, digest })
}

fn ready(models: &[Loaded]) -> WorkerReady {
    let model = |loaded: &Loaded| {
        let card = loaded.engine.card();
        let device = &card.backend;
        WorkerModel {
            name: loaded.name.clone(),
            generates: card.generates,
            context: u32::try_from(card.context).unwrap_or(u32::MAX),
            chat: card.chat,
            digest: loaded.digest.to_vec().into(),
            device: format!("{} {}, {} threads", device.name, device.instructions, device.threads),
        }
    };
    WorkerReady { models: models.iter().map(model).collect() }
}

fn read_all(calls: &Calls) -> io::Result<()> {
    let mut input = BufReader::new(io::stdin().lock());
    while let Some(message) = pipe::read::<ToWorker>(&mut input)? {
        match message.message {
            Some(to_worker::Message::Start(start)) => calls.start(start.call, start.work.unwrap_or_default()),
            Some(to_worker::Message::Cancel(cancel)) => calls.cancel(cancel.call),
            None => eprintln!("a message of another version was ignored"),
        }
    }
    Ok(())
}

fn write_all(outbox: &Outbox, mut out: File) -> io::Result<()> {
    while let Some(message) = outbox.next() {
        let message = holmes_proto::inference::v1::FromWorker { message: Some(message) };
        if let Err(why) = pipe::write(&mut out, &message) {
            outbox.close(); // nobody listens any more: what still runs ends
            return Err(why);
        }
    }
    if outbox.is_broken() {
        // the reader waits for input that may never come: the end of the process is what the agent waits for
        eprintln!("the device has failed: the worker ends");
        std::process::exit(1);
    }
    Ok(())
}

/// A message of a worker, without its envelope.
type Said = from_worker::Message;
