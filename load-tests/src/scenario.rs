//! Scenarios: what is measured beside what, as files. One file is one scenario; its loads are taken one after the
//! other, each with every subject in turn.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::subject::Kind;

/// Bytes of one event.
pub(crate) const EVENT_BYTES: usize = 256;

/// A scenario file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without its ending.
    pub(crate) name: String,
    /// In a sentence or two.
    pub(crate) about: String,
    pub(crate) work: Work,
    /// Ours: what the ratios are taken of.
    pub(crate) subject: Kind,
    /// Beside it, in this order.
    #[serde(default)]
    pub(crate) peers: Vec<Kind>,
    /// Accounts in the ledger and in its peers.
    #[serde(default = "accounts")]
    pub(crate) accounts: usize,
    /// How long each run counts.
    pub(crate) seconds: f64,
    /// How long each run goes before it counts.
    pub(crate) warm_up: f64,
    /// How often each subject runs, in turns with the others.
    pub(crate) runs: usize,
    pub(crate) loads: Vec<Load>,
}

fn accounts() -> usize {
    10_000
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Events of 256 bytes are written.
    Events,
    /// Money is moved between two of the accounts.
    Transfers,
}

impl Work {
    /// What a second counts.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Work::Events => "events",
            Work::Transfers => "transfers",
        }
    }
}

/// How much is asked at once, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    /// Each asks again as soon as it was answered: together they find the ceiling.
    pub(crate) callers: usize,
    /// Items in one request, which is answered when all of them are durable.
    pub(crate) batch: usize,
    /// Then the same by a schedule, whatever the answers do.
    #[serde(default)]
    pub(crate) open: Option<Open>,
    /// Only these subjects; all when empty. For loads that say nothing of the others.
    #[serde(default)]
    pub(crate) only: Vec<Kind>,
}

/// Arrivals by a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Open {
    #[serde(default)]
    pub(crate) arrivals: Arrivals,
    /// Items a second; the same for every subject.
    #[serde(default)]
    pub(crate) per_second: Option<f64>,
    /// Of the subject's own ceiling as the closed loop has found it.
    #[serde(default)]
    pub(crate) of_ceiling: Option<f64>,
    /// With this the search goes down from `of_ceiling` until the 99th percentile keeps below.
    #[serde(default)]
    pub(crate) p99_ms: Option<f64>,
    /// Most requests under way; what is due beyond waits, and its wait counts.
    pub(crate) in_flight: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// As independent callers come.
    #[default]
    Poisson,
}

impl Load {
    /// As tables and goals name it.
    pub(crate) fn label(&self) -> String {
        format!("{} × {}", self.callers, self.batch)
    }

    pub(crate) fn takes(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }
}

impl Scenario {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        let wrong = |what: &str| format!("scenario {name}: {what}");
        ensure!(scenario.name == name, wrong("`name` is the file's name without .toml"));
        ensure!(!scenario.loads.is_empty(), wrong("`loads` names at least one load"));
        ensure!(
            scenario.runs > 0 && scenario.accounts > 1,
            wrong("`runs` is at least 1, `accounts` at least 2")
        );
        ensure!(scenario.seconds > 0.0 && scenario.warm_up >= 0.0, wrong("`seconds` is more than 0"));
        for kind in scenario.subjects() {
            ensure!(kind.does(scenario.work), wrong(&format!("{kind} does not do {}", scenario.work.unit())));
        }
        for load in &scenario.loads {
            ensure!(load.callers > 0 && load.batch > 0, wrong("`callers` and `batch` are at least 1"));
            let Some(open) = &load.open else { continue };
            let rate = match (open.per_second, open.of_ceiling) {
                (Some(rate), None) | (None, Some(rate)) => rate,
                _ => bail!(wrong("an open load has either `per_second` or `of_ceiling`")),
            };
            ensure!(rate > 0.0, wrong("`per_second` or `of_ceiling` is more than 0"));
            ensure!(open.in_flight > 0, wrong("`in_flight` is at least 1"));
        }
        Ok(scenario)
    }

    /// Ours first, then the peers.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = Kind> + '_ {
        std::iter::once(self.subject).chain(self.peers.iter().copied())
    }
}

/// Every scenario of a directory, by name.
pub(crate) fn read_all(dir: &Path) -> Result<Vec<Scenario>> {
    let missing = || {
        format!(
            "no scenarios in {}: run this in the checkout, or name the directory around them with --house",
            dir.display()
        )
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(missing)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        found.push(Scenario::parse(&name, &std::fs::read_to_string(&path)?)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "events"
about = "Events."
work = "events"
subject = "events"
peers = ["redis", "jetstream"]
seconds = 1
warm_up = 0.5
runs = 5
[[loads]]
callers = 16
batch = 64
open = { of_ceiling = 0.7, in_flight = 64 }
"#;

    fn problem(from: &str, to: &str) -> String {
        format!("{:#}", Scenario::parse("events", &GOOD.replace(from, to)).expect_err("refused"))
    }

    #[test]
    fn a_scenario_is_read_from_its_file() {
        let scenario = Scenario::parse("events", GOOD).expect("good");
        assert_eq!(scenario.subjects().collect::<Vec<_>>(), [Kind::Events, Kind::Redis, Kind::Jetstream]);
        assert_eq!(scenario.loads[0].label(), "16 × 64");
        let open = scenario.loads[0].open.as_ref().expect("an open load");
        assert_eq!((open.arrivals, open.of_ceiling, open.p99_ms), (Arrivals::Poisson, Some(0.7), None));
    }

    #[test]
    fn what_is_wrong_with_a_scenario_is_said_with_its_name() {
        for (from, to, said) in [
            ("runs = 5", "runs = 0", "`runs` is at least 1"),
            ("name = \"events\"", "name = \"other\"", "`name` is the file's name"),
            ("seconds = 1", "secs = 1", "unknown field `secs`"),
            ("of_ceiling = 0.7", "of_ceiling = 0.7, per_second = 9.0", "either `per_second` or `of_ceiling`"),
            ("of_ceiling = 0.7", "of_ceiling = 0.0", "`of_ceiling` is more than 0"),
            ("\"redis\"", "\"echo\"", "echo does not do events"),
            ("callers = 16", "callers = 0", "`callers` and `batch`"),
        ] {
            let problem = problem(from, to);
            assert!(problem.contains("scenario events") && problem.contains(said), "{problem}");
        }
    }

    #[test]
    fn every_scenario_of_the_checkout_is_good_and_runs_often_enough() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all = read_all(&dir).expect("good scenarios");
        assert!(all.len() > 3);
        for scenario in all {
            assert!(scenario.runs >= 5, "{}: figures are the median of at least five runs", scenario.name);
        }
    }
}
