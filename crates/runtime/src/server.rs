//! The ports of a process. On the gRPC port the connection comes first, then the deadline, then who calls, then whether
//! there is a place: callers who have proven who they are have places of their own. Health and reflection (v1 and
//! v1alpha) are there for everyone. The HTTP port ([`serve_http`]) takes as little on trust.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;

use crate::auth::Auth;
use crate::config::Server as Settings;
use crate::driver::Status;
use crate::telemetry::Metrics;

mod connections;
mod guests;
mod layers;
mod places;
mod share;
mod web;

use connections::{Door, Incoming};
pub(crate) use guests::Guests;
pub(crate) use layers::Refused;
use layers::{Observe, Within};
use places::Admit;

pub use connections::{Connection, Most};
pub use places::Stay;
pub use web::{Web, serve_http};

/// Why a port could not be opened or served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there, or the address is not ours.
    #[error("cannot listen on {address}: {why}. Choose another address ({key})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The configuration key that sets it.
        key: &'static str,
        /// What the system says.
        why: std::io::Error,
    },
    /// The descriptors of a build cannot be served: a defect of the build.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Serving ended with an error.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Opens a port.
pub async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|why| ServerError::Bind { address, key, why })
}

type Serving = std::pin::Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;

/// Serves `routes` until `stop` says so, then lets calls in progress end within the drain time.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    health: Health,
    auth: Auth,
    settings: &Settings,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    // What this process serves, not all that the build knows.
    let served = health.served();
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(holmes_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
        served.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let routes = routes
        .add_service(health.service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let within = Within {
        default: Duration::from_millis(settings.deadline_ms),
        longest: Duration::from_millis(settings.longest_deadline_ms),
        refused: Refused::new(),
    };
    let layers =
        ServiceBuilder::new().layer(Observe::new()).layer(within).layer(auth).layer(Admit::new(settings));
    let reporter = health.reporter.clone();
    let (drain, drained) = (Duration::from_millis(settings.drain_ms), stop.clone());
    let most =
        Most { connections: settings.max_connections, per_address: settings.max_connections_per_address };
    let incoming = Incoming::new(listener, Door::new("grpc", most));
    // Named, because the layers' types are too long for the compiler to see that a caller may spawn this.
    let served: Serving = Box::pin(
        tonic::transport::Server::builder()
            .concurrency_limit_per_connection(settings.max_calls_per_connection)
            .max_concurrent_streams(u32::try_from(settings.max_calls_per_connection).unwrap_or(u32::MAX))
            // A node sends many small messages: with smaller windows a moment of not reading ends its connection.
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .layer(layers)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move {
                wait_for_stop(&mut stop).await;
                reporter.set_service_status("", ServingStatus::NotServing).await;
            }),
    );
    let patience = async move {
        let mut drained = drained;
        wait_for_stop(&mut drained).await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = served => served.map_err(ServerError::from),
        () = patience => {
            tracing::warn!(?drain, "calls were still in progress; they end without an answer");
            Ok(())
        }
    }
}

async fn wait_for_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await; // an error means that everything is going down
}

/// What every service tells about itself through gRPC health.
pub struct Health {
    /// The gRPC services that are followed.
    followed: Mutex<Vec<&'static str>>,
    reporter: HealthReporter,
    service: tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>,
}

impl Default for Health {
    fn default() -> Self {
        let reporter = HealthReporter::new();
        let service = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(reporter.clone()),
        );
        Health { followed: Mutex::default(), reporter, service }
    }
}

impl Health {
    /// What reflection lists: the followed services, health and itself; all that the build knows when none is followed.
    fn served(&self) -> Vec<&'static str> {
        let mut served = self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !served.is_empty() {
            served.extend([
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ]);
        }
        served
    }

    /// Follows a machine: its gRPC service is healthy while it answers.
    pub fn follow(&self, service: &'static str, mut machine: watch::Receiver<Status>) {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push(service);
        let reporter = self.reporter.clone();
        tokio::spawn(async move {
            loop {
                let serving = *machine.borrow_and_update() == Status::Serving;
                let now = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status(service, now).await;
                if machine.changed().await.is_err() {
                    return reporter.set_service_status(service, ServingStatus::NotServing).await;
                }
            }
        });
    }
}

/// Serves metrics, liveness and readiness until `stop` says so and every machine has ended: who watches a drain sees it.
pub async fn serve_admin(
    listener: TcpListener,
    metrics: Metrics,
    machines: Vec<(&'static str, watch::Receiver<Status>)>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    use axum::http::StatusCode;
    use axum::http::header::CONTENT_TYPE;
    use axum::routing::get;
    let draining = stop.clone();
    let mut ends: Vec<_> = machines.iter().map(|(_, status)| status.clone()).collect();
    let ready = move || {
        let waiting: Vec<String> = machines
            .iter()
            .filter(|(_, status)| *status.borrow() != Status::Serving)
            .map(|(name, status)| format!("{name}: {:?}", *status.borrow()))
            .collect();
        let draining = *draining.borrow();
        async move {
            match (draining, waiting.is_empty()) {
                (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
                (false, true) => (StatusCode::OK, "ready\n".to_owned()),
                (false, false) => (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n"),
            }
        }
    };
    let app = axum::Router::new()
        .route("/metrics", get(move || std::future::ready(([(CONTENT_TYPE, Metrics::TYPE)], metrics.page()))))
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready));
    let (over, mut seen) = watch::channel(false);
    let stopped = async move {
        wait_for_stop(&mut stop).await;
        for status in &mut ends {
            while status.changed().await.is_ok() {}
        }
        over.send_replace(true);
    };
    let patience = async move {
        wait_for_stop(&mut seen).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(stopped).into_future() => served,
        () = patience => Ok(()), // somebody keeps a connection open
    }
}
