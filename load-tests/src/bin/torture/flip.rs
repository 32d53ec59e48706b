//! One bit of one file of a stopped data directory, again and again: nothing of value was in it and everything acknowledged
//! is there, or the damage is told with its service, its place and the remedy.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::books::Books;
use crate::damage::{Frames, Harmed, KINDS, kind_of, place_of};
use crate::load::{Load, Manner};
use crate::order::Payer;
use crate::plan::{Trials, copy};
use crate::server::{PATIENCE, Server};
use crate::told;
use crate::world::{DATA, World};

/// Bits that are tried on one network, before another is made: on a small one, and on one whose log fills tables, which
/// takes longer to read.
const BITS: [u64; 2] = [90, 60];
/// So few bits are all tried on a small network.
const FEW: u64 = 20;
/// Only a table of frames is as large.
const FRAME_TABLE: u64 = 1 << 20;
/// How long a load may take to fill one.
const FILLING: Duration = Duration::from_secs(90);

/// A stopped network, as it was and as it says of itself.
struct Pristine {
    world: World,
    books: Books,
    files: Vec<PathBuf>,
    frames: Frames,
}

/// The campaign.
pub(crate) async fn run(trials: &mut Trials<'_>) -> Result<()> {
    let mut with_tables = trials.wanted() > FEW;
    while trials.more() {
        let pristine = Pristine::made(trials, with_tables).await?;
        let kinds = pristine.kinds(trials);
        for _ in 0..BITS[usize::from(with_tables)] {
            if !trials.more() {
                break;
            }
            let mut dice = trials.dice();
            let world = World::new(&trials.plan.bin, trials.place(), "all")?;
            // Each sort as often as any other, however many files it has.
            let kind = *dice.choice(&kinds).context("a network has files")?;
            let flipped = flip(&pristine, &world, kind, &mut dice, trials);
            trials.over(flipped, world.dir());
            std::fs::remove_dir_all(world.dir())?;
        }
        std::fs::remove_dir_all(pristine.world.dir())?;
        with_tables = !with_tables;
    }
    Ok(())
}

impl Pristine {
    /// A network with journals, snapshots and keys, and, where that is wanted, with tables that hold frames.
    async fn made(trials: &mut Trials<'_>, with_tables: bool) -> Result<Pristine> {
        let world = World::new(&trials.plan.bin, trials.plan.scratch.join("pristine"), "all")?;
        let mut dice = trials.dice();
        let server = world.serve(&[])?;
        let (payer, mut books) = (Payer::new(&world, &server)?, Books::default());
        if with_tables && !fill(&world, &server, &payer, &mut books).await? {
            trials.skip(&format!("tables of frames: the engine had written none after {FILLING:?} of load"));
        }
        server.terminate()?;
        for orderly in [true, false, trials.number().is_multiple_of(2)] {
            let server = world.serve(&[])?;
            let load = Load::start(&server, &payer, dice.u64(..), Manner::default()).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if orderly {
                books.note(load.end().await?);
                server.terminate()?;
            } else {
                server.kill()?;
                books.note(load.end().await?);
            }
        }
        // Not here: what a kill has left is to be flipped, too, and whoever opens the journal puts it in order.
        let twin = World::new(&trials.plan.bin, trials.plan.scratch.join("twin"), "all")?;
        copy(&world.data(), &twin.data())?;
        let (_, logs) = books.check(&twin)?;
        std::fs::remove_dir_all(twin.dir())?;
        let mut files = Vec::new();
        list(&world.data(), Path::new(""), &mut files)?;
        files.sort();
        let note = std::fs::read(world.data().join("journal/acknowledged"))?;
        Ok(Pristine { world, books, files, frames: Frames::of(&logs, &note) })
    }

    /// The sorts of files that this network has; what it lacks is said.
    fn kinds(&self, trials: &mut Trials<'_>) -> Vec<&'static str> {
        let has = |kind: &&str| self.files.iter().any(|name| kind_of(name) == *kind);
        for lacks in KINDS.iter().filter(|kind| !has(kind)) {
            trials.skip(&format!("bits of a sort of file that a network did not have: {lacks}"));
        }
        KINDS.into_iter().filter(has).collect()
    }

    /// The places of the snapshots that lie beside a file.
    fn siblings(&self, name: &Path) -> Vec<u64> {
        let beside = self.files.iter().filter(|other| other.parent() == name.parent());
        beside.filter_map(|other| place_of(other)).collect()
    }
}

/// Load until the engine has written frames into a table; whether it has.
async fn fill(world: &World, server: &Server, payer: &Payer, books: &mut Books) -> Result<bool> {
    let manner = Manner { only_large: true, ..Manner::default() };
    let load = Load::start(server, payer, 0, manner).await?;
    let end = Instant::now() + FILLING;
    while !has_frame_table(world)? && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    books.note(load.end().await?);
    has_frame_table(world)
}

fn has_frame_table(world: &World) -> Result<bool> {
    let (root, mut files) = (world.data(), Vec::new());
    list(&root, Path::new(""), &mut files)?;
    let tables = files.iter().filter(|name| kind_of(name) == "table");
    let mut sizes = tables.filter_map(|name| std::fs::metadata(root.join(name)).ok());
    Ok(sizes.any(|file| file.len() > FRAME_TABLE))
}

fn list(root: &Path, within: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(within))? {
        let entry = entry?;
        let name = within.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(root, &name, files)?,
            // A file may go while a server works.
            false if entry.metadata().is_ok_and(|file| file.len() > 0) => files.push(name),
            false => {}
        }
    }
    Ok(())
}

fn flip(
    pristine: &Pristine,
    world: &World,
    kind: &str,
    dice: &mut fastrand::Rng,
    trials: &mut Trials<'_>,
) -> Result<()> {
    copy(&pristine.world.data(), &world.data())?;
    let of_kind: Vec<&PathBuf> = pristine.files.iter().filter(|name| kind_of(name) == kind).collect();
    let name = *dice.choice(&of_kind).context("a file of its sort")?;
    let path = world.data().join(name);
    let file = std::fs::read(&path)?;
    let (at, bit) = turned(&file, dice);
    let harmed = pristine.frames.harmed(name, &file, at, &pristine.siblings(name));
    std::fs::OpenOptions::new().write(true).open(&path)?.write_all_at(&[file[at] ^ (1 << bit)], at as u64)?;
    drop(file);
    let told = after(pristine, world, &harmed, dice)
        .with_context(|| format!("{} byte {at} bit {bit}", name.display()))?;
    let of_a_frame = matches!(harmed, Harmed::JournalFrame { .. } | Harmed::TableFrame { .. });
    let what = if of_a_frame { format!("{kind}, in a frame") } else { kind.to_owned() };
    trials.counts.add(&format!("{what}: {told}"), 1);
    if matches!(harmed, Harmed::Snapshot { .. }) {
        // It was told; without it the rest can be looked at.
        let _ = std::fs::remove_file(&path); // a newer one may have taken its place
        pristine.books.holds(world).context("behind a damaged snapshot")?;
    }
    Ok(())
}

/// A bit, more often where something is written than in what was only laid out: its byte and its place there.
fn turned(file: &[u8], dice: &mut fastrand::Rng) -> (usize, u8) {
    let used = file.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let within = if dice.u8(..8) == 0 { file.len() } else { used };
    (dice.usize(..within), dice.u8(..8))
}

/// What the damaged directory says of itself: to whoever verifies, and to whoever serves from it. Where both go on,
/// everything that was acknowledged is there.
fn after(
    pristine: &Pristine,
    world: &World,
    harmed: &Harmed,
    dice: &mut fastrand::Rng,
) -> Result<&'static str> {
    let snapshot = matches!(harmed, Harmed::Snapshot { .. });
    let (mut by_verify, mut by_start) = (false, false);
    // Either may come first: both mend what they may. A start may put a new snapshot in the damaged one's place.
    let served_first = dice.bool() && !snapshot;
    for serves in [served_first, !served_first] {
        if serves {
            match served(world, harmed)? {
                Served::Refused => return Ok("a start refuses and says it"),
                Served::Warned => by_start = true,
                Served::Silent => {}
            }
            continue;
        }
        let ran = world.run(&["verify", "-o", "json"])?;
        let speaks = ran.err.lines().any(|line| told::speaks(harmed, line));
        if !ran.ok || (speaks && !by_start) {
            told::verify_tells(harmed, &ran)?;
            if !ran.ok && !snapshot {
                return Ok("verify says it");
            }
            by_verify = true;
        }
    }
    let must_be_warned = matches!(harmed, Harmed::Snapshot { is_newest: true, .. });
    ensure!(
        !must_be_warned || (by_verify && by_start),
        "{harmed:?} is passed over by verify or a start without a word"
    );
    let is_told = by_verify || by_start;
    ensure!(is_told || told::may_be_of_no_value(harmed), "nobody tells of {harmed:?}");
    if !snapshot {
        pristine.books.holds(world).context("nobody was stopped by it")?;
    }
    Ok(match (by_verify, by_start) {
        (true, true) => "verify and a start say it",
        (true, false) => "verify says it",
        (false, true) => "a start says it and goes on",
        (false, false) => "of no value",
    })
}

/// What a start does with a damaged directory.
enum Served {
    /// It refuses, and has said why.
    Refused,
    /// It has said what is damaged, and goes on.
    Warned,
    /// It goes on.
    Silent,
}

fn served(world: &World, harmed: &Harmed) -> Result<Served> {
    let mut server: Server = world.spawn(&[])?;
    if server.ready().is_err() {
        let status = server.wait(PATIENCE)?;
        let lines = server.lines();
        ensure!(!status.success(), "a start ended without a word: {}", lines.join(" | "));
        told::well(harmed, &told::by_lines(&lines)).context("a start")?;
        return Ok(Served::Refused);
    }
    let lines = server.kill()?;
    ensure!(world.dir().join(DATA).is_dir(), "the data directory is gone");
    if !lines.iter().any(|line| told::speaks(harmed, line)) {
        return Ok(Served::Silent);
    }
    told::well(harmed, &told::by_lines(&lines)).context("a start")?;
    Ok(Served::Warned)
}
