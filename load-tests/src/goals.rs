//! The goals, as a table beside the scenarios, and whether what was measured reaches them.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::report::{Report, Row};
use crate::spread::{Spread, number};
use crate::subject::Kind;

/// The file beside the scenarios' directory.
pub(crate) const FILE: &str = "goals.toml";
/// The directory beside it.
pub(crate) const PROFILES: &str = "profiles";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    goal: Vec<Goal>,
}

/// One goal. Medians are held to it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Goal {
    /// In words.
    pub(crate) what: String,
    /// Where it is missed: what stops it, and what would lift it.
    #[serde(default)]
    pub(crate) limit: String,
    /// The flame graph that shows it, a file of [`PROFILES`].
    #[serde(default)]
    pub(crate) profile: String,
    /// The commit that the profile is of.
    #[serde(default)]
    pub(crate) profiled_at: String,
    /// What that file holds.
    #[serde(skip)]
    pub(crate) drawn: String,
    /// The report's name.
    scenario: String,
    #[serde(flatten)]
    of: Of,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Of {
    /// A subject's rate in the closed loop, or the rate of the open loop that kept its 99th percentile this low.
    Rate { load: String, subject: Kind, at_least: f64, p99_ms_at_most: Option<f64> },
    /// A subject's rate beside that of the quickest of others, under the same load or under the load that is best for them.
    Ratio {
        load: String,
        subject: Kind,
        times: f64,
        of: Vec<Kind>,
        #[serde(default)]
        of_loads: Vec<String>,
    },
    /// How what one costs grows with the state.
    Growth { figure: String, exponent_at_most: f64 },
    /// A figure at a size of the state: at least that much, or at most.
    Point { figure: String, state: u64, at_least: Option<f64>, at_most: Option<f64> },
}

/// Whether a goal is reached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Reached(String),
    Missed(String),
    /// Nothing of it was measured.
    Open,
}

impl Goal {
    /// By the reports that there are.
    pub(crate) fn outcome(&self, reports: &[Report]) -> Outcome {
        let report = reports.iter().find(|report| report.name == self.scenario);
        report.and_then(|report| self.of.outcome(report)).unwrap_or(Outcome::Open)
    }
}

impl Of {
    fn outcome(&self, report: &Report) -> Option<Outcome> {
        let (reached, found) = match self {
            Of::Rate { load, subject, at_least, p99_ms_at_most } => {
                let row = report.row(load, *subject)?;
                let ceiling = row.rate()?.median;
                let Some(most) = p99_ms_at_most else {
                    return said(
                        ceiling >= *at_least,
                        format!("{} of {}", number(ceiling), number(*at_least)),
                    );
                };
                let open = row.open.as_ref()?;
                let p99 = open.wait(|waits| waits.p99_ms)?.median;
                let kept = p99 <= *most && open.unsent() == 0;
                let found = format!(
                    "{} of {} by schedule, p99 {p99:.2} ms of {most} at most, medians of the runs; ceiling {}",
                    number(open.offered),
                    number(*at_least),
                    number(ceiling)
                );
                (kept && open.offered >= *at_least, found)
            }
            Of::Ratio { load, subject, times, of, of_loads } => {
                let ours = report.row(load, *subject)?;
                let loads = if of_loads.is_empty() { std::slice::from_ref(load) } else { of_loads };
                let theirs =
                    loads.iter().flat_map(|load| of.iter().filter_map(|kind| report.row(load, *kind)));
                let median = |row: &&Row| row.rate().map_or(0.0, |rate| rate.median);
                let best = theirs.max_by(|a, b| median(a).total_cmp(&median(b)))?;
                let ratio = Spread::of_ratios(&ours.rates(), &best.rates())?.median;
                let beside = format!("{} with {}", best.subject.title(), best.load.label());
                (ratio >= *times, format!("{} × of {} × ({beside})", number(ratio), number(*times)))
            }
            Of::Growth { figure, exponent_at_most } => {
                let series = report.series.iter().find(|series| series.figure == *figure)?;
                let exponent = series.exponent()?;
                (exponent <= *exponent_at_most, format!("{exponent:.2} of {exponent_at_most} at most"))
            }
            Of::Point { figure, state, at_least, at_most } => {
                let series = report.series.iter().find(|series| series.figure == *figure)?;
                let point = series.points.iter().find(|point| point.state == *state)?;
                let median = Spread::of(&point.values)?.median;
                let bound = at_least.or(*at_most)?;
                (
                    at_least.is_none_or(|least| median >= least) && at_most.is_none_or(|most| median <= most),
                    format!("{} of {} {}", number(median), number(bound), series.unit),
                )
            }
        };
        said(reached, found)
    }
}

fn said(reached: bool, found: String) -> Option<Outcome> {
    Some(if reached { Outcome::Reached(found) } else { Outcome::Missed(found) })
}

/// The goals of a file.
pub(crate) fn read(file: &Path) -> Result<Vec<Goal>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut goals = toml::from_str::<File>(&text).with_context(|| format!("{}", file.display()))?.goal;
    for goal in goals.iter_mut().filter(|goal| !goal.profile.is_empty()) {
        let profile = file.with_file_name(PROFILES).join(&goal.profile);
        goal.drawn = std::fs::read_to_string(&profile)
            .with_context(|| format!("{}: cannot read {}", goal.what, profile.display()))?;
    }
    Ok(goals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Series;
    use crate::scenario;

    /// A report whose rows run at these rates, with their 99th percentile.
    fn report(scenario: &str, load: serde_json::Value, rates: &[(&str, f64, f64)]) -> Report {
        let row = |(subject, rate, p99): &(&str, f64, f64)| {
            let waits = serde_json::json!({
                "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": p99, "p999_ms": 1.0, "max_ms": 1.0
            });
            serde_json::json!({
                "load": load, "subject": subject, "settings": {},
                "closed": [{ "per_second": rate, "batches": 1, "unsent": 0, "waits": waits }],
                "open": { "offered": rate, "runs": [{ "per_second": rate, "batches": 1, "unsent": 0, "waits": waits }] },
                "read_back": {
                    "acknowledged": 1, "found": 1, "overwritten": 0, "foreign": 0, "keeps": true
                },
            })
        };
        let rows: Vec<_> = rates.iter().map(row).collect();
        let whole = serde_json::json!({
            "format": 1, "name": scenario, "date": "2026-01-01", "commit": "", "profile": "", "machine": {},
            "rows": rows, "others_cores": { "min": 0.0, "median": 0.0, "max": 0.0 },
        });
        serde_json::from_value(whole).expect("a report")
    }

    fn goal(text: &str) -> Goal {
        toml::from_str(&format!("what = \"x\"\nscenario = \"s\"\n{text}")).expect("a goal")
    }

    #[test]
    fn a_rate_is_reached_only_within_its_wait() {
        let load = serde_json::json!({ "callers": 64, "batch": 1 });
        let ours = |rate, p99| [report("s", load.clone(), &[("ledger-grpc", rate, p99)])];
        let goal =
            goal("load = \"64 × 1\"\nsubject = \"ledger-grpc\"\nat_least = 40.0\np99_ms_at_most = 15.0");
        assert!(matches!(goal.outcome(&ours(40.0, 15.0)), Outcome::Reached(_)));
        assert!(matches!(goal.outcome(&ours(39.0, 15.0)), Outcome::Missed(_)));
        assert!(matches!(goal.outcome(&ours(90.0, 15.1)), Outcome::Missed(_)));
        assert_eq!(goal.outcome(&[]), Outcome::Open);
    }

    #[test]
    fn a_ratio_needs_both_sides() {
        let load = serde_json::json!({ "callers": 8, "batch": 1000 });
        let goal =
            goal("load = \"8 × 1000\"\nsubject = \"ledger\"\ntimes = 10.0\nof = [\"postgres-procedure\"]");
        let both =
            |ours| report("s", load.clone(), &[("ledger", ours, 1.0), ("postgres-procedure", 2.0, 1.0)]);
        assert!(matches!(goal.outcome(&[both(20.0)]), Outcome::Reached(_)));
        assert!(matches!(goal.outcome(&[both(19.0)]), Outcome::Missed(_)));
        assert_eq!(goal.outcome(&[report("s", load.clone(), &[("ledger", 20.0, 1.0)])]), Outcome::Open);
    }

    #[test]
    fn every_goal_speaks_of_something_that_is_measured() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scenarios = scenario::read_all(&house.join("scenarios")).expect("scenarios");
        for goal in read(&house.join(FILE)).expect("goals") {
            let of = |load: &str, kinds: &[Kind]| {
                let Some(scenario) = scenarios.iter().find(|scenario| scenario.name == goal.scenario) else {
                    return false;
                };
                let load = scenario.loads.iter().find(|known| known.label() == load);
                let measured = |kind: &Kind| scenario.subjects().any(|known| known == *kind);
                kinds.iter().all(|kind| measured(kind) && load.is_some_and(|load| load.takes(*kind)))
            };
            let known = match &goal.of {
                Of::Rate { load, subject, .. } => of(load, &[*subject]),
                Of::Ratio { load, subject, of: peers, of_loads, .. } => {
                    of(load, &[*subject])
                        && of_loads
                            .iter()
                            .chain(of_loads.is_empty().then_some(load))
                            .all(|load| of(load, peers))
                }
                Of::Point { figure, .. } | Of::Growth { figure, .. } => crate::growth::knows(figure),
            };
            assert!(known, "{}: no scenario measures that", goal.what);
        }
    }

    /// From 10^3 to 10^6 log n grows by so much: the mildest bound that a figure of these sizes can have.
    const LOG_N: f64 = 0.1;

    #[test]
    fn every_figure_that_grows_faster_than_log_n_is_held_to_a_goal() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR"));
        let goals = read(&house.join(FILE)).expect("goals");
        let reports = crate::report::newest(&house.join("results")).expect("results");
        let steep = reports.iter().flat_map(|report| &report.series);
        for series in steep.filter(|series| series.exponent().is_some_and(|exponent| exponent > LOG_N)) {
            let speaks = |goal: &Goal| match &goal.of {
                Of::Point { figure, .. } | Of::Growth { figure, .. } => *figure == series.figure,
                Of::Rate { .. } | Of::Ratio { .. } => false,
            };
            assert!(goals.iter().any(speaks), "{}: no goal says how it may grow", series.figure);
        }
    }

    #[test]
    fn a_ratio_is_taken_of_the_best_that_the_others_have() {
        let few = report(
            "s",
            serde_json::json!({ "callers": 1, "batch": 1000 }),
            &[("postgres-procedure", 5.0, 1.0)],
        );
        let load = serde_json::json!({ "callers": 8, "batch": 1000 });
        let mut both = report("s", load, &[("ledger", 40.0, 1.0), ("postgres-procedure", 2.0, 1.0)]);
        both.rows.extend(few.rows);
        let goal = |of_loads: &str| {
            goal(&format!(
                "load = \"8 × 1000\"\nsubject = \"ledger\"\ntimes = 10.0\nof = [\"postgres-procedure\"]{of_loads}"
            ))
        };
        assert!(matches!(goal("").outcome(&[both.clone()]), Outcome::Reached(_)));
        let of_loads = "\nof_loads = [\"1 × 1000\", \"8 × 1000\"]";
        assert!(matches!(goal(of_loads).outcome(&[both]), Outcome::Missed(_)));
    }

    #[test]
    fn what_costs_more_in_a_larger_state_misses_its_exponent() {
        let mut with = report("s", serde_json::Value::Null, &[]);
        let series = serde_json::json!({
            "figure": "start", "unit": "s", "of": "events", "means": "cost",
            "points": [{ "state": 10, "values": [1.0] }, { "state": 100, "values": [2.0] }, { "state": 1000, "values": [4.0] }],
        });
        with.series = vec![serde_json::from_value::<Series>(series).expect("a series")];
        let goal = |most| goal(&format!("figure = \"start\"\nexponent_at_most = {most}"));
        assert!(matches!(goal("0.31").outcome(&[with.clone()]), Outcome::Reached(_)));
        assert!(matches!(goal("0.29").outcome(&[with]), Outcome::Missed(_)));
    }

    #[test]
    fn a_point_may_be_a_ceiling() {
        let mut with = report("s", serde_json::Value::Null, &[]);
        let series = serde_json::json!({
            "figure": "start", "unit": "s", "of": "events", "means": "cost",
            "points": [{ "state": 10, "values": [1.0, 3.0, 2.0] }],
        });
        with.series = vec![serde_json::from_value::<Series>(series).expect("a series")];
        let goal = |most| goal(&format!("figure = \"start\"\nstate = 10\nat_most = {most}"));
        assert!(matches!(goal("2.0").outcome(&[with.clone()]), Outcome::Reached(_)));
        assert!(matches!(goal("1.9").outcome(&[with]), Outcome::Missed(_)));
    }
}
