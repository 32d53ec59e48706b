//! Who calls: a tower layer in front of every service. It knows two proofs, an API key (`authorization: Bearer …`) and
//! an Ed25519 signature over the whole request, and puts the [`Principal`] and the [`Scope`] of its proof where `api.rs`
//! looks for them. A proof that does not hold is refused here; a call without any proof goes on without a principal, and
//! the service decides.

use std::sync::Arc;
use std::task::{Context, Poll};

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_kernel::{Code, Id, Principal, Refusal, Time};
use holmes_proto::edge::{Scope, SignedRequest};
use holmes_proto::signing::message_of;
pub use holmes_proto::signing::{Network, signing_input};
use http_body_util::BodyExt as _;
use prost::bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::clock::Clock;
use crate::server::{Connection, Guests, Refused};

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// The key that a principal signs with, and what its signature may do, or why it may nothing.
pub type Signs = ([u8; 32], Result<Scope, Refusal>);

/// What a network knows of keys.
pub trait Keys: Send + Sync + 'static {
    /// Whether it knows of itself, without asking another process.
    fn knows(&self) -> bool {
        true
    }

    /// Whose API key has this hash (BLAKE3-256 of the key's text), and what it may do.
    fn api_key(&self, hash: [u8; 32]) -> BoxFuture<Result<(Principal, Scope), Refusal>>;
    /// Which public key a principal signs with, and what its signature may do, or why it may nothing: that is told only
    /// to who has signed with the key, or anybody could ask how somebody stands.
    fn public_key(&self, principal: Principal) -> BoxFuture<Result<Signs, Refusal>>;
}

/// How processes ask accounts for keys.
const FIND_KEY: &str = "/holmes.accounts.v1.Accounts/FindKey";

/// How far ahead a signature's expiry may lie: a stolen request is worth nothing for longer.
pub const MOST_VALID_MS: u64 = 5 * 60 * 1_000;

/// The layer.
#[derive(Clone)]
pub struct Auth {
    keys: Arc<dyn Keys>,
    network: Network,
    clock: Clock,
    max_bytes: usize,
    /// Keys that may be looked up at a time.
    lookups: Arc<Semaphore>,
    /// Bytes that callers make the process hold before it is known who they are, and those callers.
    unproven: Arc<Semaphore>,
    waiting: Arc<Guests>,
    refused: Refused,
}

/// What a signature counts for while it is checked, beside the body that it covers.
const PROOF_BYTES: usize = 1_024;
/// Keys that may be looked up at a time: each takes a moment and no room.
const MOST_LOOKUPS: usize = 8_192;

impl Auth {
    /// A layer that asks `keys`, for requests of at most `max_bytes`; those whose signature is being checked have
    /// `max_unproven_bytes` together.
    pub fn new(
        keys: Arc<dyn Keys>,
        network: Network,
        clock: Clock,
        max_bytes: usize,
        max_unproven_bytes: usize,
    ) -> Auth {
        let unproven = Arc::new(Semaphore::new(max_unproven_bytes.min(Semaphore::MAX_PERMITS)));
        let (lookups, waiting) = (Arc::new(Semaphore::new(MOST_LOOKUPS)), Guests::new(usize::MAX));
        Auth { keys, network, clock, max_bytes, lookups, unproven, waiting, refused: Refused::new() }
    }
}

impl<S> Layer<S> for Auth {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { auth: self.clone(), inner }
    }
}

/// A service behind [`Auth`].
#[derive(Clone)]
pub struct Authenticated<S> {
    auth: Auth,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Authenticated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The clone that was made ready is the one to call; the other takes its place.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let auth = self.auth.clone();
        Box::pin(async move {
            match auth.admit(request).await {
                Ok(request) => inner.call(request).await,
                Err(refusal) => Ok(auth.refused.status(refusal).into_http()),
            }
        })
    }
}

impl Auth {
    async fn admit(&self, mut request: http::Request<Body>) -> Result<http::Request<Body>, Refusal> {
        // Who asks for a key would be looked up by the same question, and so on.
        if request.uri().path() == FIND_KEY && !self.keys.knows() {
            let message = "this process does not own the log of accounts: ask the one that does";
            return Err(Refusal::new(Code::Unavailable, "KEYS_AWAY", message).retry_after(200));
        }
        let headers = request.headers();
        let (bearer, signed) = (header(headers, "authorization")?, header(headers, "holmes-signature")?);
        let connection = request.extensions().get::<Connection>().cloned();
        let admitted = match (bearer, signed) {
            (None, None) => Ok(request),
            (Some(_), Some(_)) => Err(denied("TWO_PROOFS", "send an API key or a signature, not both")),
            (Some(bearer), None) => {
                let key = bearer.strip_prefix("Bearer ").ok_or_else(|| {
                    denied("KEY_MALFORMED", "send the API key as `authorization: Bearer <key>`")
                })?;
                let _looking = self.lookups.try_acquire().map_err(|_| too_many_unproven())?;
                let (principal, scope) = self.keys.api_key(*blake3::hash(key.as_bytes()).as_bytes()).await?;
                request.extensions_mut().insert(principal);
                request.extensions_mut().insert(scope);
                Ok(request)
            }
            (None, Some(_)) => self.admit_signed(request).await,
        };
        if let Some(connection) = connection
            && admitted.as_ref().is_ok_and(|request| request.extensions().get::<Principal>().is_some())
        {
            connection.proven();
        }
        admitted
    }

    /// Room for bytes of somebody who is not known yet. When there is none, whoever waits longest gives way too: a slow
    /// body keeps nobody out for long.
    fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.unproven.clone().try_acquire_many_owned(count).map_err(|_| {
            self.waiting.make_room();
            too_many_unproven()
        })
    }

    /// A body, held whole while its signature is checked; what it takes is free again when `held` is.
    async fn whole(&self, mut body: Body, held: &mut OwnedSemaphorePermit) -> Result<Bytes, Refusal> {
        let (_guest, mut give_way) = self.waiting.enter();
        let mut whole = BytesMut::new();
        loop {
            let frame = tokio::select! {
                biased;
                () = give_way.told() => return Err(too_many_unproven()),
                frame = body.frame() => frame,
            };
            let Some(frame) = frame else { return Ok(whole.freeze()) };
            let broken = |_| denied("BODY_BROKEN", "the request's body did not come whole: send it again");
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if whole.len().saturating_add(data.len()) > self.max_bytes {
                return Err(too_large(self.max_bytes));
            }
            held.merge(self.hold(data.len())?);
            whole.extend_from_slice(&data);
        }
    }

    async fn admit_signed(&self, request: http::Request<Body>) -> Result<http::Request<Body>, Refusal> {
        let proof = Proof::read(request.headers())?;
        let now = self.clock.now();
        if proof.expires <= now {
            return Err(denied(
                "SIGNATURE_EXPIRED",
                "the signature has expired: sign again, and check the clock",
            ));
        }
        if proof.expires > now.after_millis(MOST_VALID_MS) {
            let message =
                "the signature is valid for more than 5 minutes: sign with an earlier holmes-expires";
            return Err(denied("SIGNATURE_TOO_LONG", message));
        }
        let mut held = self.hold(PROOF_BYTES)?;
        // First who it shall be: nothing is read for somebody whom nobody knows.
        let (key, scope) = self.keys.public_key(proof.principal).await?;
        let key = VerifyingKey::from_bytes(&key)
            .map_err(|_| denied("KEY_UNUSABLE", "the registered public key is not an Ed25519 key"))?;
        let (mut parts, body) = request.into_parts();
        let bytes = self.whole(body, &mut held).await?;
        let signed = signed_bytes(&self.network, parts.uri.path(), message_of(&bytes), &proof);
        key.verify_strict(&signed, &proof.signature).map_err(|_| {
            denied("SIGNATURE_WRONG", "the signature does not fit the request: see the docs, Signing")
        })?;
        parts.extensions.insert(scope?);
        parts.extensions.insert(proof.principal);
        parts.extensions.insert(SignedRequest(proof.request_id));
        Ok(http::Request::from_parts(parts, Body::new(http_body_util::Full::new(bytes))))
    }
}

/// A signature and what it says.
struct Proof {
    principal: Principal,
    request_id: Id,
    expires: Time,
    signature: Signature,
}

impl Proof {
    fn read(headers: &http::HeaderMap) -> Result<Proof, Refusal> {
        let field = |name: &'static str| {
            header(headers, name)?.ok_or_else(|| {
                denied(
                    "SIGNATURE_INCOMPLETE",
                    &format!("a signed request also carries {name}: see the docs, Signing"),
                )
            })
        };
        let malformed = |name: &str| {
            denied("SIGNATURE_MALFORMED", &format!("{name} cannot be read: see the docs, Signing"))
        };
        let principal = hex(field("holmes-principal")?)
            .and_then(|bytes| Principal::from_slice(&bytes))
            .ok_or_else(|| malformed("holmes-principal"))?;
        let request_id = field("holmes-request-id")?.parse().map_err(|_| malformed("holmes-request-id"))?;
        let expires = field("holmes-expires")?.parse().map_err(|_| malformed("holmes-expires"))?;
        let signature = hex(field("holmes-signature")?)
            .and_then(|bytes| Signature::from_slice(&bytes).ok())
            .ok_or_else(|| malformed("holmes-signature"))?;
        Ok(Proof { principal, request_id, expires: Time::from_millis(expires), signature })
    }
}

/// What is signed, each field behind its length: context, genesis, cell, service and method, BLAKE3 of the message,
/// request id, expiry in ms, principal.
fn signed_bytes(network: &Network, path: &str, message: &[u8], proof: &Proof) -> Vec<u8> {
    signing_input(network, path, message, proof.request_id, proof.expires.millis(), proof.principal)
}

fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| denied("HEADER_MALFORMED", &format!("{name} is not printable ASCII")))?;
    Ok(Some(text))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits =
        text.len().is_multiple_of(2) && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !digits {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn denied(reason: &'static str, message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, reason, message)
}

fn too_many_unproven() -> Refusal {
    let message = "the process checks as many proofs as it takes, or holds as many bytes of such requests: try again a little \
                   later";
    Refusal::new(Code::Exhausted, "TOO_MANY_UNPROVEN", message).retry_after(100)
}

fn too_large(most: usize) -> Refusal {
    Refusal::new(Code::Exhausted, "REQUEST_TOO_LARGE", format!("a request may have {most} bytes: split it"))
}
