//! Every file of a directory, with bits flipped, cut off, or gone: an error when opening or when reading, or all that
//! was acknowledged; never silently less.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use holmes_kernel::frame::{Damage, FRAME_BYTES};
use holmes_kernel::ports::{Claim, Journal as _, JournalError};
use holmes_kernel::{Frame, LogId};
use holmes_store::conformance::{first, frame, log};
use holmes_store::journal::embedded::{Journal, Options};
use tempfile::TempDir;

/// Small, so that a few megabytes make several tables.
const OPTIONS: Options = Options { reserve_bytes: 0, memtable_bytes: 256 << 10 };
const LOGS: u16 = 3;

type Written = BTreeMap<LogId, Vec<Frame>>;

fn open(dir: &Path) -> Result<Journal, JournalError> {
    Journal::open(dir, OPTIONS)
}

/// A directory with `rounds` frames in each log, closed in good order.
async fn written(rounds: usize, bytes: usize) -> (TempDir, Written) {
    let (dir, written) = write(OPTIONS, rounds, bytes).await;
    // Opening cuts the engine's journal to what is in it, so that copies are small.
    open(dir.path()).unwrap().close().await;
    (dir, written)
}

async fn write(options: Options, rounds: usize, bytes: usize) -> (TempDir, Written) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), options).unwrap();
    let mut written = Written::new();
    for svc in 1..=LOGS {
        journal.provision(&first(log(svc))).await.unwrap();
        let claim = journal.claim(log(svc)).await.unwrap();
        let frames = written.entry(log(svc)).or_insert_with(|| vec![first(log(svc))]);
        for _ in 0..rounds {
            let next = frame(log(svc), claim.term, &frames[frames.len() - 1].tail(), 4, bytes);
            journal.append(&claim, &next).await.unwrap();
            frames.push(next);
        }
    }
    journal.close().await;
    (dir, written)
}

/// Opens and reads everything.
async fn read(dir: &Path) -> Result<Written, JournalError> {
    let journal = open(dir)?;
    let mut found = Written::new();
    for svc in 1..=LOGS {
        found.insert(log(svc), journal.read(log(svc), 0, usize::MAX).await?);
    }
    journal.close().await;
    Ok(found)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(u64),
    Cut(u64),
    Remove,
}

fn apply(harm: Harm, path: &Path) {
    match harm {
        Harm::Flip(at) => flip(path, at),
        Harm::Cut(len) => OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap(),
        Harm::Remove => fs::remove_file(path).unwrap(),
    }
}

/// Both ends, where the heads and checksums are, and places between; many more with `HOLMES_ALL_HARMS`.
fn harms(len: u64) -> Vec<Harm> {
    let steps = if std::env::var_os("HOLMES_ALL_HARMS").is_some() { 256 } else { 6 };
    let ends = (0..3.min(len)).chain(len.saturating_sub(3)..len);
    let between = (1..steps).map(|part| len * part / steps);
    let mut harms: Vec<Harm> = ends.chain(between).filter(|at| *at < len).map(Harm::Flip).collect();
    harms.extend([len / 3, len.saturating_sub(1)].map(Harm::Cut));
    harms.push(Harm::Remove);
    harms
}

#[tokio::test]
async fn no_damaged_file_silently_loses_an_acknowledged_frame() {
    let (dir, written) = written(50, 900).await;
    let (mut refused, mut harmless) = (0, Vec::new());
    for path in files(dir.path()).into_iter().filter(|path| !path.ends_with("lock")) {
        let name = path.strip_prefix(dir.path()).unwrap().to_owned();
        for harm in harms(fs::metadata(&path).unwrap().len()) {
            let scratch = tempfile::tempdir().unwrap();
            copy(dir.path(), scratch.path());
            let harmed = scratch.path().join(&name);
            apply(harm, &harmed);
            match read(scratch.path()).await {
                Err(_) => refused += 1,
                Ok(found) => {
                    assert!(found == written, "{harm:?} of {} lost frames silently", name.display());
                    harmless.push(format!("{} {harm:?}", name.display()));
                }
            }
        }
    }
    assert!(refused > 50, "{refused} refused, harmless: {harmless:#?}");
}

/// The engine's newest journal.
fn newest_journal(dir: &Path) -> PathBuf {
    let all = files(&dir.join("db"));
    all.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn place_of(frame: &Frame, bytes: &[u8]) -> u64 {
    bytes.windows(80).position(|window| *window == frame.bytes()[..80]).unwrap() as u64
}

#[tokio::test]
async fn a_flipped_bit_of_a_frame_is_refused_with_its_log_and_place_and_nothing_is_cut() {
    let (dir, written) = written(12, 40).await;
    let path = newest_journal(dir.path());
    let good = fs::read(&path).unwrap();
    for (log, frames) in &written {
        for frame in [&frames[1], &frames[6], &frames[12]] {
            flip(&path, place_of(frame, &good) + 100);
            let harmed = fs::read(&path).unwrap();
            let refused = read(dir.path()).await.unwrap_err();
            let JournalError::Damaged { log: named, after, why } = &refused else { panic!("{refused}") };
            assert_eq!((named, *after), (log, frame.header().first - 1), "{refused}");
            assert!(matches!(why, Damage::Checksum { .. }), "{why}");
            assert_eq!(fs::read(&path).unwrap(), harmed, "what is left was not touched");
            fs::write(&path, &good).unwrap();
        }
    }
    assert_eq!(read(dir.path()).await, Ok(written));
}

#[tokio::test]
async fn a_flipped_bit_of_a_frame_in_a_table_is_refused_with_its_log_and_a_place_not_behind_it() {
    let (dir, written) = written(120, 900).await;
    let tables: Vec<PathBuf> =
        files(dir.path()).into_iter().filter(|path| path.parent().unwrap().ends_with("tables")).collect();
    let mut tried = 0;
    for (log, frames) in &written {
        // The last one is read when the journal opens, the others by whoever reads the log.
        for frame in [&frames[0], &frames[1], &frames[60], &frames[119], &frames[120]] {
            for path in &tables {
                let good = fs::read(path).unwrap();
                let Some(at) = good.windows(80).position(|window| *window == frame.bytes()[..80]) else {
                    continue;
                };
                flip(path, at as u64 + 100);
                let refused = read(dir.path()).await.unwrap_err();
                let JournalError::Damaged { log: named, after, .. } = &refused else { panic!("{refused}") };
                // The engine reads some frames at once: those of the log before may be among them.
                let before = (named == log && *after < frame.header().first) || named < log;
                assert!(before, "{log} at {}: {refused}", frame.header().first);
                tried += 1;
                fs::write(path, &good).unwrap();
            }
        }
    }
    assert!(tried > 5, "{tried} frames lay in tables");
    assert_eq!(read(dir.path()).await, Ok(written));
}

#[tokio::test]
async fn damage_in_an_older_journal_of_the_engine_is_refused_too() {
    // More than the 64 MB after which the engine begins another, in frames of the largest size.
    let (dir, written) = write(Options::default(), 75, FRAME_BYTES / 4 - 100).await;
    let journals =
        || files(dir.path()).into_iter().filter(|path| path.extension().is_some_and(|jnl| jnl == "jnl"));
    assert!(journals().count() > 1, "the engine has not begun another journal");
    let oldest = journals().min_by_key(|path| path.file_stem().unwrap().len()).unwrap();
    let name = oldest.strip_prefix(dir.path()).unwrap();
    let middle = fs::metadata(&oldest).unwrap().len() / 2;
    for harm in [Harm::Flip(middle), Harm::Cut(middle), Harm::Remove] {
        let scratch = tempfile::tempdir().unwrap();
        copy(dir.path(), scratch.path());
        apply(harm, &scratch.path().join(name));
        let outcome = read(scratch.path()).await;
        let is_told = match harm {
            Harm::Remove => outcome.is_err() || outcome.as_ref() == Ok(&written),
            _ => outcome.is_err(),
        };
        assert!(is_told, "{harm:?}: {:?}", outcome.map(|_| "nothing was noticed"));
    }
}

#[tokio::test]
async fn without_the_names_of_its_keyspaces_the_engine_is_not_let_at_them() {
    let (dir, _) = written(12, 40).await;
    fs::remove_dir_all(dir.path().join("db/keyspaces/0")).unwrap();
    let before = files(dir.path());
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("keyspaces/0"), "{refused}");
    assert_eq!(files(dir.path()), before, "it would have deleted the others");
}

/// What the engine would believe and end the process for: `flip --seed 63`, trial 278. Of a table the contents at its end.
#[tokio::test]
async fn the_engine_is_not_let_at_a_manifest_or_contents_that_are_not_what_was_written() {
    let (dir, written) = written(50, 900).await;
    let mut tables = 0;
    for file in files(&dir.path().join("db/keyspaces")) {
        if !is_needed(dir.path(), &file, &written).await {
            continue; // outdated, and not yet taken away
        }
        let whole = fs::read(&file).unwrap();
        let of_table = file.parent().unwrap().ends_with("tables");
        let from = if of_table { contents(&whole) } else { 0 };
        tables += usize::from(of_table);
        let flipped = (from..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        let cut = [whole[..whole.len() - 1].to_vec(), whole[..1].to_vec(), [&whole[..], &[0]].concat()];
        for harmed in flipped.chain(cut) {
            fs::write(&file, harmed).unwrap();
            let Err(refused) = open(dir.path()) else { panic!("{} is taken as it is", file.display()) };
            let (refused, place) =
                (refused.to_string(), if of_table { &file } else { file.parent().unwrap() });
            assert!(refused.contains(&place.display().to_string()), "{refused}");
            assert!(refused.contains("Restore the directory from a copy; nothing was changed"), "{refused}");
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(tables > 2, "{tables} tables");
    assert!(read(dir.path()).await.unwrap() == written);
}

/// Whether a directory is not whole without a file.
async fn is_needed(dir: &Path, file: &Path, written: &Written) -> bool {
    let scratch = tempfile::tempdir().unwrap();
    copy(dir, scratch.path());
    fs::remove_file(scratch.path().join(file.strip_prefix(dir).unwrap())).unwrap();
    read(scratch.path()).await.map_or(true, |found| found != *written)
}

/// Where a table's contents begin, as its trailer says.
fn contents(table: &[u8]) -> usize {
    let (said, _length) = table[table.len() - 16..].split_at(8);
    u64::from_le_bytes(said.try_into().unwrap()).try_into().unwrap()
}

#[tokio::test]
async fn a_file_that_only_the_engine_can_judge_is_told_with_its_directory_and_what_to_do() {
    let (dir, _) = written(50, 900).await;
    let tables = (1..3).flat_map(|n| files(&dir.path().join(format!("db/keyspaces/{n}/tables"))));
    let table = tables.last().expect("a table");
    let behind_what_describes_it = contents(&fs::read(&table).unwrap()) as u64;
    flip(&table, behind_what_describes_it - 20);
    let refused = open(dir.path()).unwrap_err().to_string();
    let engine = dir.path().join("db").display().to_string();
    assert!(refused.contains(&engine) && refused.contains("restore the directory from a copy"), "{refused}");
}

#[tokio::test]
async fn an_end_that_was_acknowledged_and_is_cut_off_is_refused_at_every_start() {
    let (dir, written) = written(12, 40).await;
    let path = newest_journal(dir.path());
    let good = fs::read(&path).unwrap();
    let last = &written[&log(LOGS)][12];
    for lost in [1, 10, last.bytes().len() as u64, good.len() as u64 / 2] {
        fs::write(&path, &good[..good.len() - lost as usize]).unwrap();
        for start in 0..2 {
            let refused = read(dir.path()).await.unwrap_err();
            assert!(
                matches!(refused, JournalError::Damaged { .. }),
                "{lost} bytes lost, start {start}: {refused}"
            );
        }
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(read(dir.path()).await, Ok(written));
}

#[tokio::test]
async fn a_bit_flipped_in_the_last_commit_of_a_closed_directory_is_refused_and_nothing_is_cut() {
    let (frames, _) = written(3, 40).await;
    // And one whose last commit is no frame: a claim, which only a head's term tells of.
    let (claims, _) = written(0, 0).await;
    for dir in [frames, claims] {
        let path = newest_journal(dir.path());
        let good = fs::read(&path).unwrap();
        let whole = read(dir.path()).await.unwrap();
        let (body, _) = good.split_at(good.len() - 4);
        let begin = body.windows(4).rposition(|window| window == b"FJL\x03").unwrap() + 4;
        // Behind the tag and the count stands the engine's own number, which no log has.
        for at in (begin..begin + 5).chain((begin + 13..good.len()).step_by(7)) {
            flip(&path, at as u64);
            let harmed = fs::read(&path).unwrap();
            let refused = read(dir.path()).await.unwrap_err();
            assert!(
                matches!(refused, JournalError::Damaged { log: named, .. } if named == log(LOGS)),
                "byte {at}: {refused}"
            );
            assert!(fs::read(&path).unwrap() == harmed, "byte {at}: what is left was cut");
            fs::write(&path, &good).unwrap();
        }
        assert_eq!(read(dir.path()).await, Ok(whole));
    }
}

#[tokio::test]
async fn without_the_note_of_what_was_acknowledged_no_end_is_taken_for_half_written() {
    let (dir, written) = written(3, 40).await;
    let note = dir.path().join("acknowledged");
    let path = newest_journal(dir.path());
    let good = fs::read(&path).unwrap();
    fs::remove_file(&note).unwrap();
    let last = &written[&log(LOGS)][3];
    flip(&path, place_of(last, &good) + 100);
    let harmed = fs::read(&path).unwrap();
    for start in 0..2 {
        let refused = read(dir.path()).await.unwrap_err().to_string();
        assert!(refused.contains("\"acknowledged\""), "start {start}: {refused}");
        assert!(fs::read(&path).unwrap() == harmed && !note.exists(), "start {start}: nothing was changed");
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(read(dir.path()).await, Ok(written), "a whole journal needs no witness");
    assert!(note.exists());
}

#[tokio::test]
async fn what_a_crash_leaves_half_written_is_taken_away_and_the_rest_is_whole() {
    let (dir, written) = written(12, 40).await;
    let path = newest_journal(dir.path());
    let good = fs::read(&path).unwrap();
    // The last whole commit once more is what an unacknowledged one looks like, up to its number.
    let begin = good.windows(4).rposition(|window| window == b"FJL\x03").unwrap();
    let begin = good[..begin].windows(4).rposition(|window| window == b"FJL\x03").unwrap() + 4;
    let commit = &good[begin..];
    for half in (1..commit.len()).step_by(13) {
        let mut torn = good.clone();
        torn.extend(&commit[..half]);
        fs::write(&path, &torn).unwrap();
        assert_eq!(read(dir.path()).await.as_ref(), Ok(&written), "{half} bytes of it");
        torn.extend(vec![0; 100_000]);
        fs::write(&path, &torn).unwrap();
        assert_eq!(
            read(dir.path()).await.as_ref(),
            Ok(&written),
            "{half} bytes of it, and what was laid out ahead"
        );
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(read(dir.path()).await, Ok(written));
}

#[tokio::test]
async fn a_commit_whose_pages_reached_the_disk_out_of_order_is_half_written_unless_it_was_acknowledged() {
    let (dir, written) = written(12, 40).await;
    let note = dir.path().join("acknowledged");
    let before = fs::read(&note).unwrap();
    let path = newest_journal(dir.path());
    let journal = open(dir.path()).unwrap();
    let last = &written[&log(1)][12];
    let claim = Claim { log: log(1), term: 1, nonce: [0; 16], tail: last.tail() };
    assert!(journal.append(&claim, last).await.is_err(), "a claim of ours does not hold without its nonce");
    let claim = journal.claim(log(1)).await.unwrap();
    let after_claim = fs::read(&note).unwrap();
    let next = frame(log(1), claim.term, &claim.tail, 4, 5_000);
    journal.append(&claim, &next).await.unwrap();
    journal.close().await;
    let mut holes = fs::read(&path).unwrap();
    let from = place_of(&next, &holes) as usize + 4_096;
    holes[from..from + 4_096].fill(0);
    fs::write(&path, &holes).unwrap();
    let refused = read(dir.path()).await.unwrap_err();
    assert!(
        matches!(refused, JournalError::Damaged { after, .. } if after == last.header().last),
        "{refused}"
    );
    assert_eq!(fs::read(&path).unwrap(), holes);
    // The same disk before anybody was told: the power failed in mid-commit.
    assert_ne!(before, after_claim);
    fs::write(&note, after_claim).unwrap();
    assert_eq!(read(dir.path()).await, Ok(written));
}

/// Bytes of a slot of the note of what was acknowledged; the first one counts the others.
const SLOT: usize = 64;

/// Every way in which the note can come to speak of fewer logs than there are.
fn note_harms(whole: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let slots = whole.len() / SLOT;
    let mut harms = vec![("removed".to_owned(), None)];
    for slot in 0..slots {
        let mut flipped = whole.to_vec();
        flipped[slot * SLOT + 20] ^= 0x10;
        harms.push((format!("slot {slot} flipped"), Some(flipped)));
        let mut blank = whole.to_vec();
        blank[slot * SLOT..(slot + 1) * SLOT].fill(0);
        harms.push((format!("slot {slot} blank"), Some(blank)));
        harms.push((format!("cut behind {slot} slots"), Some(whole[..slot * SLOT].to_vec())));
        harms.push((format!("cut in slot {slot}"), Some(whole[..slot * SLOT + 40].to_vec())));
    }
    harms
}

/// Leaves the note harmed, or takes it away.
fn harm_note(note: &Path, harmed: Option<&Vec<u8>>) {
    match harmed {
        Some(bytes) => fs::write(note, bytes).unwrap(),
        None if note.exists() => fs::remove_file(note).unwrap(),
        None => {}
    }
}

/// What the engine's journal looks like where it breaks off: by a bit, or by what a crash had not written.
fn broken_ends(good: &[u8], last: &Frame) -> [(&'static str, Vec<u8>); 3] {
    let mut flipped = good.to_vec();
    flipped[place_of(last, good) as usize + 100] ^= 0x10;
    let mut half_written = good.to_vec();
    half_written.extend(&good[place_of(last, good) as usize - 48..][..40]);
    [("flipped", flipped), ("cut", good[..good.len() - 10].to_vec()), ("half-written", half_written)]
}

#[tokio::test]
async fn a_damaged_note_of_what_was_acknowledged_and_a_broken_end_are_refused_and_nothing_is_cut() {
    let (dir, written) = written(3, 40).await;
    let note = dir.path().join("acknowledged");
    let path = newest_journal(dir.path());
    let (good, whole_note) = (fs::read(&path).unwrap(), fs::read(&note).unwrap());
    assert_eq!(whole_note.len(), (1 + usize::from(LOGS)) * SLOT);
    let last = &written[&log(LOGS)][3];
    for (what, harmed) in note_harms(&whole_note) {
        for (end, broken) in broken_ends(&good, last) {
            harm_note(&note, harmed.as_ref());
            fs::write(&path, &broken).unwrap();
            for start in 0..2 {
                let refused = read(dir.path()).await.unwrap_err();
                let text = refused.to_string();
                let JournalError::Damaged { log: named, after, .. } = refused else {
                    assert!(
                        text.contains("\"acknowledged\"") && text.contains("Restore the directory"),
                        "{text}"
                    );
                    assert!(
                        what == "slot 0 blank" || what == "slot 0 flipped",
                        "{what} tells which log: {text}"
                    );
                    continue;
                };
                assert!(text.contains("Restore it from a copy"), "{text}");
                let frames = &written[&named];
                let whole: Vec<u64> = frames.iter().map(|frame| frame.header().last).collect();
                assert!(
                    after >= whole[whole.len() - 2] && after <= whole[whole.len() - 1],
                    "{what}, {end}, {start}: {text}"
                );
            }
            assert!(fs::read(&path).unwrap() == broken, "{what}, {end}: what is left was cut");
            assert_eq!(fs::read(&note).ok(), harmed, "{what}, {end}: the note was changed");
        }
        fs::write(&path, &good).unwrap();
    }
    fs::write(&note, whole_note).unwrap();
    assert_eq!(read(dir.path()).await, Ok(written));
}

#[tokio::test]
async fn a_damaged_note_of_what_was_acknowledged_is_made_anew_from_a_whole_journal() {
    let (dir, written) = written(3, 40).await;
    let note = dir.path().join("acknowledged");
    let path = newest_journal(dir.path());
    let whole_note = fs::read(&note).unwrap();
    for (what, harmed) in note_harms(&whole_note) {
        harm_note(&note, harmed.as_ref());
        assert_eq!(read(dir.path()).await.as_ref(), Ok(&written), "{what}");
        assert!(fs::read(&note).unwrap() == whole_note, "{what}: it speaks of every log again");
        // And what a crash leaves half-written behind that is nobody's loss.
        let good = fs::read(&path).unwrap();
        let [.., (_, half_written)] = broken_ends(&good, &written[&log(LOGS)][3]);
        fs::write(&path, half_written).unwrap();
        assert_eq!(read(dir.path()).await.as_ref(), Ok(&written), "{what}");
    }
}

#[tokio::test]
async fn a_crash_in_the_first_moments_of_a_log_opens() {
    let (dir, mut written) = written(1, 40).await;
    let note = dir.path().join("acknowledged");
    let before = fs::read(&note).unwrap();
    let journal = open(dir.path()).unwrap();
    journal.provision(&first(log(9))).await.unwrap();
    // The power failed when the log was durable, and its slot not yet: then nothing else was being written.
    let after = fs::read(&note).unwrap();
    journal.close().await;
    written.insert(log(9), vec![first(log(9))]);
    let blank = [&after[..before.len()], &[0; SLOT]].concat();
    let counted_before = [&before[..SLOT], &after[SLOT..]].concat();
    for slots in [before, blank, counted_before, after[..after.len() - 24].to_vec(), after.clone()] {
        fs::write(&note, &slots).unwrap();
        let journal = open(dir.path()).unwrap();
        assert_eq!(journal.read(log(9), 0, usize::MAX).await.as_ref(), Ok(&written[&log(9)]));
        journal.close().await;
        assert_eq!(fs::read(&note).unwrap().len(), after.len());
    }
}
