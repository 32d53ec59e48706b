//! What every call passes before it reaches a service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holmes_kernel::{Code, Refusal};
use holmes_proto::edge::status;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tonic::body::Body;

/// [`Observed`] as a layer.
#[derive(Clone, Copy)]
pub(super) struct Observe;

impl<S> tower::Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed(inner)
    }
}

/// [`Admitted`] as a layer: so many calls may be in progress.
#[derive(Clone)]
pub(super) struct Admit(pub(super) Arc<Semaphore>);

impl<S> tower::Layer<S> for Admit {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { inner, places: self.0.clone() }
    }
}

/// [`Deadline`] as a layer, with the deadline of a call whose caller has set none.
#[derive(Clone, Copy)]
pub(super) struct Within(pub(super) Duration);

impl<S> tower::Layer<S> for Within {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, default: self.0 }
    }
}

/// Lets so many calls in at a time and refuses the others at once. A call is in progress until its answer's last byte:
/// a stream keeps its place.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S> tower::Service<http::Request<Body>> for Admitted<S>
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
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Box::pin(async { Ok(overloaded()) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let keeping = move |body: Body| {
                Body::new(body.map_frame(move |frame| {
                    let _in_progress = &place;
                    frame
                }))
            };
            Ok(legible(answer.await?).map(keeping))
        })
    }
}

/// tonic blames itself for a message that cannot be decoded; its sender should know better.
fn legible(answer: http::Response<Body>) -> http::Response<Body> {
    let undecodable = tonic::Status::from_header_map(answer.headers()).filter(|status| {
        status.code() == tonic::Code::Internal
            && status.message().starts_with("failed to decode Protobuf message")
    });
    let Some(why) = undecodable else { return answer };
    let message = format!("the request is not a message of this method: {}", why.message());
    status(Refusal::new(Code::Invalid, "MESSAGE_MALFORMED", message)).into_http()
}

/// What a call hears that finds the process full.
fn overloaded() -> http::Response<Body> {
    let message = "the process has as many calls in progress as it takes: try again a little later";
    status(Refusal::new(Code::Exhausted, "OVERLOADED", message).retry_after(100)).into_http()
}

/// So much before the caller's deadline it is answered: the caller should still hear it, and tonic, which looks at the
/// same header, would say `CANCELLED` without a reason.
const MARGIN: Duration = Duration::from_millis(2);

/// Nobody waits for longer, whatever deadline is asked for.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Ends a call at its caller's deadline (`grpc-timeout`), or at ours when the caller has set none. What the call had
/// begun may still be carried out: the same request id tells.
#[derive(Clone)]
pub(super) struct Deadline<S> {
    inner: S,
    default: Duration,
}

type Answering<E> = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

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
        let within = asked.map_or(self.default, |asked| asked.min(LONGEST).saturating_sub(MARGIN));
        if within.is_zero() {
            let message = "the deadline is too near for an answer to arrive in time: nothing was begun";
            return Box::pin(async move { Ok(too_late(message)) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout(within, answer).await.unwrap_or_else(|_| {
                Ok(too_late(
                    "the deadline passed before the answer; the same request id tells what became of it",
                ))
            })
        })
    }
}

fn too_late(message: &str) -> http::Response<Body> {
    status(Refusal::new(Code::Deadline, "DEADLINE_EXCEEDED", message)).into_http()
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
pub(super) struct Observed<S>(S);

impl<S> tower::Service<http::Request<Body>> for Observed<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let began = Instant::now();
        let method = method_of(request.uri().path());
        let span = tracing::info_span!("call", method);
        let answer = self.0.call(request);
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
                metrics::histogram!("holmes_call_seconds", "method" => method, "code" => format!("{code:?}"))
                    .record(seconds);
                tracing::debug!(?code, seconds, "answered");
                answer
            },
            span,
        ))
    }
}

/// A method of ours, by its own name: callers must not be able to make up metric labels.
fn method_of(path: &str) -> &'static str {
    use std::sync::LazyLock;
    static METHODS: LazyLock<std::collections::HashSet<String>> = LazyLock::new(|| {
        let known = [
            holmes_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let decode = |bytes: &[u8]| <prost_types::FileDescriptorSet as prost::Message>::decode(bytes).ok();
        let mut methods = std::collections::HashSet::new();
        for file in known.into_iter().filter_map(decode).flat_map(|set| set.file) {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        methods
    });
    METHODS.get(path).map_or("other", String::as_str)
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
        assert_eq!(method_of("/evil/Path"), "other");
        for known in ["/grpc.health.v1.Health/Check", "/holmes.ledger.v1.Ledger/GetSupply"] {
            assert_eq!(method_of(known), known);
        }
    }
}
