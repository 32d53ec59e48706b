//! The limit: what a preallocated file with `fdatasync` does on the same disk.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::Figure;

/// One write of 512 bytes and one fdatasync, again and again.
pub(crate) fn figures(dir: &Path, length: Duration) -> Result<Vec<Figure>> {
    let path = dir.join("raw");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    file.write_all(&vec![0; 64 << 20])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let began = Instant::now();
    while began.elapsed() < length {
        let asked = Instant::now();
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        histogram.record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX))?;
        if file.stream_position()? >= 63 << 20 {
            file.seek(SeekFrom::Start(0))?;
        }
    }
    std::fs::remove_file(&path)?;
    Ok(vec![Figure {
        name: "raw file, write and fdatasync".into(),
        unit: "syncs/s",
        per_second: histogram.len() as f64 / began.elapsed().as_secs_f64(),
        p50_ms: Some(histogram.value_at_quantile(0.5) as f64 / 1_000.0),
        p99_ms: Some(histogram.value_at_quantile(0.99) as f64 / 1_000.0),
        note: "the limit of one append at a time".into(),
    }])
}
