//! How a task of a process calls the cell's services: by their generated clients, over a [`Peer`]. In the same process it
//! stands behind the edge, authenticated by whoever starts it; elsewhere it signs every request. Either way a peer speaks
//! for one principal.

use std::task::{Context, Poll};

use ed25519_dalek::SigningKey;
use holmes_consumer::Signed;
use holmes_kernel::Principal;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{BoxError, Service};

use crate::auth::Network;
use crate::reach::Reach;

/// What the generated clients are made of (`LedgerClient::new(peer)`). Cheap to clone.
#[derive(Clone)]
pub struct Peer {
    principal: Principal,
    way: Way,
}

/// Where the services are.
#[derive(Clone)]
enum Way {
    /// In this process.
    Here(Routes),
    /// In others.
    Elsewhere(Signed<Reach>),
}

impl Peer {
    /// The services of this process, called as `principal`. Limits and deadlines of the port do not hold here: the
    /// caller sets its own.
    pub fn here(routes: Routes, principal: Principal) -> Peer {
        Peer { principal, way: Way::Here(routes.prepare()) }
    }

    /// The services of other processes, called as `principal` with its `key`.
    pub fn elsewhere(reach: Reach, principal: Principal, key: SigningKey, network: Network) -> Peer {
        Peer { principal, way: Way::Elsewhere(Signed::new(reach, principal, key, network)) }
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
            Way::Elsewhere(signed) => signed.poll_ready(cx),
        }
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        match &mut self.way {
            Way::Here(routes) => {
                // It takes the place of whatever stands there: nobody passes a principal on through a peer.
                request.extensions_mut().insert(self.principal);
                let answer = routes.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Way::Elsewhere(signed) => signed.call(request),
        }
    }
}
