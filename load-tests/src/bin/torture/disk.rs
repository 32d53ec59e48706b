//! A disk without room, and one that takes nothing: under load, at a start, and when it is well again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::books::Books;
use crate::load::{Asked, Load, Manner};
use crate::order::Payer;
use crate::plan::Trials;
use crate::server::{PATIENCE, Server};
use crate::world::{DATA, World};

/// Room of the small disk, MiB: the 128 that the journal keeps free, and little more.
const MEBIBYTES: u64 = 192;
/// What a message must name besides what is wrong.
const SPACE_WORDS: [&str; 3] = ["free", "room", "space"];

/// A file system in memory, gone when dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    /// `None` where this user may not mount.
    fn mount(at: &Path) -> Result<Option<Small>> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={MEBIBYTES}m");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        Ok(is_mounted.then(|| Small { at: at.to_owned() }))
    }

    fn remount(&self, how: &str) -> Result<()> {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.at).output()?;
        ensure!(done.status.success(), "remounting {how}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn free(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.at)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Takes all room but so many bytes.
    fn fill(&self, but: u64) -> Result<()> {
        let ballast = std::fs::OpenOptions::new().create(true).append(true).open(self.ballast())?;
        let (len, free) = (ballast.metadata()?.len(), self.free()?);
        let more = free.saturating_sub(but);
        if more > 0 {
            // Whoever writes meanwhile may be quicker: then there is less to take.
            let _ = rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), len, more);
        }
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.at.display());
        }
    }
}

/// The campaign `full`.
pub(crate) async fn full(trials: &mut Trials<'_>) -> Result<()> {
    while trials.more() {
        let (place, mut dice) = (trials.place(), trials.dice());
        let Some(disk) = Small::mount(&place)? else {
            trials.skip("a full disk: this user may not mount a file system; run it as root");
            return Ok(());
        };
        let world = World::new(&trials.plan.bin, place.join("net"), "all")?;
        let mut books = Books::default();
        let tried = runs_full(&disk, &world, &mut books, &mut dice, trials).await;
        trials.counts.merge(books.counted());
        trials.over(tried, world.dir());
        drop(disk);
        std::fs::remove_dir_all(&place)?;
    }
    Ok(())
}

async fn runs_full(
    disk: &Small,
    world: &World,
    books: &mut Books,
    dice: &mut fastrand::Rng,
    trials: &mut Trials<'_>,
) -> Result<()> {
    let server = world.serve(&[])?;
    let payer = Payer::new(world, &server)?;
    let manner = Manner { refusals: 20, largest: 8, ..Manner::default() };
    let load = Load::start(&server, &payer, dice.u64(..), manner).await?;
    tokio::time::sleep(Duration::from_millis(dice.u64(1..400))).await;
    // Below what the journal keeps free, or to the last byte, or nearly.
    let but = [dice.u64(0..(120 << 20)), 0, dice.u64(0..(1 << 20))][dice.usize(..3)];
    disk.fill(but)?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let asked = load.end().await?;
    refused_for(&asked, &SPACE_WORDS)?;
    books.note(asked);
    trials.counts.add("refusals with a reason", 1);
    if dice.bool() {
        server.kill()?;
    } else {
        // An orderly end may have no room for its last words, but it must end and lose nothing.
        end(server)?;
    }
    starts_or_refuses(world, &SPACE_WORDS).context("on the full disk")?;
    disk.make_room()?;
    goes_on(world, &payer, books, dice).await
}

/// The campaign `readonly`: by turns what this machine allows.
pub(crate) async fn readonly(trials: &mut Trials<'_>) -> Result<()> {
    let probe = trials.plan.scratch.join("readonly-probe");
    std::fs::create_dir_all(&probe)?;
    let turns = Immutable::works(&probe)?;
    let mounts = Small::mount(&probe.join("mounted"))?.is_some();
    std::fs::remove_dir_all(&probe)?;
    if !turns {
        trials.skip("a disk that turns read-only under load: no `chattr +i` here; run it as root on ext4");
    }
    if !mounts {
        trials.skip("a file system mounted read-only: this user may not mount one; run it as root");
    }
    while (turns || mounts) && trials.more() {
        match turns && (trials.number() % 2 == 1 || !mounts) {
            true => immutable(trials).await?,
            false => mounted_readonly(trials).await?,
        }
    }
    Ok(())
}

/// A directory that takes nothing any more while callers are at work.
async fn immutable(trials: &mut Trials<'_>) -> Result<()> {
    let (place, mut dice) = (trials.place(), trials.dice());
    let world = World::new(&trials.plan.bin, place.join("net"), "all")?;
    let mut books = Books::default();
    let tried = turns_readonly(&world, &mut books, &mut dice, trials).await;
    trials.counts.merge(books.counted());
    trials.over(tried, world.dir());
    Ok(std::fs::remove_dir_all(&place)?)
}

/// Files of a directory that nobody may change, not even through what is open; undone when dropped.
struct Immutable<'a>(&'a Path);

impl<'a> Immutable<'a> {
    fn set(path: &'a Path) -> Result<Immutable<'a>> {
        chattr("+i", path)?;
        Ok(Immutable(path))
    }

    /// Whether this user and this file system have it, also for a file that is open.
    fn works(dir: &Path) -> Result<bool> {
        let path = dir.join("probe");
        std::fs::create_dir_all(&path)?;
        let mut file = std::fs::File::create(path.join("file"))?;
        let works = match Immutable::set(&path) {
            Err(_) => false,
            Ok(_set) => std::io::Write::write_all(&mut file, b"x").is_err(),
        };
        std::fs::remove_dir_all(&path)?;
        Ok(works)
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        if let Err(why) = chattr("-i", self.0) {
            eprintln!("{} stays immutable: {why:#}", self.0.display());
        }
    }
}

fn chattr(how: &str, path: &Path) -> Result<()> {
    let done = Command::new("chattr").args(["-R", how]).arg(path).output().context("no chattr here")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && said.lines().count() <= 1, "chattr {how}: {said}");
    Ok(())
}

async fn turns_readonly(
    world: &World,
    books: &mut Books,
    dice: &mut fastrand::Rng,
    trials: &mut Trials<'_>,
) -> Result<()> {
    let mut server = world.serve(&[])?;
    let payer = Payer::new(world, &server)?;
    let load = Load::start(&server, &payer, dice.u64(..), Manner { largest: 8, ..Manner::default() }).await?;
    tokio::time::sleep(Duration::from_millis(dice.u64(1..400))).await;
    let data = world.data();
    let set = Immutable::set(&data)?;
    // After a failed write nobody knows what the disk holds: the process must end, and say why.
    let status = server.wait(PATIENCE).context("the disk takes nothing any more")?;
    books.note(load.end().await?);
    let said = server.last_words();
    ensure!(
        !status.success() && said.contains("nothing acknowledged is lost"),
        "it ended ({status}) without its reason: {said}"
    );
    trials.counts.add("ended with the reason", 1);
    starts_or_refuses(world, &["permitted", "Read-only", "read-only", "denied"])
        .context("on a read-only disk")?;
    drop(set);
    goes_on(world, &payer, books, dice).await
}

/// A file system that is mounted read-only: nothing starts, and everything is there when it is writable again.
async fn mounted_readonly(trials: &mut Trials<'_>) -> Result<()> {
    let (place, mut dice) = (trials.place(), trials.dice());
    let disk = Small::mount(&place)?.context("this user could mount a file system, and may not any more")?;
    let world = World::new(&trials.plan.bin, place.join("net"), "all")?;
    let mut books = Books::default();
    let tried = async {
        let server = world.serve(&[])?;
        let payer = Payer::new(&world, &server)?;
        let manner = Manner { largest: 8, ..Manner::default() };
        let load = Load::start(&server, &payer, dice.u64(..), manner).await?;
        tokio::time::sleep(Duration::from_millis(dice.u64(1..300))).await;
        server.kill()?;
        books.note(load.end().await?);
        disk.remount("ro")?;
        let refused = starts_or_refuses(&world, &["Read-only", "read-only"]).context("on a read-only disk");
        disk.remount("rw")?;
        ensure!(refused?, "a server serves on a disk that takes nothing");
        trials.counts.add("starts refused with the reason", 1);
        goes_on(&world, &payer, &mut books, &mut dice).await
    };
    let tried = tried.await;
    trials.counts.merge(books.counted());
    trials.over(tried, world.dir());
    drop(disk);
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

/// Somebody was refused, and everybody who was heard why.
fn refused_for(asked: &Asked, words: &[&str]) -> Result<()> {
    let refusals: Vec<_> = asked.orders.iter().filter_map(|order| order.why_not.as_ref()).collect();
    ensure!(!refusals.is_empty(), "nobody was refused");
    let names = |text: &str| words.iter().any(|word| text.contains(word));
    match refusals.iter().find(|why| !names(why.message())) {
        Some(why) => bail!("a refusal does not say what is wrong: {why}"),
        None => Ok(()),
    }
}

/// A start there either serves, or refuses with a reason; answers whether it was refused.
fn starts_or_refuses(world: &World, words: &[&str]) -> Result<bool> {
    let mut server = world.spawn(&[])?;
    match server.ready() {
        Ok(()) => {
            // With little room it may serve reads; what it does with writes was seen.
            end(server)?;
            Ok(false)
        }
        Err(_) => {
            let status = server.wait(PATIENCE)?;
            let said = server.last_words();
            ensure!(
                !status.success() && words.iter().any(|word| said.contains(word)),
                "the refused start ({status}) does not say why: {said}"
            );
            ensure!(!said.contains("panicked"), "the refused start panicked: {said}");
            Ok(true)
        }
    }
}

/// Ends a server in order; that it could not write everything is no finding here.
fn end(mut server: Server) -> Result<()> {
    server.signal(rustix::process::Signal::TERM)?;
    server.wait(PATIENCE)?;
    let said = server.last_words();
    ensure!(!said.contains("panicked"), "it panicked: {said}");
    Ok(())
}

/// The disk is well again: everything acknowledged is there, what was not answered is answered now, and load goes on.
async fn goes_on(world: &World, payer: &Payer, books: &mut Books, dice: &mut fastrand::Rng) -> Result<()> {
    ensure!(world.dir().join(DATA).is_dir(), "the data directory is gone");
    let server = world.serve(&[]).context("once the disk is well again")?;
    books.ask_again(&server, payer, dice, 1.0).await?;
    books.all_answered()?;
    let load = Load::start(&server, payer, dice.u64(..), Manner { largest: 8, ..Manner::default() }).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = load.end().await?;
    let orders = &asked.orders;
    ensure!(
        !orders.is_empty() && orders.iter().all(|order| order.answer.is_some()),
        "it does not go on: {:?}",
        orders.iter().find_map(|order| order.why_not.as_ref())
    );
    books.note(asked);
    let arrived = payer.arrived(world, &server)?;
    server.kill()?;
    let (_, logs) = books.check(world)?;
    books.balances(&logs, arrived)
}
