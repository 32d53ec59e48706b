//! Whether damage is told as it must be: with its service and place where they can be known, and with the whole sentence
//! that says what helps. The sentences stand here once more, word for word: who changes one in the product changes it here.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::damage::Harmed;
use crate::world::{DATA, Ran};

/// What helps where a log is damaged.
const LOG_REMEDY: &str = "Restore the directory from a copy; nothing is skipped";
/// What helps where the engine's own checks refuse its files: they do not say whose they are.
const ENGINE_REMEDIES: [&str; 4] = [
    LOG_REMEDY,
    "Restore the directory from a copy; nothing was changed",
    "Some of its files may be damaged: restore the directory from a copy",
    "use the build that wrote them, or restore the directory from a copy",
];
/// Where the engine's own checks say the damage is, beside a log's name and place.
const ENGINE_PLACES: [&str; 4] = [
    "the engine's files in data/journal/db",
    "opening the engine's files in data/journal/db",
    "reading the heads of the logs",
    "the engine's journal data/journal/db",
];
/// What a damaged snapshot means.
const SNAPSHOT_REMEDY: &str =
    "nothing is lost: the log gives the same state, and the next snapshot takes its place; look at the disk";
/// What is said of the note of what was acknowledged.
const NOTE_REMEDY: &str = "the note of what was acknowledged is damaged: nothing is lost, the journal is whole and the note is made anew; look \
     at the disk";
/// Where a half-written end meets a damaged note.
const NOTE_REFUSED: [&str; 2] =
    ["a half-written end looks like a damaged one; nothing was changed", "Restore the directory from a copy"];

/// Each kept file, and what helps where it is damaged.
const KEPT: [(&str, &[&str]); 6] = [
    (
        "staff.key",
        &[
            "Restore it from a backup; where staff signs with a key that is kept elsewhere, start with --no-staff-key (that \
           staff can add a key: holmes keys new, holmes keys offer, Accounts/AddPublicKey)",
        ],
    ),
    ("scheduling.key", &["Restore it from a backup: no other key can take its place"]),
    (
        "gateway.key",
        &[
            "Restore it from a backup; or give those calls up and begin as a new gateway: move away what is there, then \
             holmes keys new data/gateway.key",
            "gateway.key is of a gateway that the log of scheduling does not know: calls that another one had open are \
             reported only by that one; restore its gateway.key from a backup if this was not meant",
        ],
    ),
    ("tge_at_ms", &["write that number into the file, or restore it from a backup"]),
    ("profile.toml", &["Restore it from a backup, or name the one that opened them (--profile)"]),
    ("layout", &["use the build that wrote the directory, or restore the file if it was changed by hand"]),
];

/// Something that was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    service: Option<String>,
    /// Where the first frame begins that is not what was written; or the snapshot's place.
    seq: Option<u64>,
    words: String,
}

/// What `verify -o json` tells: its rows that do not hold, or, where it could not open the journal, its words.
pub(crate) fn by_verify(ran: &Ran) -> Vec<Told> {
    let rows: Value = serde_json::from_str(&ran.out).unwrap_or_default();
    let wrong = rows.as_array().into_iter().flatten().filter(|row| row["ok"] != true);
    let told = |row: &Value| Told {
        service: row["service"].as_str().map(str::to_owned),
        seq: row["seq"].as_u64(),
        words: row["result"].as_str().unwrap_or_default().to_owned(),
    };
    let mut all: Vec<Told> = wrong.map(told).collect();
    all.extend(ran.err.lines().map(by_line));
    all
}

/// What a line of a process tells: an error that names a log, or a warning that names a service and a place.
pub(crate) fn by_line(line: &str) -> Told {
    let damaged = || {
        let (_, log) = line.split_once("the log of ")?;
        let (service, rest) = log.split_once(" is damaged behind ")?;
        let after: u64 = rest.split_once(':')?.0.parse().ok()?;
        Some((service.to_owned(), after + 1))
    };
    let warned = || {
        let service = line.split_once("service=\"")?.1.split_once('"')?.0;
        let seq = line.split_once(" seq=")?.1.split_whitespace().next()?;
        Some((service.to_owned(), seq.parse().ok()?))
    };
    let place = damaged().or_else(warned);
    Told {
        service: place.as_ref().map(|(service, _)| service.clone()),
        seq: place.map(|(_, seq)| seq),
        words: line.to_owned(),
    }
}

/// Damage is told with where it is and what helps, and by nobody's panic.
pub(crate) fn well(harmed: &Harmed, told: &[Told]) -> Result<()> {
    if let Some(panic) = told.iter().find(|told| told.words.contains("panicked")) {
        bail!("it panicked: {}", panic.words);
    }
    let is_told = told.iter().any(|told| is_well(harmed, told));
    ensure!(is_told, "{harmed:?} is not told with its service, its place and the whole remedy: {told:?}");
    Ok(())
}

fn is_well(harmed: &Harmed, told: &Told) -> bool {
    let words = told.words.as_str();
    let ends = |remedies: &[&str]| remedies.iter().any(|remedy| words.contains(remedy));
    let of = |service: &String, seq: u64| (told.service.as_ref(), told.seq) == (Some(service), Some(seq));
    match harmed {
        Harmed::JournalFrame { service, first } => of(service, *first) && ends(&[LOG_REMEDY]),
        Harmed::TableFrame { service, first, beside } => {
            let Some(named) = &told.service else { return false };
            let before = told.seq.is_some_and(|seq| named != service || (1..=*first).contains(&seq));
            beside.contains(named) && before && ends(&[LOG_REMEDY])
        }
        Harmed::Engine | Harmed::Unfinished => {
            let log = told.service.is_some() && told.seq.is_some();
            (log || ends(&ENGINE_PLACES)) && ends(&ENGINE_REMEDIES)
        }
        Harmed::Snapshot { service, seq, .. } => of(service, *seq) && ends(&[SNAPSHOT_REMEDY]),
        Harmed::Note => {
            let path = words.contains(&format!("{DATA}/journal/acknowledged")) && ends(&[NOTE_REMEDY]);
            path || NOTE_REFUSED.iter().all(|part| words.contains(part))
        }
        Harmed::Kept(name) => {
            let remedies = KEPT.iter().find(|(kept, _)| kept == name).map(|(_, remedies)| *remedies);
            words.contains(name.as_str()) && remedies.is_some_and(ends)
        }
    }
}

/// Whether a line speaks of this damage, so that it must do so well.
pub(crate) fn speaks(harmed: &Harmed, line: &str) -> bool {
    match harmed {
        Harmed::Snapshot { .. } => line.contains("snapshot is damaged"),
        Harmed::Note => line.contains("the note of what was acknowledged"),
        Harmed::Kept(name) => line.contains("WARN") && line.contains(name.as_str()),
        Harmed::JournalFrame { .. } | Harmed::TableFrame { .. } | Harmed::Engine | Harmed::Unfinished => {
            line.contains("damaged")
        }
    }
}

/// Whether the damage may be of no value: then nobody need tell of it, and everything must be there. All that is in the
/// engine's journal, in snapshots and in the note is read and has a checksum of ours.
pub(crate) fn may_be_of_no_value(harmed: &Harmed) -> bool {
    !matches!(harmed, Harmed::JournalFrame { .. } | Harmed::Snapshot { .. } | Harmed::Note)
}

/// The words of a refused start.
pub(crate) fn by_lines(lines: &[String]) -> Vec<Told> {
    lines.iter().map(|line| by_line(line)).collect()
}

/// That `verify` has told it well.
pub(crate) fn verify_tells(harmed: &Harmed, ran: &Ran) -> Result<()> {
    well(harmed, &by_verify(ran)).context("verify")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u64) -> Harmed {
        Harmed::JournalFrame { service: "ledger".into(), first }
    }

    const SAID: &str = "error: data cannot be opened: the log of ledger is damaged behind 41: checksum 1 does not match the \
                        bytes (2). Restore the directory from a copy; nothing is skipped";

    #[test]
    fn a_report_needs_service_place_and_the_whole_remedy() {
        assert!(well(&frame(42), &[by_line(SAID)]).is_ok());
        assert!(well(&frame(43), &[by_line(SAID)]).is_err(), "another place");
        assert!(well(&frame(42), &[by_line(&SAID.replace("ledger", "market"))]).is_err(), "another service");
        assert!(
            well(&frame(42), &[by_line(SAID.trim_end_matches("nothing is skipped"))]).is_err(),
            "half a remedy"
        );
        assert!(well(&frame(42), &[by_line("data: service: restore it")]).is_err(), "words found anywhere");
        assert!(well(&frame(42), &[by_line(SAID), by_line("thread 'a' panicked at b")]).is_err(), "a panic");
    }

    #[test]
    fn a_row_of_verify_is_read_by_its_fields() {
        let row = |seq: u64| {
            let row = serde_json::json!([{ "service": "ledger", "seq": seq, "ok": false, "result": SAID }]);
            Ran { ok: false, out: row.to_string(), err: String::new() }
        };
        assert!(verify_tells(&frame(42), &row(42)).is_ok());
        let other = Ran { err: String::new(), ..row(42) };
        let elsewhere = Harmed::JournalFrame { service: "market".into(), first: 42 };
        assert!(verify_tells(&elsewhere, &other).is_err());
    }

    #[test]
    fn a_damaged_snapshot_is_told_in_a_line_with_its_service_and_place() {
        let line = format!(
            "2026-11-21T10:00:00Z  WARN holmes_runtime::recover: a snapshot is damaged and is passed over: {SNAPSHOT_REMEDY} \
             service=\"ledger\" seq=60 why=\"data/journal/snapshots/1-1-0/3-60: its head is damaged\""
        );
        let harmed = |seq| Harmed::Snapshot { service: "ledger".into(), seq, is_newest: true };
        assert!(well(&harmed(60), &[by_line(&line)]).is_ok());
        assert!(well(&harmed(40), &[by_line(&line)]).is_err());
    }
}
