//! What a process runs, whether it is the whole cell or one process of several.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holmes_runtime::auth::Network;
use holmes_runtime::config::Config;
use holmes_runtime::recover::Extent;
use holmes_runtime::relay::relay;
use holmes_runtime::replay::{Log, Rebuild, StateAt};
use holmes_runtime::server::Services;
use holmes_runtime::{Clock, Feed, Reach, Status, Tls};
use holmes_store::{Bus, Journal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::data;
use crate::edge::Edge;
use crate::keyring::Keyring;
use crate::roles::{Replayed, Role};

pub(super) type Ending = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What both kinds of processes are started with.
pub(super) struct Given<'a> {
    pub config: &'a Config,
    pub roles: &'a [Role],
    pub with_gateway: bool,
    /// Whether staff's key shall lie beside the logs.
    pub with_staff: bool,
    pub bus: Option<Bus>,
    pub network: Network,
    pub tls: Option<Tls>,
    pub clock: Clock,
}

/// What runs.
pub(super) struct Running {
    /// The gRPC services of the roles.
    pub services: Services,
    /// Their logs, for the Replay API.
    pub logs: Vec<Log>,
    /// How their machines are.
    pub statuses: Vec<(&'static str, watch::Receiver<Status>)>,
    pub keyring: Arc<Keyring>,
    pub edge: Option<Edge>,
    /// Where the other processes are.
    pub reach: Option<Reach>,
    /// Whether staff's key lies beside the logs.
    pub with_staff: bool,
    /// Lets other processes take the logs over, where there are others.
    pub hand_over: Box<dyn FnOnce() -> Ending>,
    /// Lets what is queued become durable. Nobody calls any more.
    pub end: Box<dyn FnOnce() -> Ending>,
}

/// A role's log for the Replay API, while `feed` has one.
pub(super) fn replayed(
    role: &Role,
    feed: watch::Receiver<Option<Feed>>,
    journal: &Journal,
    cell: u16,
) -> Log {
    let (name, role, journal) = (role.name, role.clone(), journal.clone());
    let rebuild: Rebuild = Arc::new(move |upto| {
        let (role, journal) = (role.clone(), journal.clone());
        Box::pin(async move {
            let replayed = role.replay(journal, cell, Extent { upto, snapshots: true }).await;
            let Replayed { seq, digest, state, .. } =
                replayed.map_err(|why| format!("{:#}", data::named(why)))?;
            let state = state.map_err(|why| why.to_string())?;
            Ok(StateAt { seq, digest, json: state.to_string().into_bytes() })
        })
    });
    Log { name, feed, rebuild }
}

/// How long a stream may take to catch up when its log's owner ends; the next one carries on what is left.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The task that carries a log.
pub(crate) struct Relay(JoinHandle<()>);

impl Relay {
    /// Carries a log for as long as its owner runs.
    pub(crate) fn of(feed: &Feed, bus: &Bus, clock: &Clock) -> Relay {
        Relay(tokio::spawn(relay(feed.clone(), bus.clone(), clock.clone())))
    }

    /// Lets it carry what is durable. The owner has ended.
    pub(crate) async fn end(mut self) {
        if tokio::time::timeout(CATCH_UP, &mut self.0).await.is_err() {
            tracing::warn!("a stream is behind its log; the next process carries it on");
            self.0.abort();
        }
    }
}
