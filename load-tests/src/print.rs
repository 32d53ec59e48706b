//! Reports and verdicts on a terminal.

use crate::goals::{Goal, Outcome};
use crate::report::{Report, Row, Series};
use crate::spread::{Spread, count, number};

/// A report's tables.
pub(crate) fn report(report: &Report) {
    println!("\n{} · {} · commit {} · profile {}", report.name, report.date, report.commit, report.profile);
    for (key, value) in &report.machine {
        println!("  {key}: {value}");
    }
    println!("  cores that others used meanwhile: {}", spread(Some(report.others_cores)));
    if !report.was_quiet() {
        println!("  WARNING: others were busy meanwhile: these figures are no better than that");
    }
    let unit = report.scenario.as_ref().map_or("", |scenario| scenario.work.unit());
    for rows in report.by_load() {
        println!("\n{} callers × batch, {unit}/s: min, median, max", rows[0].load.label());
        let ours = rows[0].rates();
        for row in &rows {
            print_row(row, &ours);
        }
    }
    for row in &report.rows {
        let settings: Vec<String> =
            row.settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        if report.rows.iter().position(|other| other.subject == row.subject)
            == report.rows.iter().position(|other| std::ptr::eq(other, row))
        {
            println!("\nsettings of {}: {}", row.subject.title(), settings.join("; "));
        }
    }
    for series in &report.series {
        print_series(series);
    }
}

fn print_row(row: &Row, ours: &[f64]) {
    let ratio = Spread::of_ratios(ours, &row.rates());
    let p99 = row.wait(|waits| waits.p99_ms).map_or_else(String::new, |p99| format!("{:.2}", p99.median));
    let syncs = row.syncs.map_or_else(String::new, |syncs| format!("{:.3}", syncs.per_batch));
    let back = match &row.read_back {
        _ if row.failed.is_some() => "failed",
        back if !back.keeps => "keeps nothing",
        back if back.is_whole() => "read back whole",
        _ => "NOT WHOLE",
    };
    println!(
        "  {:<36} {:<36} ours is {:<24} × · p99 {p99:>8} ms · {syncs:>7} syncs a request · {back}",
        row.subject.title(),
        spread(row.rate()),
        spread(ratio),
    );
    if let Some(open) = &row.open {
        println!(
            "  {:<36} {} offered a second by schedule: p50 {} ms, p99 {} ms, {} never sent",
            "",
            number(open.offered),
            spread(open.wait(|waits| waits.p50_ms)),
            spread(open.wait(|waits| waits.p99_ms)),
            open.unsent()
        );
    }
}

fn print_series(series: &Series) {
    let exponent = series.exponent().map_or_else(String::new, |e| format!(", exponent of the cost {e:.2}"));
    println!("\n{} ({}){exponent}", series.figure, series.unit);
    for point in &series.points {
        println!("  {:>14} {:<10} {}", count(point.state), series.of, spread(Spread::of(&point.values)));
    }
    if !series.note.is_empty() {
        println!("  {}", series.note);
    }
}

/// Smallest, median, largest.
pub(crate) fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "not measured".into(),
        |Spread { min, median, max }| format!("{}, {}, {}", number(min), number(median), number(max)),
    )
}

/// The goals that these reports speak of. Back: whether nothing was lost and everything ran.
pub(crate) fn verdict(goals: &[Goal], reports: &[Report]) -> bool {
    println!("\nGoals");
    let (mut reached, mut missed) = (0, 0);
    for goal in goals {
        match goal.outcome(reports) {
            Outcome::Reached(found) => {
                reached += 1;
                println!("  reached  {}: {found}", goal.what);
            }
            Outcome::Missed(found) => {
                missed += 1;
                println!("  missed   {}: {found}", goal.what);
                if goal.limit.is_empty() {
                    println!(
                        "           say in load-tests/goals.toml what stops it: `limit`, and `profile` with a flame graph"
                    );
                }
            }
            Outcome::Open => {}
        }
    }
    let faults: Vec<String> = reports.iter().flat_map(Report::faults).collect();
    for fault in &faults {
        println!("  FAULT    {fault}");
    }
    let open = goals.len() - reached - missed;
    let whole = if faults.is_empty() {
        "everything acknowledged was read back".to_owned()
    } else {
        format!("{} FAULTS", faults.len())
    };
    println!("Verdict: {reached} goals reached, {missed} missed, {open} not measured in this run; {whole}.");
    faults.is_empty()
}
