//! What every call passes before it reaches a service.

use std::time::{Duration, Instant};

use holmes_kernel::{Code, Refusal};
use holmes_proto::edge::status;
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

/// [`Deadline`] as a layer.
#[derive(Clone, Copy)]
pub(super) struct Within {
    /// Of a call whose caller has set none.
    pub(super) default: Duration,
    /// Nobody waits for longer, whatever deadline is asked for.
    pub(super) longest: Duration,
}

impl<S> tower::Layer<S> for Within {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, within: *self }
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
        let Within { default, longest } = self.within;
        let within = asked.map_or(default, |asked| asked.saturating_sub(MARGIN)).min(longest);
        if within.is_zero() {
            let message = "the deadline is too near for an answer to arrive in time: nothing was begun";
            return Box::pin(async move { Ok(too_late(message)) });
        }
        // Counted from here, not from the first poll: tonic counts from the moment at which this returns.
        let until = tokio::time::Instant::now() + within;
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout_at(until, answer).await.unwrap_or_else(|_| {
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
        let method = method_of(request.uri().path()).name;
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

/// What is known of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// `/package.Service/Method`, or "other".
    pub(super) name: &'static str,
    /// Whether either side may send more than one message.
    pub(super) streams: bool,
}

/// A method of ours, by its own name: callers must not be able to make up metric labels.
pub(super) fn method_of(path: &str) -> Method {
    use std::sync::LazyLock;
    static METHODS: LazyLock<std::collections::HashMap<String, bool>> = LazyLock::new(|| {
        let known = [
            holmes_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let decode = |bytes: &[u8]| <prost_types::FileDescriptorSet as prost::Message>::decode(bytes).ok();
        let mut methods = std::collections::HashMap::new();
        for file in known.into_iter().filter_map(decode).flat_map(|set| set.file) {
            for service in &file.service {
                for method in &service.method {
                    let streams = method.client_streaming() || method.server_streaming();
                    methods
                        .insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()), streams);
                }
            }
        }
        methods
    });
    match METHODS.get_key_value(path) {
        Some((name, streams)) => Method { name, streams: *streams },
        None => Method { name: "other", streams: false },
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
            assert_eq!(method_of(known), Method { name: known, streams: false });
        }
        for stream in ["/grpc.health.v1.Health/Watch", "/holmes.gateway.v1.Gateway/Attach"] {
            assert!(method_of(stream).streams, "{stream}");
        }
    }
}
