//! Who is let in. Unary calls and streams have places of their own, and so have callers who have proven who they are and
//! guests, who have not: whatever guests do, the others find their places free.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holmes_kernel::{Code, Principal, Refusal};
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::body::Body;

use super::connections::Connection;
use super::guests::{GiveWay, Guest, Guests};
use super::layers::{Answering, Refused, method_of};
use super::share::{Full, Share, Shares};
use crate::config::Server as Settings;
use crate::measure::{self, GRPC_PLACES, GRPC_USED};

/// The places of a port.
#[derive(Debug)]
struct Places {
    calls: Arc<Semaphore>,
    guest_calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    call_shares: Arc<Shares>,
    stream_shares: Arc<Shares>,
    guest_streams: Arc<Guests>,
    guest_stream: Duration,
    refused: Refused,
}

/// [`Admitted`] as a layer.
#[derive(Clone, Debug)]
pub(super) struct Admit(Arc<Places>);

impl Admit {
    pub(super) fn new(settings: &Settings) -> Admit {
        let places = Arc::new(Places {
            calls: Arc::new(Semaphore::new(settings.max_calls)),
            guest_calls: Arc::new(Semaphore::new(settings.max_guest_calls)),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            call_shares: Shares::new(settings.max_calls),
            stream_shares: Shares::new(settings.max_streams),
            guest_streams: Guests::new(settings.max_guest_streams),
            guest_stream: Duration::from_millis(settings.guest_stream_ms),
            refused: Refused::new(),
        });
        show(&places, settings);
        Admit(places)
    }
}

/// Shows the places, whenever somebody asks.
fn show(places: &Arc<Places>, settings: &Settings) {
    let most = [
        ("calls", settings.max_calls),
        ("guest_calls", settings.max_guest_calls),
        ("streams", settings.max_streams),
        ("guest_streams", settings.max_guest_streams),
    ];
    let meters = most.map(|(kind, most)| {
        GRPC_PLACES.gauge(&[kind]).set(most as f64);
        (most, GRPC_USED.gauge(&[kind]))
    });
    let places = Arc::downgrade(places);
    measure::when_asked(move || {
        let Some(places) = places.upgrade() else { return false };
        let [calls, guest_calls, streams, guest_streams] = &meters;
        for ((most, used), free) in
            [(calls, &places.calls), (guest_calls, &places.guest_calls), (streams, &places.streams)]
        {
            used.set(most.saturating_sub(free.available_permits()) as f64);
        }
        guest_streams.1.set(places.guest_streams.count() as f64);
        true
    });
}

impl<S> tower::Layer<S> for Admit {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { inner, places: self.0.clone() }
    }
}

/// Lets so many calls in at a time and refuses the others at once. A call is in progress until its answer's last byte.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    inner: S,
    places: Arc<Places>,
}

impl<S> tower::Service<http::Request<Body>> for Admitted<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut held = match self.places.held(&request) {
            Ok(held) => held,
            Err(refused) => {
                let refused = self.places.refused.status(refused);
                return Box::pin(async move { Ok(refused.into_http()) });
            }
        };
        let stay = match &held {
            Held::Guest { stay, .. } => Some(stay.clone()),
            Held::Place { .. } => None,
        };
        let is_guest = request.extensions().get::<Principal>().is_none();
        if let Some(stay) = &stay {
            request.extensions_mut().insert(stay.clone());
        }
        let request = if is_guest {
            let refused = self.places.refused.clone();
            request.map(|body| Body::new(Capped { body, left: GUEST_BYTES, stay, refused }))
        } else {
            request
        };
        let (answer, refused) = (self.inner.call(request), self.places.refused.clone());
        Box::pin(async move {
            let answer = tokio::select! {
                answer = answer => answer?,
                over = std::future::poll_fn(|cx| held.is_over(cx)) => return Ok(over.into_http()),
            };
            Ok(legible(answer, &refused).map(|body| Body::new(Keeping { body, held, ended: false })))
        })
    }
}

impl Places {
    /// A place for a request.
    fn held(&self, request: &http::Request<Body>) -> Result<Held, Refusal> {
        let who = request.extensions().get::<Principal>();
        let (places, share, what) = match (method_of(request.uri().path()).streams, who) {
            (true, None) => return Ok(self.guest(request.extensions().get().cloned())),
            (true, Some(who)) => (&self.streams, self.stream_shares.take(who), "open streams"),
            (false, Some(who)) => (&self.calls, self.call_shares.take(who), "calls in progress"),
            (false, None) => (&self.guest_calls, Ok(None), "calls in progress of callers who send no proof"),
        };
        let share = share.map_err(|full| {
            overloaded(&match full {
                Full::Own(most) => {
                    format!("the account has {most} of the process's {what}, as many as one may")
                }
                Full::Together(most) => {
                    format!("accounts have {most} of the process's {what}, as many as they may")
                }
            })
        })?;
        match places.clone().try_acquire_owned() {
            Ok(place) => Ok(Held::Place { _place: place, _share: share }),
            Err(_) => Err(overloaded(&format!("the process has as many {what} as it takes"))),
        }
    }

    fn guest(&self, connection: Option<Connection>) -> Held {
        let (guest, give_way) = self.guest_streams.enter();
        let stay = Stay {
            place: Arc::new(Mutex::new(StayAs::Guest { _leaves: guest })),
            streams: self.streams.clone(),
            connection,
        };
        let until = Box::pin(tokio::time::sleep(self.guest_stream));
        Held::Guest { stay, give_way, until, refused: self.refused.clone() }
    }
}

/// A stream whose caller was not known when it was opened; it stands in the request's extensions, so that a service to
/// which callers prove themselves inside the stream can say that one has.
#[derive(Clone, Debug)]
pub struct Stay {
    place: Arc<Mutex<StayAs>>,
    streams: Arc<Semaphore>,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum StayAs {
    Guest { _leaves: Guest },
    Proven { _place: OwnedSemaphorePermit },
}

impl Stay {
    /// The caller has proven who it is: its stream is among those of the others now, without the guests' deadline.
    ///
    /// # Errors
    /// There are as many as the process takes.
    pub fn proven(&self) -> Result<(), Refusal> {
        let Ok(place) = self.streams.clone().try_acquire_owned() else {
            return Err(overloaded("the process has as many open streams as it takes"));
        };
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = StayAs::Proven { _place: place };
        if let Some(connection) = &self.connection {
            connection.proven();
        }
        Ok(())
    }

    fn is_guest(&self) -> bool {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*place, StayAs::Guest { .. })
    }
}

/// What a call holds while it is in progress.
enum Held {
    Place { _place: OwnedSemaphorePermit, _share: Option<Share> },
    Guest { stay: Stay, give_way: GiveWay, until: Pin<Box<Sleep>>, refused: Refused },
}

impl Held {
    /// Resolves when a guest's time is over, with what it is told.
    fn is_over(&mut self, cx: &mut Context<'_>) -> Poll<tonic::Status> {
        let Held::Guest { stay, give_way, until, refused } = self else { return Poll::Pending };
        let late = until.as_mut().poll(cx).is_ready();
        if !(give_way.poll(cx) || late) || !stay.is_guest() {
            return Poll::Pending;
        }
        if late {
            let message = "a stream whose caller sends no proof lasts so long and no longer: open it again, or send one";
            return Poll::Ready(refused.status(Refusal::new(Code::Deadline, "GUEST_STREAM_OVER", message)));
        }
        let message = "the process has as many streams of callers who send no proof as it takes";
        Poll::Ready(refused.status(overloaded(message)))
    }
}

/// An answer's body that keeps its call's place, and ends when a guest's time is over.
struct Keeping {
    body: Body,
    held: Held,
    ended: bool,
}

impl http_body::Body for Keeping {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(over) = self.held.is_over(cx) {
            self.ended = true;
            self.body = Body::empty(); // the service hears that nobody listens any more
            let mut trailers = http::HeaderMap::new();
            let added = over.add_header(&mut trailers);
            return Poll::Ready(Some(added.map(|()| http_body::Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What a guest may send in one call: nobody makes the process hold more without saying who he is.
const GUEST_BYTES: usize = 256 << 10;

/// A guest's request body.
struct Capped {
    body: Body,
    left: usize,
    stay: Option<Stay>,
    refused: Refused,
}

impl http_body::Body for Capped {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let bytes =
            frame.as_ref().and_then(|frame| Some(frame.as_ref().ok()?.data_ref()?.len())).unwrap_or(0);
        if self.stay.as_ref().is_some_and(|stay| !stay.is_guest()) {
            return Poll::Ready(frame); // proven meanwhile
        }
        let Some(left) = self.left.checked_sub(bytes) else {
            let message = format!("a call without proof may send {GUEST_BYTES} bytes: send less, or a proof");
            let refusal = Refusal::new(Code::Exhausted, "REQUEST_TOO_LARGE", message);
            return Poll::Ready(Some(Err(self.refused.status(refusal))));
        };
        self.left = left;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// tonic blames itself for a message that cannot be decoded, and gives one that is too long no reason; its sender should
/// know better.
fn legible(answer: http::Response<Body>, refused: &Refused) -> http::Response<Body> {
    let Some(why) = tonic::Status::from_header_map(answer.headers()) else { return answer };
    let begins = |text: &str| why.message().contains(text);
    let refusal = match why.code() {
        tonic::Code::Internal if begins("failed to decode Protobuf message") => {
            let message = format!("the request is not a message of this method: {}", why.message());
            Refusal::new(Code::Invalid, "MESSAGE_MALFORMED", message)
        }
        tonic::Code::OutOfRange if begins("decoded message length too large") => {
            let message = format!("{}: split the request, or shorten it", why.message());
            Refusal::new(Code::Exhausted, "REQUEST_TOO_LARGE", message)
        }
        _ => return answer,
    };
    refused.status(refusal).into_http()
}

/// What a call hears that finds no place.
fn overloaded(what: &str) -> Refusal {
    Refusal::new(Code::Exhausted, "OVERLOADED", format!("{what}: try again a little later")).retry_after(100)
}
