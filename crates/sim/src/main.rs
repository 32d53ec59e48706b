//! `cargo xtask sim`: plays bad days and tells which went wrong.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser as _;
use holmes_kernel::weak::{Guard, WEAKENED};
use holmes_sim::deed::{Deed, day};
use holmes_sim::play::Day;
use holmes_sim::world::START;
use holmes_sim::{Outcome, case, guards, run, shrink};

mod args;

use args::Args;

fn main() -> ExitCode {
    match play(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn play(args: &Args) -> Result<bool> {
    let guard = args.without.as_deref().and_then(guards::named);
    if guard.is_some() && !WEAKENED {
        bail!(
            "this build has all guards on for ever: build it with --features weakened, as `cargo xtask sim --without` does"
        );
    }
    if let Some(path) = &args.case {
        let kept = case::read(path)?;
        switch_off(guard);
        let went_well = one(&format!("--case {}", path.display()), &kept.deeds, args);
        if let Some(off) = wants(path).filter(|_| args.without.is_none()) {
            println!("this day goes wrong only where a guard is off: --without {off}");
        }
        return Ok(went_well);
    }
    if let Some(seed) = args.seed {
        switch_off(guard);
        let deeds = day(seed, args.steps);
        return Ok(one(&format!("--seed {seed} --steps {}", args.steps), &deeds, args));
    }
    many(args, guard)
}

#[cfg(feature = "weakened")]
fn switch_off(guard: Option<Guard>) {
    holmes_kernel::weak::switch_off(guard);
}

#[cfg(not(feature = "weakened"))]
fn switch_off(_: Option<Guard>) {}

/// The guard that a kept day was found without, by its file's name.
fn wants(case: &Path) -> Option<&str> {
    case.file_stem()?.to_str()?.strip_prefix("without-")
}

/// One day, with its verdict.
fn one(named: &str, deeds: &[Deed], args: &Args) -> bool {
    let outcome = play_day(args, deeds, |day, at, deed| {
        if args.trace {
            let answers = day.clients.told.replace(Vec::new()).unwrap_or_default();
            answers.iter().for_each(|answer| eprintln!("                  {answer}"));
            let ms = day.world.rig.now().millis() - START.millis();
            eprintln!("{at:>5} {:>8}.{:03} s  {deed:?}", ms / 1_000, ms % 1_000);
        }
    });
    let hex: String = outcome.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let [heard, done] = outcome.answers;
    println!(
        "{} deeds, {} frames, {heard} answers of which {done} are done, digest {hex}",
        deeds.len(),
        outcome.frames
    );
    match &outcome.failure {
        None => println!("verdict: {named}: nothing went wrong"),
        Some(failure) => {
            println!("verdict: {named}: WRONG after {} of {} deeds", failure.deeds, deeds.len());
            failure.wrong.iter().for_each(|wrong| println!("  {wrong}"));
        }
    }
    outcome.failure.is_none()
}

/// Many days, on every core.
fn many(args: &Args, guard: Option<Guard>) -> Result<bool> {
    let began = Instant::now();
    let (next, played, frames) = (AtomicU64::new(args.from), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(BTreeMap::new());
    let end = args.from.saturating_add(args.seeds);
    std::thread::spawn(end_on_interrupt);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                switch_off(guard);
                loop {
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = play_day(args, &day(seed, args.steps), |_, _, _| {});
                    frames.fetch_add(outcome.frames, Ordering::Relaxed);
                    played.fetch_add(1, Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        eprintln!(
                            "\rseed {seed} went WRONG after {} deeds: {}",
                            failure.deeds, failure.wrong[0]
                        );
                        failed.lock().expect("no worker panics").insert(seed, failure);
                    }
                }
            });
        }
        tell_progress(args.seeds, &played, began);
    });
    let failed = failed.into_inner().expect("no worker panics");
    switch_off(guard);
    for seed in failed.keys().take(if args.no_shrink { 0 } else { most_kept(args) }) {
        keep(args, *seed)?;
    }
    let (seconds, frames, played) = (began.elapsed().as_secs_f64(), frames.into_inner(), played.into_inner());
    println!(
        "{played} seeds of {} deeds in {seconds:.1} s: {:.1} seeds/s, {frames} frames",
        args.steps,
        played as f64 / seconds
    );
    for (seed, failure) in failed.iter().take(10) {
        println!("  seed {seed}: {}", failure.wrong[0]);
        let without = args.without.as_ref().map(|guard| format!(" --without {guard}")).unwrap_or_default();
        println!("    again: cargo xtask sim --seed {seed} --steps {} --trace{without}", args.steps);
    }
    let short = if played < args.seeds {
        format!("; INTERRUPTED, {} were not played", args.seeds - played)
    } else {
        String::new()
    };
    match failed.len() {
        0 if guard.is_some() => println!("verdict: {played} days do not notice that the guard is off{short}"),
        wrong if guard.is_some() => {
            println!("verdict: {wrong} of {played} days notice that the guard is off, as they should{short}");
        }
        0 if played == 0 => println!("verdict: NOTHING PLAYED"),
        0 => println!(
            "verdict: nothing went wrong in seeds {} to {}{short}",
            args.from,
            args.from + played - 1
        ),
        wrong => println!("verdict: {wrong} of {played} days went WRONG{short}"),
    }
    Ok(failed.is_empty() && played == args.seeds)
}

/// Whether somebody wants the end: of the days that are on, no other begins.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Waits for Ctrl-C; a second one ends at once.
fn end_on_interrupt() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let Ok(runtime) = runtime else { return }; // then Ctrl-C ends it as it ends any program
    while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nending with the days that are on; once more ends at once");
    }
}

/// A day, once, or twice where that was asked.
fn play_day(args: &Args, deeds: &[Deed], told: impl FnMut(&mut Day, usize, &Deed)) -> Outcome {
    let mut outcome = run(deeds, told);
    if args.twice && outcome.failure.is_none() {
        let again = run(deeds, |_, _, _| {});
        if again != outcome {
            let wrong = vec!["the same day, played again, is another".to_owned()];
            outcome.failure = Some(run::Failure { deeds: deeds.len(), wrong });
        }
    }
    outcome
}

/// How many of the days that go wrong are cut: all of them have the same cause, mostly. Of a guard that is off one is kept,
/// which shows for ever what the guard is there for.
fn most_kept(args: &Args) -> usize {
    match &args.without {
        Some(guard) => usize::from(!case::dir().join(format!("without-{guard}.json")).exists()),
        None => 3,
    }
}

/// Cuts a day that goes wrong, and keeps what is left of it.
fn keep(args: &Args, seed: u64) -> Result<()> {
    eprintln!("seed {seed}: leaving out what its failure does not need");
    let mut asked = 0;
    let shrunk = shrink::same(day(seed, args.steps), 400, |deeds| {
        asked += 1;
        play_day(args, deeds, |_, _, _| {}).failure?.wrong.into_iter().next()
    });
    let shrink::Shrunk { deeds, reason: note } = shrunk;
    let left = deeds.len();
    let name = match &args.without {
        Some(guard) => format!("without-{guard}"),
        None => format!("seed-{seed}"),
    };
    let path = case::keep(&case::dir(), &name, &case::Case { note, seed, deeds })?;
    eprintln!("seed {seed}: {left} deeds are left after {asked} days, kept as {}", path.display());
    Ok(())
}

fn tell_progress(seeds: u64, played: &AtomicU64, began: Instant) {
    let terminal = std::io::stderr().is_terminal();
    let mut told = Duration::ZERO;
    loop {
        let done = played.load(Ordering::Relaxed);
        let every = Duration::from_secs(if terminal { 1 } else { 30 });
        if done >= seeds || INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
        if began.elapsed() >= told + every {
            told = began.elapsed();
            let end = if terminal { "\r" } else { "\n" };
            eprint!("{done} of {seeds} seeds, {:.1} a second{end}", done as f64 / told.as_secs_f64());
            let _ = std::io::stderr().flush(); // progress that cannot be shown is not missed
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_can_be_named() {
        assert_eq!(guards::ALL.map(|(name, _)| name), args::GUARDS);
    }
}
