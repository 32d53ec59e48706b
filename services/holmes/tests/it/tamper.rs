//! A forger who owns the whole log, and makes every checksum and chain anew: `verify` replays, so it sees what cannot be.

use std::path::{Path, PathBuf};

use holmes_kernel::entry::Origin;
use holmes_kernel::frame::Open;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Entry, Frame};
use holmes_proto::ledger::v1::Event;
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_store::journal::embedded;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use serde_json::json;

use crate::harness::{Place, until};

/// The frames of a file that `holmes replay --frames` has written.
fn frames(place: &Place, service: &str) -> Vec<Frame> {
    let data = std::fs::read(place.path(&format!("frames/{service}.frames"))).expect("frames");
    let (mut rest, mut frames) = (Bytes::from(data), Vec::new());
    while !rest.is_empty() {
        let length = rest.split_to(4);
        let length = u32::from_le_bytes(length.as_ref().try_into().expect("4 bytes")) as usize;
        frames.push(Frame::decode(rest.split_to(length)).expect("a frame"));
    }
    frames
}

/// The same log with its events changed, and so many milliseconds later: every checksum and chain behind that made anew.
fn forged(frames: &[Frame], later_ms: u64, change: impl Fn(&mut Event)) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        let header = frame.header();
        let tail = out.last().map(Frame::tail).unwrap_or_default();
        let ts = header.ts.after_millis(later_ms);
        let mut open = Open::new(header.log, header.term, ts, header.schema, &tail);
        for (_, entry) in frame.entries().expect("entries") {
            let opened = matches!(entry.origin, Some(Origin::Opened(_)));
            let mut events: Vec<Event> =
                entry.events.iter().map(|bytes| Event::decode(bytes.clone()).expect("an event")).collect();
            events.iter_mut().filter(|_| !opened).for_each(&change);
            open.push(&Entry { events: Vec::new(), ..entry }, &events);
        }
        out.push(open.freeze());
    }
    out
}

/// A data directory that holds these logs.
async fn written(place: &Place, name: &str, logs: &[&[Frame]]) {
    let dir = place.path(name).join("journal");
    std::fs::create_dir_all(&dir).expect("made");
    let journal = embedded::Journal::open(&dir, embedded::Options::default()).expect("a journal");
    for frames in logs {
        let (first, rest) = frames.split_first().expect("frames");
        journal.provision(first).await.expect("provisioned");
        let claim = journal.claim(first.header().log).await.expect("claimed");
        for frame in rest {
            journal.append(&claim, frame).await.expect("appended");
        }
    }
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_amount_is_named_with_its_service_and_place_though_every_chain_is_right() {
    let place = Place::new();
    let server = place.serve(&[]);
    let key = server.payer("alice");
    let (from, to) = (server.dollars(&key, 100), server.dollars(&key, 0));
    let transfer = json!({
        "transfer_id": server.new_id(), "kind": "TRANSFER_KIND_SINGLE",
        "debit_account_id": from, "credit_account_id": to, "amount_units": "60",
    });
    server.with_key(&key, "Ledger/CreateTransfers", &json!({ "transfers": [transfer] }));
    server.staff("Ledger/SetFrozen", &json!({ "account_id": from, "frozen_out": true }));
    server.terminate();
    assert_eq!(place.run(&["replay", "--frames", "frames"]).code, 0);
    let honest = frames(&place, "ledger");
    let tells = |frame: &Frame| String::from_utf8_lossy(frame.bytes()).contains(&key);
    assert!(!honest.iter().any(tells), "no secret stands in a log");
    written(&place, "same", &[&forged(&honest, 0, |_| ())]).await;
    let same = place.run(&["verify", "--dir", "same", "-o", "json"]).json();
    assert_eq!(
        same[0],
        place.run(&["verify", "-o", "json"]).json()[0],
        "a forger who changes nothing forges nothing"
    );
    let more = forged(&honest, 0, |event| {
        if let Some(Kind::TransfersRecorded(transfers)) = &mut event.event {
            transfers.amounts_units[0] = 101;
        }
    });
    let paid = honest.iter().position(|frame| {
        let entries = frame.entries().expect("entries");
        let kinds = entries.iter().flat_map(|(_, entry)| &entry.events);
        kinds
            .map(|bytes| Event::decode(bytes.clone()).expect("an event"))
            .any(|event| matches!(event.event, Some(Kind::TransfersRecorded(_))))
    });
    let paid = honest[paid.expect("the payment")].header().first;
    written(&place, "more", &[&more]).await;
    let told = place.run(&["verify", "--dir", "more", "-o", "json"]);
    assert_eq!(told.code, 1, "{}", told.out);
    let rows: serde_json::Value = serde_json::from_str(&told.out).expect("JSON");
    let result = rows[0]["result"].as_str().expect("a text");
    assert_eq!((&rows[0]["service"], &rows[0]["ok"]), (&json!("ledger"), &json!(false)));
    let named = format!("the log of ledger cannot be replayed at {paid}: ");
    assert!(result.starts_with(&named) && result.contains(&from), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_cut_or_made_anew_or_taken_away_is_not_what_others_have_heard() {
    let place = Place::new();
    let server = place.serve(&["--role", "ledger,accounts,treasury"]);
    until("genesis", || {
        let genesis = server.staff("Treasury/GetGenesis", &json!({}));
        (genesis["steps"] == genesis["stepsDone"] && genesis["step"] == "").then_some(())
    });
    server.terminate();
    assert_eq!(place.run(&["replay", "--frames", "frames"]).code, 0);
    let [ledger, treasury] = ["ledger", "treasury"].map(|service| frames(&place, service));
    let verified = async |name: &str, logs: &[&[Frame]]| {
        written(&place, name, logs).await;
        place.run(&["verify", "--dir", name])
    };
    let whole = verified("whole", &[&ledger, &treasury]).await;
    assert_eq!(whole.code, 0, "{}", whole.out);
    for (name, logs) in [
        ("cut", &[&ledger[..ledger.len() - 2], &treasury][..]),
        ("taken", &[&treasury]),
        ("anew", &[&forged(&ledger, 1, |_| ()), &treasury]),
    ] {
        let told = verified(name, logs).await;
        assert_eq!(
            (told.code, told.out.contains("as heard: by treasury")),
            (1, true),
            "{name}: {}",
            told.out
        );
    }
}

#[test]
fn a_damaged_journal_is_told_with_its_service_or_place_and_the_remedy_once_each() {
    let place = Place::new();
    place.serve(&[]).terminate();
    let engine = place.path("holmes-data/journal/db");
    let cut = |file: &std::path::Path, left: usize| {
        let whole = std::fs::read(file).expect("a file of the engine");
        std::fs::write(file, &whole[..left]).expect("cut");
        whole
    };
    let told = |words: &[&str]| {
        let ran = place.run(&["verify"]);
        ran.fails(1, words);
        assert_eq!(ran.err.to_lowercase().matches("restore").count(), 1, "{}", ran.err);
        assert!(!ran.err.contains("row of entries") && !ran.err.contains("shard"), "{}", ran.err);
    };
    let version = engine.join("keyspaces/1/v0");
    let whole = cut(&version, 10);
    told(&[
        "error: holmes-data cannot be opened",
        "holmes-data/journal/db/keyspaces/1 are damaged: its file \"v0\" is not what was written",
        "Restore the directory from a copy; nothing was changed",
    ]);
    std::fs::write(version, whole).expect("restored");
    cut(&engine.join("0.jnl"), 100); // in its first commit
    told(&[
        "error: holmes-data cannot be opened: the log of ",
        " is damaged behind ",
        "were acknowledged and are gone. Restore the directory from a copy",
    ]);
}

/// Files of a folder, by their names.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").path())
        .collect();
    found.sort();
    found
}

fn turn_a_bit(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("a file");
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn a_damaged_snapshot_is_told_with_service_place_and_what_it_means_and_nothing_is_lost() {
    const MEANS: &str = "nothing is lost: the log gives the same state, and the next snapshot takes its place; look at the disk";
    let place = Place::new();
    std::fs::write(place.path("often.toml"), "[store]\nsnapshot_every = 1\n").expect("written");
    let server = place.serve(&["-c", "often.toml"]);
    let folder = place.path("holmes-data/journal/snapshots/1-1-0");
    let key = server.payer("alice");
    server.dollars(&key, 100);
    until("a snapshot of the ledger", || listed(&folder).first().map(|_| ()));
    server.terminate();
    let whole = place.run(&["verify", "-o", "json"]).json();
    assert!(whole[0]["behind_snapshot"].is_u64(), "{whole}");
    let places = |file: &PathBuf| {
        let name = file.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        name.split_once('-').expect("version-place").1.parse::<u64>().expect("a number")
    };
    let newest = listed(&folder).into_iter().max_by_key(places).expect("a snapshot");
    let seq = places(&newest);
    turn_a_bit(&newest, 150);

    let told = place.run(&["verify", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&told.out).expect("JSON");
    let rows = rows.as_array().expect("rows");
    let row = rows
        .iter()
        .find(|row| row["reason"] == "SNAPSHOT_DAMAGED")
        .expect("it is not passed over in silence");
    assert_eq!((told.code, &row["service"], &row["seq"]), (1, &json!("ledger"), &json!(seq)), "{row}");
    assert!(row["result"].as_str().expect("a text").ends_with(MEANS), "{row}");
    assert_eq!((&rows[0]["digest"], &rows[0]["ok"]), (&whole[0]["digest"], &json!(true)), "the log is whole");

    let state = place.run(&["state", "ledger"]);
    assert!(
        state.code == 0 && state.err.contains(&format!("seq={seq} ")) && state.err.contains(MEANS),
        "{}",
        state.err
    );

    let server = place.serve(&[]);
    let line = server.lines.iter().find(|line| line.contains("a snapshot is damaged and is passed over"));
    let line = line.expect("a start tells it, too");
    let place_told = format!("service=\"ledger\" seq={seq} ");
    assert!(line.contains(&place_told) && line.contains(MEANS), "{line}");
    server.terminate();
}

#[test]
fn a_damaged_note_of_what_was_acknowledged_is_told_by_whoever_mends_it() {
    let place = Place::new();
    place.serve(&[]).terminate();
    let note = place.path("holmes-data/journal/acknowledged");
    const TOLD: &str = "the note of what was acknowledged is damaged: nothing is lost, the journal is whole and the note is made anew; look at \
         the disk path=holmes-data/journal/acknowledged";
    turn_a_bit(&note, 70);
    let ran = place.run(&["verify"]);
    assert!(ran.code == 0 && ran.err.contains(TOLD), "{}", ran.err);
    let again = place.run(&["verify"]);
    assert!(again.code == 0 && !again.err.contains("acknowledged"), "it is whole again: {}", again.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_the_engine_cannot_read_is_told_with_the_log_and_the_place() {
    let place = Place::new();
    let dir = place.path("tables/journal");
    std::fs::create_dir_all(&dir).expect("made");
    let server = place.serve(&[]);
    let key = server.payer("alice");
    server.dollars(&key, 100);
    server.terminate();
    assert_eq!(place.run(&["replay", "--frames", "frames"]).code, 0);
    let ledger = frames(&place, "ledger");
    // A log that goes on with large frames until the engine has put the first ones into a table.
    let options = embedded::Options { memtable_bytes: 256 << 10, reserve_bytes: 0 };
    let journal = embedded::Journal::open(&dir, options).expect("a journal");
    journal.provision(&ledger[0]).await.expect("provisioned");
    let claim = journal.claim(ledger[0].header().log).await.expect("claimed");
    let mut written = vec![ledger[0].clone()];
    for at in 1..30 {
        let tail = written[written.len() - 1].tail();
        let mut open = Open::new(claim.log, claim.term, tail.ts.after_millis(at), 1, &tail);
        let due = Origin::Due(holmes_kernel::entry::DueOrigin {});
        open.push(&Entry { origin: Some(due), ..Entry::default() }, &[vec![7u8; 30_000]]);
        let frame = open.freeze();
        journal.append(&claim, &frame).await.expect("appended");
        written.push(frame);
    }
    journal.close().await;
    // In the middle of a table: its ends are looked at when the journal opens.
    let (frame, seq) = (written[4].bytes(), written[4].header().first);
    let table = until("a table with the frame", || {
        let tables = (1..9).flat_map(|n| listed(&dir.join(format!("db/keyspaces/{n}/tables"))));
        let has = |file: &PathBuf| {
            let bytes = std::fs::read(file).expect("a table");
            bytes.windows(frame.len()).position(|part| part == &frame[..]).map(|at| (file.clone(), at))
        };
        tables.collect::<Vec<_>>().iter().find_map(has)
    });
    turn_a_bit(&table.0, table.1 + 90);
    let told = place.run(&["verify", "--dir", "tables", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&told.out).expect("JSON");
    let row = &rows[0];
    assert_eq!(
        (&row["service"], &row["seq"], &row["reason"]),
        (&json!("ledger"), &json!(seq), &json!("LOG_DAMAGED")),
        "{rows}"
    );
    let damaged = format!("the log of ledger is damaged behind {}: ", seq - 1);
    let said = row["result"].as_str().expect("a text");
    assert!(said.contains(&format!("{damaged}the engine cannot read its table")), "{said}");
    assert!(said.ends_with("Restore the directory from a copy; nothing is skipped"), "{said}");
    for words in
        [&["replay", "--dir", "tables", "--frames", "none"][..], &["state", "ledger", "--dir", "tables"]]
    {
        place.run(words).fails(1, &[&damaged]);
    }
}
