//! How a task of a process calls the cell's services: by their generated clients, over a [`Peer`]. The task stands on
//! the other side of the edge, so it is authenticated by whoever starts it: a peer speaks for one principal.

use std::task::{Context, Poll};

use holmes_kernel::Principal;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{BoxError, Service};

/// What the generated clients are made of (`LedgerClient::new(peer)`). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    principal: Principal,
    way: Way,
}

/// Where the services are.
#[derive(Clone, Debug)]
enum Way {
    /// In this process.
    Here(Routes),
}

impl Peer {
    /// The services of this process, called as `principal`. Limits and deadlines of the port do not hold here: the
    /// caller sets its own.
    pub fn here(routes: Routes, principal: Principal) -> Peer {
        Peer { principal, way: Way::Here(routes.prepare()) }
    }

    /// Who calls.
    pub fn principal(&self) -> Principal {
        self.principal
    }
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.way {
            Way::Here(routes) => Service::<http::Request<Body>>::poll_ready(routes, cx).map_err(Into::into),
        }
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        // It takes the place of whatever stands there: nobody passes a principal on through a peer.
        request.extensions_mut().insert(self.principal);
        match &mut self.way {
            Way::Here(routes) => {
                let answer = routes.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
        }
    }
}
