//! SIGKILL at any moment: under load, while a server starts and recovers, while snapshots are written, while callers ask
//! again for what they were not answered.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::books::Books;
use crate::load::{Load, Manner};
use crate::logs::Logs;
use crate::order::Payer;
use crate::plan::Trials;
use crate::server::Server;
use crate::world::World;

/// Deaths of one network: every check reads its whole log, so a new one begins now and then.
const DEATHS: u64 = 25;
/// A first start dies fewer times than this.
const FIRST_DEATHS: u8 = 6;
/// Load before a death lasts between a moment and this, short ones as often as long ones.
const LONGEST_MS: f64 = 700.0;

/// A network that dies again and again.
struct Mortal {
    world: World,
    payer: Payer,
    books: Books,
    /// How long the last start took, so that deaths meet every part of one.
    start: Duration,
    /// Nothing was found yet.
    is_well: bool,
}

/// The campaign.
pub(crate) async fn run(trials: &mut Trials<'_>) -> Result<()> {
    while trials.more() {
        let place = trials.place();
        let mut mortal = match Mortal::born(trials, &place) {
            Ok(mortal) => mortal,
            Err(why) => {
                trials.over(Err(why), &place);
                continue;
            }
        };
        for _ in 0..DEATHS {
            if !trials.more() {
                break;
            }
            let mut dice = trials.dice();
            let died = mortal.die(&mut dice, trials).await;
            trials.counts.merge(mortal.books.counted());
            mortal.is_well = trials.over(died, mortal.world.dir());
            if !mortal.is_well {
                break;
            }
        }
        if mortal.is_well {
            let ended = mortal.end().await.context("at the end of a network's deaths");
            trials.counts.merge(mortal.books.counted());
            trials.seen(ended, mortal.world.dir());
        }
        std::fs::remove_dir_all(mortal.world.dir())?;
    }
    Ok(())
}

impl Mortal {
    /// Its first start dies some times, too.
    fn born(trials: &mut Trials<'_>, place: &Path) -> Result<Mortal> {
        let world = World::new(&trials.plan.bin, place.to_owned(), "all")?;
        let mut dice = trials.dice();
        for _ in 0..dice.u8(..FIRST_DEATHS) {
            let server = world.spawn(&[])?;
            std::thread::sleep(Duration::from_millis(dice.u64(..200)));
            server.kill().context("in its first start")?;
            trials.counts.add("kills in a first start beside them", 1);
        }
        let server = world.serve(&[]).context("after a death in the first start")?;
        let payer = Payer::new(&world, &server)?;
        server.kill()?;
        Ok(Mortal { world, payer, books: Books::default(), start: Duration::from_millis(200), is_well: true })
    }

    async fn die(&mut self, dice: &mut fastrand::Rng, trials: &mut Trials<'_>) -> Result<()> {
        let what = match dice.u8(..10) {
            0 | 1 => {
                self.while_starting(dice)?;
                "kills in a start"
            }
            2 => {
                self.while_asked_again(dice).await?;
                "kills while asked again"
            }
            _ => {
                self.under_load(dice).await?;
                "kills under load"
            }
        };
        trials.counts.add(what, 1);
        if self.has_half_a_snapshot() {
            trials.counts.add("kills that left half a snapshot", 1);
        }
        // Who comes first after a death, the server or somebody who reads, must not matter.
        if dice.u8(..4) == 0 {
            self.books.check(&self.world)?;
        }
        self.settle(dice).await
    }

    async fn under_load(&mut self, dice: &mut fastrand::Rng) -> Result<()> {
        let server = self.started()?;
        let load = Load::start(&server, &self.payer, dice.u64(..), Manner::default()).await?;
        let ms = LONGEST_MS.powf(dice.f64());
        tokio::time::sleep(Duration::from_secs_f64(ms / 1_000.0)).await;
        server.kill()?;
        self.books.note(load.end().await?);
        Ok(())
    }

    fn while_starting(&mut self, dice: &mut fastrand::Rng) -> Result<()> {
        let server = self.world.spawn(&[])?;
        std::thread::sleep(self.start.mul_f64(1.2 * dice.f64()));
        server.kill().map(drop)
    }

    async fn while_asked_again(&mut self, dice: &mut fastrand::Rng) -> Result<()> {
        let server = self.started()?;
        let load = Load::start(&server, &self.payer, dice.u64(..), Manner::default()).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
        server.kill()?;
        self.books.note(load.end().await?);
        let server = self.started()?;
        let wait = Duration::from_micros(dice.u64(..20_000));
        let asked = async {
            tokio::select! {
                asked = self.books.ask_again(&server, &self.payer, dice, 1.0) => asked,
                () = tokio::time::sleep(wait) => Ok(()),
            }
        };
        asked.await?;
        server.kill().map(drop)
    }

    /// Starts once more, asks again for what was not answered, or for some of it, and holds everything to the logs.
    async fn settle(&mut self, dice: &mut fastrand::Rng) -> Result<()> {
        let server = self.started()?;
        let all = dice.u8(..4) > 0;
        self.books.ask_again(&server, &self.payer, dice, if all { 1.0 } else { 0.5 }).await?;
        if all {
            self.books.all_answered()?;
        }
        let arrived = self.payer.arrived(&self.world, &server)?;
        server.kill()?;
        let logs = self.checked()?;
        self.books.balances(&logs, arrived)
    }

    /// The journal leaves nothing half written behind once everything was checked.
    fn checked(&mut self) -> Result<Logs> {
        let (verified, logs) = self.books.check(&self.world)?;
        let services: Vec<&str> = verified.iter().map(|row| row.service.as_str()).collect();
        ensure!(
            ["ledger", "accounts", "treasury"].iter().all(|service| services.contains(service)),
            "verify tells of {services:?} alone"
        );
        Ok(logs)
    }

    /// What the deaths have left under way between services comes to its end once nobody dies any more.
    async fn end(&mut self) -> Result<()> {
        let server = self.started()?;
        self.books.ask_again(&server, &self.payer, &mut fastrand::Rng::new(), 1.0).await?;
        self.books.all_answered()?;
        self.books.all_over(&server, &self.payer).await?;
        let arrived = self.payer.arrived(&self.world, &server)?;
        server.terminate()?;
        let logs = self.checked()?;
        self.books.balances(&logs, arrived)
    }

    fn started(&mut self) -> Result<Server> {
        let began = Instant::now();
        let server = self.world.serve(&[]).context("after a death")?;
        self.start = began.elapsed();
        Ok(server)
    }

    fn has_half_a_snapshot(&self) -> bool {
        let folders =
            std::fs::read_dir(self.world.data().join("journal/snapshots")).into_iter().flatten().flatten();
        let mut files =
            folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
        files.any(|file| file.path().extension().is_some_and(|extension| extension == "tmp"))
    }
}
