//! The open loop: requests arrive by a schedule, whatever became of the ones before, as callers do who know nothing of
//! each other. A wait begins at the moment that the schedule has named: what a stall keeps waiting is waited for in full,
//! also by requests that could not be sent when they were due, because too many were under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use holmes_kernel::Id;
use serde::{Deserialize, Serialize};

use crate::ids::Ids;
use crate::latency::{Latency, Measured, Ran};
use crate::scenario::Arrivals;
use crate::subject::Subject;

/// When requests arrive, from the beginning on.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Seconds between two, on the average.
    gap: f64,
    at: f64,
    dice: u64,
}

impl Schedule {
    /// So many a second; the same seed gives the same moments.
    pub(crate) fn new(arrivals: Arrivals, per_second: f64, seed: u64) -> Schedule {
        Schedule { arrivals, gap: 1.0 / per_second, at: 0.0, dice: seed }
    }

    /// A number between 0 and 1, never 0 (splitmix64).
    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at += match self.arrivals {
            Arrivals::Constant => self.gap,
            Arrivals::Poisson => -self.gap * self.roll().ln(),
        };
        Some(Duration::from_secs_f64(self.at))
    }
}

/// What is to be driven.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) arrivals: Arrivals,
    /// Items a second.
    pub(crate) per_second: f64,
    pub(crate) batch: usize,
    /// Most requests under way.
    pub(crate) in_flight: usize,
    pub(crate) seed: u64,
}

/// How long after the last moment of the schedule requests may still wait to be sent; what is left then was never sent, and
/// the waits of such a run mean nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request whose moment has come.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    /// Whether it falls behind the warm-up.
    counts: bool,
}

/// Who is free to send, what waits to be sent, and what those write down who were answered.
struct Desk {
    latency: Latency,
    acknowledged: Vec<Id>,
    batches: u64,
    free: Vec<(usize, Ids)>,
    waiting: VecDeque<Due>,
    /// When nothing more is sent.
    closes: Instant,
    failed: Option<anyhow::Error>,
}

type Shared = Arc<Mutex<Desk>>;

fn look(desk: &Shared) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs it; back when the last request was answered.
pub(crate) async fn run(
    subject: &Arc<dyn Subject>,
    plan: Plan,
    warm_up: Duration,
    length: Duration,
) -> Result<Ran> {
    let began = Instant::now();
    let desk = Desk {
        latency: Latency::new()?,
        acknowledged: Vec::new(),
        batches: 0,
        free: (0..plan.in_flight).rev().map(|slot| (slot, Ids::new(slot))).collect(),
        waiting: VecDeque::new(),
        closes: began + warm_up + length + PATIENCE,
        failed: None,
    };
    let desk: Shared = Arc::new(Mutex::new(desk));
    let (sender, runtime) = (subject.clone(), tokio::runtime::Handle::current());
    let told = desk.clone();
    // A thread of its own: the runtime's timer knows milliseconds only, and its threads may be busy.
    let clock = thread::Builder::new().name("arrivals".into());
    let arrivals = clock.spawn(move || arrive(&sender, plan, (began, warm_up, length), &told, &runtime))?;
    let sent = tokio::task::spawn_blocking(move || arrivals.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the thread of arrivals panicked"))?;
    for caller in sent {
        // Mostly they were answered long ago.
        caller.await.context("a request panicked")?;
    }
    let mut desk = look(&desk);
    if let Some(failed) = desk.failed.take() {
        bail!(failed.context("a request failed"));
    }
    let measured = Measured {
        per_second: (desk.latency.count() * plan.batch as u64) as f64 / length.as_secs_f64(),
        batches: desk.latency.count(),
        unsent: desk.waiting.iter().filter(|due| due.counts).count() as u64,
        waits: desk.latency.waits(),
    };
    Ok(Ran { measured, acknowledged: std::mem::take(&mut desk.acknowledged), batches: desk.batches })
}

/// Sends every request at its moment; those for whom nobody is free wait.
fn arrive(
    subject: &Arc<dyn Subject>,
    plan: Plan,
    (began, warm_up, length): (Instant, Duration, Duration),
    desk: &Shared,
    runtime: &tokio::runtime::Handle,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut sent: Vec<tokio::task::JoinHandle<()>> = Vec::new();
    for at in Schedule::new(plan.arrivals, plan.per_second / plan.batch as f64, plan.seed) {
        if at >= warm_up + length {
            break;
        }
        let due = Due { at: began + at, counts: at >= warm_up };
        thread::sleep(due.at.saturating_duration_since(Instant::now()));
        let mut there = look(desk);
        let Some(caller) = there.free.pop() else {
            there.waiting.push_back(due);
            continue;
        };
        drop(there);
        sent.push(runtime.spawn(call(subject.clone(), plan.batch, caller, due, desk.clone())));
        if sent.len() >= 2 * plan.in_flight {
            sent.retain(|caller| !caller.is_finished());
        }
    }
    sent
}

/// Sends a request, and then those that wait.
async fn call(
    subject: Arc<dyn Subject>,
    batch: usize,
    (slot, mut ids): (usize, Ids),
    mut due: Due,
    desk: Shared,
) {
    loop {
        let some = ids.take(batch);
        let outcome = subject.batch(slot, &some).await;
        let wait = due.at.elapsed();
        let mut desk = look(&desk);
        match outcome {
            Ok(()) => {
                if due.counts {
                    desk.latency.record(wait);
                }
                desk.batches += 1;
                desk.acknowledged.extend(some);
            }
            Err(why) => desk.failed = Some(why),
        }
        let goes_on = desk.failed.is_none() && Instant::now() < desk.closes;
        match goes_on.then(|| desk.waiting.pop_front()).flatten() {
            Some(next) => due = next,
            None => return desk.free.push((slot, ids)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::closed;
    use crate::subject::{Doing, Kept};

    /// Answers at once, but for one stall that everybody has to wait for.
    #[derive(Default)]
    struct Stalling {
        door: tokio::sync::Mutex<u32>,
        stall: Duration,
    }

    const STALL_AT: u32 = 100;

    impl Subject for Stalling {
        fn settings(&self) -> BTreeMap<String, String> {
            BTreeMap::new()
        }

        fn batch<'a>(&'a self, _: usize, _: &'a [Id]) -> Doing<'a, ()> {
            Box::pin(async move {
                let mut asked = self.door.lock().await;
                *asked += 1;
                if *asked == STALL_AT {
                    tokio::time::sleep(self.stall).await;
                }
                Ok(())
            })
        }

        fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
            Box::pin(async { Ok(Kept::Nothing) })
        }
    }

    fn stalling(ms: u64) -> Arc<dyn Subject> {
        Arc::new(Stalling { stall: Duration::from_millis(ms), ..Stalling::default() })
    }

    fn plan(in_flight: usize) -> Plan {
        Plan { arrivals: Arrivals::Constant, per_second: 500.0, batch: 1, in_flight, seed: 1 }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let moments: Vec<_> = Schedule::new(Arrivals::Constant, 100.0, 0).take(3).collect();
        assert_eq!(moments, [10, 20, 30].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_come_at_their_rate_unevenly_and_the_same_for_a_seed() {
        let moments = |seed| -> Vec<Duration> {
            Schedule::new(Arrivals::Poisson, 1_000.0, seed).take(10_000).collect()
        };
        let of_one = moments(7);
        assert_eq!(of_one, moments(7));
        assert_ne!(of_one, moments(8));
        let last = of_one.last().expect("many").as_secs_f64();
        assert!((9.5..10.5).contains(&last), "10,000 arrivals at 1,000 a second end at {last}");
        let gaps: Vec<f64> = of_one.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
        // Of an exponential law 1 - 1/e of the gaps are shorter than the average.
        let short = gaps.iter().filter(|gap| **gap < 0.001).count() as f64 / gaps.len() as f64;
        assert!((0.61..0.65).contains(&short), "{short} of the gaps are short");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
        let stalled = closed::run(&stalling(400), (1, 1), Duration::ZERO, SECOND).await.expect("ran");
        assert!(
            stalled.measured.waits.p99_ms < 50.0,
            "one of very many requests waited: {:?}",
            stalled.measured
        );
        let stalled = run(&stalling(400), plan(1_000), Duration::ZERO, SECOND).await.expect("ran").measured;
        assert_eq!(stalled.unsent, 0);
        // Two fifths of the second's requests were due while it stalled; the tenth that waited longest waited 300 ms.
        assert!(stalled.waits.p90_ms > 200.0, "{stalled:?}");
        assert!(stalled.waits.max_ms >= 350.0, "{stalled:?}");
        assert!(stalled.waits.p50_ms < 200.0, "{stalled:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_could_not_be_sent_when_it_was_due_waits_from_then_on() {
        let ran = run(&stalling(400), plan(4), Duration::ZERO, SECOND).await.expect("ran");
        let measured = ran.measured;
        assert_eq!(measured.unsent, 0, "all 500 were sent in the end: {measured:?}");
        assert!(measured.batches > 490, "{measured:?}");
        // As with room for all of them: the few that were under way would otherwise hide those behind them.
        assert!(measured.waits.p90_ms > 200.0 && measured.waits.max_ms >= 350.0, "{measured:?}");
        assert_eq!(ran.acknowledged.len() as u64, ran.batches);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_warm_up_is_not_counted_but_read_back() {
        let half = SECOND / 2;
        let ran = run(&stalling(0), plan(100), half, half).await.expect("ran");
        assert!((200..=250).contains(&ran.measured.batches), "{:?}", ran.measured);
        assert!(ran.batches > 440 && ran.acknowledged.len() as u64 == ran.batches);
    }
}
