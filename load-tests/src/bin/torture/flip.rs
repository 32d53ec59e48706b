//! One bit of one file of a stopped data directory, again and again: nothing of value was in it, or the damage is told with
//! its place and the remedy.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::books::Books;
use crate::load::{Load, Manner, Payer};
use crate::logs::Heads;
use crate::plan::{Trials, copy};
use crate::server::{PATIENCE, Server};
use crate::world::{DATA, Verified, World};

/// Bits that are tried on one network, before another is made.
const BITS: u64 = 250;
/// What a remedy begins with.
const REMEDIES: [&str; 8] = [
    "restore",
    "remove",
    "write that number",
    "move away",
    "name that one",
    "use the build",
    "use a build",
    "start with",
];

/// A stopped network, as it was and as it says of itself.
struct Pristine {
    world: World,
    verified: Vec<Verified>,
    heads: Heads,
    files: Vec<PathBuf>,
}

/// The campaign.
pub(crate) async fn run(trials: &mut Trials<'_>) -> Result<()> {
    while trials.more() {
        let pristine = Pristine::made(trials).await?;
        for _ in 0..BITS {
            if !trials.more() {
                break;
            }
            let mut dice = trials.dice();
            let place = trials.place();
            let world = World::new(&trials.plan.bin, place, "all")?;
            let flipped = flip(&pristine, &world, &mut dice, trials);
            trials.over(flipped, world.dir());
            std::fs::remove_dir_all(world.dir())?;
        }
        std::fs::remove_dir_all(pristine.world.dir())?;
    }
    Ok(())
}

impl Pristine {
    /// A network with tables, journals, snapshots and keys.
    async fn made(trials: &Trials<'_>) -> Result<Pristine> {
        let world = World::new(&trials.plan.bin, trials.plan.scratch.join("pristine"), "all")?;
        let mut dice = trials.dice();
        let server = world.serve(&[])?;
        let (payer, mut books) = (Payer::new(&world, &server)?, Books::default());
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
        // Not by `check`: what a kill has left is to be flipped, too, and whoever opens the journal puts it in order.
        let twin = World::new(&trials.plan.bin, trials.plan.scratch.join("twin"), "all")?;
        copy(&world.data(), &twin.data())?;
        let (verified, logs) = books.check(&twin)?;
        std::fs::remove_dir_all(twin.dir())?;
        let mut files = Vec::new();
        list(&world.data(), Path::new(""), &mut files)?;
        files.sort();
        Ok(Pristine { world, verified, heads: logs.heads(), files })
    }
}

fn list(root: &Path, within: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(within))? {
        let entry = entry?;
        let name = within.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(root, &name, files)?,
            false if entry.metadata()?.len() > 0 => files.push(name),
            false => {}
        }
    }
    Ok(())
}

fn flip(pristine: &Pristine, world: &World, dice: &mut fastrand::Rng, trials: &mut Trials<'_>) -> Result<()> {
    copy(&pristine.world.data(), &world.data())?;
    // Each sort as often as any other, however many files it has.
    let kind = *dice.choice(&KINDS).context("kinds")?;
    let of_kind: Vec<&PathBuf> = pristine.files.iter().filter(|name| kind_of(name) == kind).collect();
    let Some(name) = dice.choice(of_kind) else { return Ok(()) };
    let at = turn_a_bit(&world.data().join(name), dice)?;
    let told = after(pristine, world, dice).with_context(|| format!("{} bit {at}", name.display()))?;
    trials.counts.add(&format!("{kind}: {told}"), 1);
    Ok(())
}

/// Turns one bit, more often where something is written than in what was only laid out; its number.
fn turn_a_bit(path: &Path, dice: &mut fastrand::Rng) -> Result<u64> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let bytes = std::fs::read(path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let within = if dice.u8(..8) == 0 { bytes.len() } else { used };
    let (at, bit) = (dice.usize(..within), dice.u8(..8));
    file.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64)?;
    Ok(at as u64 * 8 + u64::from(bit))
}

/// The sorts of files.
const KINDS: [&str; 7] = [
    "engine's journal",
    "table",
    "snapshot",
    "engine's other files",
    "key",
    "acknowledged",
    "other kept file",
];

fn kind_of(name: &Path) -> &'static str {
    let text = name.to_string_lossy();
    match () {
        () if text.ends_with(".jnl") => "engine's journal",
        () if text.contains("/tables/") => "table",
        () if text.contains("snapshots/") => "snapshot",
        () if text.contains("/db/") => "engine's other files",
        () if text.ends_with(".key") => "key",
        () if text.ends_with("acknowledged") => "acknowledged",
        () => "other kept file",
    }
}

/// What the damaged directory says of itself: to whoever verifies, then to whoever serves from it.
fn after(pristine: &Pristine, world: &World, dice: &mut fastrand::Rng) -> Result<&'static str> {
    // Either may come first: both mend what they may.
    if dice.bool()
        && let Some(told) = served(pristine, world)?
    {
        return Ok(told);
    }
    let ran = world.run(&["verify", "-o", "json"])?;
    if !ran.ok {
        told_well(&format!("{}{}", ran.out, ran.err)).context("verify")?;
        return Ok("verify says it");
    }
    same(pristine, world, &ran.out)?;
    Ok(served(pristine, world)?.unwrap_or("nothing of value"))
}

/// Lets a server start; every log then goes on from where it was. What was told of the damage, if anything.
fn served(pristine: &Pristine, world: &World) -> Result<Option<&'static str>> {
    let mut server: Server = world.spawn(&[])?;
    if server.ready().is_err() {
        let status = server.wait(PATIENCE)?;
        let said = server.lines().join("\n");
        ensure!(!status.success(), "a start ended without a word: {said}");
        told_well(&said).context("a start")?;
        return Ok(Some("a start refuses and says it"));
    }
    let said = server.kill()?;
    world.logs()?.extend(&pristine.heads).context("behind a start")?;
    let warned = said.iter().any(|line| line.contains("gateway.key is of a gateway that the log"));
    Ok(warned.then_some("a start says it and goes on"))
}

/// Verified as before the flip; or, behind a start, at least as far.
fn same(pristine: &Pristine, world: &World, out: &str) -> Result<()> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(out)?;
    let before: Vec<&serde_json::Value> = pristine.verified.iter().map(|verified| &verified.row).collect();
    if rows.iter().collect::<Vec<_>>() == before {
        return Ok(());
    }
    world.logs()?.extend(&pristine.heads).context("verify is content")?;
    ensure!(
        rows.len() >= before.len(),
        "verify tells of {} logs and checks, not of {}",
        rows.len(),
        before.len()
    );
    Ok(())
}

/// Damage is told with where it is and what helps, and by nobody's panic.
fn told_well(said: &str) -> Result<()> {
    let lower = said.to_lowercase();
    if lower.contains("panicked") {
        bail!("it panicked: {said}");
    }
    let place = [DATA, "the log of ", "\"service\""].iter().any(|word| said.contains(word));
    ensure!(place, "the damage is told without its place: {said}");
    let remedy = REMEDIES.iter().any(|remedy| lower.contains(remedy));
    ensure!(remedy, "the damage is told without a remedy: {said}");
    Ok(())
}
