//! A service of one method, and a server for it on a port of its own.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use holmes_kernel::{Code, Id, Principal, PrincipalKind, Refusal, Time};
use holmes_proto::edge::{self, Roles, Scope};
use holmes_runtime::auth::{Auth, Keys, Network};
use holmes_runtime::config::{Server as Settings, Telemetry};
use holmes_runtime::server::{self, Services};
use holmes_runtime::telemetry::Metrics;
use holmes_runtime::{Clock, telemetry};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

pub const PATH: &str = "/holmes.toy.v1.Toy/Say";
pub const NAME: &str = "holmes.toy.v1.Toy";
/// The clock of every server here.
pub const NOW: Time = Time::from_millis(1_700_000_000_000);
pub const NETWORK: Network = Network { genesis: [5; 16], cell: 3 };
pub const API_KEY: &str = "a key that is known";
/// The key of another account.
pub const OTHER_KEY: &str = "another key that is known";

#[derive(Clone, PartialEq, Message)]
pub struct Say {
    #[prost(string, tag = "1")]
    pub request_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub words: Vec<u8>,
    /// 1: wait at the gate. 2: panic.
    #[prost(uint32, tag = "3")]
    pub how: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Said {
    /// Who said it; empty when nobody known.
    #[prost(string, tag = "1")]
    pub principal: String,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// What a call may wait at.
#[derive(Debug)]
pub struct Pause {
    pub gate: Semaphore,
    pub inside: watch::Sender<u64>,
}

#[derive(Clone)]
struct Toy(Arc<Pause>);

impl tonic::server::NamedService for Toy {
    const NAME: &'static str = NAME;
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for Toy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let toy = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Said, Say>::default();
            let mut grpc = tonic::server::Grpc::new(codec).accept_compressed(CompressionEncoding::Gzip);
            Ok(grpc.unary(toy, request).await)
        })
    }
}

impl tonic::server::UnaryService<Say> for Toy {
    type Response = Said;
    type Future = BoxFuture<Result<Response<Said>, Status>>;

    fn call(&mut self, request: Request<Say>) -> Self::Future {
        let pause = self.0.clone();
        Box::pin(async move {
            match request.get_ref().how {
                1 => {
                    pause.inside.send_modify(|inside| *inside += 1);
                    drop(pause.gate.acquire().await);
                }
                2 => panic!("this handler panics"),
                _ => {}
            }
            let principal = match request.get_ref().request_id.as_str() {
                "" => request.extensions().get::<Principal>().map(Principal::to_string).unwrap_or_default(),
                id => edge::call(&request, id)?.principal.to_string(),
            };
            Ok(Response::new(Said { principal, bytes: request.get_ref().words.len() as u64 }))
        })
    }
}

/// What the network knows of keys: one API key, one public key.
struct Ring;

pub fn renter() -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([0x11; 16]))
}

pub fn node() -> Principal {
    Principal::new(PrincipalKind::Node, Id::from_bytes([0x22; 16]))
}

/// The node's key.
pub fn node_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[9; 32])
}

impl Keys for Ring {
    fn api_key(&self, hash: [u8; 32]) -> BoxFuture<Result<(Principal, Scope), Refusal>> {
        let is = |key: &str| hash == *blake3::hash(key.as_bytes()).as_bytes();
        let other = Principal::new(PrincipalKind::Account, Id::from_bytes([0x33; 16]));
        let known = if is(API_KEY) { Some(renter()) } else { is(OTHER_KEY).then_some(other) };
        let unknown = || Refusal::new(Code::Unauthenticated, "KEY_UNKNOWN", "this API key is not known");
        let told = known.map(|who| (who, Scope::key(Roles::RENTER, false))).ok_or_else(unknown);
        Box::pin(std::future::ready(told))
    }

    fn public_key(&self, principal: Principal) -> BoxFuture<Result<holmes_runtime::auth::Signs, Refusal>> {
        let unknown = || Refusal::new(Code::Unauthenticated, "KEY_UNKNOWN", "nobody of this name has a key");
        let known = || (node_key().verifying_key().to_bytes(), Ok(Scope::signature(Roles::NONE)));
        let key = (principal == node()).then(known);
        Box::pin(std::future::ready(key.ok_or_else(unknown)))
    }
}

/// A server that runs.
pub struct Up {
    pub address: SocketAddr,
    pub stop: watch::Sender<bool>,
    pub pause: Arc<Pause>,
    pub machine: watch::Sender<holmes_runtime::Status>,
    pub task: JoinHandle<Result<(), server::ServerError>>,
}

impl Up {
    pub async fn start(change: impl FnOnce(&mut Settings)) -> Up {
        Up::within(None, change).await
    }

    /// The same within TLS, where there is one.
    pub async fn within(tls: Option<holmes_runtime::Tls>, change: impl FnOnce(&mut Settings)) -> Up {
        let mut settings = Settings::default();
        change(&mut settings);
        let pause = Arc::new(Pause { gate: Semaphore::new(0), inside: watch::Sender::new(0) });
        let listener = server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "server.listen").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let machine = watch::Sender::new(holmes_runtime::Status::Serving);
        let mut services = Services::default();
        services.add(Toy(pause.clone()), machine.subscribe());
        let auth = Auth::new(
            Arc::new(Ring),
            NETWORK,
            Clock::manual(NOW),
            settings.max_request_bytes,
            settings.max_unproven_bytes,
        );
        let task =
            tokio::spawn(
                async move { server::serve(listener, tls, services, auth, &settings, stopped).await },
            );
        Up { address, stop, pause, machine, task }
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::new(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// Waits until so many calls stand at the gate.
    pub async fn inside(&self, calls: u64) {
        crate::support::patiently(self.pause.inside.subscribe().wait_for(|inside| *inside >= calls))
            .await
            .unwrap();
    }

    /// Lets every call that waits, or will wait, go on.
    pub fn go_on(&self) {
        self.pause.gate.add_permits(1_000);
    }
}

/// Says something, on a channel.
pub async fn say(channel: &Channel, request: Request<Say>) -> Result<Said, Status> {
    say_at(channel, PATH, request, false).await
}

pub async fn say_at(
    channel: &Channel,
    path: &'static str,
    request: Request<Say>,
    gzip: bool,
) -> Result<Said, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    if gzip {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    grpc.ready().await.map_err(|why| Status::unknown(why.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = ProstCodec::<Say, Said>::default();
    let said = grpc.unary(request, path, codec);
    let said = tokio::time::timeout(Duration::from_secs(60), said).await.expect("it takes for ever");
    said.map(Response::into_inner)
}

pub fn words(how: u32) -> Request<Say> {
    Request::new(Say { how, ..Say::default() })
}

/// The same from somebody who is known.
pub fn known(how: u32) -> Request<Say> {
    proven(words(how))
}

/// A request with a proof.
pub fn proven<T>(request: Request<T>) -> Request<T> {
    with_key(request, API_KEY)
}

/// A request with this key.
pub fn with_key<T>(mut request: Request<T>, key: &str) -> Request<T> {
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

/// The stable reason of a status.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The process's metrics; telemetry is set up once.
pub fn metrics() -> Metrics {
    static GUARD: LazyLock<telemetry::Guard> = LazyLock::new(|| {
        let quiet = Telemetry { log: "off".into(), ..Telemetry::default() };
        telemetry::init(&quiet, "tests", &[]).unwrap()
    });
    GUARD.metrics()
}
