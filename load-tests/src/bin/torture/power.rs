//! A power cut at any moment. A journal is written to under `strace`; from the one order of all writes, syncs and answers
//! that it gives, thousands of disks are made as a cut could have left them, and the journal must open each.

mod journals;
mod medium;
mod network;
mod trace;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::args::Which;
use crate::plan::{Trials, copy};
use crate::world::World;
pub(crate) use journals::write_into;
use journals::{acknowledged, check};
use medium::{Harm, Medium};
use network::Network;

/// Disks made from one trace of a journal, and of a network's first start, which takes ten times as long to check.
const CUTS: [u64; 2] = [400, 20];
/// Lives of a journal in one trace: those behind the first recover what the one before has left.
const LIVES: u64 = 3;

/// Lives, and what they did to the disk.
struct Traced {
    medium: Medium,
    dir: PathBuf,
    /// Of a whole network; `None` where a journal lived alone.
    network: Option<Network>,
}

/// The campaign.
pub(crate) fn run(trials: &mut Trials<'_>, runtime: &Runtime) -> Result<()> {
    if !Command::new("strace")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|done| done.success())
    {
        trials.skip("everything: there is no strace here; install it (apt-get install strace)");
        return Ok(());
    }
    // In memory where there is some: what is forced to disk there costs nothing.
    let disks = Path::new("/dev/shm");
    let disks = if disks.is_dir() { disks } else { &trials.plan.scratch };
    let disks = tempfile::Builder::new().prefix("holmes-torture-").tempdir_in(disks)?;
    let mut with_network = trials.plan.journal == Which::Holmes;
    while trials.more() {
        let dir = trials.place();
        std::fs::create_dir_all(&dir)?;
        let traced = if with_network {
            runtime.block_on(Traced::network(trials, dir.clone()))
        } else {
            Traced::journal(trials, dir.clone())
        };
        let traced = match traced {
            Ok(traced) => traced,
            Err(why) => {
                trials.over(Err(why), &dir);
                return Ok(());
            }
        };
        trials.counts.add("steps traced", traced.medium.steps as u64);
        for _ in 0..CUTS[usize::from(with_network)] {
            if !trials.more() {
                break;
            }
            traced.try_one(trials, runtime, &disks.path().join("disk"))?;
        }
        std::fs::remove_dir_all(&traced.dir)?;
        with_network = trials.plan.journal == Which::Holmes && !with_network;
    }
    Ok(())
}

impl Traced {
    /// A journal's lives.
    fn journal(trials: &Trials<'_>, dir: PathBuf) -> Result<Traced> {
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
        let traced = Traced { medium, dir, network: None };
        traced.is_complete(&root)?;
        Ok(traced)
    }

    /// A network's first start, and callers that go to work in it at once.
    async fn network(trials: &mut Trials<'_>, dir: PathBuf) -> Result<Traced> {
        let world = World::new(&trials.plan.bin, dir.clone(), "all")?;
        let (root, trace) = (world.data(), dir.join("trace"));
        std::fs::create_dir(&root)?;
        // A trace does not tell where a relative name begins.
        let traced = world.clone().with_env("HOLMES__STORE__DIR", &root);
        let (mut network, heard) = Network::lived(&traced, &world, &trace, trials.dice().u64(..)).await?;
        trials.counts.add("transfers acknowledged while traced", heard.len() as u64);
        let mut medium = Medium::new(root.clone());
        let text = trace::with_said(&std::fs::read_to_string(trace)?, heard);
        let steps = trace::read(&text, 0, &mut trace::Sizes::default());
        medium.take(steps.context("the trace")?).context("the trace")?;
        let mut traced = Traced { medium, dir, network: None };
        traced.is_complete(&root)?;
        network.read(&world)?;
        traced.network = Some(network);
        Ok(traced)
    }

    /// With nothing lost the files must come out as they are: whatever the trace has missed shows here.
    fn is_complete(&self, root: &Path) -> Result<()> {
        let out = self.dir.join("as traced");
        self.medium.cut(self.medium.steps, Harm::AllKept, &mut fastrand::Rng::with_seed(0), &out)?;
        let mut diff = Command::new("diff");
        let done = diff.arg("-r").arg(root).arg(&out).output().context("diff cannot be run")?;
        let said = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success(), "the trace does not tell all that was done to the files: {said}");
        Ok(std::fs::remove_dir_all(&out)?)
    }

    /// Makes one disk, and lets the journal or the network have it.
    fn try_one(&self, trials: &mut Trials<'_>, runtime: &Runtime, out: &Path) -> Result<()> {
        let (step, harm, _) = self.plan(trials);
        let tried = runtime.block_on(self.cut(trials, out));
        let tried = tried.with_context(|| format!("{harm:?} before step {step} of {}", self.medium.steps));
        let of = if self.network.is_some() { "network" } else { "journal" };
        if self.network.as_ref().is_some_and(|_| network::heard(&self.medium.said, step).next().is_some()) {
            trials.counts.add("of them behind acknowledged transfers", 1);
        }
        trials.counts.add(&format!("disks of a {of}"), 1);
        if tried.is_err() {
            // As it was before somebody opened it.
            std::fs::remove_dir_all(out)?;
            self.left(trials, out)?;
            let _ = copy(&self.dir.join("trace"), &out.join("trace")); // nice to have
        }
        trials.over(tried, out);
        Ok(std::fs::remove_dir_all(out)?)
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
        let out = if self.network.is_some() { out.join(crate::world::DATA) } else { out.to_owned() };
        self.medium.cut(step, harm, &mut dice, &out)
    }

    async fn cut(&self, trials: &Trials<'_>, out: &Path) -> Result<()> {
        self.left(trials, out)?;
        let (step, ..) = self.plan(trials);
        match &self.network {
            Some(network) => {
                let world = World::new(&trials.plan.bin, out.to_owned(), "all")?;
                network.check(&world, &self.medium.said, step)
            }
            None => {
                let acknowledged = acknowledged(&self.medium.said, step)?;
                check(out, trials.plan.journal, &acknowledged).await
            }
        }
    }
}

/// What traces a command that is its last words.
fn strace(trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.process_group(0);
    strace
        .args(["-f", "-y", "-xx", "-ttt", "-s", "67108864", "-e", &format!("trace={}", trace::CALLS), "-o"])
        .arg(trace);
    strace
}

/// A journal's life under strace; its trace.
fn live(trials: &Trials<'_>, root: &Path, trace: &Path, seed: u64) -> Result<String> {
    let which = clap::ValueEnum::to_possible_value(&trials.plan.journal).context("a journal")?;
    let mut strace = strace(trace);
    strace.arg(std::env::current_exe()?).arg("--write-into").arg(root);
    strace.args(["--seed", &seed.to_string(), "--journal", which.get_name()]);
    let done = strace.stdin(Stdio::null()).stdout(Stdio::null()).output().context("strace cannot be run")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "a traced life failed ({}): {said}", done.status);
    Ok(std::fs::read_to_string(trace)?)
}
