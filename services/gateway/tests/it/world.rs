//! A gateway on loopback between scripted services, scripted nodes and real clients.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use holmes_gateway::{Deps, Gateway, Settings};
use holmes_kernel::{Code, Id, Principal, PrincipalKind, Refusal};
use holmes_proto::edge::{Roles, Scope};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::inference_client::InferenceClient;
use holmes_proto::inference::v1::{
    self as inference, GenerateRequest, GenerateResponse, GenerateWork, generate_work,
};
use holmes_proto::market::v1::market_server::MarketServer;
use holmes_proto::scheduling::v1::scheduling_server::SchedulingServer;
use holmes_runtime::auth::{Auth, Keys, Network};
use holmes_runtime::server::{self, Services as Served};
use holmes_runtime::{Clock, Peer};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Status, Streaming};

use super::node::{Node, Offer, Script};
use super::services::{CELL, GENESIS, Services};

pub struct World {
    pub gateway: Gateway,
    pub services: Services,
    pub channel: Channel,
    address: String,
    stop: watch::Sender<bool>,
}

struct KnownKeys;

/// The API keys that the scripted accounts know: a renter's, and one of the same account that does not act as renter.
pub const API_KEY: &str = "holmes-key-1";
pub const OPERATOR_KEY: &str = "holmes-key-2";

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

impl Keys for KnownKeys {
    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        let keys = [(API_KEY, Roles::RENTER), (OPERATOR_KEY, Roles::OPERATOR)];
        let known = keys.into_iter().find(|(key, _)| *blake3::hash(key.as_bytes()).as_bytes() == hash);
        let found = known.map(|(_, roles)| (renter(1), Scope::key(roles, false)));
        let unknown = || Refusal::new(Code::Unauthenticated, "KEY_UNKNOWN", "nobody has this key");
        Box::pin(std::future::ready(found.ok_or_else(unknown)))
    }

    fn public_key(&self, _: Principal) -> Answer<([u8; 32], Result<Scope, Refusal>)> {
        Box::pin(std::future::ready(Err(Refusal::new(Code::NotFound, "KEY_UNKNOWN", "none"))))
    }
}

pub fn renter(number: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([number; 16]))
}

/// Waits that are short enough for a test.
pub fn settings() -> Settings {
    Settings {
        silent_ms: 1_000,
        beat_ms: 100,
        running_ms: 200,
        lease_idle_ms: 300,
        receipt_wait_ms: 500,
        place_wait_ms: 300,
        report_beats: 1,
        drain_ms: 500,
        ..Settings::default()
    }
}

impl World {
    pub async fn new() -> World {
        World::with(settings()).await
    }

    pub async fn with(settings: Settings) -> World {
        World::over(Services::scripted(), settings).await
    }

    /// A gateway before services that another one may have had before it.
    pub async fn over(services: Services, settings: Settings) -> World {
        let key = SigningKey::from_bytes(&[42; 32]);
        let principal = Principal::new(PrincipalKind::Gateway, Id::of_key(&key.verifying_key().to_bytes()));
        services.kept(|kept| kept.gateway = Some(principal));
        let routes = Routes::new(MarketServer::new(services.clone()))
            .add_service(SchedulingServer::new(services.clone()));
        let gateway = holmes_gateway::start(Deps {
            peer: Peer::here(routes, principal),
            key,
            network: Network { genesis: GENESIS, cell: CELL },
            clock: Clock::System,
            keys: Arc::new(KnownKeys),
            receipts: Arc::new(services.clone()),
            settings,
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(gateway.clone().run(stopped));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The principal is what the layer in front of the port would have found.
        let inference = InterceptedService::new(gateway.inference(), |mut request: Request<()>| {
            if let Some(who) = request.metadata().get("who") {
                let number: u8 = who.to_str().unwrap().parse().unwrap();
                request.extensions_mut().insert(renter(number));
                request.extensions_mut().insert(Scope::key(Roles::RENTER, false));
            }
            Ok(request)
        });
        let server = Server::builder().add_service(inference).add_service(gateway.attach());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let address = format!("http://{address}");
        let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
        let world = World { gateway, services, channel, address, stop };
        world.till(|| world.gateway.ready()).await;
        world
    }

    /// A node on a connection of its own.
    pub async fn node(&self, number: u8, script: Script) -> Node {
        Node::attach(self.channel.clone(), Offer::of(number), script).await
    }

    /// The gateway behind a port as a process opens one, with its layers.
    pub async fn port(&self, change: impl FnOnce(&mut holmes_runtime::config::Server)) -> Channel {
        let mut settings = holmes_runtime::config::Server::default();
        change(&mut settings);
        let network = Network { genesis: GENESIS, cell: CELL };
        let (most, unproven) = (settings.max_request_bytes, settings.max_unproven_bytes);
        let auth = Auth::new(Arc::new(KnownKeys), network, Clock::System, most, unproven);
        let (status, mut services) = (watch::Sender::new(holmes_runtime::Status::Serving), Served::default());
        services.add(self.gateway.inference(), status.subscribe());
        services.add(self.gateway.attach(), status.subscribe());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = self.stop.subscribe();
        tokio::spawn(async move { server::serve(listener, None, services, auth, &settings, stop).await });
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
    }

    /// Waits until something is so.
    pub async fn till(&self, mut so: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came to be");
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn client(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel.clone())
    }

    /// A client that takes little ahead of what it reads.
    pub async fn narrow_client(&self) -> InferenceClient<Channel> {
        let channel = Channel::from_shared(self.address.clone()).unwrap().initial_stream_window_size(1_024);
        InferenceClient::new(channel.connect().await.unwrap())
    }

    pub async fn generate(&self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, Status> {
        self.generate_as(1, request).await
    }

    /// All that comes of a call by renter 1, which is let in.
    pub async fn hello(&self) -> Whole {
        whole(self.generate(asked("hello")).await.unwrap()).await
    }

    pub async fn generate_as(
        &self,
        who: u8,
        request: GenerateRequest,
    ) -> Result<Streaming<GenerateResponse>, Status> {
        Ok(self.client().generate(as_renter(who, request)).await?.into_inner())
    }
}

pub fn as_renter<T>(who: u8, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("who", who.to_string().parse().unwrap());
    request
}

pub fn asked(prompt: &str) -> GenerateRequest {
    let prompt = Some(generate_work::Prompt::Text(prompt.to_owned()));
    let work = GenerateWork { prompt, max_tokens: 100, ..GenerateWork::default() };
    GenerateRequest { model: "talker".to_owned(), work: Some(work), ..GenerateRequest::default() }
}

/// What a stream has brought.
#[derive(Debug, Default)]
pub struct Whole {
    pub started: Option<inference::Started>,
    pub text: String,
    pub moved: Vec<inference::Moved>,
    pub ended: Option<inference::Ended>,
    pub error: Option<Status>,
}

pub async fn whole(mut stream: Streaming<GenerateResponse>) -> Whole {
    let mut whole = Whole::default();
    loop {
        match stream.message().await {
            Ok(Some(GenerateResponse { part })) => match part.unwrap() {
                Part::Started(started) => whole.started = Some(started),
                Part::Tokens(tokens) => whole.text.push_str(&tokens.text),
                Part::Moved(moved) => whole.moved.push(moved),
                Part::Ended(ended) => whole.ended = Some(ended),
            },
            Ok(None) => return whole,
            Err(error) => {
                whole.error = Some(error);
                return whole;
            }
        }
    }
}

/// The text of so many canned tokens.
pub fn words(count: u32) -> String {
    (0..count).map(super::node::word).collect()
}

/// What an error says besides its reason.
pub fn details(status: &Status) -> std::collections::HashMap<String, String> {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.metadata).unwrap_or_default()
}

/// The stable reason of an error.
pub fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
