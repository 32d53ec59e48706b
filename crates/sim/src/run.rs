//! A day from morning to evening.

use std::panic::{AssertUnwindSafe, catch_unwind};

use holmes_kernel::canon::Digest;

use crate::deed::Deed;
use crate::play::Day;

/// How a day went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One number for all that was written: the same day has the same.
    pub digest: Digest,
    /// What went wrong, and after how many deeds.
    pub failure: Option<Failure>,
    /// Frames in the logs.
    pub frames: u64,
    /// Answers that clients heard, and those of them that said that something was done.
    pub answers: [u64; 2],
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// After so many deeds; all of them when it was at the end.
    pub deeds: usize,
    /// What.
    pub wrong: Vec<String>,
}

/// Plays a day. `each` sees every deed, and the day so far, before it is played.
pub fn run(deeds: &[Deed], mut each: impl FnMut(&mut Day, usize, &Deed)) -> Outcome {
    let mut day = Day::begin();
    let mut deeds_played = 0;
    let played = catch_unwind(AssertUnwindSafe(|| {
        for deed in deeds {
            each(&mut day, deeds_played, deed);
            deeds_played += 1;
            if !day.live(deed) {
                return;
            }
        }
        day.end();
    }));
    if let Err(panic) = played {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        day.wrong.push(format!("it panicked: {}", words.unwrap_or_default()));
    }
    let wrong = std::mem::take(&mut day.wrong);
    let failure = (!wrong.is_empty()).then_some(Failure { deeds: deeds_played, wrong });
    let answers = [day.clients.heard, day.clients.done];
    Outcome { digest: day.digest(), failure, frames: day.watch.frames, answers }
}
