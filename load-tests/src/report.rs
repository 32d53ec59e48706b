//! What a bench has found, as it is kept: one JSON file a scenario and day.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::job::ReadBack;
use crate::latency::{Measured, Waits};
use crate::scenario::{Load, Scenario};
use crate::spread::Spread;
use crate::subject::Kind;
use crate::syncs::Syncs;

/// Raised when the files' shape changes; files of another shape are kept and not read.
pub(crate) const FORMAT: u32 = 1;

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: u32,
    pub(crate) name: String,
    /// UTC.
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) profile: String,
    pub(crate) machine: BTreeMap<String, String>,
    /// With the length and the number of runs that were really taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scenario: Option<Scenario>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rows: Vec<Row>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) series: Vec<Series>,
    /// What could not be measured of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<String>,
    /// Cores that other processes used meanwhile.
    pub(crate) others_cores: Spread,
}

/// One subject under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) load: Load,
    pub(crate) subject: Kind,
    pub(crate) settings: BTreeMap<String, String>,
    /// Run by run.
    pub(crate) closed: Vec<Measured>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<OpenRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) syncs: Option<Syncs>,
    /// Of all runs together.
    pub(crate) read_back: ReadBack,
    /// Why it was not measured, or not to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// The same by a schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpenRow {
    /// Items a second.
    pub(crate) offered: f64,
    pub(crate) runs: Vec<Measured>,
}

/// One figure at several sizes of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) figure: String,
    pub(crate) unit: String,
    /// What the state is counted in.
    pub(crate) of: String,
    pub(crate) means: Means,
    pub(crate) points: Vec<Point>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

/// How a figure is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Means {
    /// More is better; one costs the inverse.
    Rate,
    /// Less is better.
    Cost,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) state: u64,
    /// Run by run.
    pub(crate) values: Vec<f64>,
}

impl Row {
    pub(crate) fn rates(&self) -> Vec<f64> {
        self.closed.iter().map(|run| run.per_second).collect()
    }

    pub(crate) fn rate(&self) -> Option<Spread> {
        Spread::of(&self.rates())
    }

    pub(crate) fn wait(&self, of: fn(&Waits) -> f64) -> Option<Spread> {
        Spread::of(&self.closed.iter().map(|run| of(&run.waits)).collect::<Vec<_>>())
    }
}

impl OpenRow {
    pub(crate) fn wait(&self, of: fn(&Waits) -> f64) -> Option<Spread> {
        Spread::of(&self.runs.iter().map(|run| of(&run.waits)).collect::<Vec<_>>())
    }

    pub(crate) fn unsent(&self) -> u64 {
        self.runs.iter().map(|run| run.unsent).sum()
    }
}

impl Series {
    /// The exponent of what one costs, over the state.
    pub(crate) fn exponent(&self) -> Option<f64> {
        let costs = self.points.iter().filter_map(|point| {
            let median = Spread::of(&point.values)?.median;
            Some((point.state as f64, if self.means == Means::Rate { 1.0 / median } else { median }))
        });
        crate::spread::exponent(&costs.collect::<Vec<_>>())
    }
}

/// Cores that others may use beside a figure, in most of its runs.
const QUIET: f64 = 0.1;

impl Report {
    /// Whether others left the machine to it.
    pub(crate) fn was_quiet(&self) -> bool {
        self.others_cores.median <= QUIET
    }

    /// The row of a subject under a load.
    pub(crate) fn row(&self, load: &str, subject: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.load.label() == load && row.subject == subject)
    }

    /// Rows of the same load, ours first.
    pub(crate) fn by_load(&self) -> Vec<Vec<&Row>> {
        let mut groups: Vec<Vec<&Row>> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|group| group[0].load.label() == row.load.label()) {
                Some(group) => group.push(row),
                None => groups.push(vec![row]),
            }
        }
        groups
    }

    /// Whether everything acknowledged was there again, and everything ran.
    pub(crate) fn faults(&self) -> Vec<String> {
        let told = |row: &Row| {
            let who = format!("{}, {}, {}", self.name, row.load.label(), row.subject.title());
            let lost = (!row.read_back.is_whole()).then(|| {
                let ReadBack { acknowledged, found, overwritten, foreign, .. } = row.read_back;
                format!(
                    "{who}: {acknowledged} acknowledged, {found} found, {overwritten} overwritten, {foreign} more"
                )
            });
            let failed = row.failed.as_ref().map(|why| format!("{who}: {why}"));
            lost.into_iter().chain(failed)
        };
        let failed = self.failed.iter().map(|why| format!("{}: {why}", self.name));
        self.rows.iter().flat_map(told).chain(failed).collect()
    }

    /// Keeps it. Back: where.
    pub(crate) fn keep(&self, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("{}-{}.json", self.date, self.name));
        std::fs::write(&file, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(file)
    }
}

/// The newest report of each name.
pub(crate) fn newest(dir: &Path) -> Result<Vec<Report>> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
        Err(_) => Vec::new(), // nothing was taken yet
    };
    files.sort(); // by date
    let mut newest = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "json")) {
        let text = std::fs::read_to_string(file)?;
        let format = serde_json::from_str::<serde_json::Value>(&text)
            .with_context(|| format!("{} is no JSON", file.display()))?
            .get("format")
            .and_then(serde_json::Value::as_u64);
        if format == Some(FORMAT.into()) {
            let report: Report =
                serde_json::from_str(&text).with_context(|| format!("{} cannot be read", file.display()))?;
            newest.insert(report.name.clone(), report);
        }
    }
    Ok(newest.into_values().collect())
}
