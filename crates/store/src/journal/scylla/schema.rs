//! The tables, as both servers take them: for each service one journal, two tables of snapshots and one of processes, so that
//! each service can have a role of its own that reaches nothing else.

/// What is done once, in order; each statement may be said again.
pub(super) fn statements<'a>(
    keyspace: &str,
    services: impl Iterator<Item = &'a String>,
    replication: &Replication,
) -> Vec<String> {
    let mut all = vec![format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', '{}': {}}}",
        replication.datacenter, replication.copies
    )];
    all.push(PROVISIONED.replace("KEYSPACE", keyspace));
    for name in services {
        all.push(JOURNAL.replace("KEYSPACE", keyspace).replace("NAME", name));
        all.push(SNAPSHOT.replace("KEYSPACE", keyspace).replace("NAME", name));
        all.push(PART.replace("KEYSPACE", keyspace).replace("NAME", name));
        all.push(PROCESS.replace("KEYSPACE", keyspace).replace("NAME", name));
    }
    all
}

/// A role of a service: its own tables, and what every process looks at before it claims a log.
pub(super) fn rights(keyspace: &str, name: &str) -> Vec<String> {
    let role = format!("{keyspace}_{name}");
    let tables = ["journal", "snapshot", "snapshot_part", "process"];
    let own = tables.iter().flat_map(|table| {
        let grant = |right: &str| format!("GRANT {right} ON {keyspace}.{name}_{table} TO {role}");
        [grant("SELECT"), grant("MODIFY")]
    });
    [format!("CREATE ROLE IF NOT EXISTS {role} WITH LOGIN = true")]
        .into_iter()
        .chain(own)
        .chain([format!("GRANT SELECT ON {keyspace}.provisioned TO {role}")])
        .collect()
}

/// Where rows are kept, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// The one data centre of the cell.
    pub datacenter: String,
    /// How often a row is kept there: odd, at least 3 but for development.
    pub copies: u8,
}

/// Where rows were kept when the cell was made: later it may only be found so.
const PROVISIONED: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.provisioned (
    one int PRIMARY KEY, datacenter text, copies tinyint
)";

/// A bucket is a partition: what its owner compares and sets is static, each frame is a row, and the row at −1, which is
/// never deleted, says that the bucket was opened. `base` is where the log ended then, `genesis` the chain of the first
/// frame that bucket 0 was opened for.
const JOURNAL: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.NAME_journal (
    shard int, bucket int, seq bigint,
    term bigint static, owner blob static, sealed boolean static,
    head bigint static, chain blob static, head_ts bigint static, head_term bigint static,
    frames int static, bytes bigint static, base bigint static, genesis blob static,
    last bigint, body blob,
    PRIMARY KEY ((shard, bucket), seq)
) WITH CLUSTERING ORDER BY (seq ASC)";

/// Snapshots that are whole: the row is written behind the parts.
const SNAPSHOT: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.NAME_snapshot (
    shard int, version bigint, seq bigint,
    parts int, digest blob, chain blob, ts bigint, term bigint,
    PRIMARY KEY ((shard, version), seq)
) WITH CLUSTERING ORDER BY (seq DESC)";

const PART: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.NAME_snapshot_part (
    shard int, version bigint, seq bigint, part int, bytes blob,
    PRIMARY KEY ((shard, version, seq, part))
)";

/// Processes that run the service, each for as long as it says so. A hint: what they say of owning a log fences nobody.
const PROCESS: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.NAME_process (
    shard int, process blob, term bigint,
    PRIMARY KEY (shard, process)
)";
