//! What is tried, for how long, and what has come of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Campaign, Output, Which};
use crate::books::Counts;
use crate::server::EndedWithUs;
use crate::{clock, disk, flip, kill, power, stop};

/// Behind so many findings a campaign ends: the first ones are to be read.
const MOST_FINDINGS: usize = 10;
/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(5);

impl Campaign {
    pub(crate) const ALL: [Campaign; 7] = [
        Campaign::Kill,
        Campaign::Power,
        Campaign::Flip,
        Campaign::Full,
        Campaign::Readonly,
        Campaign::Clock,
        Campaign::Stop,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Of the time that is left.
    pub(crate) fn share(self) -> u32 {
        match self {
            Campaign::Kill => 10,
            Campaign::Power | Campaign::Flip => 5,
            Campaign::Full | Campaign::Readonly | Campaign::Clock | Campaign::Stop => 1,
        }
    }

    /// Its full length, in trials.
    fn full(self) -> u64 {
        match self {
            Campaign::Kill => 1_000,
            Campaign::Power => 10_000,
            Campaign::Flip => 1_000,
            Campaign::Full | Campaign::Readonly => 20,
            Campaign::Clock => 20,
            Campaign::Stop => 40,
        }
    }
}

/// What is tried on what.
pub(crate) struct Plan {
    pub(crate) bin: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) keep: Option<PathBuf>,
    pub(crate) seed: u64,
    pub(crate) kills: u64,
    pub(crate) trials: Option<u64>,
    pub(crate) journal: Which,
}

/// A campaign in progress: it draws, counts, and is told what went wrong.
pub(crate) struct Trials<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) campaign: Campaign,
    pub(crate) counts: Counts,
    wanted: u64,
    done: u64,
    until: Instant,
    told: Instant,
    began: Instant,
    findings: Vec<Finding>,
    skipped: Vec<String>,
}

/// Something that does not hold.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    trial: u64,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<PathBuf>,
}

/// What has come of a campaign.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    campaign: String,
    trials: u64,
    wanted: u64,
    seconds: f64,
    counts: std::collections::BTreeMap<String, u64>,
    skipped: Vec<String>,
    findings: Vec<Finding>,
}

impl Plan {
    /// Carries a campaign out.
    pub(crate) fn run(
        &self,
        campaign: Campaign,
        until: Instant,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Outcome> {
        let wanted = match campaign {
            Campaign::Kill => self.kills,
            _ => self.trials.unwrap_or(campaign.full()),
        };
        let now = Instant::now();
        let mut trials = Trials {
            plan: self,
            campaign,
            counts: Counts::default(),
            wanted,
            done: 0,
            until,
            told: now,
            began: now,
            findings: Vec::new(),
            skipped: Vec::new(),
        };
        match campaign {
            Campaign::Kill => runtime.block_on(kill::run(&mut trials))?,
            Campaign::Power => power::run(&mut trials, runtime)?,
            Campaign::Flip => runtime.block_on(flip::run(&mut trials))?,
            Campaign::Full => runtime.block_on(disk::full(&mut trials))?,
            Campaign::Readonly => runtime.block_on(disk::readonly(&mut trials))?,
            Campaign::Clock => runtime.block_on(clock::run(&mut trials))?,
            Campaign::Stop => runtime.block_on(stop::run(&mut trials))?,
        }
        trials.tell();
        Ok(trials.outcome())
    }
}

/// Somebody wants an end.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Whether somebody wants an end.
pub(crate) fn is_ended() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// On Ctrl-C or SIGTERM the trial that is on is finished, so that nothing stays mounted or immutable, and the report is of
/// what was tried. Servers are in process groups of their own: the terminal's Ctrl-C does not reach them.
pub(crate) async fn end_on_signal(scratch: PathBuf) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if ENDED.swap(true, Ordering::Relaxed) {
            let dir = scratch.display();
            eprintln!(
                "ended at once: what lies in {dir} stays there, perhaps mounted or immutable; to take it away: \
                 umount {dir}/*/*; chattr -R -i {dir}; rm -r {dir}"
            );
            std::process::exit(130);
        }
        eprintln!("ending with the trial that is on; once more ends at once");
    }
}

impl Trials<'_> {
    /// Whether another trial is due.
    pub(crate) fn more(&self) -> bool {
        let goes_on = Instant::now() < self.until && !is_ended();
        self.done < self.wanted && goes_on && self.findings.len() < MOST_FINDINGS
    }

    /// How many there shall be.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// The number of the trial that is on, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.done + 1
    }

    /// What decides in this trial.
    pub(crate) fn dice(&self) -> fastrand::Rng {
        let mut dice = fastrand::Rng::with_seed(self.plan.seed);
        let (campaign, trial) = (self.campaign as u64, self.number());
        fastrand::Rng::with_seed(dice.u64(..) ^ (campaign << 56) ^ trial.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A directory for this trial, not yet made.
    pub(crate) fn place(&self) -> PathBuf {
        self.plan.scratch.join(format!("{}-{}", self.campaign.name(), self.number()))
    }

    /// A trial is over; what went wrong in a directory is kept, if that is wanted. Answers whether nothing was found.
    pub(crate) fn over(&mut self, result: Result<()>, dir: &Path) -> bool {
        let holds = self.seen(result, dir);
        self.done += 1;
        if self.told.elapsed() > TOLD_EVERY {
            self.tell();
        }
        holds
    }

    /// What was looked at beside the trials; kept and answered as a trial is.
    pub(crate) fn seen(&mut self, result: Result<()>, dir: &Path) -> bool {
        let Err(why) = result else { return true };
        if why.downcast_ref::<EndedWithUs>().is_some() {
            return true;
        }
        let trial = self.number();
        let kept = self.plan.keep.as_ref().map(|keep| keep.join(format!("{}-{trial}", self.campaign.name())));
        let kept = kept.filter(|to| copy(dir, to).map_err(|why| eprintln!("nothing kept: {why:#}")).is_ok());
        // What was read from a damaged file may hold anything.
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let what: String = format!("{why:#}").chars().map(printable).collect();
        eprintln!("FOUND in {} {trial}: {what}", self.campaign.name());
        self.findings.push(Finding { trial, what, kept });
        false
    }

    /// Something of the campaign cannot be tried here.
    pub(crate) fn skip(&mut self, what: &str) {
        if !self.skipped.iter().any(|said| said == what) {
            eprintln!("LEFT OUT of {}: {what}", self.campaign.name());
            self.skipped.push(what.to_owned());
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let counts: Vec<String> = self.counts.0.iter().map(|(what, n)| format!("{n} {what}")).collect();
        eprintln!(
            "{:<8} {:>5} of {} in {:.0} s, {} found; {}",
            self.campaign.name(),
            self.done,
            self.wanted,
            self.began.elapsed().as_secs_f64(),
            self.findings.len(),
            counts.join(", ")
        );
    }

    fn outcome(self) -> Outcome {
        Outcome {
            campaign: self.campaign.name(),
            trials: self.done,
            wanted: self.wanted,
            seconds: (self.began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            counts: self.counts.0,
            skipped: self.skipped,
            findings: self.findings,
        }
    }
}

/// A copy with owners, times and holes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut cp = std::process::Command::new("cp");
    let done = cp.args(["-a", "--sparse=always"]).arg(from).arg(to).output().context("cp cannot be run")?;
    anyhow::ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Everything that has come of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    seed: u64,
    minutes: u64,
    seconds: u64,
    holds: bool,
    campaigns: Vec<Outcome>,
}

impl Report {
    /// Every campaign must have tried something. Only where all were meant one that this machine does not allow is left
    /// out, and named; one that time did not come to is not.
    pub(crate) fn of(
        plan: &Plan,
        minutes: u64,
        took: Duration,
        campaigns: Vec<Outcome>,
        asked_for: bool,
    ) -> Report {
        let found = campaigns.iter().any(|of| !of.findings.is_empty());
        let tried = |of: &Outcome| of.trials > 0;
        let excused = |of: &Outcome| tried(of) || (!asked_for && !of.skipped.is_empty());
        let tried_enough = campaigns.iter().any(tried) && campaigns.iter().all(excused);
        let holds = !found && tried_enough;
        Report { seed: plan.seed, minutes, seconds: took.as_secs(), holds, campaigns }
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    pub(crate) fn print(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if output == Output::Json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        writeln!(out, "{:<10}{:>8}{:>8}{:>9}{:>7}  WHAT", "CAMPAIGN", "TRIALS", "OF", "SECONDS", "FOUND")?;
        for of in &self.campaigns {
            let counts: Vec<String> = of.counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
            let (name, found) = (&of.campaign, of.findings.len());
            let what = counts.join(", ");
            writeln!(out, "{name:<10}{:>8}{:>8}{:>9.0}{found:>7}  {what}", of.trials, of.wanted, of.seconds)?;
            for left_out in &of.skipped {
                writeln!(out, "          left out: {left_out}")?;
            }
            for finding in &of.findings {
                let kept =
                    finding.kept.as_ref().map(|kept| format!(" ({})", kept.display())).unwrap_or_default();
                writeln!(out, "          trial {}: {}{kept}", finding.trial, finding.what)?;
            }
        }
        writeln!(out, "{}", self.verdict())?;
        Ok(())
    }

    fn verdict(&self) -> String {
        let found: usize = self.campaigns.iter().map(|of| of.findings.len()).sum();
        let trials: u64 = self.campaigns.iter().map(|of| of.trials).sum();
        let mut said = match (found, self.holds) {
            (0, true) => format!("everything held in {trials} trials, seed {}", self.seed),
            (0, false) => format!("NOT TRIED; what was, held in {trials} trials, seed {}", self.seed),
            _ => format!("{found} of {trials} trials FOUND something, seed {}", self.seed),
        };
        let named = |which: &dyn Fn(&&Outcome) -> bool| {
            let names = self.campaigns.iter().filter(which).map(|of| of.campaign.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        for (what, names) in [
            ("not tried", named(&|of| of.trials == 0)),
            ("tried without a part that is left out", named(&|of| of.trials > 0 && !of.skipped.is_empty())),
            ("short of its full length", named(&|of| (1..of.wanted).contains(&of.trials))),
        ] {
            if !names.is_empty() {
                said += &format!("; {what}: {names}");
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let nowhere = PathBuf::new();
        Plan {
            bin: nowhere.clone(),
            scratch: nowhere,
            keep: None,
            seed: 7,
            kills: 0,
            trials: None,
            journal: Which::Holmes,
        }
    }

    fn outcome(campaign: &str, trials: u64) -> Outcome {
        let skipped = if trials == 0 { vec!["everything: this user may not".to_owned()] } else { Vec::new() };
        let (campaign, counts) = (campaign.to_owned(), std::collections::BTreeMap::new());
        Outcome { campaign, trials, wanted: 9, seconds: 0.0, counts, skipped, findings: Vec::new() }
    }

    fn report(trials: [u64; 2], asked_for: bool) -> Report {
        let campaigns = vec![outcome("kill", trials[0]), outcome("full", trials[1])];
        Report::of(&plan(), 1, Duration::from_secs(1), campaigns, asked_for)
    }

    #[test]
    fn a_campaign_that_was_asked_for_and_tried_nothing_does_not_hold() {
        assert!(report([9, 9], true).holds());
        assert!(!report([9, 0], true).holds());
        assert!(report([9, 0], true).verdict().starts_with("NOT TRIED"));
        assert!(!report([0, 0], false).holds(), "nothing at all was tried");
        let mut late = outcome("full", 0);
        late.skipped.clear();
        let late = Report::of(&plan(), 1, Duration::from_secs(1), vec![outcome("kill", 4), late], false);
        assert!(!late.holds(), "time did not come to it");
    }

    #[test]
    fn a_verdict_names_what_was_left_out() {
        let left_out = report([4, 0], false);
        assert!(left_out.holds());
        assert_eq!(
            left_out.verdict(),
            "everything held in 4 trials, seed 7; not tried: full; short of its full length: kill"
        );
    }
}
