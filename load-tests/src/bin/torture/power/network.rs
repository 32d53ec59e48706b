//! A whole network under a power cut, from its first start into its first load: keys, profile, beginning, logs, snapshots.
//! Whatever is left, the next start must serve from it; once the first has said that it serves, everything is there as it
//! was; and so is every transfer that a caller had heard of when the power went.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holmes_kernel::Id;

use super::strace;
use crate::load::{Load, Manner};
use crate::logs::Logs;
use crate::order::{Order, Payer};
use crate::server::Server;
use crate::world::World;

/// Files that logs depend on.
const KEPT: [&str; 5] = ["staff.key", "scheduling.key", "gateway.key", "profile.toml", "tge_at_ms"];
/// The last line of a server's greeting.
const GREETING: &str = "  staff";
/// How long callers are at work. Under strace everything is slow.
const LOAD: Duration = Duration::from_millis(1_500);
/// What says that a caller has heard of a transfer.
const HEARD: &str = "heard ";

/// A network as it was in its first life.
pub(crate) struct Network {
    kept: BTreeMap<&'static str, Vec<u8>>,
    logs: Logs,
}

/// What callers had heard, and when: microseconds since the Unix epoch.
type Heard = Vec<(u64, String)>;

impl Network {
    /// Starts one under strace, lets callers work, and ends it in order. `traced` is `world` with names that a trace tells.
    pub(crate) async fn lived(
        traced: &World,
        world: &World,
        trace: &Path,
        seed: u64,
    ) -> Result<(Network, Heard)> {
        let mut server = Server::spawn(traced.within(strace(trace), &traced.serving()))?;
        server.ready()?;
        let payer = Payer::new(world, &server).context("under strace")?;
        let manner = Manner { largest: 8, ..Manner::default() };
        let load = Load::start(&server, &payer, seed, manner).await?;
        tokio::time::sleep(LOAD).await;
        let asked = load.end().await?;
        server.close()?;
        ensure!(!asked.orders.is_empty(), "nobody was answered under strace");
        let heard = asked.orders.iter().filter(|order| order.answer.is_some()).flat_map(heard_of).collect();
        Ok((Network { kept: BTreeMap::new(), logs: Logs::default() }, heard))
    }

    /// Reads what it has kept. The logs are written out by opening them, so this comes behind whoever compares files.
    pub(crate) fn read(&mut self, world: &World) -> Result<()> {
        for name in KEPT {
            self.kept.insert(name, std::fs::read(world.data().join(name)).context(name)?);
        }
        self.logs = world.logs()?;
        Ok(())
    }

    /// What a cut has left must serve and verify.
    pub(crate) fn check(&self, world: &World, said: &[(usize, Vec<u8>)], step: usize) -> Result<()> {
        let greeting = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(GREETING);
        let served = said.iter().any(|(at, bytes)| *at < step && greeting(bytes));
        world.serve(&[])?.kill()?;
        world.verify()?;
        if !served {
            return Ok(());
        }
        for (name, bytes) in &self.kept {
            ensure!(std::fs::read(world.data().join(name))? == *bytes, "{name} is another one");
        }
        let logs = world.logs()?;
        for (service, chain) in self.logs.firsts() {
            ensure!(logs.firsts().get(&service) == Some(&chain), "the log of {service} was opened anew");
        }
        let happened = logs.recorded()?.happened;
        for id in heard(said, step) {
            let times = happened.get(&id?).copied().unwrap_or_default();
            ensure!(times == 1, "a transfer that a caller had heard of is in the log {times} times");
        }
        Ok(())
    }
}

fn heard_of(order: &Order) -> impl Iterator<Item = (u64, String)> {
    order.transfers.iter().map(|transfer| (order.answered_at_us, format!("{HEARD}{}\n", transfer.id)))
}

/// The transfers that callers had heard of before a step.
pub(crate) fn heard(said: &[(usize, Vec<u8>)], before: usize) -> impl Iterator<Item = Result<Id>> {
    let earlier = said.iter().filter(move |(at, _)| *at < before);
    earlier.filter_map(|(_, bytes)| {
        let id = std::str::from_utf8(bytes).ok()?.strip_prefix(HEARD)?;
        Some(id.trim().parse().context("an id"))
    })
}
