//! The Replay API of a cell of several processes: a call goes to whoever owns the log that it names.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holmes_kernel::Code;
use holmes_proto::log::v1::ListLogsResponse;
use holmes_proto::signing::{first_text, message_of};
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message as _;
use prost::bytes::{BufMut as _, BytesMut};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt as _};

use super::{HOPS, Reach, refused};
use crate::server::Grpc;

/// Bytes of a request: it names a log and a place.
const MOST_BYTES: usize = 64 * 1024;
/// For how long a service that does not answer holds the list up.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
const LIST: &str = "/holmes.log.v1.Replay/ListLogs";

/// A Replay service: its own for the logs that this process owns, and passed on for the others.
#[derive(Clone)]
pub struct ByLog<S> {
    here: S,
    owns: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    reach: Reach,
}

impl<S> ByLog<S> {
    /// The service `here` for the logs that this process owns now.
    pub fn new(here: S, owns: impl Fn(&str) -> bool + Send + Sync + 'static, reach: &Reach) -> ByLog<S> {
        ByLog { here, owns: Arc::new(owns), reach: reach.clone() }
    }
}

impl<S: NamedService> NamedService for ByLog<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S: Grpc> Service<http::Request<Body>> for ByLog<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let ByLog { here, owns, reach } = self.clone();
        if request.headers().contains_key(HOPS) {
            return Box::pin(here.oneshot(request));
        }
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = Limited::new(body, MOST_BYTES).collect().await else {
                let message = "the request did not come whole, or is no request: it names a log and a place";
                return Ok(refused(Code::Invalid, "MESSAGE_MALFORMED", message.into()));
            };
            let body = body.to_bytes();
            let again = || http::Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            if parts.uri.path() == LIST {
                return Ok(all(&reach, again).await);
            }
            match first_text(message_of(&body)).filter(|log| !owns(log) && reach.knows(log)) {
                Some(log) => Ok(reach.bring(log, again()).await),
                None => here.oneshot(again()).await,
            }
        })
    }
}

/// Every log of the cell, each as its owner tells of it.
async fn all(reach: &Reach, again: impl Fn() -> http::Request<Body>) -> http::Response<Body> {
    let (mut all, reach) = (ListLogsResponse::default(), reach.clone().patient(LIST_PATIENCE));
    for service in reach.known() {
        let answer = reach.bring(service, again()).await;
        let told = tonic::Status::from_header_map(answer.headers());
        if told.is_some_and(|status| status.code() != tonic::Code::Ok) {
            return answer;
        }
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match ListLogsResponse::decode(message_of(&body)) {
            Ok(of) => all.logs.extend(of.logs.into_iter().filter(|log| log.service == service)),
            Err(_) => {
                let message = format!("{service} did not tell of its log: try again");
                return refused(Code::Unavailable, "SERVICE_AWAY", message);
            }
        }
    }
    unary(&all)
}

/// A message as a whole answer.
fn unary(message: &ListLogsResponse) -> http::Response<Body> {
    let bytes = message.encode_to_vec();
    let mut body = BytesMut::with_capacity(5 + bytes.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    body.put_slice(&bytes);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(body.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = http::Response::new(Body::new(body));
    let kind = http::HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}
