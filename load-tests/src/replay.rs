//! How fast a log becomes a state again: read, checked, chained, applied.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use holmes_ledger::Ledger;
use holmes_runtime::recover::{Extent, recover};
use holmes_store::Journal;

use crate::Figure;
use crate::bed::{Bed, LOG, pair, single, transfer};

/// Transfers in the log of batches.
const BATCHES: u64 = 1_000;
const SIZE: u64 = 1_000;
/// Commands of one transfer in the log of singles.
const SINGLES: u64 = 200_000;

/// A log of batches, and one of single transfers.
pub(crate) async fn figures(dir: &Path) -> Result<Vec<Figure>> {
    Ok(vec![replayed(dir, BATCHES, SIZE).await?, replayed(dir, SINGLES, 1).await?])
}

async fn replayed(dir: &Path, commands: u64, size: u64) -> Result<Figure> {
    let scratch = tempfile::tempdir_in(dir)?;
    let bed = Bed::new(scratch.path()).await?;
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let (ledger, accounts) = (bed.ledger.clone(), bed.accounts.clone());
        let mine = commands.div_ceil(256);
        writing.spawn(async move {
            for _ in 0..mine {
                let one = |_| {
                    let (debit, credit) = pair(&accounts);
                    single(debit, credit, 1)
                };
                transfer(&ledger, (0..size).map(one).collect()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writing.join_next().await {
        done??;
    }
    let (mut frames, mut bytes) = (0u64, 0u64);
    let began = Instant::now();
    let whole = Extent { upto: u64::MAX, snapshots: false, checked: false };
    let replica = recover::<Ledger, Journal>(&bed.journal, LOG, whole, |frame| {
        frames += 1;
        bytes += frame.bytes().len() as u64;
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    let events = replica.tail().seq;
    bed.end().await?;
    let transfers = commands.div_ceil(256) * 256 * size;
    Ok(Figure {
        name: format!("replay, commands of {size}"),
        unit: if size == 1 { "events" } else { "transfers" },
        per_second: if size == 1 { events as f64 } else { transfers as f64 } / seconds,
        p50_ms: None,
        p99_ms: None,
        note: format!("{frames} frames, {:.0} MB/s, 10,000 accounts", bytes as f64 / 1e6 / seconds),
    })
}
