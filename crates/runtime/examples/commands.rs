//! How many durable commands a second one machine takes in one process, over the embedded journal in a temporary
//! directory: `cargo run --release -p holmes-runtime --example commands [seconds]`. Callers ask, wait for the durable
//! answer, and ask again. Beside it what the journal itself does with frames made beforehand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holmes_kernel::entry::{DueOrigin, Entry, Origin};
use holmes_kernel::frame::Open;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Call, Handle as _, Id, LogId, Principal, PrincipalKind, ServiceId, Time};
use holmes_runtime::driver::{self, Settings};
use holmes_runtime::{Clock, MachineHandle, fresh_id};
use holmes_store::journal::embedded::{self, Journal};
use prost::Message as _;

#[path = "../../kernel/tests/it/till.rs"]
mod till;

use till::{Command, Event, Moved, Till, What};

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let journal = Journal::open(dir.path(), embedded::Options::default())?;
    println!(
        "{:>28} {:>12} {:>10} {:>10} {:>12} {:>8}",
        "", "commands/s", "p50 ms", "p99 ms", "events/frame", "fsyncs/s"
    );
    for events in [1, 64, 512] {
        raw(&journal, events, Duration::from_secs(seconds)).await?;
    }
    let now = Clock::System.now();
    journal.provision(&till::provision(1, now)).await?;
    let running =
        driver::start::<Till, _>(journal.clone(), Settings::new(till::log(1), Clock::System)).await?;
    for callers in [1, 16, 64, 512] {
        commands(&journal, &running.handle, callers, Duration::from_secs(seconds)).await?;
    }
    running.handle.stop().await;
    running.task.await?;
    drop(running.feed);
    journal.close().await;
    Ok(())
}

/// So many callers, each with one command at a time.
async fn commands(
    journal: &Journal,
    till: &MachineHandle<Till>,
    callers: u16,
    during: Duration,
) -> Result<(), Failed> {
    let (began, commits) = (Instant::now(), journal.commits());
    let asking: Vec<_> = (0..callers)
        .map(|n| {
            let till = till.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut id = [0; 16];
                id[..2].copy_from_slice(&n.to_be_bytes());
                let caller = Principal::new(PrincipalKind::Account, Id::from_bytes(id));
                for number in 0u16.. {
                    let asked = Instant::now();
                    if asked - began > during {
                        break;
                    }
                    id[2..4].copy_from_slice(&number.to_be_bytes());
                    let command = Command::Deposit { to: Id::from_bytes(id), units: 1 };
                    till.submit(Call::request(caller, fresh_id()), command).await?;
                    waits.push(asked.elapsed());
                }
                Ok::<_, holmes_kernel::Refusal>(waits)
            })
        })
        .collect();
    let mut waits = Vec::new();
    for one in asking {
        waits.extend(one.await??);
    }
    show(&format!("{callers} callers"), waits, began.elapsed(), journal.commits() - commits, 1);
    Ok(())
}

/// The journal alone: frames of so many events, one behind the other.
async fn raw(journal: &Journal, events: usize, during: Duration) -> Result<(), Failed> {
    let log = LogId::new(1, ServiceId(u16::try_from(events)?));
    let head = Entry { origin: Some(Origin::Due(DueOrigin {})), ..Entry::default() };
    let moved = Moved { from: vec![1; 16], to: vec![2; 16], units: 1, balance: 9, seq: 9, at_us: 9 };
    let event = Arc::new(Event { what: Some(What::Deposited(moved)) }.encode_to_vec());
    let frame = |tail: &holmes_kernel::Tail, term, count| {
        let mut open = Open::new(log, term, Time::from_micros(tail.ts.micros() + 1), 1, tail);
        (0..count).for_each(|_| open.push(&head, &[event.to_vec()]));
        open.freeze()
    };
    let first = frame(&holmes_kernel::Tail::default(), 0, 1);
    journal.provision(&first).await?;
    let claim = journal.claim(log).await?;
    let (mut tail, mut waits) = (claim.tail, Vec::new());
    let (began, commits) = (Instant::now(), journal.commits());
    while began.elapsed() < during {
        let next = frame(&tail, claim.term, events);
        let asked = Instant::now();
        journal.append(&claim, &next).await?;
        waits.push(asked.elapsed());
        tail = next.tail();
    }
    show(
        &format!("journal, frames of {events}"),
        waits,
        began.elapsed(),
        journal.commits() - commits,
        events,
    );
    Ok(())
}

fn show(what: &str, mut waits: Vec<Duration>, took: Duration, commits: u64, each: usize) {
    waits.sort_unstable();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).map_or(0, Duration::as_micros);
    let (took, events) = (took.as_micros().max(1), (waits.len() * each) as u128);
    let per_second = |n: u128| n * 1_000_000 / took;
    println!(
        "{what:>28} {:>12} {:>10} {:>10} {:>12} {:>8}",
        per_second(events),
        millis(at(50)),
        millis(at(99)),
        events / u128::from(commits.max(1)),
        per_second(commits.into()),
    );
}

fn millis(us: u128) -> String {
    format!("{}.{:03}", us / 1_000, us % 1_000)
}
