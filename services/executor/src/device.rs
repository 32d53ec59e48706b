//! The worker as the agent sees it: a child process that is started, watched, and started again when it dies.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holmes_proto::inference::v1::{
    CancelWork, FromWorker, Output, StartWork, ToWorker, Work, WorkerModel, from_worker, output, to_worker,
};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::pipe;
use crate::refusal::Refusal;

/// Outputs of a call that wait in the agent; more wait in the worker.
const MOST_WAITING: usize = 64;
/// Lines of the worker's talk that an error tells.
const LAST_LINES: usize = 12;
/// How long a worker that fails may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A worker that has lived so long was well: the next pause is short again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// How a worker is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program; as a rule this one.
    pub program: PathBuf,
    /// What it is told, models included.
    pub args: Vec<OsString>,
    /// How long it may take to load its models.
    pub ready_within: Duration,
}

/// What a worker has said of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    /// Tokens of its prompt.
    Read(u64),
    /// An output.
    Output(output::Output),
}

/// What a worker serves; nothing while there is none.
pub(crate) type Served = Option<Arc<Vec<WorkerModel>>>;

/// The worker. Dropping it kills the child.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    served: watch::Receiver<Served>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    link: Mutex<Link>,
    talk: Mutex<VecDeque<String>>,
}

/// The child's standard input, and the calls that it computes.
#[derive(Debug, Default)]
struct Link {
    /// Holds two messages a call at most, and calls have their slots.
    input: Option<mpsc::UnboundedSender<ToWorker>>,
    calls: BTreeMap<u64, mpsc::Sender<Said>>,
}

impl Device {
    /// Starts the worker and waits until it has loaded its models.
    ///
    /// # Errors
    /// It cannot be started, ends, or takes too long: with the last lines of what it said.
    pub async fn start(command: WorkerCommand) -> Result<Device> {
        let shared = Arc::new(Shared::default());
        let (serves, served) = watch::channel(None);
        let (first, started) = oneshot::channel();
        let task = tokio::spawn(supervise(command, shared.clone(), serves, first));
        let device = Device { shared, served, task };
        started.await.context("the worker's supervisor ended")??;
        Ok(device)
    }

    /// What is served, and every change of it.
    pub(crate) fn served(&self) -> watch::Receiver<Served> {
        self.served.clone()
    }

    /// Begins a call.
    ///
    /// # Errors
    /// `DEVICE_LOST`: there is no worker at the moment.
    pub(crate) fn begin(&self, work: Work) -> Result<Computation, Refusal> {
        let call = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (says, said) = mpsc::channel(MOST_WAITING);
        let mut link = self.shared.link();
        let input = link.input.clone().ok_or_else(lost)?;
        link.calls.insert(call, says);
        let start = StartWork { call, work: Some(work) };
        // a child that is dying has a supervisor that ends its calls
        let _ = input.send(ToWorker { message: Some(to_worker::Message::Start(start)) });
        drop(link);
        Ok(Computation { call, said, shared: self.shared.clone() })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort(); // the child is killed when its handle is dropped
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The child is gone, and its calls with it.
    fn unlink(&self) {
        let calls = {
            let mut link = self.link();
            link.input = None;
            std::mem::take(&mut link.calls)
        };
        drop(calls); // who reads them sees the end without a last output
    }

    fn hear(&self, line: String) {
        tracing::info!(target: "holmes::worker", "{line}");
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        if talk.len() == LAST_LINES {
            talk.pop_front();
        }
        talk.push_back(line);
    }

    fn last_lines(&self) -> String {
        let talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        if talk.is_empty() { "it said nothing".into() } else { Vec::from(talk.clone()).join("\n  ") }
    }
}

/// What a call ends with when its device is lost.
pub(crate) fn lost() -> Refusal {
    Refusal::here(
        "DEVICE_LOST",
        "the node's device was lost; it is started again: try another node meanwhile",
    )
}

/// A call that the worker computes. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Computation {
    call: u64,
    said: mpsc::Receiver<Said>,
    shared: Arc<Shared>,
}

impl Computation {
    /// What the worker says next; `None` after the last, and when the worker is lost.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        self.said.recv().await
    }
}

impl Drop for Computation {
    fn drop(&mut self) {
        let mut link = self.shared.link();
        if link.calls.remove(&self.call).is_some()
            && let Some(input) = &link.input
        {
            let cancel = CancelWork { call: self.call };
            let _ = input.send(ToWorker { message: Some(to_worker::Message::Cancel(cancel)) }); // as in begin
        }
    }
}

/// Keeps a worker running. The first start must succeed; later ones are tried for ever.
async fn supervise(
    command: WorkerCommand,
    shared: Arc<Shared>,
    serves: watch::Sender<Served>,
    first: oneshot::Sender<Result<()>>,
) {
    let mut first = Some(first);
    let mut backoff = Backoff::new();
    loop {
        let began = Instant::now();
        let ended = match start(&command, &shared).await {
            Err(why) => match first.take() {
                Some(first) => return drop(first.send(Err(why))),
                None => why,
            },
            Ok((mut child, models, output)) => {
                tracing::info!(pid = child.id(), models = models.len(), "the worker is ready");
                serves.send_replace(Some(Arc::new(models)));
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(())); // nobody waits: the device was dropped
                }
                let why = listen(&shared, output).await;
                shared.unlink();
                serves.send_replace(None);
                let _ = child.kill().await; // it is dead already, or says what nobody understands
                why
            }
        };
        if began.elapsed() > WELL_AFTER {
            backoff.reset();
        }
        let pause = backoff.pause();
        tracing::error!(why = format!("{ended:#}"), ?pause, "the worker is lost; it is started again");
        tokio::time::sleep(pause).await;
    }
}

/// Starts a child and waits for its first message.
async fn start(
    command: &WorkerCommand,
    shared: &Arc<Shared>,
) -> Result<(Child, Vec<WorkerModel>, BufReader<ChildStdout>)> {
    shared.talk.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0) // Ctrl-C at a terminal is for the agent, whose calls shall end in good order
        .spawn()
        .with_context(|| format!("the worker {} cannot be started", command.program.display()))?;
    let (Some(input), Some(output), Some(talk)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("the worker has no pipes");
    };
    let talk = tokio::spawn(listen_to_talk(shared.clone(), talk));
    let mut output = BufReader::new(output);
    let patience = command.ready_within;
    let models = match tokio::time::timeout(patience, pipe::read_async::<FromWorker>(&mut output)).await {
        Ok(Ok(Some(FromWorker { message: Some(from_worker::Message::Ready(ready)) }))) => ready.models,
        other => {
            let why = match other {
                Err(_) => format!("the worker was not ready within {} s", patience.as_secs()),
                Ok(Err(why)) => format!("the worker said what is no message ({why})"),
                Ok(Ok(Some(_))) => "the worker did not say first that it is ready".into(),
                Ok(Ok(None)) => "the worker ended before it was ready".into(),
            };
            // one that ends by itself says why first
            if tokio::time::timeout(LAST_WORDS, child.wait()).await.is_err() {
                let _ = child.kill().await; // it may have ended meanwhile
            }
            let _ = tokio::time::timeout(LAST_WORDS, talk).await; // what it said is on its way
            bail!("{why}; its last words:\n  {}", shared.last_lines());
        }
    };
    let (sends, messages) = mpsc::unbounded_channel();
    tokio::spawn(speak(input, messages));
    shared.link().input = Some(sends);
    Ok((child, models, output))
}

/// Writes what the worker is told, until it is gone or nobody tells it anything.
async fn speak(mut input: ChildStdin, mut messages: mpsc::UnboundedReceiver<ToWorker>) {
    while let Some(message) = messages.recv().await {
        let bytes = prost::Message::encode_length_delimited_to_vec(&message);
        if input.write_all(&bytes).await.is_err() {
            return; // its output ends too, and that is seen
        }
    }
}

async fn listen_to_talk(shared: Arc<Shared>, talk: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(talk).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        shared.hear(line);
    }
}

/// Hands on what the worker says until it ends; why it did.
async fn listen(shared: &Shared, mut output: BufReader<ChildStdout>) -> anyhow::Error {
    loop {
        let (call, said) = match pipe::read_async::<FromWorker>(&mut output).await {
            Err(why) => return anyhow::Error::new(why).context("the worker's output broke"),
            Ok(None) => {
                return anyhow::anyhow!("the worker ended; its last words:\n  {}", shared.last_lines());
            }
            Ok(Some(FromWorker { message: Some(from_worker::Message::Read(read)) })) => {
                (read.call, Said::Read(read.input_tokens))
            }
            Ok(Some(FromWorker { message: Some(from_worker::Message::Output(out)) })) => {
                let Some(Output { output: Some(output) }) = out.output else { continue };
                (out.call, Said::Output(output))
            }
            Ok(Some(_)) => continue,
        };
        let last = matches!(&said, Said::Output(output) if !matches!(output, output::Output::Tokens(_)));
        let says = {
            let mut link = shared.link();
            if last { link.calls.remove(&call) } else { link.calls.get(&call).cloned() }
        };
        // A call that waits for its reader makes the others wait: they have the same one, the node's stream.
        if let Some(says) = says {
            let _ = says.send(said).await; // who has gone has cancelled
        }
    }
}
