//! One suite, every journal.

use holmes_store::conformance::Storage;
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

mod memory_journal {
    holmes_store::conformance_suite!(super::Memory);
}

mod embedded_journal {
    holmes_store::conformance_suite!(super::Embedded);
}
