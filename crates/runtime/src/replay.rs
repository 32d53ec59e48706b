//! The Replay API: `holmes.log.v1.Replay` over the feeds of a process. A reader gets pages as fast as it takes them, and
//! nothing waits for it: the log is read again for each.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holmes_kernel::canon::Digest;
use holmes_kernel::entry::Origin;
use holmes_kernel::ports::JournalError;
use holmes_kernel::{Code, Principal, PrincipalKind, Refusal, Time};
use holmes_proto::edge::{self, Needs};
use holmes_proto::log::v1 as wire;
use holmes_proto::log::v1::replay_server::{Replay as Service, ReplayServer};
use prost::bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::feed::Feed;
use crate::reach::NOT_OWNER;
use holmes_proto::public::{PublicEntry, PublicFrame};

mod ask;

use ask::{Ask, From};

/// How much of a log is read at once.
const PAGE_BYTES: usize = 256 * 1024;
/// Answers that may wait for a reader that takes none: then the log is read no further for him.
const WAITING: usize = 2;
/// How often a subscriber hears where he stands, though nothing happens.
const BEAT: Duration = Duration::from_secs(10);
/// Bytes of one part of a state.
const PART_BYTES: usize = 1024 * 1024;

/// A service's state at a place.
#[derive(Clone, Debug)]
pub struct StateAt {
    /// The place.
    pub seq: u64,
    /// Digest of its canonical form.
    pub digest: Digest,
    /// The state.
    pub json: Vec<u8>,
}

/// What makes a service's state at a place from its log; why it could not, otherwise, in words.
pub type Rebuild =
    Arc<dyn Fn(u64) -> Pin<Box<dyn Future<Output = Result<StateAt, String>> + Send>> + Send + Sync>;

/// A log that can be replayed.
#[derive(Clone)]
pub struct Log {
    /// The service's name.
    pub name: &'static str,
    /// What leaves it, while this process owns it.
    pub feed: watch::Receiver<Option<Feed>>,
    /// Makes its service's state.
    pub rebuild: Rebuild,
}

/// The service.
#[derive(Clone)]
pub struct Replay {
    logs: Arc<BTreeMap<&'static str, Log>>,
    /// States are made one at a time: each takes the room of a whole service.
    rebuilding: Arc<Semaphore>,
    /// Says when the process ends.
    stop: watch::Receiver<bool>,
}

impl Replay {
    /// The service over these logs, as a gRPC server takes it. Subscriptions end when `stop` says so.
    pub fn server(logs: impl IntoIterator<Item = Log>, stop: watch::Receiver<bool>) -> ReplayServer<Replay> {
        let logs = logs.into_iter().map(|log| (log.name, log)).collect();
        ReplayServer::new(Replay { logs: Arc::new(logs), rebuilding: Arc::new(Semaphore::new(1)), stop })
    }

    fn log(&self, service: &str) -> Result<(Feed, &Rebuild), Status> {
        let log = self.logs.get(service).ok_or_else(|| {
            let here: Vec<_> = self.logs.keys().copied().collect();
            let message = format!("there is no such log here; there are: {}", here.join(", "));
            edge::status(Refusal::new(Code::NotFound, "LOG_NOT_HERE", message))
        })?;
        let feed = log.feed.borrow().clone().ok_or_else(|| {
            let message = format!("another process owns the log of {}: ask that one", log.name);
            edge::status(Refusal::new(Code::Unavailable, NOT_OWNER, message).retry_after(200))
        })?;
        Ok((feed, &log.rebuild))
    }

    fn feed(&self, service: &str) -> Result<Feed, Status> {
        self.log(service).map(|(feed, _)| feed)
    }
}

/// What of a log somebody may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// All that leaves the service.
    All,
    /// What this account has asked for.
    Own(Principal),
}

impl Sees {
    fn of<T>(request: &Request<T>) -> Result<Sees, Status> {
        let who = edge::principal(request)?;
        match who.kind {
            PrincipalKind::Staff | PrincipalKind::Service | PrincipalKind::Gateway => Ok(Sees::All),
            PrincipalKind::Account => Ok(Sees::Own(who)),
            PrincipalKind::Node | PrincipalKind::System => Err(forbidden("nodes do not replay logs")),
        }
    }

    fn all<T>(request: &Request<T>) -> Result<(), Status> {
        match Sees::of(request)? {
            Sees::All => Ok(()),
            Sees::Own(_) => Err(forbidden("frames hold what everybody has asked for: read events")),
        }
    }

    fn entry(self, entry: &PublicEntry) -> bool {
        match self {
            Sees::All => true,
            Sees::Own(who) => entry.entry.asked_by() == who,
        }
    }
}

fn forbidden(why: &str) -> Status {
    edge::status(Refusal::new(Code::Forbidden, "FORBIDDEN", why.to_owned()))
}

fn unreadable(why: JournalError) -> Status {
    tracing::warn!(%why, "a log could not be replayed");
    let message = "the log cannot be read now: try again";
    edge::status(Refusal::new(Code::Unavailable, "LOG_UNREADABLE", message).retry_after(1_000))
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Answers what `read` sends, until it ends or the reader goes.
fn stream<T, F>(read: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Response<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, answers) = mpsc::channel(WAITING);
    tokio::spawn(read(sender));
    Response::new(ReceiverStream::new(answers))
}

/// Reads a log's events from a place on, for somebody.
struct Reader {
    feed: Feed,
    seq: u64,
    types: BTreeSet<String>,
    sees: Sees,
}

impl Reader {
    /// The next page up to a place; `None` at the end of what is durable.
    async fn page(&mut self, upto: u64) -> Result<Option<Vec<wire::EventRecord>>, Status> {
        if self.seq >= upto {
            return Ok(None);
        }
        let frames = self.feed.frames(self.seq, PAGE_BYTES).await.map_err(unreadable)?;
        let Some(last) = frames.last() else { return Ok(None) };
        let (after, end) = (self.seq, last.last.min(upto));
        let mut records = Vec::new();
        for frame in &frames {
            for entry in frame.entries.iter().filter(|entry| self.sees.entry(entry)) {
                records.extend(self.records(frame, entry));
            }
        }
        records.retain(|record| record.seq > after && record.seq <= end);
        self.seq = end;
        Ok(Some(records))
    }

    fn records(&self, frame: &PublicFrame, public: &PublicEntry) -> Vec<wire::EventRecord> {
        let entry = &public.entry;
        let request_id = match &entry.origin {
            Some(Origin::Request(request)) => request.request_id.clone(),
            _ => Bytes::new(),
        };
        let record = wire::EventRecord {
            ts_us: frame.ts.micros(),
            principal: entry.principal.clone(),
            request_id,
            traceparent: entry.traceparent.clone(),
            ..wire::EventRecord::default()
        };
        if let Some(refused) = entry.refused.as_ref().filter(|_| self.types.is_empty()) {
            let holmes_kernel::entry::Refused { code, reason, message } = refused.clone();
            let refused = Some(wire::Refused { code, reason, message });
            return vec![wire::EventRecord { seq: public.first, refused, ..record }];
        }
        let named = public.events().map(|(seq, event)| (seq, event, self.feed.type_of(event).unwrap_or("")));
        let wanted = named.filter(|(.., name)| self.types.is_empty() || self.types.contains(*name));
        let filled = wanted.map(|(seq, event, name)| wire::EventRecord {
            seq,
            r#type: name.to_owned(),
            event: event.clone(),
            ..record.clone()
        });
        filled.collect()
    }

    fn token(&self) -> String {
        format!("{}@{}", self.feed.name(), self.seq)
    }
}

#[tonic::async_trait]
impl Service for Replay {
    type ReadEventsStream = Answers<wire::ReadEventsResponse>;
    type SubscribeStream = Answers<wire::SubscribeResponse>;
    type ReadFramesStream = Answers<wire::ReadFramesResponse>;
    type GetStateStream = Answers<wire::GetStateResponse>;

    async fn list_logs(
        &self,
        request: Request<wire::ListLogsRequest>,
    ) -> Result<Response<wire::ListLogsResponse>, Status> {
        Sees::of(&request)?;
        let info = |feed: Feed| wire::LogInfo {
            service: feed.name().to_owned(),
            svc: feed.log().svc.0.into(),
            cell: feed.log().cell.into(),
            head: *feed.durable().borrow(),
        };
        let owned = self.logs.values().filter_map(|log| log.feed.borrow().clone());
        Ok(Response::new(wire::ListLogsResponse { logs: owned.map(info).collect() }))
    }

    async fn read_events(
        &self,
        request: Request<wire::ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        use wire::read_events_request::Upto;
        let sees = Sees::of(&request)?;
        let asked = request.into_inner();
        let feed = self.feed(&asked.service)?;
        let mut reader =
            Ask { from: asked.from.map(From::from), types: asked.types }.reader(&feed, sees).await?;
        let head = *feed.durable().borrow();
        let upto = match asked.upto {
            None => head,
            Some(Upto::UptoSeq(seq)) => seq.min(head),
            Some(Upto::UptoTsUs(us)) => feed.at(Time::from_micros(us)).await.map_err(unreadable)?.min(head),
        };
        Ok(stream(move |to| async move {
            loop {
                let answer = match reader.page(upto).await {
                    Ok(None) => return,
                    Ok(Some(events)) => {
                        Ok(wire::ReadEventsResponse { events, seq: reader.seq, resume_token: reader.token() })
                    }
                    Err(status) => Err(status),
                };
                let over = answer.is_err();
                if to.send(answer).await.is_err() || over {
                    return;
                }
            }
        }))
    }

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let sees = Sees::of(&request)?;
        let asked = request.into_inner();
        let feed = self.feed(&asked.service)?;
        let reader = Ask { from: asked.from.map(From::from), types: asked.types }.reader(&feed, sees).await?;
        let mut stop = self.stop.clone();
        Ok(stream(move |to| async move {
            let told = to.clone();
            tokio::select! {
                () = subscribed(reader, to) => {}
                _ = stop.wait_for(|stop| *stop) => drop(told.try_send(Err(ended()))), // or its reader sees the end
            }
        }))
    }

    async fn read_frames(
        &self,
        request: Request<wire::ReadFramesRequest>,
    ) -> Result<Response<Self::ReadFramesStream>, Status> {
        Sees::all(&request)?;
        let wire::ReadFramesRequest { service, after, upto } = request.into_inner();
        let feed = self.feed(&service)?;
        let head = *feed.durable().borrow();
        let upto = if upto == 0 { head } else { upto.min(head) };
        Ok(stream(move |to| async move {
            let mut at = after;
            while at < upto {
                let frames = match feed.frames(at, PAGE_BYTES).await {
                    Ok(frames) => frames,
                    Err(why) => return drop(to.send(Err(unreadable(why))).await),
                };
                if frames.is_empty() {
                    return;
                }
                let wanted = frames.iter().take_while(|frame| frame.first <= upto);
                for frame in wanted {
                    at = frame.last;
                    if to.send(Ok(wire::ReadFramesResponse { frame: frame.to_bytes() })).await.is_err() {
                        return;
                    }
                }
            }
        }))
    }

    async fn get_state(
        &self,
        request: Request<wire::GetStateRequest>,
    ) -> Result<Response<Self::GetStateStream>, Status> {
        use wire::get_state_request::At;
        edge::needs(&request, Needs::Admin)?;
        if edge::principal(&request)?.kind != PrincipalKind::Staff {
            return Err(forbidden("a whole state holds what is everybody's: only staff may read it"));
        }
        let asked = request.into_inner();
        let (feed, rebuild) = self.log(&asked.service)?;
        let (head, rebuild) = (*feed.durable().borrow(), rebuild.clone());
        let upto = match asked.at {
            None => head,
            Some(At::Seq(seq)) if (1..=head).contains(&seq) => seq,
            Some(At::Seq(_)) => {
                return Err(edge::invalid("seq", "a sequence number from 1 to the log's head"));
            }
            Some(At::TsUs(us)) => feed.at(Time::from_micros(us)).await.map_err(unreadable)?,
        };
        if upto == 0 {
            return Err(edge::invalid("ts_us", "a moment behind the log's beginning"));
        }
        let Ok(turn) = self.rebuilding.clone().try_acquire_owned() else {
            let message = "another state is being made: one at a time";
            return Err(edge::status(
                Refusal::new(Code::Exhausted, "STATE_BUSY", message).retry_after(1_000),
            ));
        };
        Ok(stream(move |to| async move {
            let _turn = turn;
            match rebuild(upto).await {
                Ok(state) => send_parts(state, &to).await,
                Err(why) => {
                    let refusal = Refusal::new(Code::Unavailable, "STATE_NOT_MADE", why);
                    drop(to.send(Err(edge::status(refusal))).await);
                }
            }
        }))
    }
}

/// Sends what there is, says so, and then sends what comes.
async fn subscribed(mut reader: Reader, to: mpsc::Sender<Result<wire::SubscribeResponse, Status>>) {
    let mut caught_up = false;
    loop {
        let answer = match reader.page(u64::MAX).await {
            Ok(Some(events)) => answer(&reader, events, false),
            Ok(None) if !caught_up => {
                caught_up = true;
                answer(&reader, Vec::new(), true)
            }
            Ok(None) => {
                let seq = reader.seq;
                match tokio::time::timeout(BEAT, reader.feed.beyond(seq)).await {
                    Ok(true) => continue,
                    Ok(false) => Err(ended()),
                    Err(_) => answer(&reader, Vec::new(), false),
                }
            }
            Err(status) => Err(status),
        };
        // What a filter left nothing of is said by the beat.
        let silent = answer.as_ref().is_ok_and(|answer| answer.events.is_empty() && !answer.caught_up);
        let over = answer.is_err();
        if silent && *reader.feed.durable().borrow() > reader.seq {
            continue;
        }
        if to.send(answer).await.is_err() || over {
            return;
        }
    }
}

fn answer(
    reader: &Reader,
    events: Vec<wire::EventRecord>,
    caught_up: bool,
) -> Result<wire::SubscribeResponse, Status> {
    Ok(wire::SubscribeResponse { events, seq: reader.seq, resume_token: reader.token(), caught_up })
}

fn ended() -> Status {
    let message = "this process has ended its service: subscribe again with the last resume_token";
    edge::status(Refusal::new(Code::Unavailable, "STOPPED", message).retry_after(200))
}

async fn send_parts(state: StateAt, to: &mpsc::Sender<Result<wire::GetStateResponse, Status>>) {
    let (json, digest) = (Bytes::from(state.json), Bytes::copy_from_slice(&state.digest));
    let mut at = 0;
    while at < json.len() {
        let end = json.len().min(at + PART_BYTES);
        let part = json.slice(at..end);
        let answer = match at {
            0 => wire::GetStateResponse { seq: state.seq, digest: digest.clone(), part },
            _ => wire::GetStateResponse { part, ..wire::GetStateResponse::default() },
        };
        if to.send(Ok(answer)).await.is_err() {
            return;
        }
        at = end;
    }
}
