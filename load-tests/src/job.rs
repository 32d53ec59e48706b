//! One run of one subject, in a process of its own: nothing is left over from the run before, memory is its own, and its
//! syncs can be counted from outside. The parent says what, when to go and when to read back, a line each; the child
//! answers a line each.

use std::collections::BTreeMap;
use std::io::{BufRead, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holmes_kernel::Id;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::latency::Measured;
use crate::open::Plan;
use crate::scenario::Work;
use crate::subject::{Kept, Kind, Start};
use crate::{closed, open};

/// What the child shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) work: Work,
    pub(crate) callers: usize,
    pub(crate) batch: usize,
    pub(crate) accounts: usize,
    pub(crate) warm_up_s: f64,
    pub(crate) seconds: f64,
    /// By a schedule; in a closed loop when there is none.
    pub(crate) plan: Option<Plan>,
    pub(crate) dir: PathBuf,
}

/// The first answer: it is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) processes: Vec<u32>,
    pub(crate) settings: BTreeMap<String, String>,
}

/// The second answer: the load is over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) measured: Measured,
    /// Warm-up included.
    pub(crate) acknowledged: u64,
    pub(crate) batches: u64,
}

/// The third answer: what was found again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReadBack {
    pub(crate) acknowledged: u64,
    /// Of them, found.
    pub(crate) found: u64,
    /// Not found because their place was written again, which only a raw file does.
    pub(crate) overwritten: u64,
    /// Found though nobody was told so, or found twice.
    pub(crate) foreign: u64,
    /// Whether the subject keeps anything.
    pub(crate) keeps: bool,
}

impl ReadBack {
    /// Whether exactly what was acknowledged is there.
    pub(crate) fn is_whole(&self) -> bool {
        !self.keeps || (self.found + self.overwritten == self.acknowledged && self.foreign == 0)
    }

    fn compare(mut acknowledged: Vec<Id>, kept: Kept) -> ReadBack {
        let Kept::Ids { mut ids, overwritten } = kept else {
            return ReadBack { acknowledged: acknowledged.len() as u64, ..ReadBack::default() };
        };
        acknowledged.sort_unstable();
        ids.sort_unstable();
        let known = |id: &Id| acknowledged.binary_search(id).is_ok();
        let twice = ids.windows(2).filter(|two| two[0] == two[1]).count() as u64;
        let found = ids.iter().filter(|id| known(id)).count() as u64 - twice;
        ReadBack {
            acknowledged: acknowledged.len() as u64,
            found,
            overwritten,
            foreign: ids.len() as u64 - found,
            keeps: true,
        }
    }
}

/// What the parent says.
pub(crate) const GO: &str = "go";
pub(crate) const END: &str = "end";

/// The child's life.
pub(crate) fn child() -> Result<()> {
    let job: Job = serde_json::from_str(&heard()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(carry_out(job));
    if let Err(why) = &done {
        say(&Failed { failed: format!("{why:#}") })?; // for the result; people read it on stderr
    }
    done
}

/// In place of an answer.
#[derive(Serialize, Deserialize)]
struct Failed {
    failed: String,
}

async fn carry_out(job: Job) -> Result<()> {
    let Job { work, callers, batch, accounts, .. } = job;
    let subject = job.kind.start(&Start { work, callers, batch, accounts, dir: &job.dir }).await?;
    say(&Ready { processes: subject.processes(), settings: subject.settings() })?;
    expect(GO)?;
    let (warm_up, length) = (Duration::from_secs_f64(job.warm_up_s), Duration::from_secs_f64(job.seconds));
    let ran = match job.plan {
        None => closed::run(&subject, (callers, batch), warm_up, length).await?,
        Some(plan) => open::run(&subject, plan, warm_up, length).await?,
    };
    let acknowledged = ran.acknowledged.len() as u64;
    say(&Done { measured: ran.measured, acknowledged, batches: ran.batches })?;
    expect(END)?;
    let kept = subject.read_back().await?;
    say(&ReadBack::compare(ran.acknowledged, kept))
}

fn say(answer: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

fn heard() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn expect(word: &str) -> Result<()> {
    let heard = heard()?;
    if heard != word {
        bail!("the parent said {heard:?} instead of {word}; it is gone, or this was not started by it");
    }
    Ok(())
}

/// One answer of a child.
pub(crate) fn answer<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    if line.is_empty() {
        bail!("it ended without a word: it panicked, or was killed");
    }
    if let Ok(Failed { failed }) = serde_json::from_str(&line) {
        bail!(failed);
    }
    serde_json::from_str(&line).with_context(|| format!("it answered {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;

    #[test]
    fn what_is_missing_overwritten_foreign_or_there_twice_is_told_apart() {
        let ids = Ids::new(0).take(4);
        let compare = |kept: &[Id], overwritten| {
            let back = ReadBack::compare(ids[..3].to_vec(), Kept::Ids { ids: kept.to_vec(), overwritten });
            (back.found, back.foreign, back.is_whole())
        };
        assert_eq!(compare(&[ids[2], ids[0], ids[1]], 0), (3, 0, true));
        assert_eq!(compare(&[ids[0], ids[1]], 0), (2, 0, false));
        assert_eq!(compare(&[ids[0], ids[1]], 1), (2, 0, true));
        assert_eq!(compare(&ids, 0), (3, 1, false));
        assert_eq!(compare(&[ids[0], ids[0], ids[1], ids[2]], 0), (3, 1, false));
        assert!(ReadBack::compare(ids, Kept::Nothing).is_whole());
    }
}
