//! A ledger to load: over the embedded journal, with accounts that are not poor.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Amount, Call, Handle as _, Id, LogId, Opened, Principal, Replica, ServiceId};
use holmes_ledger::command::{Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Command, Ledger, Reply, params, system_account};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_runtime::driver::{Running, Settings, start};
use holmes_runtime::{Clock, MachineHandle, fresh_id};
use holmes_store::Journal;
use holmes_store::journal::embedded;
use prost::Message as _;

/// How many accounts there are.
pub(crate) const ACCOUNTS: usize = 10_000;
/// The service in whose name everything is asked.
pub(crate) const MARKET: Principal = Principal::service(ServiceId(5));
/// The ledger's log.
pub(crate) const LOG: LogId = LogId::new(1, ServiceId(1));

/// A running ledger with its accounts.
pub(crate) struct Bed {
    pub(crate) journal: Journal,
    pub(crate) ledger: MachineHandle<Ledger>,
    pub(crate) accounts: Vec<Id>,
    task: tokio::task::JoinHandle<()>,
}

impl Bed {
    /// In a new directory.
    pub(crate) async fn new(dir: &Path) -> Result<Bed> {
        let journal: Journal = embedded::Journal::open(dir, embedded::Options::default())?.into();
        let clock = Clock::System;
        let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
        let mut wire = params::defaults(vec![hol]);
        wire.window_entries_per_principal = wire.window_entries; // one principal asks for everything here
        let opened = Opened { cell: 1, params: wire.encode_to_vec(), ..Opened::default() };
        journal.provision(&Replica::<Ledger>::provision(LOG, clock.now(), opened)?).await?;
        let mut settings = Settings::new(LOG, clock);
        settings.snapshot_every = 0; // a snapshot's replay would be measured too
        let Running { handle, task, .. } = start::<Ledger, Journal>(journal.clone(), settings).await?;
        let accounts = funded(&handle).await?;
        Ok(Bed { journal, ledger: handle, accounts, task })
    }

    /// Everything durable, everything closed.
    pub(crate) async fn end(self) -> Result<()> {
        self.ledger.stop().await;
        self.task.await?;
        self.journal.close().await;
        Ok(())
    }
}

async fn funded(ledger: &MachineHandle<Ledger>) -> Result<Vec<Id>> {
    let accounts: Vec<Id> = (0..ACCOUNTS).map(|_| fresh_id()).collect();
    let mut opening = tokio::task::JoinSet::new();
    for some in accounts.chunks(500).map(<[Id]>::to_vec) {
        let ledger = ledger.clone();
        opening.spawn(async move {
            for account in &some {
                let (name, via) = (String::new(), Via::Call);
                let open =
                    OpenAccount { account: *account, asset: 1, owner: MARKET, name, history: false, via };
                ledger.submit(Call::request(MARKET, fresh_id()), Command::OpenAccount(open)).await?;
            }
            let genesis = system_account("genesis/HOL");
            let transfers = some.iter().map(|to| single(genesis, *to, 1_000_000_000)).collect();
            transfer(&ledger, transfers).await
        });
    }
    while let Some(done) = opening.join_next().await {
        done??;
    }
    Ok(accounts)
}

/// A transfer at once.
pub(crate) fn single(debit: Id, credit: Id, units: u64) -> Transfer {
    let kind =
        Kind::Single(Move { debit, credit, amount: Amount::new(units), balancing: false, debit_owner: None });
    Transfer { id: fresh_id(), linked: false, tag: 0, kind }
}

/// Carries transfers out; every one must succeed.
pub(crate) async fn transfer(ledger: &MachineHandle<Ledger>, transfers: Vec<Transfer>) -> Result<()> {
    let command = Command::CreateTransfers { via: Via::Call, transfers };
    match ledger.submit(Call::request(MARKET, fresh_id()), command).await?.value {
        Reply::Transfers(results) => match results.iter().find(|result| result.code != TransferCode::Ok) {
            None => Ok(()),
            Some(failed) => bail!("a transfer failed: {:?}", failed.code),
        },
        Reply::Done | Reply::Recorded { .. } => bail!("a batch has results"),
    }
}

/// Two different accounts, evenly spread, another pair each time.
pub(crate) fn pair(accounts: &[Id]) -> (Id, Id) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
    (accounts[(n * 7_919) % accounts.len()], accounts[(n * 7_919 + 1) % accounts.len()])
}

/// What `callers` tasks did in `length`, each asking again as soon as it was answered.
pub(crate) struct Load {
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    histogram: Histogram<u64>,
}

impl Load {
    /// Milliseconds below which this share of calls was answered.
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// Runs a closed loop; a fifth of the length warms up and is not counted.
    pub(crate) async fn run<F, Fut>(callers: usize, length: Duration, call: F) -> Result<Load>
    where
        F: Fn(usize) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<()>> + Send,
    {
        let begin = Instant::now() + length / 5;
        let end = begin + length;
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let call = call.clone();
            tasks.spawn(async move {
                let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
                while Instant::now() < end {
                    let asked = Instant::now();
                    call(caller).await?;
                    if asked >= begin {
                        histogram.record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX))?;
                    }
                }
                anyhow::Ok(histogram)
            });
        }
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
        while let Some(done) = tasks.join_next().await {
            histogram.add(done?.context("a caller failed")?)?;
        }
        Ok(Load { calls: histogram.len(), seconds: length.as_secs_f64(), histogram })
    }
}
