//! What every call passes before it reaches a service.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use holmes_kernel::{Code, Refusal};
use holmes_proto::edge::status;
use metrics::Histogram;
use tonic::body::Body;

use crate::measure::{GRPC_CALL, GRPC_REFUSED, Reasons};

/// [`Observed`] as a layer.
#[derive(Clone)]
pub(super) struct Observe(Arc<Answers>);

impl Observe {
    pub(super) fn new() -> Observe {
        Observe(Arc::new(Answers::default()))
    }
}

impl<S> tower::Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, answers: self.0.clone() }
    }
}

/// gRPC's status codes, 0 to 16.
const CODES: usize = 17;

/// How long calls took, by the methods' numbers and the codes.
struct Answers(Vec<[OnceLock<Histogram>; CODES]>);

impl Default for Answers {
    fn default() -> Answers {
        Answers(std::iter::repeat_with(Default::default).take(METHODS.len() + 1).collect())
    }
}

impl Answers {
    fn record(&self, method: Method, code: tonic::Code, seconds: f64) {
        // Most of them never occur: a histogram is made when its first value comes.
        let of = self.0[method.number][code as usize]
            .get_or_init(|| GRPC_CALL.histogram(&[method.name, &format!("{code:?}")]));
        of.record(seconds);
    }
}

/// Reasons of the port, from the layers in front of the services.
const REFUSED: [&str; 22] = [
    "ACCOUNT_SUSPENDED",
    "BODY_BROKEN",
    "DEADLINE_EXCEEDED",
    "GUEST_STREAM_OVER",
    "HEADER_MALFORMED",
    "KEYS_ELSEWHERE",
    "KEY_EXPIRED",
    "KEY_MALFORMED",
    "KEY_REVOKED",
    "KEY_UNKNOWN",
    "KEY_UNUSABLE",
    "MESSAGE_MALFORMED",
    "NOT_STAFF",
    "OVERLOADED",
    "REQUEST_TOO_LARGE",
    "SIGNATURE_EXPIRED",
    "SIGNATURE_INCOMPLETE",
    "SIGNATURE_MALFORMED",
    "SIGNATURE_TOO_LONG",
    "SIGNATURE_WRONG",
    "TOO_MANY_UNPROVEN",
    "TWO_PROOFS",
];

/// Counts what the port refuses; each layer has one, and all count together.
#[derive(Clone, Debug)]
pub(crate) struct Refused(Arc<Reasons>);

impl Refused {
    pub(crate) fn new() -> Refused {
        Refused(Arc::new(Reasons::new(&GRPC_REFUSED, &[], &REFUSED)))
    }

    /// A refusal as its caller's status.
    pub(crate) fn status(&self, refusal: Refusal) -> tonic::Status {
        self.0.count(&refusal.reason);
        status(refusal)
    }
}

/// [`Deadline`] as a layer.
#[derive(Clone)]
pub(super) struct Within {
    /// Of a call whose caller has set none.
    pub(super) default: Duration,
    /// Nobody waits for longer, whatever deadline is asked for.
    pub(super) longest: Duration,
    pub(super) refused: Refused,
}

impl<S> tower::Layer<S> for Within {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, within: self.clone() }
    }
}

/// So much before the caller's deadline it is answered: the caller should still hear it, and tonic, which looks at the
/// same header, would say `CANCELLED` without a reason.
const MARGIN: Duration = Duration::from_millis(2);

/// Ends a call at its caller's deadline (`grpc-timeout`), or at ours when the caller has set none or a later one; a
/// stream must have begun by then. What the call had begun may still be carried out: the same request id tells.
#[derive(Clone)]
pub(super) struct Deadline<S> {
    inner: S,
    within: Within,
}

pub(super) type Answering<E> =
    std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> tower::Service<http::Request<Body>> for Deadline<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let asked = request.headers().get("grpc-timeout").and_then(|value| timeout_of(value.to_str().ok()?));
        let Within { default, longest, refused } = self.within.clone();
        let within = asked.map_or(default, |asked| asked.saturating_sub(MARGIN)).min(longest);
        if within.is_zero() {
            let message = "the deadline is too near for an answer to arrive in time: nothing was begun";
            return Box::pin(async move { Ok(too_late(&refused, message)) });
        }
        // Counted from here, not from the first poll: tonic counts from the moment at which this returns.
        let until = tokio::time::Instant::now() + within;
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout_at(until, answer).await.unwrap_or_else(|_| {
                let message =
                    "the deadline passed before the answer; the same request id tells what became of it";
                Ok(too_late(&refused, message))
            })
        })
    }
}

fn too_late(refused: &Refused, message: &str) -> http::Response<Body> {
    refused.status(Refusal::new(Code::Deadline, "DEADLINE_EXCEEDED", message)).into_http()
}

/// gRPC's notation: at most eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3_600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// Counts calls and their seconds, by method and outcome.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    answers: Arc<Answers>,
}

impl<S> tower::Service<http::Request<Body>> for Observed<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let began = Instant::now();
        let method = method_of(request.uri().path());
        let span = tracing::info_span!("call", method = method.name);
        let answers = self.answers.clone();
        let answer = self.inner.call(request);
        Box::pin(tracing::Instrument::instrument(
            async move {
                let answer = answer.await;
                // A unary call that fails says so in the headers; one that streams says it in trailers, later.
                let code = answer
                    .as_ref()
                    .ok()
                    .and_then(|response| tonic::Status::from_header_map(response.headers()));
                let code = code.map_or(tonic::Code::Ok, |status| status.code());
                let seconds = began.elapsed().as_secs_f64();
                answers.record(method, code, seconds);
                tracing::debug!(?code, seconds, "answered");
                answer
            },
            span,
        ))
    }
}

/// What is known of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// `/package.Service/Method`, or "other".
    pub(crate) name: &'static str,
    /// Whether either side may send more than one message.
    pub(crate) streams: bool,
    /// Its number among all of ours; "other" has the one behind them.
    number: usize,
}

/// Our methods: whether each streams, and its number.
static METHODS: LazyLock<HashMap<String, (bool, usize)>> = LazyLock::new(|| {
    let known = [
        holmes_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let decode = |bytes: &[u8]| <prost_types::FileDescriptorSet as prost::Message>::decode(bytes).ok();
    let mut methods = HashMap::new();
    for file in known.into_iter().filter_map(decode).flat_map(|set| set.file) {
        for service in &file.service {
            for method in &service.method {
                let streams = method.client_streaming() || method.server_streaming();
                let name = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let number = methods.len();
                methods.entry(name).or_insert((streams, number));
            }
        }
    }
    methods
});

/// A method of ours, by its own name: callers must not be able to make up metric labels.
pub(crate) fn method_of(path: &str) -> Method {
    match METHODS.get_key_value(path) {
        Some((name, (streams, number))) => Method { name, streams: *streams, number: *number },
        None => Method { name: "other", streams: false, number: METHODS.len() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_grpcs_notation_only() {
        assert_eq!(timeout_of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout_of("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "-1S", "1", "1x", "123456789S", "１S"] {
            assert_eq!(timeout_of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_methods_of_ours_become_labels() {
        assert_eq!(method_of("/evil/Path").name, "other");
        for known in ["/grpc.health.v1.Health/Check", "/holmes.ledger.v1.Ledger/GetSupply"] {
            let method = method_of(known);
            assert_eq!((method.name, method.streams), (known, false));
        }
        for stream in ["/grpc.health.v1.Health/Watch", "/holmes.gateway.v1.Gateway/Attach"] {
            assert!(method_of(stream).streams, "{stream}");
        }
    }
}
