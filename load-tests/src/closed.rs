//! The closed loop: so many callers, each asking again as soon as it was answered. It finds the ceiling. Its waits are
//! the callers' own: a subject that stalls is asked less meanwhile, so they flatter; [`crate::open`] has the honest ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holmes_kernel::Id;

use crate::ids::Ids;
use crate::latency::{Latency, Measured, Ran};
use crate::subject::Subject;

/// What one caller has to tell.
struct Told {
    latency: Latency,
    acknowledged: Vec<Id>,
    batches: u64,
}

/// Runs it. Only what was answered between the warm-up and the end counts.
pub(crate) async fn run(
    subject: &Arc<dyn Subject>,
    (callers, batch): (usize, usize),
    warm_up: Duration,
    length: Duration,
) -> Result<Ran> {
    let begin = Instant::now() + warm_up;
    let end = begin + length;
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(call(subject.clone(), caller, batch, begin, end));
    }
    let mut all = Told { latency: Latency::new()?, acknowledged: Vec::new(), batches: 0 };
    while let Some(done) = tasks.join_next().await {
        let told = done?.context("a caller failed")?;
        all.latency.add(&told.latency)?;
        all.acknowledged.extend(told.acknowledged);
        all.batches += told.batches;
    }
    let measured = Measured {
        per_second: (all.latency.count() * batch as u64) as f64 / length.as_secs_f64(),
        batches: all.latency.count(),
        unsent: 0,
        waits: all.latency.waits(),
    };
    Ok(Ran { measured, acknowledged: all.acknowledged, batches: all.batches })
}

async fn call(
    subject: Arc<dyn Subject>,
    caller: usize,
    batch: usize,
    begin: Instant,
    end: Instant,
) -> Result<Told> {
    let mut told = Told { latency: Latency::new()?, acknowledged: Vec::new(), batches: 0 };
    let mut ids = Ids::new(caller);
    loop {
        let asked = Instant::now();
        if asked >= end {
            return Ok(told);
        }
        let some = ids.take(batch);
        subject.batch(caller, &some).await?;
        let answered = Instant::now();
        if answered >= begin && answered < end {
            told.latency.record(answered - asked);
        }
        told.batches += 1;
        told.acknowledged.extend(some);
    }
}
