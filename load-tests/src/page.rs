//! The page of figures: written from the newest results and nothing else, so that it cannot say what was not measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::goals::{Goal, Outcome};
use crate::plot::{Bar, bars};
use crate::print::spread;
use crate::report::{Report, Row, Series};
use crate::spread::{Spread, count, number};

/// From the checkout's root.
pub(crate) const PAGE: &str = "docs/reference/performance.md";
/// Beside the page.
const PLOTS: &str = "performance";

/// The page, and its plots by file name.
pub(crate) struct Book {
    pub(crate) page: String,
    pub(crate) plots: BTreeMap<String, String>,
}

/// Writes it where the book finds it.
pub(crate) fn write(root: &Path, goals: &[Goal], reports: &[Report]) -> Result<()> {
    let book = book(goals, reports);
    let page = root.join(PAGE);
    let plots = page.with_file_name(PLOTS);
    if plots.exists() {
        std::fs::remove_dir_all(&plots)?; // of results that are not the newest any more
    }
    std::fs::create_dir_all(&plots).with_context(|| format!("{} cannot be made", plots.display()))?;
    for (name, svg) in &book.plots {
        std::fs::write(plots.join(name), svg)?;
    }
    Ok(std::fs::write(&page, book.page)?)
}

/// Of these reports.
pub(crate) fn book(goals: &[Goal], reports: &[Report]) -> Book {
    let mut book = Book { page: INTRODUCTION.to_owned(), plots: BTreeMap::new() };
    if reports.is_empty() {
        book.page += "\nNothing has been measured yet.\n";
        return book;
    }
    book.goals(goals, reports);
    for report in reports {
        book.report(report);
    }
    book
}

const INTRODUCTION: &str = "# Performance

<!-- Written by `cargo xtask bench` from load-tests/results/*.json: edit load-tests/src/page.rs instead. -->

What the kernel does on one machine, beside what people would otherwise use, in one run on the same work and the same
disk. Every figure is the smallest, the median and the largest of several runs, which alternate among all that are
compared; a ratio is taken turn by turn. Everything that was acknowledged in a run is read back after it, ours from the
log opened anew. How each figure is taken, and how to read it: `load-tests/README.md`.

```sh
cargo xtask bench             # all of it, then this page is written anew
cargo xtask bench ledger      # one scenario
```
";

impl Book {
    fn line(&mut self, line: impl AsRef<str>) {
        self.page += line.as_ref();
        self.page.push('\n');
    }

    fn goals(&mut self, goals: &[Goal], reports: &[Report]) {
        self.line("\n## Goals\n\nMedians are held to them.");
        let machines: BTreeSet<_> = reports.iter().map(|report| report.machine.get("cpu")).collect();
        if machines.len() > 1 {
            self.line("\nThe reports are of more than one machine: each names its own, and nothing is compared across.");
        }
        self.line("\n| goal | measured | |\n| --- | --- | --- |");
        for goal in goals {
            let (found, said) = match goal.outcome(reports) {
                Outcome::Reached(found) => (found, "reached"),
                Outcome::Missed(found) => (found, "**missed**"),
                Outcome::Open => ("not measured yet".into(), ""),
            };
            self.line(format!("| {} | {found} | {said} |", goal.what));
        }
        let missed = goals.iter().filter(|goal| matches!(goal.outcome(reports), Outcome::Missed(_)));
        for goal in missed {
            self.line(format!("\n**Missed: {}.** {}", goal.what, goal.limit.trim()));
            if !goal.profile.is_empty() {
                self.line(format!("[Flame graph]({PLOTS}/{}), of {}", goal.profile, goal.profiled_at));
                self.plots.insert(goal.profile.clone(), goal.drawn.clone());
            }
        }
    }

    fn report(&mut self, report: &Report) {
        self.line(format!("\n## {}\n", report.name));
        if let Some(scenario) = &report.scenario {
            self.line(format!("{}\n", scenario.about));
            let (seconds, runs, warm_up) = (scenario.seconds, scenario.runs, scenario.warm_up);
            self.line(format!("{runs} runs of {seconds} s each, after {warm_up} s that are not counted.\n"));
            let name = &report.name;
            self.line(format!("```sh\ncargo xtask bench {name} --runs {runs} --seconds {seconds}\n```\n"));
        } else {
            self.line(format!("```sh\ncargo xtask bench {}\n```\n", report.name));
        }
        let machine: Vec<_> = report.machine.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        self.line(format!(
            "{}, commit {}, profile `{}`; {}. Cores that other processes used meanwhile: {}.",
            report.date,
            report.commit,
            report.profile,
            machine.join("; "),
            spread(Some(report.others_cores))
        ));
        if !report.was_quiet() {
            self.line("\n**Others were busy meanwhile: these figures are no better than that.**");
        }
        let unit = report.scenario.as_ref().map_or("", |scenario| scenario.work.unit());
        for (nth, rows) in report.by_load().iter().enumerate() {
            self.load(&format!("{}-{}.svg", report.name, nth + 1), unit, rows);
        }
        self.settings(report);
        if !report.series.is_empty() {
            self.series(&report.series);
        }
        for why in &report.failed {
            self.line(format!("\nNot measured: {why}"));
        }
    }

    fn load(&mut self, plot: &str, unit: &str, rows: &[&Row]) {
        let label = rows[0].load.label();
        self.line(format!("\n### {label}\n"));
        self.line(format!(
            "Callers × {unit} in a request, closed loop: {unit} a second as smallest, median, largest.\n"
        ));
        self.line(format!(
            "| | {unit}/s | ours is × | p50 ms | p99 ms | syncs a request | read back |\n\
             | --- | --- | --- | --- | --- | --- | --- |"
        ));
        let ours = rows[0].rates();
        for row in rows {
            self.line(row_of(row, &ours));
        }
        if !rows[0].load.only.is_empty() {
            self.line("\nThe scenario names these alone for this load: the others were not asked.");
        }
        if rows.iter().any(|row| row.open.is_some()) {
            self.line(format!(
                "\nArrivals by a schedule, waits from the moment that the schedule names:\n\n\
                 | | offered {unit}/s | p50 ms | p99 ms | p99.9 ms | never sent |\n| --- | --- | --- | --- | --- | --- |"
            ));
        }
        for row in rows {
            if let Some(open) = &row.open {
                let ms = |of: fn(&crate::latency::Waits) -> f64| spread(open.wait(of));
                self.line(format!(
                    "| {} | {} | {} | {} | {} | {} |",
                    row.subject.title(),
                    number(open.offered),
                    ms(|waits| waits.p50_ms),
                    ms(|waits| waits.p99_ms),
                    ms(|waits| waits.p999_ms),
                    open.unsent()
                ));
            }
        }
        for row in rows.iter().filter(|row| !row.closed.is_empty()) {
            if let Some(why) = &row.failed {
                self.line(format!("\n{} could not be driven further: {why}", row.subject.title()));
            }
        }
        let drawn: Vec<Bar> = rows
            .iter()
            .filter_map(|row| {
                let value = row.rate()?;
                Some(Bar { label: row.subject.title().into(), value, ours: row.subject == rows[0].subject })
            })
            .collect();
        self.line(format!("\n![{label}: {unit} a second]({PLOTS}/{plot})"));
        self.plots.insert(plot.to_owned(), bars(&format!("{label}: {unit} a second"), &drawn));
    }

    fn settings(&mut self, report: &Report) {
        let mut told = Vec::new();
        for row in report.rows.iter().filter(|row| !row.settings.is_empty()) {
            if told.is_empty() {
                self.line("\n### Settings\n");
            }
            // Once for the loads that have them alike.
            let same = (row.subject, &row.settings);
            if !told.contains(&same) {
                let again = told.iter().any(|(subject, _)| *subject == row.subject);
                told.push(same);
                let load = if again { format!(", from {} on", row.load.label()) } else { String::new() };
                let all: Vec<_> =
                    row.settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                self.line(format!("- {}{load}: {}", row.subject.title(), all.join("; ")));
            }
        }
    }

    fn series(&mut self, all: &[Series]) {
        self.line(
            "\nThe exponent is that of what one costs, over the state: 0 says that it costs the same however large the \
             state is, 1 that it costs ten times as much in a state ten times as large.\n",
        );
        let runs = all.iter().flat_map(|series| &series.points).map(|point| point.values.len()).max();
        self.line(format!("Of {} runs; the bytes that a log takes are of one.\n", runs.unwrap_or_default()));
        self.line(
            "| figure | state | smallest, median, largest | exponent | |\n| --- | --- | --- | --- | --- |",
        );
        for series in all {
            let exponent = series.exponent().map_or_else(String::new, |e| format!("{e:.2}"));
            for (nth, point) in series.points.iter().enumerate() {
                let found = spread(Spread::of(&point.values));
                let (name, exponent, note) =
                    if nth == 0 { (&*series.figure, &*exponent, &*series.note) } else { ("", "", "") };
                let state = if series.of == "server" {
                    String::new()
                } else {
                    format!("{} {}", count(point.state), series.of)
                };
                self.line(format!("| {name} | {state} | {found} {} | {exponent} | {note} |", series.unit));
            }
        }
    }
}

fn row_of(row: &Row, ours: &[f64]) -> String {
    if let Some(why) = row.failed.as_ref().filter(|_| row.closed.is_empty()) {
        return format!("| {} | failed: {} | | | | | |", row.subject.title(), why.replace('|', "/"));
    }
    let ms = |of: fn(&crate::latency::Waits) -> f64| {
        row.wait(of).map_or_else(String::new, |wait| format!("{:.2}", wait.median))
    };
    let back = match &row.read_back {
        back if !back.keeps => "keeps nothing".to_owned(),
        back if back.is_whole() => format!("all of {}", count(back.acknowledged)),
        back => format!("**{} of {}**", count(back.found), count(back.acknowledged)),
    };
    let mut line = String::new();
    // Writing to a string never fails.
    let _ = write!(
        line,
        "| {} | {} | {} | {} | {} | {} | {back} |",
        row.subject.title(),
        spread(row.rate()),
        spread(Spread::of_ratios(ours, &row.rates())),
        ms(|waits| waits.p50_ms),
        ms(|waits| waits.p99_ms),
        row.syncs.map_or_else(String::new, |syncs| format!("{:.3}", syncs.per_batch)),
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals;
    use crate::report::newest;

    #[test]
    fn the_page_fits_the_newest_results() {
        let house = Path::new(env!("CARGO_MANIFEST_DIR"));
        let reports = newest(&house.join("results")).expect("readable results");
        let goals = goals::read(&house.join(goals::FILE)).expect("goals");
        let book = book(&goals, &reports);
        let page = house.join("..").join(PAGE);
        let there = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(there == book.page, "{PAGE} is not what the results say: cargo xtask bench --page");
        let drawn = std::fs::read_dir(page.with_file_name(PLOTS)).map(Iterator::count).unwrap_or(0);
        assert_eq!(drawn, book.plots.len(), "cargo xtask bench --page");
        for (name, svg) in &book.plots {
            let there = std::fs::read_to_string(page.with_file_name(PLOTS).join(name)).unwrap_or_default();
            assert!(there == *svg, "{name} is not what the results say: cargo xtask bench --page");
        }
    }

    #[test]
    fn without_results_the_page_says_so() {
        assert!(book(&[], &[]).page.ends_with("Nothing has been measured yet.\n"));
    }

    #[test]
    fn a_row_shows_its_ratio_its_syncs_and_what_was_lost() {
        let waits = serde_json::json!({
            "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.25, "p999_ms": 4.0, "max_ms": 5.0
        });
        let run =
            |rate: f64| serde_json::json!({ "per_second": rate, "batches": 9, "unsent": 0, "waits": waits });
        let row = |subject: &str, rate: f64, found: u64| {
            serde_json::json!({
                "load": { "callers": 16, "batch": 64 }, "subject": subject, "settings": { "fsync": "on" },
                "closed": [run(rate), run(rate), run(rate)],
                "open": { "offered": 70.0, "runs": [run(70.0)] },
                "syncs": { "fsync": 1, "fdatasync": 0, "others": 0, "batches": 4, "per_batch": 0.25 },
                "read_back": {
                    "acknowledged": 100, "found": found, "overwritten": 0, "foreign": 0, "keeps": true
                },
            })
        };
        let series = serde_json::json!({
            "figure": "replay", "unit": "events/s", "of": "events", "means": "rate",
            "points": [{ "state": 10, "values": [4.0] }, { "state": 1000, "values": [2.0] }],
        });
        let report = serde_json::json!({
            "format": 1, "name": "events", "date": "2026-01-01", "commit": "abc", "profile": "dist",
            "machine": { "cores": "2" }, "rows": [row("events", 100.0, 100), row("redis", 40.0, 99)],
            "series": [series], "others_cores": { "min": 0.0, "median": 0.5, "max": 1.0 },
        });
        let report: Report = serde_json::from_value(report).expect("a report");
        let book = book(&[], std::slice::from_ref(&report));
        for said in [
            "| our log, in process | 100, 100, 100 | 1.00, 1.00, 1.00 | 1.00 | 3.25 | 0.250 | all of 100 |",
            "| Redis stream, a connection a writer | 40.0, 40.0, 40.0 | 2.50, 2.50, 2.50 |",
            "**99 of 100**",
            "| replay | 10 events | 4.00, 4.00, 4.00 events/s | 0.15 |",
            "used meanwhile: 0.00, 0.50, 1.00",
            "- our log, in process: fsync = on",
            "![16 × 64:  a second](performance/events-1.svg)",
        ] {
            assert!(book.page.contains(said), "{said:?} is not in {}", book.page);
        }
        assert_eq!(book.plots.keys().collect::<Vec<_>>(), ["events-1.svg"]);
        assert!(report.faults()[0].contains("100 acknowledged, 99 found"), "{:?}", report.faults());
    }
}
