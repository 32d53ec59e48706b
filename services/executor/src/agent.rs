//! The agent: it keeps a worker and a node's state, attaches to its gateway, and attaches again when the stream breaks.

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::SigningKey;
use holmes_kernel::Id;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::attach::{Detached, attach};
use crate::backoff::Backoff;
use crate::device::{Device, WorkerCommand};
use crate::pinned::Pinned;
use crate::receipts::Receipts;

/// Most calls that a node computes at a time.
const MOST_SLOTS: u32 = 1_024;
/// Most models that a node offers (`Capabilities.models`).
const MOST_MODELS: usize = 16;
/// Bytes that may wait on the stream. The receiver of HTTP/2 ends a connection on which too many small frames wait: more
/// than would fill half of the connection's window with 256 bytes each. So that is made larger.
const STREAM_WINDOW: u32 = 1 << 16;
/// An attachment that has lasted so long was well: the next pause is short again.
const WELL_AFTER: Duration = Duration::from_secs(5);

/// What an operator says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the gateway is: `http://host:port`, or `host:port`.
    pub join: String,
    /// The node's key.
    pub key: SigningKey,
    /// Models by name, and where each lies: as the worker's command names them too.
    pub models: Vec<(String, PathBuf)>,
    /// Calls that are computed at the same time: 1 to 1,024.
    pub slots: u32,
    /// Hardware class, as claimed: "cpu", "4090".
    pub hardware: String,
    /// Region, as claimed; empty for unknown.
    pub region: String,
    /// Where receipts and what is known of scheduling are kept. One process at a time uses it.
    pub state_dir: PathBuf,
    /// How the worker is started.
    pub worker: WorkerCommand,
    /// The key that leases must be signed with; without it the first one that a gateway tells is kept.
    pub pin: Option<[u8; 32]>,
    /// How long calls in progress may take when the node stops.
    pub drain: Duration,
}

/// A node between its attachments.
pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) endpoint: Endpoint,
    pub(crate) id: Id,
    /// What tells this process from another one with the same key.
    pub(crate) instance: [u8; 16],
    pub(crate) device: Arc<Device>,
    pub(crate) receipts: Receipts,
    pub(crate) pinned: Pinned,
    /// Whether a gateway has ever taken it: what is refused then may be taken again.
    pub(crate) attached_before: bool,
    _lock: File,
}

/// Runs a node until `stop` says so: calls in progress end within the drain time, and the gateway is told.
///
/// # Errors
/// The options are wrong; the worker cannot load its models; the state cannot be used; the gateway refuses the node when
/// it attaches for the first time; another process attaches with the node's key. Each says what to do. A gateway that cannot be reached is no error: it is tried for
/// ever.
pub async fn run(options: Options, mut stop: watch::Receiver<bool>) -> Result<()> {
    let (url, endpoint) = check(&options)?;
    let options = Options { join: url, ..options };
    let lock = lock(&options.state_dir)?;
    let receipts = Receipts::open(&options.state_dir)?;
    let pinned = Pinned::open(&options.state_dir)?;
    tracing::info!(models = options.models.len(), "loading models");
    let device = tokio::select! {
        device = Device::start(options.worker.clone()) => Arc::new(device?),
        () = stopped(&mut stop) => return Ok(()),
    };
    let id = Id::of_key(&options.key.verifying_key().to_bytes());
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).context("the system gives no randomness")?;
    let attached_before = false;
    let mut node =
        Node { options, endpoint, id, instance, device, receipts, pinned, attached_before, _lock: lock };
    let mut backoff = Backoff::new();
    loop {
        let mut served = node.device.served();
        tokio::select! {
            worker = served.wait_for(Option::is_some) => drop(worker.context("the worker's supervisor ended")?),
            () = stopped(&mut stop) => return Ok(()),
        }
        let began = Instant::now();
        let detached = attach(&mut node, &mut stop).await;
        if began.elapsed() > WELL_AFTER {
            backoff.reset();
        }
        let pause = backoff.pause();
        match detached {
            Detached::Stopped => return Ok(()),
            Detached::Superseded(why) => return Err(why),
            Detached::Refused(why) if !node.attached_before => return Err(why),
            Detached::Again => tracing::info!(?pause, "attaching again"),
            Detached::Refused(why) | Detached::Lost(why) => {
                tracing::warn!(
                    gateway = node.options.join,
                    why = format!("{why:#}"),
                    ?pause,
                    "not attached; trying again"
                );
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stop) => return Ok(()),
        }
    }
}

/// Waits until the node shall stop, or nobody can tell it any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await; // an error means that everything is going down
}

/// Refuses what cannot work, before models are loaded; the gateway's URL in full.
fn check(options: &Options) -> Result<(String, Endpoint)> {
    let url = holmes_proto::address::url(&options.join, "http://gateway.example:7070")?;
    let endpoint = Endpoint::from_shared(url.clone())?;
    if !(1..=MOST_SLOTS).contains(&options.slots) {
        bail!("{} slots: a node computes 1 to {MOST_SLOTS} calls at a time", options.slots);
    }
    if options.models.is_empty() || options.models.len() > MOST_MODELS {
        bail!("{} models: a node serves 1 to {MOST_MODELS}", options.models.len());
    }
    for (name, path) in &options.models {
        if !path.exists() {
            bail!(
                "the model {name} is not at {}: a model is a GGUF file, or a directory with model.gguf or with a Hugging \
                 Face model",
                path.display()
            );
        }
    }
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(16 * STREAM_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    Ok((url, endpoint))
}

/// Makes the state's directory this process's own.
fn lock(dir: &std::path::Path) -> Result<File> {
    let whole = || format!("the state directory {} cannot be used", dir.display());
    fs::create_dir_all(dir).with_context(whole)?;
    let file = File::create(dir.join("lock")).with_context(whole)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another executor uses {}: give each node a state directory of its own (--state)",
            dir.display()
        ),
        Err(TryLockError::Error(why)) => Err(why).with_context(whole),
    }
}
