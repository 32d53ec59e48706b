//! Apache Cassandra from its published jars.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::sh;

pub(super) const PORT: u16 = 9042;
const VERSION: &str = "5.0.5";

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>holmes</groupId><artifactId>cassandra</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>VERSION</version>
  </dependency></dependencies>
</project>
"#;

/// What Java 17 must be told to open.
const EXPORTS: [&str; 9] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "java.base/java.lang.ref",
    "jdk.unsupported/sun.misc",
];
const OPENS: [&str; 15] = [
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "jdk.management/com.sun.management.internal",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.reflect",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
];

/// The directory of its jars, fetched at the first use.
pub(super) fn fetched(root: &Path) -> Result<PathBuf> {
    let fix = "on Debian: apt-get install openjdk-17-jre-headless maven";
    ensure!(
        Command::new("java").arg("-version").output().is_ok_and(|out| out.status.success()),
        "Cassandra needs Java 17, and java is missing; {fix}"
    );
    let dir = root.join(".tools/cassandra").join(VERSION);
    let (jars, whole) = (dir.join("lib"), dir.join("whole"));
    if whole.exists() {
        return Ok(jars);
    }
    ensure!(
        sh::output(Command::new("mvn").arg("--version")).is_some(),
        "Maven fetches Cassandra once; {fix}"
    );
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    fs::write(dir.join("pom.xml"), POM.replace("VERSION", VERSION))?;
    let out = format!("-DoutputDirectory={}", jars.display());
    let mut fetch = Command::new("mvn");
    fetch.args(["--batch-mode", "--quiet", "dependency:copy-dependencies", &out]).current_dir(&dir);
    sh::run(&mut fetch).context("Maven could not fetch Cassandra; check the network, and try again")?;
    fs::write(whole, "")?; // what Maven left half-done is fetched again
    Ok(jars)
}

/// What starts a node of so many. The first is the seed of the others.
pub(super) fn command(jars: &Path, dir: &Path, at: SocketAddr, nodes: u8) -> Result<Command> {
    let conf = dir.join("conf");
    fs::create_dir_all(&conf).with_context(|| format!("{} cannot be made", conf.display()))?;
    fs::write(conf.join("cassandra.yaml"), settings(dir, at))?;
    fs::write(conf.join("logback.xml"), LOGBACK)?;
    let heap = if nodes == 1 { 512 } else { 384 };
    let mut java = Command::new("java");
    java.args([format!("-Xms{heap}m"), format!("-Xmx{heap}m")]);
    java.args(["-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=256m", "-Xss512k"]);
    java.args(EXPORTS.iter().flat_map(|it| ["--add-exports".to_owned(), format!("{it}=ALL-UNNAMED")]));
    java.args(OPENS.iter().flat_map(|it| ["--add-opens".to_owned(), format!("{it}=ALL-UNNAMED")]));
    let last = match at {
        SocketAddr::V4(at) => at.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    for (key, value) in [
        ("cassandra.config", format!("file://{}/cassandra.yaml", conf.display())),
        ("logback.configurationFile", format!("{}/logback.xml", conf.display())),
        ("cassandra.storagedir", dir.display().to_string()),
        ("cassandra-foreground", "yes".into()),
        ("cassandra.ring_delay_ms", "2000".into()),
        ("cassandra.skip_wait_for_gossip_to_settle", "0".into()),
        ("cassandra.superuser_setup_delay_ms", "0".into()),
        // Tables are made and dropped all the time; the commit log has them.
        ("cassandra.test.flush_local_schema_changes", "false".into()),
        ("cassandra.jmx.local.port", (7_190 + u16::from(last)).to_string()),
        ("jdk.attach.allowAttachSelf", "true".into()),
        ("io.netty.tryReflectionSetAccessible", "true".into()),
    ] {
        java.arg(format!("-D{key}={value}"));
    }
    java.arg("-cp").arg(format!("{}/*:{}", jars.display(), conf.display()));
    java.arg("org.apache.cassandra.service.CassandraDaemon");
    Ok(java)
}

/// As small as it runs, and with every write on disk before it is answered.
fn settings(dir: &Path, at: SocketAddr) -> String {
    let (dir, ip) = (dir.display(), at.ip());
    format!(
        "cluster_name: holmes
num_tokens: 4
allocate_tokens_for_local_replication_factor: 3
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
data_file_directories: [{dir}/data]
commitlog_directory: {dir}/commitlog
saved_caches_directory: {dir}/caches
hints_directory: {dir}/hints
cdc_raw_directory: {dir}/cdc
commitlog_sync: batch
commitlog_segment_size: 8MiB
commitlog_total_space: 128MiB
listen_address: {ip}
rpc_address: {ip}
native_transport_port: {PORT}
storage_port: 7000
start_native_transport: true
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{ seeds: 127.0.0.1 }}]
paxos_variant: v2
authenticator: AllowAllAuthenticator
authorizer: AllowAllAuthorizer
memtable_heap_space: 64MiB
memtable_offheap_space: 64MiB
memtable_allocation_type: offheap_objects
key_cache_size: 8MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
concurrent_reads: 16
concurrent_writes: 16
concurrent_compactors: 1
auto_snapshot: false
"
    )
}

const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;
