//! A clock that jumps back and ahead while the server runs, and between two of its runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::books::Books;
use crate::load::{Load, Manner};
use crate::logs::Logs;
use crate::order::Payer;
use crate::plan::Trials;
use crate::server::{PATIENCE, Server};
use crate::world::World;

const SHIM: &str = include_str!("clock.c");
const DAY: i64 = 86_400;
/// Jumps of one network.
const JUMPS: u64 = 5;
/// How far the clock jumps between two runs, days.
const DAYS: [i64; 6] = [-400, -1, 1, ACCEPTED_DAYS - 1, ACCEPTED_DAYS + 1, 400];
/// How far a start may find the clock past the last frame without being told that it is right.
const ACCEPTED_DAYS: i64 = 30;

/// A clock that all servers of a world see.
struct Clock {
    file: PathBuf,
    /// Seconds that it is ahead of the real one.
    ahead: i64,
    /// The most that it ever was: log time has been there.
    furthest: i64,
}

impl Clock {
    fn set(&mut self, ahead: i64, payer: &Payer) -> Result<()> {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&self.file)
            .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &ahead.to_ne_bytes(), 0))?;
        self.ahead = ahead;
        self.furthest = self.furthest.max(ahead);
        // Callers know what time the network has: ids that are too old or too new are refused, as they should be.
        payer.offset_ms.store(self.furthest * 1_000, Ordering::Relaxed);
        Ok(())
    }
}

/// The campaign.
pub(crate) async fn run(trials: &mut Trials<'_>) -> Result<()> {
    let shim = match built(&trials.plan.scratch) {
        Ok(shim) => shim,
        Err(why) => {
            trials.skip(&format!(
                "everything: the clock's shim cannot be built ({why:#}); install gcc and libc6-dev"
            ));
            return Ok(());
        }
    };
    while trials.more() {
        let place = trials.place();
        std::fs::create_dir_all(&place)?;
        let file = place.join("clock");
        std::fs::write(&file, 0i64.to_ne_bytes())?;
        let world = World::new(&trials.plan.bin, place, "ledger,accounts")?
            .with_env("LD_PRELOAD", &shim)
            .with_env("TORTURE_CLOCK", &file);
        let mut clock = Clock { file, ahead: 0, furthest: 0 };
        let server = world.serve(&[])?;
        let (payer, mut books) = (Payer::new(&world, &server)?, Books::default());
        server.terminate()?;
        for number in 0..JUMPS {
            if !trials.more() {
                break;
            }
            let mut dice = trials.dice();
            // The first goes ahead, so that also a short run shows that log time follows the clock.
            let days = if number == 0 { &DAYS[2..] } else { &DAYS[..] };
            let days = *dice.choice(days).context("days")?;
            let jumped = jump(&world, &payer, &mut clock, &mut books, &mut dice, days, trials).await;
            trials.counts.merge(books.counted());
            if !trials.over(jumped, world.dir()) {
                break;
            }
        }
        std::fs::remove_dir_all(world.dir())?;
    }
    Ok(())
}

fn built(scratch: &Path) -> Result<PathBuf> {
    let (source, shim) = (scratch.join("clock.c"), scratch.join("clock.so"));
    std::fs::write(&source, SHIM)?;
    let mut cc = Command::new("cc");
    let done = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).args(["-ldl"]).output();
    let done = done.context("there is no C compiler")?;
    ensure!(done.status.success(), "cc: {}", String::from_utf8_lossy(&done.stderr));
    Ok(shim)
}

async fn jump(
    world: &World,
    payer: &Payer,
    clock: &mut Clock,
    books: &mut Books,
    dice: &mut fastrand::Rng,
    days: i64,
    trials: &mut Trials<'_>,
) -> Result<()> {
    let server = started(world, clock, trials)?;
    let load = Load::start(&server, payer, dice.u64(..), manner()).await?;
    for _ in 0..dice.u8(1..5) {
        tokio::time::sleep(Duration::from_millis(dice.u64(20..150))).await;
        // Under load at most minutes: what callers have asked in the old time is still answered in the new one.
        let seconds = if dice.bool() { dice.i64(1..250) } else { dice.i64(-7_200..0) };
        clock.set(clock.ahead + seconds, payer)?;
        trials.counts.add(if seconds < 0 { "jumps back under load" } else { "jumps ahead under load" }, 1);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    books.note(load.end().await?);
    books.all_answered()?;
    if dice.bool() {
        server.kill()?
    } else {
        server.terminate()?
    };
    books.check(world)?;
    // Between two runs as far as it likes.
    clock.set(clock.ahead + days * DAY, payer)?;
    trials.counts.add(if days < 0 { "jumps back between runs" } else { "jumps ahead between runs" }, 1);
    let server = started(world, clock, trials)?;
    let began_ms = holmes_runtime::Clock::System.now().millis();
    let load = Load::start(&server, payer, dice.u64(..), manner()).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    books.note(load.end().await?);
    books.all_answered()?;
    let arrived = payer.arrived(world, &server)?;
    server.kill()?;
    let (_, logs) = books.check(world)?;
    if clock.ahead == clock.furthest {
        follows(&logs, began_ms, clock)?;
        trials.counts.add("log times that went with the clock", 1);
    }
    books.balances(&logs, arrived)
}

/// Log time is where the servers' clock is: otherwise the shim is not in them, and nothing was tried.
fn follows(logs: &Logs, began_ms: u64, clock: &Clock) -> Result<()> {
    let (newest, told) = (logs.newest_ms(), began_ms.saturating_add_signed(clock.ahead * 1_000));
    ensure!(
        newest >= told,
        "log time is at {newest} ms, and the clock that the servers were given at {told} ms: they do not see it"
    );
    Ok(())
}

fn manner() -> Manner {
    Manner { largest: 8, ..Manner::default() }
}

/// Starts; a clock more than 30 days past the last frame must be refused until it is said to be right.
fn started(world: &World, clock: &Clock, trials: &mut Trials<'_>) -> Result<Server> {
    // The last frame is as old as the last run, some seconds at most, and was never before the furthest jump.
    let leap = last_leap(world, clock)?;
    if leap < ACCEPTED_DAYS * DAY - 3_600 {
        return world.serve(&[]);
    }
    let mut server = world.spawn(&[])?;
    let refused = server.ready();
    ensure!(refused.is_err(), "a clock {} days past the last frame was taken", leap / DAY);
    let status = server.wait(PATIENCE)?;
    let said = server.last_words();
    ensure!(
        !status.success() && said.contains("30 days") && said.contains("--accept-clock"),
        "the refused clock ({status}) is not told: {said}"
    );
    trials.counts.add("leaps refused", 1);
    world.serve(&["--accept-clock"])
}

/// Seconds from the earliest log's last frame to the servers' clock.
fn last_leap(world: &World, clock: &Clock) -> Result<i64> {
    let logs = world.logs()?;
    let ends =
        ["ledger", "accounts"].map(|service| logs.of(service).last().map(|frame| frame.header().ts.millis()));
    let first = ends.into_iter().flatten().min().context("a log")?;
    let now = holmes_runtime::Clock::System.now().millis();
    Ok((i64::try_from(now)? - i64::try_from(first)?) / 1_000 + clock.ahead)
}
