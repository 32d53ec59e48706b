//! The first figures: durable ledger transfers in process and over gRPC, and how fast a log is replayed, beside what
//! the disk itself does. `README.md` says how each is taken.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;

mod bed;
mod disk;
mod grpc;
mod ledger;
mod replay;

/// The one that the product has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes the first figures.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo run --release -p holmes-load-tests -- --seconds 5
  cargo run --release -p holmes-load-tests -- --only grpc --json")]
struct Args {
    /// How long each figure is taken.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only these: disk, ledger, grpc, replay.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the logs are written; a directory of the disk to be measured.
    #[arg(long, default_value = "target/load-tests")]
    dir: PathBuf,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    name: String,
    /// What a second counts.
    unit: &'static str,
    per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<f64>,
    note: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let length = Duration::from_secs(args.seconds);
    let mut figures = Vec::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if wanted("disk") {
        figures.extend(disk::figures(&args.dir, length)?);
    }
    if wanted("ledger") {
        figures.extend(runtime.block_on(ledger::figures(&args.dir, length))?);
    }
    if wanted("grpc") {
        figures.extend(runtime.block_on(grpc::figures(&args.dir, length))?);
    }
    if wanted("replay") {
        figures.extend(runtime.block_on(replay::figures(&args.dir))?);
    }
    print(&figures, args.json)
}

fn print(figures: &[Figure], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
        return Ok(());
    }
    let ms = |value: Option<f64>| value.map(|ms| format!("{ms:.2}")).unwrap_or_default();
    println!("{:<44} {:>12} {:<10} {:>8} {:>8}  note", "figure", "per second", "", "p50 ms", "p99 ms");
    for f in figures {
        let (p50, p99) = (ms(f.p50_ms), ms(f.p99_ms));
        println!("{:<44} {:>12.0} {:<10} {p50:>8} {p99:>8}  {}", f.name, f.per_second, f.unit, f.note);
    }
    Ok(())
}
