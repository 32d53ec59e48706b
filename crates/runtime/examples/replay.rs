//! How many events a second the Replay API gives one reader over gRPC on loopback, from an embedded journal in a temporary
//! directory: `cargo run --release -p holmes-runtime --example replay [events]`. Beside it what the journal itself reads, and
//! what the same frames make of public events without a network.

use std::sync::Arc;
use std::time::Instant;

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Call, Handle as _, Id, Principal, PrincipalKind};
use holmes_proto::log::v1::replay_client::ReplayClient;
use holmes_proto::log::v1::{ReadEventsRequest, ReadFramesRequest};
use holmes_runtime::driver::{self, Running, Settings};
use holmes_runtime::replay::{Log, Replay};
use holmes_runtime::{Clock, PublicFrame, fresh_id};
use holmes_store::journal::embedded::{self, Journal};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

#[path = "../../kernel/tests/it/till.rs"]
mod till;

use till::{Command, Till};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const CALLERS: u16 = 1_024;
const PAGE_BYTES: usize = 256 * 1024;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let events = std::env::args().nth(1).map_or(Ok(500_000), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let journal = Journal::open(dir.path(), embedded::Options::default())?;
    journal.provision(&till::provision(1, Clock::System.now())).await?;
    let running =
        driver::start::<Till, _>(journal.clone(), Settings::new(till::log(1), Clock::System)).await?;
    fill(&running, events).await?;
    let channel = served(&running).await?;
    println!("{:>36} {:>12} {:>12}", "", "events/s", "of reading");
    let reading = rate(read(&journal).await?);
    show("the journal, read and nothing else", reading, reading);
    show("its public events, without a network", rate(made(&running).await?), reading);
    show("ReadFrames over gRPC", rate(frames(channel.clone()).await?), reading);
    show("ReadEvents over gRPC", rate(asked(channel).await?), reading);
    running.handle.stop().await;
    running.task.await?;
    Ok(())
}

/// Writes a log of so many events.
async fn fill(running: &Running<Till>, events: u64) -> Result<(), Failed> {
    let each = u16::try_from(events.div_ceil(CALLERS.into()))?;
    let paying = (0..CALLERS).map(|n| {
        let till = running.handle.clone();
        tokio::spawn(async move {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&n.to_be_bytes());
            let caller = Principal::new(PrincipalKind::Account, Id::from_bytes(id));
            for number in 0..each {
                id[2..4].copy_from_slice(&number.to_be_bytes());
                let command = Command::Deposit { to: Id::from_bytes(id), units: 1 };
                till.submit(Call::request(caller, fresh_id()), command).await?;
            }
            Ok::<_, holmes_kernel::Refusal>(())
        })
    });
    for one in paying.collect::<Vec<_>>() {
        one.await??;
    }
    Ok(())
}

/// Serves the log, to staff alone.
async fn served(running: &Running<Till>) -> Result<Channel, Failed> {
    let rebuild = Arc::new(|_| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
        Box::pin(std::future::ready(Err("no states here".to_owned())))
    });
    let feed = watch::channel(Some(running.feed.clone())).1;
    let (stop, stopped) = watch::channel(false);
    let replay = Replay::server([Log { name: "till", feed, rebuild }], stopped);
    let staff = Principal::new(PrincipalKind::Staff, Id::from_bytes([1; 16]));
    let known = tower::util::MapRequestLayer::new(move |mut request: http::Request<tonic::body::Body>| {
        request.extensions_mut().insert(staff);
        request
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let _stop = stop;
        Server::builder()
            .layer(known)
            .add_service(replay)
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
    });
    Ok(Endpoint::new(format!("http://{address}"))?.connect().await?)
}

type Counted = (u64, Instant);

async fn read(journal: &Journal) -> Result<Counted, Failed> {
    let (began, mut after) = (Instant::now(), 0);
    loop {
        match journal.read(till::log(1), after, PAGE_BYTES).await?.last() {
            Some(frame) => after = frame.header().last,
            None => return Ok((after, began)),
        }
    }
}

async fn made(running: &Running<Till>) -> Result<Counted, Failed> {
    let (began, mut after) = (Instant::now(), 0);
    loop {
        match running.feed.frames(after, PAGE_BYTES).await?.last() {
            Some(frame) => after = frame.last,
            None => return Ok((after, began)),
        }
    }
}

async fn frames(channel: Channel) -> Result<Counted, Failed> {
    let (began, mut last) = (Instant::now(), 0);
    let asked = ReadFramesRequest { service: "till".to_owned(), after: 0, upto: 0 };
    let mut answers = ReplayClient::new(channel).read_frames(asked).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        last = PublicFrame::from_bytes(&answer.frame)?.last;
    }
    Ok((last, began))
}

async fn asked(channel: Channel) -> Result<Counted, Failed> {
    let (began, mut count) = (Instant::now(), 0);
    let asked = ReadEventsRequest { service: "till".to_owned(), ..ReadEventsRequest::default() };
    let mut answers = ReplayClient::new(channel).read_events(asked).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        count += answer.events.len() as u64;
    }
    Ok((count, began))
}

fn rate((events, began): Counted) -> f64 {
    events as f64 / began.elapsed().as_secs_f64()
}

fn show(what: &str, rate: f64, reading: f64) {
    println!("{what:>36} {rate:>12.0} {:>12.2}", rate / reading);
}
