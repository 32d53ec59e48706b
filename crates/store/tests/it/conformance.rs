//! One suite, every journal; one, every bus.

use holmes_kernel::LogId;
use holmes_store::bus;
use holmes_store::conformance::Storage;
use holmes_store::conformance::bus::Broker;
use holmes_store::journal::{embedded, memory};
use tempfile::TempDir;

struct Memory(memory::Journal);

impl Storage for Memory {
    type Journal = memory::Journal;

    async fn fresh() -> Memory {
        Memory(memory::Journal::new())
    }

    async fn handle(&self) -> memory::Journal {
        self.0.clone()
    }

    async fn reopen(self) -> Memory {
        self
    }
}

struct Embedded(TempDir, holmes_store::Journal);

fn open(dir: &TempDir) -> holmes_store::Journal {
    embedded::Journal::open(dir.path(), embedded::Options::default()).unwrap().into()
}

/// Through the enum, as the runtime uses it.
impl Storage for Embedded {
    type Journal = holmes_store::Journal;

    async fn fresh() -> Embedded {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        Embedded(dir, journal)
    }

    async fn handle(&self) -> holmes_store::Journal {
        self.1.clone()
    }

    async fn reopen(self) -> Embedded {
        let Embedded(dir, journal) = self;
        journal.close().await;
        let journal = open(&dir);
        Embedded(dir, journal)
    }
}

struct Carrying(bus::memory::Bus);

impl Broker for Carrying {
    type Bus = holmes_store::Bus;

    async fn fresh() -> Carrying {
        Carrying(bus::memory::Bus::new())
    }

    fn cell(&self) -> u16 {
        1
    }

    async fn handle(&self) -> holmes_store::Bus {
        self.0.clone().into()
    }

    async fn lose(&self, log: LogId) {
        self.0.lose(log, 0);
    }
}

mod memory_bus {
    holmes_store::bus_conformance_suite!(super::Carrying);
}

mod memory_journal {
    holmes_store::conformance_suite!(super::Memory);
}

mod embedded_journal {
    holmes_store::conformance_suite!(super::Embedded);
}
