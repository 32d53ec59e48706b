//! Days by the seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use holmes_sim::deed::{Deed, day};
use holmes_sim::{Outcome, run};

/// As many as `cargo xtask sim` plays when nothing is said.
const SEEDS: u64 = 200;
/// The same days as there.
const STEPS: usize = 120;

#[test]
fn two_hundred_days_go_well() {
    let (next, wrong) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let (deeds, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let outcome = run(&day(seed, STEPS), |_, _, _| {});
                    deeds.fetch_add(STEPS as u64, Ordering::Relaxed);
                    done.fetch_add(outcome.answers[1], Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        let again = format!("cargo xtask sim --seed {seed} --steps {STEPS} --trace");
                        wrong.lock().expect("nobody panicked").push((again, failure));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panicked");
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Days on which nothing is done would go well too.
    assert!(done.into_inner() > deeds.into_inner() / 4);
}

#[test]
fn a_day_is_the_same_twice_and_another_seed_is_another_day() {
    let play = |seed: u64| -> Outcome { run(&day(seed, 60), |_, _, _| {}) };
    let (first, again) = (play(4711), play(4711));
    assert_eq!(first, again);
    assert_ne!(first.digest, play(4712).digest);
}

#[test]
fn every_kind_of_deed_comes_up() {
    let told = |deed: &Deed| format!("{deed:?}").split([' ', '{']).next().unwrap_or_default().to_owned();
    let days = (1..=SEEDS).flat_map(|seed| day(seed, STEPS));
    let kinds: std::collections::BTreeSet<String> = days.map(|deed| told(&deed)).collect();
    assert_eq!(kinds.len(), 42, "{kinds:?}");
}
