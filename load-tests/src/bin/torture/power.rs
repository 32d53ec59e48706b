//! A power cut at any moment. A journal is written to under `strace`; from the one order of all writes, syncs and answers
//! that it gives, thousands of disks are made as a cut could have left them, and the journal must open each.

mod journals;
mod medium;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::plan::{Trials, copy};
use journals::{acknowledged, check};
pub(crate) use journals::{Which, write_into};
use medium::{Harm, Medium};

/// Disks made from one trace.
const CUTS: u64 = 400;
/// Lives of a journal in one trace: those behind the first recover what the one before has left.
const LIVES: u64 = 3;

/// Lives of a journal, and what they did to the disk.
struct Traced {
    medium: Medium,
    dir: PathBuf,
}

/// The campaign.
pub(crate) fn run(trials: &mut Trials<'_>, runtime: &Runtime) -> Result<()> {
    if !Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_ok_and(|done| done.success()) {
        trials.skip("everything: there is no strace here; install it (apt-get install strace)");
        return Ok(());
    }
    // In memory where there is some: what is forced to disk there costs nothing.
    let disks = Path::new("/dev/shm");
    let disks = if disks.is_dir() { disks } else { &trials.plan.scratch };
    let disks = tempfile::Builder::new().prefix("holmes-torture-").tempdir_in(disks)?;
    while trials.more() {
        let dir = trials.place();
        std::fs::create_dir_all(&dir)?;
        let traced = match Traced::lived(trials, dir.clone()) {
            Ok(traced) => traced,
            Err(why) => {
                trials.over(Err(why), &dir);
                return Ok(());
            }
        };
        trials.counts.add("lives traced", LIVES);
        trials.counts.add("steps in their traces", traced.medium.steps as u64);
        for _ in 0..CUTS {
            if !trials.more() {
                break;
            }
            let out = disks.path().join("disk");
            let (tried, harm) = runtime.block_on(traced.cut(trials, &out));
            trials.counts.add(&format!("{harm:?}"), 1);
            if tried.is_err() {
                // As it was before somebody opened it.
                std::fs::remove_dir_all(&out)?;
                traced.left(trials, &out)?;
                let _ = copy(&traced.dir.join("trace"), &out.join("trace")); // nice to have
            }
            trials.over(tried, &out);
            std::fs::remove_dir_all(&out)?;
        }
        std::fs::remove_dir_all(&traced.dir)?;
    }
    Ok(())
}

impl Traced {
    fn lived(trials: &Trials<'_>, dir: PathBuf) -> Result<Traced> {
        let root = dir.join("journal");
        std::fs::create_dir_all(&root)?;
        let mut medium = Medium::new(root.clone());
        let (mut sizes, mut number) = (trace::Sizes::default(), 0);
        for life in 0..LIVES {
            let seed = trials.dice().u64(..) ^ life;
            let text = live(trials, &root, &dir.join("trace"), seed)?;
            let steps = trace::read(&text, number, &mut sizes).context("the trace")?;
            number += text.lines().count();
            medium.take(steps).context("the trace")?;
        }
        let traced = Traced { medium, dir };
        traced.is_complete().context("the trace does not tell all that was done to the files")?;
        Ok(traced)
    }

    /// With nothing lost the files must come out as they are: whatever the trace has missed shows here.
    fn is_complete(&self) -> Result<()> {
        let out = self.dir.join("as traced");
        self.medium.cut(self.medium.steps, Harm::AllKept, &mut fastrand::Rng::with_seed(0), &out)?;
        let mut diff = Command::new("diff");
        let done = diff.arg("-r").arg(self.dir.join("journal")).arg(&out).output().context("diff cannot be run")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        Ok(std::fs::remove_dir_all(&out)?)
    }

    /// Where the power goes, and how harshly.
    fn plan(&self, trials: &Trials<'_>) -> (usize, Harm, fastrand::Rng) {
        let mut dice = trials.dice();
        let step = dice.usize(..=self.medium.steps);
        let harm = Harm::ALL[dice.usize(..Harm::ALL.len())];
        (step, harm, dice)
    }

    fn left(&self, trials: &Trials<'_>, out: &Path) -> Result<()> {
        let (step, harm, mut dice) = self.plan(trials);
        self.medium.cut(step, harm, &mut dice, out)
    }

    async fn cut(&self, trials: &Trials<'_>, out: &Path) -> (Result<()>, Harm) {
        let (step, harm, _) = self.plan(trials);
        let tried = async {
            self.left(trials, out)?;
            let acknowledged = acknowledged(&self.medium.said, step)?;
            check(out, trials.plan.journal, &acknowledged).await
        };
        let tried = tried.await;
        (tried.with_context(|| format!("{harm:?} before step {step} of {}", self.medium.steps)), harm)
    }
}

/// One life under strace; its trace.
fn live(trials: &Trials<'_>, root: &Path, trace: &Path, seed: u64) -> Result<String> {
    let which = clap::ValueEnum::to_possible_value(&trials.plan.journal).context("a journal")?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-s", "67108864", "-e", &format!("trace={}", trace::CALLS), "-o"]).arg(trace);
    strace.arg(std::env::current_exe()?).arg("--write-into").arg(root);
    strace.args(["--seed", &seed.to_string(), "--journal", which.get_name()]);
    let done = strace.stdin(Stdio::null()).stdout(Stdio::null()).output().context("strace cannot be run")?;
    ensure!(
        done.status.success(),
        "a traced life failed ({}): {}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(std::fs::read_to_string(trace)?)
}
