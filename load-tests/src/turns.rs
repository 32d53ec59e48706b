//! A scenario, taken: its subjects in turns, each run in a process of its own, everything read back, its syncs counted.

use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::job::{Done, END, GO, Job, ReadBack, Ready, answer};
use crate::latency::Measured;
use crate::machine::{self, Others};
use crate::open::Plan;
use crate::report::{FORMAT, OpenRow, Report, Row};
use crate::scenario::{Load, Open, Scenario};
use crate::spread::{Spread, number};
use crate::subject::Kind;
use crate::syncs::{Counting, STRACE, Syncs};

/// How a bench is run.
pub(crate) struct Bench<'a> {
    /// On the disk to be measured.
    pub(crate) dir: &'a Path,
    /// Leave what the runs wrote.
    pub(crate) keep: bool,
}

/// How long syncs are counted, and nothing else.
const COUNTED_S: f64 = 1.0;
/// How the search for a rate that keeps its 99th percentile goes down. A stall of the machine is no verdict: a rate is kept
/// or lost when so many runs say so.
const STEP_DOWN: f64 = 0.85;
const STEPS: usize = 8;
const AGREE: usize = 2;

/// A run in its own process.
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    ready: Ready,
}

/// What a run brought.
pub(crate) struct Turn {
    pub(crate) done: Done,
    pub(crate) read_back: ReadBack,
    settings: std::collections::BTreeMap<String, String>,
    /// Cores that other processes used.
    pub(crate) others: f64,
    syncs: Option<Syncs>,
}

impl Running {
    fn start(job: &Job) -> Result<Running> {
        let exe = std::env::current_exe()?;
        let mut child =
            Command::new(exe).arg("child").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("its input")?;
        let mut stdout = BufReader::new(child.stdout.take().context("its output")?);
        writeln!(stdin, "{}", serde_json::to_string(job)?)?;
        let ready = answer(&mut stdout)?;
        Ok(Running { child, stdin, stdout, ready })
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.stdin, "{word}")?)
    }

    fn finish(mut self, counting: Option<Counting>) -> Result<Turn> {
        let mut ours = vec![self.child.id()];
        ours.extend(&self.ready.processes);
        ours.dedup();
        let others = Others::watch(ours);
        self.say(GO)?;
        let done: Done = answer(&mut self.stdout)?;
        let others = others.cores();
        let syncs = counting.map(|counting| counting.detach(done.batches)).transpose()?;
        self.say(END)?;
        let read_back = answer(&mut self.stdout)?;
        drop(self.stdin);
        self.child.wait()?;
        Ok(Turn { done, read_back, settings: self.ready.settings, others, syncs })
    }
}

impl Bench<'_> {
    /// All loads of a scenario, one after the other.
    pub(crate) fn take(&self, scenario: &Scenario) -> Result<Report> {
        let commit = machine::commit(); // before: another may be made meanwhile
        let mut rows = Vec::new();
        let mut others = Vec::new();
        for load in &scenario.loads {
            rows.extend(self.load(scenario, load, &mut others));
        }
        Ok(Report {
            format: FORMAT,
            name: scenario.name.clone(),
            date: machine::today(),
            commit,
            profile: machine::profile(),
            machine: machine::facts(self.dir),
            scenario: Some(scenario.clone()),
            rows,
            series: Vec::new(),
            failed: Vec::new(),
            others_cores: Spread::of(&others).unwrap_or(Spread { min: 0.0, median: 0.0, max: 0.0 }),
        })
    }

    /// Ours and the peers in turns: what the machine does meanwhile falls on all alike.
    fn load(&self, scenario: &Scenario, load: &Load, others: &mut Vec<f64>) -> Vec<Row> {
        let mut rows: Vec<Row> = scenario
            .subjects()
            .filter(|kind| load.takes(*kind))
            .map(|subject| Row {
                load: load.clone(),
                subject,
                settings: Default::default(),
                closed: Vec::new(),
                open: None,
                syncs: None,
                read_back: ReadBack::default(),
                failed: None,
            })
            .collect();
        let mut all = |rows: &mut Vec<Row>, what: &str, each: &dyn Fn(&mut Row) -> Result<f64>| {
            for row in rows.iter_mut().filter(|row| row.failed.is_none()) {
                eprint!("{} · {} · {what} · {}: ", scenario.name, load.label(), row.subject.title());
                match each(row) {
                    Ok(cores) => others.push(cores),
                    Err(why) => {
                        eprintln!("failed: {why:#}");
                        row.failed = Some(format!("{what}: {why:#}"));
                    }
                }
            }
        };
        for turn in 1..=scenario.runs {
            all(&mut rows, &format!("run {turn} of {}", scenario.runs), &|row| self.closed(scenario, row));
        }
        // Who fails in the closed loop has no figure; who fails only by a schedule keeps that of the closed loop.
        rows.iter_mut().filter(|row| row.failed.is_some()).for_each(|row| row.closed.clear());
        all(&mut rows, "syncs", &|row| self.counted(scenario, row));
        if let Some(open) = &load.open {
            for turn in 1..=scenario.runs {
                let what = format!("open loop, run {turn} of {}", scenario.runs);
                all(&mut rows, &what, &|row| self.open(scenario, open, row, turn));
            }
            rows.iter_mut().filter(|row| row.failed.is_some()).for_each(|row| row.open = None);
        }
        rows
    }

    fn closed(&self, scenario: &Scenario, row: &mut Row) -> Result<f64> {
        let turn = self.run(&job(scenario, row), false)?;
        eprintln!("{}", told(scenario, &turn));
        row.closed.push(turn.done.measured);
        row.settings.clone_from(&turn.settings);
        Ok(noted(row, &turn))
    }

    /// The first turn finds the rate, where a percentile bounds it; the others stay with it.
    fn open(&self, scenario: &Scenario, open: &Open, row: &mut Row, turn: usize) -> Result<f64> {
        let offered = match (&row.open, open.p99_ms) {
            (Some(found), _) => found.offered,
            (None, None) => first_rate(scenario, open, row)?,
            (None, Some(p99_ms)) => kept_rate(first_rate(scenario, open, row)?, |offered, seed| {
                let (measured, _) = self.by_schedule(scenario, open, row, offered, seed)?;
                Ok(measured.unsent == 0 && measured.waits.p99_ms <= p99_ms)
            })?,
        };
        let (measured, cores) = self.by_schedule(scenario, open, row, offered, turn)?;
        row.open.get_or_insert(OpenRow { offered, runs: Vec::new() }).runs.push(measured);
        Ok(cores)
    }

    /// One run by schedule, and the cores that others used.
    fn by_schedule(
        &self,
        scenario: &Scenario,
        open: &Open,
        row: &mut Row,
        offered: f64,
        seed: usize,
    ) -> Result<(Measured, f64)> {
        let plan = Plan {
            arrivals: open.arrivals,
            per_second: offered,
            batch: row.load.batch,
            in_flight: open.in_flight,
            seed: seed as u64,
        };
        let ran = self.run(&Job { plan: Some(plan), ..job(scenario, row) }, false)?;
        eprintln!("{} offered, {}", number(offered), told(scenario, &ran));
        Ok((ran.done.measured, noted(row, &ran)))
    }

    fn counted(&self, scenario: &Scenario, row: &mut Row) -> Result<f64> {
        if row.subject == Kind::Echo {
            eprintln!("keeps nothing");
            return Ok(0.0);
        }
        let job = Job { seconds: scenario.seconds.min(COUNTED_S), warm_up_s: 0.0, ..job(scenario, row) };
        let turn = self.run(&job, true)?;
        row.syncs = turn.syncs;
        if let Some(Syncs { fsync, fdatasync, batches, per_batch, .. }) = turn.syncs {
            eprintln!("{fsync} fsync and {fdatasync} fdatasync for {batches} requests, {per_batch:.3} each");
        }
        Ok(noted(row, &turn))
    }

    /// In a directory of its own, which goes with it.
    pub(crate) fn run(&self, job: &Job, counted: bool) -> Result<Turn> {
        std::fs::create_dir_all(self.dir)?;
        let mut scratch = TempDir::with_prefix_in("run-", self.dir)?;
        scratch.disable_cleanup(self.keep);
        let running = Running::start(&Job { dir: scratch.path().canonicalize()?, ..job.clone() })?;
        let counting =
            counted.then(|| Counting::attach(&running.ready.processes, scratch.path())).transpose();
        running.finish(counting.with_context(|| format!("{STRACE} counts the syncs"))?)
    }
}

/// A run in a closed loop.
fn job(scenario: &Scenario, row: &Row) -> Job {
    Job {
        kind: row.subject,
        work: scenario.work,
        callers: row.load.callers,
        batch: row.load.batch,
        accounts: scenario.accounts,
        warm_up_s: scenario.warm_up,
        seconds: scenario.seconds,
        plan: None,
        dir: Default::default(),
    }
}

/// The rate that a schedule begins with.
fn first_rate(scenario: &Scenario, open: &Open, row: &Row) -> Result<f64> {
    let ceiling = row.rate().map_or(0.0, |rate| rate.median);
    let offered = open.per_second.unwrap_or_else(|| open.of_ceiling.unwrap_or(1.0) * ceiling);
    let seconds = scenario.seconds;
    ensure!(offered > 0.0, "nothing was answered within {seconds} s of the closed loop: run it longer");
    Ok(offered)
}

/// The first of a few rates, going down, that is kept in most of up to three runs; else the last.
fn kept_rate(first: f64, mut keeps: impl FnMut(f64, usize) -> Result<bool>) -> Result<f64> {
    let mut offered = first;
    for _ in 1..STEPS {
        let (mut kept, mut lost) = (0, 0);
        while kept < AGREE && lost < AGREE {
            match keeps(offered, kept + lost)? {
                true => kept += 1,
                false => lost += 1,
            }
        }
        if kept == AGREE {
            break;
        }
        offered *= STEP_DOWN;
    }
    Ok(offered)
}

fn noted(row: &mut Row, turn: &Turn) -> f64 {
    let ReadBack { acknowledged, found, overwritten, foreign, keeps } = turn.read_back;
    let all = &mut row.read_back;
    all.acknowledged += acknowledged;
    all.found += found;
    all.overwritten += overwritten;
    all.foreign += foreign;
    all.keeps |= keeps;
    turn.others
}

fn told(scenario: &Scenario, turn: &Turn) -> String {
    let Measured { per_second, waits, unsent, .. } = turn.done.measured;
    let back = match &turn.read_back {
        back if !back.keeps => "keeps nothing".to_owned(),
        back if back.is_whole() => format!("{} read back", back.acknowledged),
        back => format!("NOT WHOLE: {back:?}"),
    };
    let unsent = if unsent > 0 { format!(", {unsent} never sent") } else { String::new() };
    format!(
        "{} {}/s, p50 {:.2} ms, p99 {:.2} ms{unsent}; {back}; others {:.1} cores",
        number(per_second),
        scenario.work.unit(),
        waits.p50_ms,
        waits.p99_ms,
        turn.others
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate that is found, and how often it was tried.
    fn found(mut keeps: impl FnMut(f64, usize) -> bool) -> (f64, usize) {
        let mut tried = 0;
        let rate = kept_rate(1_000.0, |offered, run| {
            tried += 1;
            Ok(keeps(offered, run))
        });
        (rate.expect("no run fails"), tried)
    }

    #[test]
    fn a_rate_is_kept_when_two_of_three_runs_keep_it() {
        assert_eq!(found(|_, _| true), (1_000.0, 2));
        assert_eq!(found(|_, run| run != 0), (1_000.0, 3), "one stall is no verdict");
        assert_eq!(found(|offered, _| offered < 1_000.0), (850.0, 4));
    }

    #[test]
    fn a_rate_that_nothing_keeps_ends_somewhere() {
        let (rate, tried) = found(|_, run| run == 1);
        assert!((300.0..330.0).contains(&rate) && tried == 3 * (STEPS - 1), "{rate} after {tried}");
    }
}
