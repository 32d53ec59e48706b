//! The HTTP/1 port of a process: what browsers and OpenAI's clients speak. A client that is slow with a request's head,
//! takes nothing of its answer, or only holds connections costs little and not for long.

use std::future::poll_fn;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::connections::{Door, Incoming, Most, Socket};
use super::wait_for_stop;

/// What clients of an HTTP port may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Web {
    /// Its connections.
    pub most: Most,
    /// How long the head of a request may be on its way, and a connection without one stays open.
    pub header: Duration,
    /// How long answers in progress may take after `stop`.
    pub drain: Duration,
}

/// Serves `router` until `stop` says so, then lets answers in progress end within the drain time. Requests carry the
/// [`super::Connection`] on which they came.
pub async fn serve_http(listener: TcpListener, router: Router, web: Web, mut stop: watch::Receiver<bool>) {
    let mut incoming = Incoming::new(listener, Door::new("http", web.most));
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            socket = poll_fn(|cx| incoming.poll_accept(cx)) => {
                drop(tokio::spawn(serve_one(socket, &router, &web, &graceful)));
            }
            () = wait_for_stop(&mut stop) => break,
        }
    }
    drop(incoming); // nobody connects to a process that stops
    if tokio::time::timeout(web.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(drain = ?web.drain, "answers were still in progress; they end where they are");
    }
}

/// One connection to its end.
fn serve_one(
    socket: Socket,
    router: &Router,
    web: &Web,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    let connection = socket.connection();
    let service = router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(connection.clone());
        request
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(web.header)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
    let watched = graceful.watch(serving);
    async move {
        if let Err(why) = watched.await {
            tracing::debug!(%why, "an HTTP connection broke");
        }
    }
}
