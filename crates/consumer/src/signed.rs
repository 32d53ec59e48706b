//! Who we are to the services that we ask: a signature on every request.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal};
use holmes_proto::signing::{Network, message_of, request_id_of, signing_input};
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;
use tonic::codegen::{Service, StdError, http};

/// How long a signature counts, ms: enough for a slow way, and for clocks that differ.
const COUNTS_MS: u64 = 60_000;

/// A channel whose requests are signed. Around any other: `ReplayClient::new(Signed::new(channel, …))`.
#[derive(Clone)]
pub struct Signed<T> {
    inner: T,
    signer: Arc<Signer>,
}

struct Signer {
    key: SigningKey,
    principal: Principal,
    network: Network,
}

impl<T> Signed<T> {
    /// Signs as somebody whose key the network knows: of a service, one that staff has registered
    /// (`Accounts/RegisterServiceKey`).
    pub fn new(inner: T, principal: Principal, key: SigningKey, network: Network) -> Signed<T> {
        Signed { inner, signer: Arc::new(Signer { key, principal, network }) }
    }
}

impl Signer {
    fn sign(&self, parts: &mut http::request::Parts, body: &[u8]) -> Result<(), StdError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let now_ms = u64::try_from(now.as_millis())?;
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let (message, expires_ms) = (message_of(body), now_ms + COUNTS_MS);
        let id = request_id_of(message).unwrap_or_else(|| Id::v7(now_ms, random));
        let said = signing_input(&self.network, parts.uri.path(), message, id, expires_ms, self.principal);
        for (name, value) in [
            ("holmes-principal", hex(&self.principal.to_bytes())),
            ("holmes-request-id", id.to_string()),
            ("holmes-expires", expires_ms.to_string()),
            ("holmes-signature", hex(&self.key.sign(&said).to_bytes())),
        ] {
            parts.headers.insert(name, value.parse()?);
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<T, B> Service<http::Request<Body>> for Signed<T>
where
    T: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    T::Error: Into<StdError>,
    T::Future: Send,
{
    type Response = http::Response<B>;
    type Error = StdError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<B>, StdError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The clone that was made ready is the one to call; the other takes its place.
        let ready = self.inner.clone();
        let (mut inner, signer) = (std::mem::replace(&mut self.inner, ready), self.signer.clone());
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes(); // of a request that is one message
            signer.sign(&mut parts, &body)?;
            let request = http::Request::from_parts(parts, Body::new(Full::new(body)));
            inner.call(request).await.map_err(Into::into)
        })
    }
}
