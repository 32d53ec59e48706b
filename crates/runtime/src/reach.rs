//! Where the cell's services are, and how a call is brought there: to one of the processes that may own the service's log,
//! and to the next one where it does not, or does not answer. What was asked goes as it came, so that whoever answers
//! checks the asker's own proof; what changes something carries its request id and may be brought twice. What is passed on is
//! asked in one message, though it may be answered in many.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use holmes_kernel::{Code, Refusal};
use holmes_proto::edge::status;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;
use tower::{BoxError, Service, ServiceExt as _};

use crate::server::method_of;
use crate::tls::{self, Tls};

mod by_log;

pub use by_log::ByLog;

/// Metadata of a call that one process of the cell brings to another: who gets it answers it, or says that it cannot.
pub const HOPS: &str = "holmes-hops";
/// A process runs the service and does not own its log now.
pub const NOT_OWNER: &str = "NOT_OWNER";

/// How long a process may take to accept a connection.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);
/// How often a connection is felt for, and how long its other end may be silent then: a process that stands still is passed
/// over.
const FEEL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// For how long a call is brought again while nobody owns the log, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses between two rounds, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// The largest message that is brought, unless it is said otherwise: what a port takes with an API key, and its frame.
const MOST_BYTES: usize = 4 * 1024 * 1024 + 5;

/// What is wrong with an address book.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} says no address: expected service=http://host:port, several with | between them, *=… for the rest; https:// with tls.certificate"
)]
pub struct NoAddress(String);

/// Where services are.
#[derive(Clone)]
pub struct Reach {
    doors: Arc<BTreeMap<&'static str, Doors>>,
    /// Whom every call goes to; otherwise to the service that its path names.
    only: Option<&'static str>,
    /// For how long a call is brought again.
    patience: Duration,
    /// Bytes of a call that is brought.
    most_bytes: usize,
}

/// The processes that may own a service's log.
struct Doors {
    /// For what is answered in one message, and for streams: readers who do not read must not stand in others' way.
    channels: [Vec<Channel>; 2],
    /// The one that answered last.
    last: AtomicUsize,
}

impl Reach {
    /// Reads an address book: `ledger=http://10.0.0.1:7070|http://10.0.0.2:7070, *=http://holmes-{service}:7070`.
    /// Connections are made when they are needed, so it has to be called on a runtime.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub fn read(book: &str, tls: Option<&Tls>) -> Result<Reach, NoAddress> {
        let mut named: BTreeMap<&str, &str> = BTreeMap::new();
        for part in book.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (service, at) = part.split_once('=').ok_or_else(|| NoAddress(part.to_owned()))?;
            let known = service == "*" || holmes_proto::service(service).is_some();
            if !known || named.insert(service, at).is_some() {
                return Err(NoAddress(part.to_owned()));
            }
        }
        let mut doors = BTreeMap::new();
        for (_, service) in holmes_proto::SERVICES {
            let Some(at) = named.get(service).or_else(|| named.get("*")) else { continue };
            let host = service.replace('_', "-");
            let channels = || -> Result<Vec<_>, _> {
                at.split('|').map(|at| channel(&at.replace("{service}", &host), service, tls)).collect()
            };
            let channels = [channels()?, channels()?];
            doors.insert(*service, Doors { channels, last: AtomicUsize::new(0) });
        }
        Ok(Reach { doors: Arc::new(doors), only: None, patience: PATIENCE, most_bytes: MOST_BYTES })
    }

    /// The same, where signed calls may have so many bytes.
    pub fn at_most(self, bytes: usize) -> Reach {
        Reach { most_bytes: MOST_BYTES.max(bytes.saturating_add(5)), ..self }
    }

    /// The services that it says where to find.
    fn known(&self) -> impl Iterator<Item = &'static str> {
        self.doors.keys().copied()
    }

    /// Whether it says where a service is.
    pub fn knows(&self, service: &str) -> bool {
        self.doors.contains_key(service)
    }

    /// The same for one service, whatever is asked of it: its part of an interface that each has.
    pub fn of(&self, service: &'static str) -> Reach {
        Reach { only: Some(service), ..self.clone() }
    }

    /// The same, where calls are brought again for so long.
    pub fn patient(self, patience: Duration) -> Reach {
        Reach { patience, ..self }
    }

    /// The same as gRPC services.
    pub(crate) fn services(&self) -> impl Iterator<Item = String> {
        let known = <prost_types::FileDescriptorSet as prost::Message>::decode(holmes_proto::DESCRIPTORS);
        let files = known.map(|set| set.file).unwrap_or_default().into_iter();
        let ours = files.filter(|file| {
            service_of(&format!("/{}.", file.package())).is_some_and(|service| self.knows(service))
        });
        ours.flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().map(move |service| format!("{package}.{}", service.name()))
        })
    }

    pub(crate) async fn bring(&self, service: &str, request: http::Request<Body>) -> http::Response<Body> {
        let Some(doors) = self.doors.get(service) else {
            let message = format!("this process is not told where {service} is: see cluster.peers");
            return refused(Code::Unavailable, "PEER_UNKNOWN", message);
        };
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(HOPS, http::HeaderValue::from_static("1"));
        match Limited::new(body, self.most_bytes).collect().await {
            Ok(body) => doors.bring(&parts, &body.to_bytes(), service, self.patience).await,
            Err(why) if why.is::<LengthLimitError>() => {
                refused(Code::Exhausted, "REQUEST_TOO_LARGE", "the request is too large: split it".to_owned())
            }
            // Whoever has capped it says why.
            Err(why) => why.downcast::<tonic::Status>().map_or_else(
                |_| {
                    let message = "the request's body did not come whole: send it again".to_owned();
                    refused(Code::Unavailable, "BODY_BROKEN", message)
                },
                |status| status.into_http(),
            ),
        }
    }
}

impl Doors {
    /// To one after the other until one answers that can.
    async fn bring(
        &self,
        parts: &http::request::Parts,
        body: &Bytes,
        service: &str,
        patience: Duration,
    ) -> http::Response<Body> {
        let (until, mut pause) = (Instant::now() + patience, PAUSES.0);
        let channels = &self.channels[usize::from(method_of(parts.uri.path()).streams)];
        let begin = self.last.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let at = (begin + tried) % channels.len();
            let body = Body::new(Full::new(body.clone()));
            let request = http::Request::from_parts(parts.clone(), body);
            let answer = match channels[at].clone().oneshot(request).await {
                Ok(answer) if not_there(&answer).is_none() => {
                    self.last.store(at, Ordering::Relaxed);
                    return answer;
                }
                Ok(answer) => answer,
                Err(why) => away(service, &why.to_string()),
            };
            tried += 1;
            if Instant::now() + pause > until {
                return answer;
            }
            if tried % channels.len() == 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// Whether an answer says that somebody else, or the same one a little later, has to be asked: nothing was decided, or it is
/// not known and the same request id tells.
fn not_there(answer: &http::Response<Body>) -> Option<tonic::Status> {
    let status = tonic::Status::from_header_map(answer.headers())?;
    if status.code() != tonic::Code::Unavailable {
        return None;
    }
    let reason = status.get_details_error_info().map(|info| info.reason);
    let moves = |reason: String| {
        matches!(reason.as_str(), "MOVED" | NOT_OWNER | "STOPPED" | "OUTCOME_UNKNOWN" | "KEYS_AWAY")
    };
    reason.is_none_or(moves).then_some(status)
}

fn channel(at: &str, service: &str, tls: Option<&Tls>) -> Result<Channel, NoAddress> {
    let (at, (every, within)) = (at.trim(), FEEL);
    let wrong = || NoAddress(at.to_owned());
    let (secure, host) = match (at.strip_prefix("https://"), at.strip_prefix("http://")) {
        (Some(host), _) => (true, host),
        (_, Some(host)) => (false, host),
        _ => return Err(wrong()),
    };
    let address = Arc::new(host.trim_end_matches('/').to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    let within_tls = match secure {
        true => Some((tls.ok_or_else(wrong)?.clone(), tls::name_of(service).ok_or_else(wrong)?)),
        false => None,
    };
    // TLS is our connector's: the certificates of the moment, and the service's name whatever its address.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| wrong())?;
    Ok(endpoint
        .connect_timeout(CONNECTS_WITHIN)
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(within)
        .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            connected(address.clone(), within_tls.clone())
        })))
}

/// A connection to a process.
async fn connected(
    address: Arc<String>,
    tls: Option<(Tls, ServerName<'static>)>,
) -> io::Result<TokioIo<Wire>> {
    let stream = TcpStream::connect(address.as_str()).await?;
    stream.set_nodelay(true)?;
    let stream: Wire = match tls {
        None => Box::new(stream),
        Some((tls, name)) => Box::new(tls.connector().connect(name, stream).await?),
    };
    Ok(TokioIo::new(stream))
}

/// What a connection is made of.
type Wire = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

fn away(service: &str, why: &str) -> http::Response<Body> {
    tracing::debug!(service, why, "a process of the cell does not answer");
    let message = format!("{service} does not answer: try again with the same request id");
    let refusal = Refusal::new(Code::Unavailable, "SERVICE_AWAY", message).retry_after(500);
    status(refusal).into_http()
}

fn refused(code: Code, reason: &'static str, message: String) -> http::Response<Body> {
    status(Refusal::new(code, reason, message)).into_http()
}

/// The service that a path names: `/holmes.ledger.v1.Ledger/GetSupply` is of `ledger`.
pub(crate) fn service_of(path: &str) -> Option<&str> {
    path.strip_prefix("/holmes.")?.split('.').next()
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

impl Service<http::Request<Body>> for Reach {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let reach = self.clone();
        Box::pin(async move {
            let named = service_of(request.uri().path()).unwrap_or_default().to_owned();
            Ok(reach.bring(reach.only.unwrap_or(&named), request).await)
        })
    }
}

/// Passes calls on from outside the cell; a call that was passed on once is not passed on again.
#[derive(Clone)]
pub(crate) struct Elsewhere(Reach);

impl Elsewhere {
    pub(crate) fn new(reach: Reach) -> Elsewhere {
        Elsewhere(reach)
    }
}

impl<B> Service<http::Request<B>> for Elsewhere
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let Elsewhere(reach) = self.clone();
        let request = request.map(Body::new);
        Box::pin(async move {
            let service = service_of(request.uri().path()).unwrap_or_default().to_owned();
            if request.headers().contains_key(HOPS) {
                return Ok(not_owner(&service));
            }
            Ok(reach.bring(&service, request).await)
        })
    }
}

/// What another process hears whose address book is wrong, or behind the times.
pub(crate) fn not_owner(service: &str) -> http::Response<Body> {
    let message = format!("this process does not own the log of {service}: another one does");
    refused(Code::Unavailable, NOT_OWNER, message)
}
