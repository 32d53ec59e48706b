//! How a table grows: rows a second, look-ups a second, the longest single insertion, memory a row.
//!
//! `cargo run --release -p holmes-table --example growth -- [ROWS]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use holmes_table::Table;

/// About what a ledger keeps of an account.
type Row = [u64; 12];

fn main() {
    let rows: u64 =
        std::env::args().nth(1).map_or(10_000_000, |text| text.parse().expect("a number of rows"));
    let id = |n: u64| (u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64) | u128::from(n);
    let before = resident();
    let mut table: Table<u128, Row> = Table::new();
    let mut longest = Duration::ZERO;
    let begun = Instant::now();
    for n in 0..rows {
        let one = Instant::now();
        table.insert(id(n), [n; 12]);
        longest = longest.max(one.elapsed());
    }
    let took = begun.elapsed();
    println!(
        "{rows} insertions: {:.0} a second, the longest {:.2} ms",
        rows as f64 / took.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    );
    println!("memory: {} bytes a row of {}", (resident() - before) / rows, size_of::<(u128, Row)>());
    let begun = Instant::now();
    for n in 0..rows {
        black_box(table.get(&id(n.wrapping_mul(7_919) % rows)));
    }
    println!("{rows} look-ups all over it: {:.0} a second", rows as f64 / begun.elapsed().as_secs_f64());
}

/// Resident bytes of this process, as Linux tells them; 0 elsewhere.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
