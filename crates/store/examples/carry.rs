//! How fast a log is carried to its stream, one message unacknowledged at a time, beside plain publishing with
//! acknowledgements to the same server in the same run; and how long a message takes to whoever listens.
//!
//! ```text
//! cargo xtask infra up
//! HOLMES_NATS=127.0.0.1:4222 cargo run --release -p holmes-store --features conformance,nats --example carry -- [SECONDS]
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use holmes_kernel::ports::{Bus as _, Ear as _, Message};
use holmes_kernel::{LogId, ServiceId};
use holmes_store::bus::nats::{Bus, Keep, Names, Options, Proof};

const LOG: LogId = LogId::new(65_000, ServiceId(1));

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let seconds =
        std::env::args().nth(1).map_or(Ok(5), |seconds| seconds.parse()).context("SECONDS is a number")?;
    let duration = Duration::from_secs(seconds);
    let server = std::env::var("HOLMES_NATS")
        .context("HOLMES_NATS names no server: `cargo xtask infra up` starts one")?;
    let names = Names::new([(LOG.svc, "bench".to_owned())]);
    let subject = names.subject(LOG);
    let options =
        Options { servers: vec![server.clone()], name: "bench".into(), proof: Proof::default(), names };
    let bus = Bus::connect(options).await?;
    let context = async_nats::jetstream::new(async_nats::connect(&server).await?);
    println!("{seconds} s each, on {server}");
    println!(
        "{:>9} {:>9} {:>9} {:>6} {:>9} {:>9}",
        "bytes", "msgs/s", "plain/s", "ratio", "heard p50", "p99"
    );
    for size in [1_024, 70 * 1_024] {
        let body = Bytes::from(vec![7; size]);
        bus.migrate(LOG, Keep::default()).await?;
        let (mut place, mut carried, begun) = (0, 0u64, Instant::now());
        while begun.elapsed() < duration {
            let message = Message { log: LOG, first: carried + 1, last: carried + 1, body: body.clone() };
            place = bus.publish(place, &message).await?;
            carried += 1;
        }
        let ours = carried as f64 / begun.elapsed().as_secs_f64();
        let mut waits = heard(&bus, place, carried, &body, duration).await?;
        let (mut published, begun) = (0u64, Instant::now());
        while begun.elapsed() < duration {
            context.publish(subject.clone(), body.clone()).await?.await?;
            published += 1;
        }
        let plain = published as f64 / begun.elapsed().as_secs_f64();
        waits.sort_unstable();
        let wait = |percent: usize| waits[(waits.len() - 1) * percent / 100];
        println!(
            "{size:>9} {ours:>9.0} {plain:>9.0} {:>6.2} {:>9.2?} {:>9.2?}",
            ours / plain,
            wait(50),
            wait(99)
        );
        bus.remove(LOG).await?;
    }
    Ok(())
}

/// From asking to publish to hearing it, at a thousand messages a second.
async fn heard(
    bus: &Bus,
    mut place: u64,
    after: u64,
    body: &Bytes,
    duration: Duration,
) -> Result<Vec<Duration>> {
    let mut ear = bus.listen(LOG, after).await?;
    let (sender, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let (publisher, body) = (bus.clone(), body.clone());
    let publishing = tokio::spawn(async move {
        let (mut seq, begun) = (after, Instant::now());
        let mut beat = tokio::time::interval(Duration::from_millis(1));
        while begun.elapsed() < duration {
            beat.tick().await;
            seq += 1;
            let asked = Instant::now();
            place = publisher
                .publish(place, &Message { log: LOG, first: seq, last: seq, body: body.clone() })
                .await?;
            sender.send((seq, asked))?;
        }
        anyhow::Ok(())
    });
    let mut waits = Vec::new();
    while let Some((seq, asked)) = sent.recv().await {
        // What was said before it was acknowledged may have been heard before, too.
        while ear.next().await?.message.last < seq {}
        waits.push(asked.elapsed());
    }
    publishing.await??;
    Ok(waits)
}
