//! Durable transfers in process: through the machine's door, each answered when it is on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holmes_kernel::{At, Handle as _};

use crate::Figure;
use crate::bed::{Bed, Load, pair, single, transfer};

/// Un-batched with few and many callers, then in batches.
pub(crate) async fn figures(dir: &Path, length: Duration) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (callers, size) in [(1, 1), (64, 1), (512, 1), (8, 1_000)] {
        let scratch = tempfile::tempdir_in(dir)?;
        let bed = Bed::new(scratch.path()).await?;
        let (ledger, accounts) = (bed.ledger.clone(), Arc::new(bed.accounts.clone()));
        let before = bed.ledger.read(At::Latest, |_| ()).await?.seq;
        let load = Load::run(callers, length, move |_| {
            let (ledger, accounts) = (ledger.clone(), accounts.clone());
            async move {
                let one = |_| {
                    let (debit, credit) = pair(&accounts);
                    single(debit, credit, 1)
                };
                transfer(&ledger, (0..size).map(one).collect()).await
            }
        })
        .await?;
        let events = bed.ledger.read(At::Latest, |_| ()).await?.seq - before;
        figures.push(Figure {
            name: format!("ledger in process, {callers} callers × {size}"),
            unit: "transfers",
            per_second: (load.calls * size) as f64 / load.seconds,
            p50_ms: Some(load.ms(0.5)),
            p99_ms: Some(load.ms(0.99)),
            note: format!("{events} events in the log"),
        });
        bed.end().await?;
    }
    Ok(figures)
}
