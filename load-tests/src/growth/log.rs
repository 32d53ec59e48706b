//! A ledger's log of so many transfers: written through the driver on a clock that is moved by hand, replayed, and started
//! from as a server does.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Handle as _, Id, Time};
use holmes_ledger::{Ledger, system_account};
use holmes_runtime::driver::{Running, Settings, start};
use holmes_runtime::recover::{Extent, recover, write_snapshot};
use holmes_runtime::{Clock, MachineHandle};
use holmes_store::Journal;

use super::{Found, own_bytes};
use crate::ids::Ids;
use crate::subject::ledger::{LOG, MARKET, asker, first_frame, open, opened, pay, single};
use crate::subject::pair;

const ACCOUNTS: usize = 10_000;
/// Callers at a time; together they fill the frames.
const CALLERS: u64 = 2_048;

/// Writes it, so many transfers a command.
pub(super) async fn write(dir: &Path, transfers: u64, batch: usize, hours: u64) -> Result<Found> {
    let span = Duration::from_secs(hours * 3_600);
    let begin = Time::from_micros(Clock::System.now().micros() - u64::try_from(span.as_micros())?);
    let clock = if hours == 0 { Clock::System } else { Clock::manual(begin) };
    let journal = opened(dir)?;
    journal.provision(&first_frame(clock.now())?).await?;
    let mut settings = Settings::new(LOG, clock.clone());
    settings.snapshot_every = 0;
    let Running { handle, task, .. } = start::<Ledger, Journal>(journal.clone(), settings).await?;
    let accounts = Arc::new(funded(&handle, &clock).await?);
    // All of an hour are answered before the clock moves on: an id that is older when it arrives is refused.
    let steps = hours.max(1);
    for nth in 0..steps {
        let share = transfers * (nth + 1) / steps - transfers * nth / steps;
        fill(&handle, &clock, &accounts, share.div_ceil(batch as u64), batch).await?;
        clock.advance(span / u32::try_from(steps)?);
    }
    handle.stop().await;
    task.await?;
    drop(handle);
    journal.close().await;
    Ok(Found::from([("log on disk", bytes_in(dir)? as f64 / transfers as f64)]))
}

/// So many commands at the clock's moment.
async fn fill(
    ledger: &MachineHandle<Ledger>,
    clock: &Clock,
    accounts: &Arc<Vec<Id>>,
    commands: u64,
    batch: usize,
) -> Result<()> {
    let left = Arc::new(AtomicU64::new(commands));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS.div_ceil(batch as u64).max(8) {
        let (ledger, clock, accounts, left) = (ledger.clone(), clock.clone(), accounts.clone(), left.clone());
        let by = asker(caller);
        callers.spawn(async move {
            let mut ids = Ids::new(caller as usize); // of another hour than those of the fill before
            let one = |id: Id| {
                let (debit, credit) = pair(id, ACCOUNTS);
                single(id, accounts[debit], accounts[credit], 1)
            };
            let take = |left: u64| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let [request] = ids.at(clock.now());
                let transfers = (0..batch).flat_map(|_| ids.at::<1>(clock.now())).map(one).collect();
                pay(&ledger, by, request, transfers).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}

async fn funded(ledger: &MachineHandle<Ledger>, clock: &Clock) -> Result<Vec<Id>> {
    let mut ids = Ids::new(usize::from(u16::MAX));
    let mut accounts = Vec::new();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..ACCOUNTS {
        let [account, request] = ids.at(clock.now());
        accounts.push(account);
        let ledger = ledger.clone();
        opening.spawn(async move { open(&ledger, account, request).await });
        if opening.len() > 1_000 {
            opening.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(opened) = opening.join_next().await {
        opened??;
    }
    for some in accounts.chunks(1_000) {
        let genesis = system_account("genesis/HOL");
        let mut grant = |to: &Id| {
            let [id] = ids.at(clock.now());
            single(id, genesis, *to, 1_000_000_000)
        };
        let grants = some.iter().map(&mut grant).collect();
        let [request] = ids.at(clock.now());
        pay(ledger, MARKET, request, grants).await?;
    }
    Ok(accounts)
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        // What is allocated: the engine makes its files longer than what it has written.
        bytes += if facts.is_dir() { bytes_in(&entry.path())? } else { facts.blocks() * 512 };
    }
    Ok(bytes)
}

/// From the first frame to a state.
pub(super) async fn replay(dir: &Path, transfers: u64) -> Result<Found> {
    let journal = opened(dir)?;
    let began = Instant::now();
    recover::<Ledger, Journal>(&journal, LOG, Extent::FROM_FIRST, |_| {}).await?;
    let rate = transfers as f64 / began.elapsed().as_secs_f64();
    journal.close().await;
    Ok(Found::from([("replay", rate)]))
}

/// Keeps a snapshot as a running server does.
pub(super) async fn snapshot(dir: &Path, before_end: u64) -> Result<Found> {
    let journal = opened(dir)?;
    let end = journal.claim(LOG).await?.tail.seq;
    write_snapshot::<Ledger, Journal>(&journal, LOG, end - before_end).await?;
    journal.close().await;
    Ok(Found::new())
}

/// From nothing to a ledger that answers: the directory opened, the log claimed, the newest snapshot read, the events
/// behind it applied.
pub(super) async fn cold_start(dir: &Path) -> Result<Found> {
    let began = Instant::now();
    let journal = opened(dir)?;
    let mut settings = Settings::new(LOG, Clock::System);
    settings.snapshot_every = 0;
    let Running { handle, task, .. } = start::<Ledger, Journal>(journal.clone(), settings).await?;
    let genesis = system_account("genesis/HOL");
    let seen = handle.read(holmes_kernel::At::Latest, move |state| state.account(&genesis).is_some()).await?;
    let took = began.elapsed().as_secs_f64();
    ensure!(seen.value, "the ledger came back without its first account");
    let memory = own_bytes() as f64 / f64::from(1 << 20);
    handle.stop().await;
    task.await?;
    drop(handle);
    journal.close().await;
    Ok(Found::from([("start", took), ("memory", memory)]))
}
