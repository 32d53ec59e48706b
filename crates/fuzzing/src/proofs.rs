//! Proofs of who calls: nobody gets in as somebody whose key has not signed this very request. And of what nodes and
//! gateways say.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arbitrary::Unstructured;
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Code, Id, Principal, PrincipalKind, Refusal, Time};
use holmes_proto::edge::{Roles, Scope};
use holmes_runtime::Clock;
use holmes_runtime::auth::{Auth, Keys, Network, signing_input};
use holmes_testing::now;
use http_body_util::Full;
use prost_reflect::prost::bytes::Bytes;
use tonic::body::Body;
use tower::{Layer as _, Service};

mod statements;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

const NETWORK: Network = Network { genesis: [5; 16], cell: 1 };
const NOW_MS: u64 = 1_800_000_000_000;
const KEY: &str = "hk_of_ada";
const PATH: &str = "/holmes.ledger.v1.Ledger/GetSupply";

fn ada() -> Principal {
    Principal::new(PrincipalKind::Account, Id::of_key(&signer().verifying_key().to_bytes()))
}

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// One account with a key and a signature.
struct One;

impl Keys for One {
    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        let known = hash == *blake3::hash(KEY.as_bytes()).as_bytes();
        let told = known.then(|| (ada(), Scope::key(Roles::RENTER, false)));
        Box::pin(std::future::ready(told.ok_or_else(unknown)))
    }

    fn public_key(&self, who: Principal) -> Answer<([u8; 32], Result<Scope, Refusal>)> {
        let key = signer().verifying_key().to_bytes();
        let told = (who == ada()).then(|| (key, Ok(Scope::signature(Roles::RENTER))));
        Box::pin(std::future::ready(told.ok_or_else(unknown)))
    }
}

fn unknown() -> Refusal {
    Refusal::new(Code::Unauthenticated, "KEY_UNKNOWN", "the key is not known")
}

/// What stands behind the layer: counts who came in as Ada.
#[derive(Clone)]
struct Inside(Arc<AtomicUsize>);

impl Service<http::Request<Body>> for Inside {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if let Some(who) = request.extensions().get::<Principal>() {
            assert_eq!(*who, ada(), "nobody else has a key");
            assert!(request.extensions().get::<Scope>().is_some(), "a caller without a scope");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        std::future::ready(Ok(http::Response::new(Body::empty())))
    }
}

/// What a request is made of.
struct Asked {
    path: String,
    body: Vec<u8>,
    fields: Vec<(&'static str, Vec<u8>)>,
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// A request that Ada has signed.
fn signed(message: &[u8]) -> Asked {
    let (id, expires) = (Id::v7(NOW_MS, [3; 10]), NOW_MS + 60_000);
    let said = signing_input(&NETWORK, PATH, message, id, expires, ada());
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let fields = vec![
        ("holmes-principal", hex(&ada().to_bytes())),
        ("holmes-request-id", id.to_string().into_bytes()),
        ("holmes-expires", expires.to_string().into_bytes()),
        ("holmes-signature", hex(&signer().sign(&said).to_bytes())),
    ];
    Asked { path: PATH.into(), body, fields }
}

/// Whether it is let in as Ada.
fn admitted(asked: &Asked) -> bool {
    let clock = Clock::manual(Time::from_millis(NOW_MS));
    let auth = Auth::new(Arc::new(One), NETWORK, clock, 1 << 20, 1 << 20);
    let came = Arc::new(AtomicUsize::new(0));
    let body = Body::new(Full::new(Bytes::from(asked.body.clone())));
    let mut request = http::Request::builder().method("POST").uri(asked.path.as_str());
    for (name, value) in &asked.fields {
        request = request.header(*name, value.as_slice());
    }
    let Ok(request) = request.body(body) else { return false };
    let answer = now(auth.layer(Inside(came.clone())).call(request));
    assert!(answer.is_ok());
    came.load(Ordering::Relaxed) > 0
}

/// Of statements see there. A right request is let in; the same with anything changed in it is not, nor is anything else but Ada's API key.
pub(crate) fn proofs(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = statements::changed(&mut u);
    let _ = changed(&mut u);
    let _ = made_up(&mut u);
}

fn changed(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let message: Vec<u8> = u.arbitrary::<&[u8]>()?.iter().copied().take(64).collect();
    let mut asked = signed(&message);
    assert!(admitted(&asked), "a right signature is refused");
    let (at, by): (usize, u8) = (u.arbitrary()?, u.int_in_range(1..=255)?);
    let what = u.int_in_range(0..=5u8)?;
    match what {
        0 => asked.path.push('x'),
        1 => {
            let last = asked.body.len();
            asked.body[at % last] ^= by;
        }
        2 => asked.body.push(by),
        field => {
            let value = &mut asked.fields[usize::from(field) - 2].1;
            let last = value.len();
            let flipped = value[at % last] ^ by;
            // The same digit in another case is the same value.
            if value[at % last].eq_ignore_ascii_case(&flipped) || !(0x20..0x7f).contains(&flipped) {
                return Ok(());
            }
            value[at % last] = flipped;
        }
    }
    assert!(!admitted(&asked), "change {what} at {at} by {by} is let in");
    Ok(())
}

const FIELDS: [&str; 5] =
    ["authorization", "holmes-principal", "holmes-request-id", "holmes-expires", "holmes-signature"];

fn made_up(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut asked = Asked { path: PATH.into(), body: u.arbitrary::<&[u8]>()?.to_vec(), fields: Vec::new() };
    for name in FIELDS {
        if u.arbitrary()? {
            asked.fields.push((name, u.arbitrary::<&[u8]>()?.to_vec()));
        }
    }
    let known = format!("Bearer {KEY}").into_bytes();
    let keyed = asked.fields.iter().any(|(name, value)| *name == "authorization" && *value == known);
    assert!(!admitted(&asked) || keyed, "somebody without a key is let in");
    Ok(())
}
