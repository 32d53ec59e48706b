//! The gateway: the edge between renters and nodes. Renters call it by gRPC ([`Api`]) or as they would call OpenAI
//! ([`openai`]); nodes open a stream to it ([`Attach`]) and get their work over that. It holds no truth: sessions and
//! prices are the market's, leases and receipts scheduling's; what it loses when it dies is asked for again.
//!
//! **What is paid of a call that does not end**: when its node is lost, or the gateway stops and the drain time does not
//! suffice, as far as the node's last checkpoint: the gateway countersigns and reports it. When its session closes or
//! expires, or its lease is not renewed, the gateway hears of that within a second (`running`) and stops the call so
//! early that what the node signs then is still metered. When the gateway itself crashes, the last checkpoint that it has
//! countersigned and reported counts, at most a second old: only it knows what was delivered. Nodes keep receipts; a
//! gateway that has not delivered the call asks scheduling, and refuses for ever what that does not know either
//! (`NOT_DELIVERED_HERE`), so no receipt is sent for ever and no line is metered twice.
//! A call for vectors has no part that could be paid: when its renter leaves it goes on to its end and is billed; one that
//! outlasts its session's drain time is not.
//!
//! **A call** (`calls`): limits → what it can cost at most → session → lease → node → tokens to the renter → the node's
//! receipt, checked against what was delivered and countersigned → scheduling's log → the end with the receipt's name.
//! When a node is lost the call goes on at another one where the text stood; the seed is the gateway's, so it is the
//! same text.
//!
//! **What it vouches for**: a line that it countersigns never counts more tokens than it has delivered, or that were under
//! way when the renter left, and never more than their text has bytes, but for a few (`written`); no call runs
//! twice, also when the gateway has restarted since: scheduling knows the ids of calls as long as they can come; nobody pays more than the call's bound, which is said before the start; a text that spells a model's control
//! tokens reaches no node (`CONTROL_TEXT`).
//!
//! **Deliberately absent**: any state that must survive; queues without bound; a renter's text in logs or metrics.
//!
//! In reading order: `calls`, `calls/run`, `calls/written`, `calls/bill`, `calls/pace`, `calls/outcome`, `leases`, `shares`,
//! `running`, `sessions`, `nodes`, `nodes/room`, `nodes/attach`, `nodes/late`, `presence`, `reports`, `signed`, `price`,
//! `ask`, `limits`, `models`, `upstream`, `metrics`,
//! [`Settings`], then the doors `api`, [`openai`], `receipts`.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::gateway::v1::gateway_server::GatewayServer;
use holmes_proto::inference::v1::inference_server::InferenceServer;
use holmes_proto::scheduling::v1::{LeaseEnd, StartGatewayResponse};
use holmes_runtime::auth::{Keys, Network};
use holmes_runtime::{Clock, Peer};
use tokio::sync::watch;

mod api;
mod ask;
mod background;
mod calls;
mod leases;
mod limits;
mod metrics;
mod models;
mod nodes;
pub mod openai;
mod presence;
mod price;
mod receipts;
mod reports;
mod running;
mod sessions;
mod settings;
mod shares;
mod signed;
mod upstream;

pub use api::Api;
pub use metrics::FAMILIES;
pub use nodes::attach::Attach;
pub use receipts::Log;
pub use settings::Settings;

use leases::Leases;
use limits::Limits;
use metrics::Meters;
use models::Models;
use nodes::{Node, Nodes};
use presence::{Beats, Marks};
use reports::Reports;
use running::Running;
use sessions::Sessions;
use upstream::Upstream;

/// What a gateway is made of.
pub struct Deps {
    /// The cell's services, called as `Principal::new(PrincipalKind::Gateway, Id::of_key(public key))`.
    pub peer: Peer,
    /// What it countersigns calls with. Its public key must be registered as a gateway's.
    pub key: SigningKey,
    /// What signatures of nodes and the gateway's own are good for.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Who has which API key: for HTTP, where no layer in front has asked.
    pub keys: Arc<dyn Keys>,
    /// Scheduling's log, for receipts.
    pub receipts: Arc<dyn Log>,
    /// Limits and waits.
    pub settings: Settings,
}

/// A gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Edge>);

/// Makes a gateway. It serves once [`Gateway::run`] has told scheduling that it is there.
pub fn start(deps: Deps) -> Gateway {
    let Deps { peer, key, network, clock, keys, receipts, settings } = deps;
    let upstream = Upstream::new(peer, &settings);
    let nodes = Arc::new(Nodes::new(&settings));
    let (leased, reported) = (upstream.clone(), upstream.clone());
    let running = Arc::new(Running::new(upstream.clone(), settings.clone()));
    let edge = Arc::new(Edge {
        id: Id::of_key(&key.verifying_key().to_bytes()),
        key,
        network,
        keys,
        receipts,
        limits: Limits::new(&settings),
        models: Models::new(upstream.clone(), &settings),
        sessions: Sessions::new(upstream.clone(), clock.clone(), &settings),
        leases: Arc::new(Leases::new(
            leased,
            clock.clone(),
            settings.clone(),
            nodes.clone(),
            running.clone(),
        )),
        reports: Arc::new(Reports::new(reported, settings.clone(), nodes.clone())),
        running,
        nodes,
        marks: Mutex::default(),
        started: watch::Sender::new(None),
        draining: AtomicBool::new(false),
        over: watch::Sender::new(false),
        clock,
        upstream,
        settings,
        meters: Meters::new(),
    });
    metrics::show(Arc::downgrade(&edge));
    Gateway(edge)
}

impl Gateway {
    /// What renters call by gRPC; the principal stands in the request's extensions (runtime's `auth`).
    pub fn inference(&self) -> InferenceServer<Api> {
        let most = self.0.settings.most_body_bytes.saturating_mul(2);
        InferenceServer::new(Api(self.0.clone())).max_decoding_message_size(most)
    }

    /// What nodes call. It needs no principal: a node proves itself inside the stream.
    pub fn attach(&self) -> GatewayServer<Attach> {
        let most = self.0.settings.most_message_bytes;
        GatewayServer::new(Attach(self.0.clone())).max_decoding_message_size(most)
    }

    /// What renters call by HTTP, as they would call OpenAI.
    pub fn http(&self) -> axum::Router {
        openai::router(self.0.clone())
    }

    /// The gateway's id: BLAKE3-128 of its public key.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// Whether scheduling knows that the gateway is there.
    pub fn ready(&self) -> bool {
        self.0.started.borrow().is_some()
    }

    /// Tells scheduling that the gateway is there, then reports presence and ends idle leases until `stop` says so;
    /// calls in progress may end within the drain time.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        background::run(self.0, stop).await;
    }
}

/// All that the parts of a gateway share.
pub(crate) struct Edge {
    id: Id,
    key: SigningKey,
    network: Network,
    clock: Clock,
    keys: Arc<dyn Keys>,
    receipts: Arc<dyn Log>,
    settings: Settings,
    upstream: Upstream,
    meters: Meters,
    nodes: Arc<Nodes>,
    sessions: Sessions,
    leases: Arc<Leases>,
    reports: Arc<Reports>,
    running: Arc<Running>,
    limits: Arc<Limits>,
    models: Models,
    marks: Mutex<Marks>,
    started: watch::Sender<Option<Started>>,
    draining: AtomicBool,
    /// The drain time is over: calls end where they are.
    over: watch::Sender<bool>,
}

/// What scheduling has said when the gateway started.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    answer: StartGatewayResponse,
    beats: Beats,
}

impl Edge {
    /// What scheduling has said.
    fn started(&self) -> Result<Started, Refusal> {
        self.started.borrow().clone().ok_or_else(|| {
            let message = "the gateway is starting: try again in a moment";
            Refusal::new(Code::Unavailable, "GATEWAY_STARTING", message).retry_after(500)
        })
    }

    /// Ends a lease, behind what is reported under it.
    fn end(&self, lease: leases::Lease, reason: LeaseEnd) {
        let reported = self.reports.landed(lease.id);
        self.leases.end_behind(lease, reason, reported);
    }

    /// Waits until the drain time is over.
    async fn is_over(&self) {
        let mut over = self.over.subscribe();
        if over.wait_for(|over| *over).await.is_err() {
            std::future::pending::<()>().await; // the sender is ours
        }
    }

    /// A node was there in the beat of now.
    fn mark(&self, node: &Node) {
        let beat = self.started.borrow().as_ref().and_then(|started| started.beats.at(self.clock.now()));
        if let Some(beat) = beat {
            guarded(&self.marks).mark(node.id, beat);
        }
    }
}

/// What a lock guards, whoever has panicked while he held it: what stands in ours is whole between any two statements.
fn guarded<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bytes.
///
/// # Panics
/// When the operating system gives no randomness: nothing that needs a secret can go on then.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}
