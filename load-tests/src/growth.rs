//! What grows with what: each figure at 1, 10 and 100 times the state, and the exponent of its cost. Every measurement has
//! a process of its own, so that memory is its own.

mod accounts;
mod idle;
mod log;
mod nodes;
mod submitters;
mod window;

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::job::{Job, answer};
use crate::machine::{self, Others};
use crate::report::{FORMAT, Means, Point, Report, Series};
use crate::scenario::Work;
use crate::spread::{Spread, count, number};
use crate::subject::Kind;
use crate::turns::Bench;

/// Its name among the scenarios, and its file.
pub(crate) const NAME: &str = "growth";
const FILE: &str = "growth.toml";

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sizes {
    about: String,
    pub(crate) runs: usize,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    accounts: Vec<usize>,
    nodes: Vec<u32>,
    log: Vec<u64>,
    ids: Vec<u64>,
    submissions: Vec<u64>,
    idle_seconds: f64,
}

impl Sizes {
    pub(crate) fn read(house: &Path) -> Result<Sizes> {
        let file = house.join(FILE);
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", file.display()))
    }

    /// The smallest of each, and short: whether all of it runs.
    pub(crate) fn quick(self) -> Sizes {
        Sizes {
            accounts: vec![2_000],
            nodes: vec![1_000],
            log: vec![20_000],
            ids: vec![20_000],
            submissions: vec![100],
            idle_seconds: 1.0,
            ..self
        }
    }
}

/// What a child of its own measures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Accounts(usize),
    Nodes(u32),
    /// Writes a log of so many transfers, so many a command, over so many hours of log time.
    WriteLog {
        dir: PathBuf,
        transfers: u64,
        batch: usize,
        hours: u64,
    },
    /// Of a log that holds so many transfers.
    Replay {
        dir: PathBuf,
        transfers: u64,
    },
    /// Keeps a snapshot so many events before the end.
    Snapshot {
        dir: PathBuf,
        before_end: u64,
    },
    ColdStart {
        dir: PathBuf,
    },
    Idle {
        seconds: f64,
    },
    /// The request window with so many ids in its hour.
    Window(u64),
    /// Submissions and requests of so many transfers each.
    Submitters(u64),
}

/// Figures by name.
pub(crate) type Found = BTreeMap<&'static str, f64>;

/// The child's life.
pub(crate) fn child() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let found = match serde_json::from_str(&line)? {
        Task::Accounts(accounts) => accounts::measure(accounts)?,
        Task::Nodes(nodes) => nodes::measure(nodes),
        Task::WriteLog { dir, transfers, batch, hours } => {
            runtime.block_on(log::write(&dir, transfers, batch, hours))?
        }
        Task::Replay { dir, transfers } => runtime.block_on(log::replay(&dir, transfers))?,
        Task::Snapshot { dir, before_end } => runtime.block_on(log::snapshot(&dir, before_end))?,
        Task::ColdStart { dir } => runtime.block_on(log::cold_start(&dir))?,
        Task::Idle { seconds } => idle::measure(seconds)?,
        Task::Window(ids) => window::measure(ids)?,
        Task::Submitters(each) => submitters::measure(each)?,
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// Bytes that this process has resident.
fn own_bytes() -> u64 {
    machine::resident(std::process::id())
}

/// Collects figures as they come.
#[derive(Default)]
struct Table {
    series: Vec<Series>,
    others: Vec<f64>,
    /// What could not be measured; the rest is taken all the same.
    failed: Vec<String>,
}

/// How the figures are read: name, unit, what the state is counted in, what they mean, and what is to be known of them.
const FIGURES: [(&str, &str, &str, Means, &str); 24] = [
    ("ledger transfers", "transfers/s", "accounts", Means::Rate, "in process, durable, 8 callers × 1000"),
    ("memory of an account", "bytes", "accounts", Means::Cost, "resident, the machine alone"),
    (
        "placements",
        "placements/s",
        "nodes",
        Means::Rate,
        "decide and evolve on one core, without frames and disk",
    ),
    ("placements, each with the end of a lease", "placements/s", "nodes", Means::Rate, ""),
    ("memory of a node", "bytes", "nodes", Means::Cost, "resident, attached and with its rating"),
    ("memory of a lease", "bytes", "nodes", Means::Cost, "resident, while it is open"),
    (
        "log on disk",
        "bytes an event",
        "events",
        Means::Cost,
        "one transfer an event, the engine's own files included",
    ),
    (
        "replay",
        "events/s",
        "events",
        Means::Rate,
        "read, checked, chained, applied; files in the page cache where they fit",
    ),
    (
        "replay, commands of 1000",
        "transfers/s",
        "transfers",
        Means::Rate,
        "all within one hour: every id is remembered",
    ),
    (
        "cold start, snapshot at the end",
        "s",
        "events",
        Means::Cost,
        "a hundred thousand an hour: ids of the last hour are remembered",
    ),
    (
        "cold start, snapshot a million events before the end",
        "s",
        "events",
        Means::Cost,
        "the farthest that it is by default",
    ),
    (
        "cold start, everything within one hour",
        "s",
        "events",
        Means::Cost,
        "snapshot at the end; every id is still remembered",
    ),
    ("memory after a cold start", "MiB", "events", Means::Cost, "a hundred thousand an hour"),
    (
        "memory after a cold start, everything within one hour",
        "MiB",
        "events",
        Means::Cost,
        "every request and transfer id is remembered",
    ),
    (
        "request ids, while as many are forgotten",
        "ids/s",
        "ids within the hour",
        Means::Rate,
        "looked up, admitted, remembered: one core, no disk",
    ),
    ("memory of a request id", "bytes", "ids within the hour", Means::Cost, "resident"),
    (
        "longest pause of forgetting request ids",
        "ms",
        "ids within the hour",
        Means::Cost,
        "in one frame, once an hour's ids are there",
    ),
    (
        "transfers by submission",
        "transfers/s",
        "transfers in one",
        Means::Rate,
        "numbered, so nothing is remembered; one core, frames and chain, no disk",
    ),
    ("transfers by request", "transfers/s", "transfers in one", Means::Rate, "the same with request ids"),
    ("log of a transfer by submission", "bytes", "transfers in one", Means::Cost, ""),
    ("log of a transfer by request", "bytes", "transfers in one", Means::Cost, ""),
    ("idle `holmes up`, memory", "MiB", "server", Means::Cost, "every role, an empty directory, no model"),
    ("idle `holmes up`, processor", "% of a core", "server", Means::Cost, ""),
    ("idle `holmes up`, start", "s", "server", Means::Cost, "an empty directory, until it answers"),
];

/// Whether a figure is among them.
#[cfg(test)]
pub(crate) fn knows(figure: &str) -> bool {
    FIGURES.iter().any(|row| row.0 == figure)
}

impl Table {
    fn put(&mut self, state: u64, name: &str, value: f64) {
        let Some((figure, unit, of, means, note)) = FIGURES.into_iter().find(|row| row.0 == name) else {
            return;
        };
        eprintln!("growth · {} {of}: {figure} {} {unit}", count(state), number(value));
        let at = self.series.iter().position(|series| series.figure == figure);
        let at = at.unwrap_or_else(|| {
            let (figure, unit, of, note) = (figure.into(), unit.into(), of.into(), note.into());
            self.series.push(Series { figure, unit, of, means, points: Vec::new(), note });
            self.series.len() - 1
        });
        let points = &mut self.series[at].points;
        match points.iter_mut().find(|point| point.state == state) {
            Some(point) => point.values.push(value),
            None => points.push(Point { state, values: vec![value] }),
        }
    }

    /// Runs a task in a child; its figures are kept at a size.
    fn take(&mut self, state: u64, task: &Task) {
        let found = self.run(task);
        for (name, value) in self.noted(found).into_iter().flatten() {
            self.put(state, &name, value);
        }
    }

    /// What went wrong is said at once, and again at the end.
    fn noted<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome
            .inspect_err(|why| {
                eprintln!("growth · failed: {why:#}");
                self.failed.push(format!("{why:#}"));
            })
            .ok()
    }

    fn run(&mut self, task: &Task) -> Result<BTreeMap<String, f64>> {
        let exe = std::env::current_exe()?;
        let mut child = Command::new(exe).arg("grow").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let others = Others::watch(vec![child.id()]);
        let mut stdin = child.stdin.take().context("its input")?;
        std::io::Write::write_all(&mut stdin, (serde_json::to_string(task)? + "\n").as_bytes())?;
        drop(stdin);
        let mut stdout = BufReader::new(child.stdout.take().context("its output")?);
        let found = answer(&mut stdout).with_context(|| format!("{task:?}"));
        self.others.push(others.cores());
        ensure!(child.wait()?.success() || found.is_err(), "{task:?} failed; its reasons stand above");
        found
    }
}

/// Takes all of them.
pub(crate) fn take(bench: &Bench<'_>, sizes: &Sizes) -> Result<Report> {
    let commit = machine::commit(); // before: another may be made meanwhile
    let mut table = Table::default();
    std::fs::create_dir_all(bench.dir)?;
    for _ in 0..sizes.runs {
        for accounts in &sizes.accounts {
            let taken = ledger(bench, sizes, *accounts, &mut table);
            table.noted(taken);
            table.take(*accounts as u64, &Task::Accounts(*accounts));
        }
        for nodes in &sizes.nodes {
            table.take(u64::from(*nodes), &Task::Nodes(*nodes));
        }
        for ids in &sizes.ids {
            table.take(*ids, &Task::Window(*ids));
        }
        for each in &sizes.submissions {
            table.take(*each, &Task::Submitters(*each));
        }
        table.take(1, &Task::Idle { seconds: sizes.idle_seconds });
    }
    for events in &sizes.log {
        let taken = logs(bench, sizes, *events, &mut table);
        table.noted(taken);
    }
    Ok(Report {
        format: FORMAT,
        name: NAME.into(),
        date: machine::today(),
        commit,
        profile: machine::profile(),
        machine: machine::facts(bench.dir),
        scenario: None,
        rows: Vec::new(),
        series: table.series,
        failed: table.failed,
        others_cores: Spread::of(&table.others).unwrap_or(Spread { min: 0.0, median: 0.0, max: 0.0 }),
    })
}

/// Durable transfers with so many accounts, as the scenario `ledger` takes them.
fn ledger(bench: &Bench<'_>, sizes: &Sizes, accounts: usize, table: &mut Table) -> Result<()> {
    let job = Job {
        kind: Kind::Ledger,
        work: Work::Transfers,
        callers: 8,
        batch: BATCH,
        accounts,
        warm_up_s: sizes.warm_up,
        seconds: sizes.seconds,
        plan: None,
        dir: PathBuf::new(),
    };
    let turn = bench.run(&job, false)?;
    ensure!(turn.read_back.is_whole(), "{accounts} accounts: not read back whole: {:?}", turn.read_back);
    table.others.push(turn.others);
    table.put(accounts as u64, "ledger transfers", turn.done.measured.per_second);
    Ok(())
}

/// Transfers an hour in a log that is not all of one hour. It is the same for each size, so that a longer log is one of more
/// hours: what is remembered, an hour's ids, stays, and what grows is of the log's length.
const AN_HOUR: u64 = 100_000;
/// Transfers of a command where they come in batches.
const BATCH: usize = 1_000;
/// Behind how many events a new snapshot is written, by default.
const SNAPSHOT_EVERY: u64 = 1_000_000;

/// Transfers of which each is remembered by its two ids in one hour: more ids than these the window does not hold.
const MOST_IN_AN_HOUR: u64 = 10_000_000;

/// A log is written once, then read so often as the others run. One that is longer than an hour can be is only written at
/// a steady pace, and one transfer a command.
fn logs(bench: &Bench<'_>, sizes: &Sizes, events: u64, table: &mut Table) -> Result<()> {
    let mut scratch = TempDir::with_prefix_in("log-", bench.dir)?;
    scratch.disable_cleanup(bench.keep);
    let at = |name: &str| scratch.path().join(name);
    let write = |name: &str, batch, hours| Task::WriteLog { dir: at(name), transfers: events, batch, hours };
    let of_an_hour = events <= MOST_IN_AN_HOUR;
    let mut replays = vec![("steady", "replay")];
    if of_an_hour {
        table.run(&write("batches", BATCH, 0))?;
        replays.push(("batches", "replay, commands of 1000"));
    }
    let written = table.run(&write("steady", 1, events.div_ceil(AN_HOUR)))?;
    table.put(events, "log on disk", written.get("log on disk").copied().unwrap_or_default());
    for _ in 0..sizes.runs {
        for (dir, name) in &replays {
            let found = table.run(&Task::Replay { dir: at(dir), transfers: events })?;
            table.put(events, name, found.get("replay").copied().unwrap_or_default());
        }
    }
    if of_an_hour {
        std::fs::remove_dir_all(at("batches"))?;
    }
    if events > SNAPSHOT_EVERY {
        let name = "cold start, snapshot a million events before the end";
        table.run(&Task::Snapshot { dir: at("steady"), before_end: SNAPSHOT_EVERY })?;
        started(sizes, events, &at("steady"), table, [name, ""])?;
    }
    table.run(&Task::Snapshot { dir: at("steady"), before_end: 0 })?;
    started(
        sizes,
        events,
        &at("steady"),
        table,
        ["cold start, snapshot at the end", "memory after a cold start"],
    )?;
    std::fs::remove_dir_all(at("steady"))?;
    if !of_an_hour {
        return Ok(());
    }
    table.run(&write("hour", 1, 0))?;
    table.run(&Task::Snapshot { dir: at("hour"), before_end: 0 })?;
    let names =
        ["cold start, everything within one hour", "memory after a cold start, everything within one hour"];
    started(sizes, events, &at("hour"), table, names)
}

fn started(sizes: &Sizes, events: u64, dir: &Path, table: &mut Table, names: [&str; 2]) -> Result<()> {
    for _ in 0..sizes.runs {
        let found = table.run(&Task::ColdStart { dir: dir.to_owned() })?;
        for (name, figure) in names.iter().zip(["start", "memory"]) {
            table.put(events, name, found.get(figure).copied().unwrap_or_default());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkouts_sizes_are_those_of_the_goals() {
        let sizes = Sizes::read(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("sizes");
        assert!(sizes.runs >= 5 && sizes.log.contains(&100_000_000) && sizes.nodes.contains(&100_000));
        for states in [sizes.accounts.len(), sizes.nodes.len(), sizes.log.len(), sizes.ids.len()] {
            assert!(states >= 3, "an exponent of fewer than three sizes says little");
        }
    }

    #[test]
    fn a_figure_that_gets_slower_with_the_state_shows_in_its_exponent() {
        let mut table = Table::default();
        for (events, rate) in [(100_000, 900.0), (1_000_000, 90.0), (10_000_000, 9.0)] {
            table.put(events, "replay", rate);
        }
        let exponent = table.series[0].exponent().expect("three sizes");
        assert!((exponent - 1.0).abs() < 1e-9, "ten times the state, ten times the cost of one: {exponent}");
    }
}
