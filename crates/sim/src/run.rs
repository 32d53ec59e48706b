//! A day from morning to evening.

use std::any::Any;
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

impl Outcome {
    /// Of a day whose network could not even be set up.
    fn before_it_began(wrong: String) -> Outcome {
        let failure = Some(Failure { deeds: 0, wrong: vec![wrong] });
        Outcome { digest: Digest::default(), failure, frames: 0, answers: [0; 2] }
    }
}

/// What a panic says.
fn words(panic: Box<dyn Any + Send>) -> String {
    let words = panic.downcast_ref::<String>().cloned();
    let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
    format!("it panicked: {}", words.unwrap_or_default())
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
    let mut day = match catch_unwind(Day::begin) {
        Ok(day) => day,
        Err(panic) => return Outcome::before_it_began(words(panic)),
    };
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
        day.wrong.push(words(panic));
    }
    let wrong = std::mem::take(&mut day.wrong);
    let failure = (!wrong.is_empty()).then_some(Failure { deeds: deeds_played, wrong });
    let answers = [day.clients.heard, day.clients.done];
    Outcome { digest: day.digest(), failure, frames: day.watch.frames, answers }
}
