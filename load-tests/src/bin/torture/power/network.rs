//! The first start of a whole network under a power cut: keys, profile, beginning and logs. Whatever is left, the next start
//! must serve from it; and once the first has said that it serves, everything is there as it was.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::strace;
use crate::logs::Logs;
use crate::server::Server;
use crate::world::World;

/// Files that logs depend on.
const KEPT: [&str; 5] = ["staff.key", "scheduling.key", "gateway.key", "profile.toml", "tge_at_ms"];
/// The last line of a server's greeting.
const GREETING: &str = "  staff";

/// A network as it was after its first start.
pub(crate) struct Network {
    kept: BTreeMap<&'static str, Vec<u8>>,
    logs: Logs,
}

impl Network {
    /// Starts one under strace, and ends it in order.
    pub(crate) fn lived(world: &World, trace: &Path) -> Result<Network> {
        let mut server = Server::spawn(world.within(strace(trace), &world.serving()))?;
        server.ready()?;
        server.close()?;
        Ok(Network { kept: BTreeMap::new(), logs: Logs::default() })
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
        Ok(())
    }
}
