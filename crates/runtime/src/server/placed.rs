//! A service whose log moves between processes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::Grpc;
use crate::reach::{Elsewhere, Reach};

/// A gRPC service: its own while this process owns the log, and otherwise passed on to the process that does.
#[derive(Clone)]
pub struct Placed<S> {
    here: watch::Receiver<Option<S>>,
    elsewhere: Elsewhere,
}

impl<S> Placed<S> {
    /// The service that `here` holds while it holds one.
    pub fn new(here: watch::Receiver<Option<S>>, reach: &Reach) -> Placed<S> {
        Placed { here, elsewhere: Elsewhere::new(reach.clone()) }
    }
}

impl<S: NamedService> NamedService for Placed<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S: Grpc> Service<http::Request<Body>> for Placed<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // so is every service of ours: they refuse where they have no room
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let here = self.here.borrow().clone();
        match here {
            Some(mut service) => Box::pin(service.call(request)),
            None => self.elsewhere.call(request),
        }
    }
}
