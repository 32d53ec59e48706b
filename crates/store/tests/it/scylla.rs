//! The same suite on a real CQL server: the one that HOLMES_CQL names. `cargo xtask infra up` starts one.

use std::collections::BTreeMap;

use holmes_kernel::ServiceId;
use holmes_store::conformance::Storage;
use holmes_store::journal::scylla::{Journal, Options, Replication};

/// A keyspace of its own, which is left behind: the server is there for tests alone.
struct Scylla(Options);

fn options(keyspace: String) -> Options {
    let nodes = std::env::var("HOLMES_CQL").expect(
        "HOLMES_CQL names no CQL server: `cargo xtask infra up` starts one and says what to set; `cargo xtask test` does both",
    );
    let services: BTreeMap<ServiceId, String> = (1..=8).map(|svc| (ServiceId(svc), format!("s{svc}"))).collect();
    Options { nodes: nodes.split(',').map(str::to_owned).collect(), keyspace, cell: 1, services, dev: true }
}

impl Storage for Scylla {
    type Journal = Journal;

    async fn fresh() -> Scylla {
        let mut drawn = [0; 6];
        getrandom::fill(&mut drawn).unwrap();
        let name: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        let options = options(format!("t_{name}"));
        let replication = Replication { datacenter: "datacenter1".into(), copies: 1 };
        Journal::migrate(&options, &replication).await.unwrap();
        Scylla(options)
    }

    async fn handle(&self) -> Journal {
        Journal::connect(self.0.clone()).await.unwrap()
    }

    async fn reopen(self) -> Scylla {
        self
    }
}

holmes_store::conformance_suite!(Scylla);
