//! The ports of a process. On the gRPC port the connection comes first, then the deadline, then who calls, then whether
//! there is a place: callers who have proven who they are have places of their own. Health and reflection (v1 and
//! v1alpha) are there for everyone. The HTTP port ([`serve_http`]) takes as little on trust.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tower::ServiceBuilder;

use crate::auth::Auth;
use crate::config::Server as Settings;
use crate::driver::Status;
use crate::telemetry::Metrics;
use crate::tls::Tls;

mod connections;
mod guests;
mod layers;
mod placed;
mod places;
mod services;
mod share;
mod stream;
mod web;

use connections::{Door, Incoming};
pub(crate) use guests::Guests;
use layers::{Observe, Within};
pub(crate) use layers::{Refused, method_of};
use places::Admit;

pub use connections::{Connection, Most};
pub use placed::Placed;
pub use places::Stay;
pub use services::{Grpc, Services};
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

/// Serves `services` until `stop` says so, then lets calls in progress end within the drain time.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    services: Services,
    auth: Auth,
    settings: &Settings,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    let (routes, reporter) = services.told()?;
    let within = Within {
        default: Duration::from_millis(settings.deadline_ms),
        longest: Duration::from_millis(settings.longest_deadline_ms),
        refused: Refused::new(),
    };
    let layers =
        ServiceBuilder::new().layer(Observe::new()).layer(within).layer(auth).layer(Admit::new(settings));
    let (drain, drained) = (Duration::from_millis(settings.drain_ms), stop.clone());
    let most =
        Most { connections: settings.max_connections, per_address: settings.max_connections_per_address };
    let incoming = Incoming::new(listener, Door::new("grpc", most)).within(tls);
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

/// The machines of a process by their names, and how each is.
pub type Machines = Vec<(&'static str, watch::Receiver<Status>)>;

/// Serves metrics, liveness and readiness until `stop` says so and every machine has ended: who watches a drain sees it.
pub async fn serve_admin(
    listener: TcpListener,
    metrics: Metrics,
    machines: watch::Receiver<Machines>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    use axum::http::StatusCode;
    use axum::http::header::CONTENT_TYPE;
    use axum::routing::get;
    let draining = stop.clone();
    let ending = machines.clone();
    let ready = move || {
        let machines = machines.borrow().clone();
        let waiting: Vec<String> = machines
            .iter()
            .filter(|(_, status)| !matches!(*status.borrow(), Status::Serving | Status::StandingBy))
            .map(|(name, status)| format!("{name}: {:?}", *status.borrow()))
            .collect();
        let standing = machines.iter().filter(|(_, status)| *status.borrow() == Status::StandingBy);
        let standing: String = standing.map(|(name, _)| format!("{name}: stands by\n")).collect();
        let draining = *draining.borrow();
        async move {
            match (draining, waiting.is_empty()) {
                (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
                (false, true) => (StatusCode::OK, format!("ready\n{standing}")),
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
        let ends = ending.borrow().clone();
        for (_, mut status) in ends {
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
