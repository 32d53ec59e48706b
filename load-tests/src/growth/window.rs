//! What remembering costs: the request window of a machine under so many ids in its hour.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holmes_kernel::ways::Remembered;
use holmes_kernel::{Id, Principal, PrincipalKind, Time, Window, WindowLimits};

use super::{Found, own_bytes};

const START_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Ids of one frame.
const BATCH: u64 = 256;

/// Brings an hour's ids, and half as many more, so that each that comes pushes one out.
pub(super) fn measure(ids: u64) -> Result<Found> {
    let at = |n: u64| START_MS + n * HOUR_MS / ids;
    let before = own_bytes();
    let mut window: Window<Remembered, true> = Window::new(WindowLimits::DEFAULT);
    let askers: Vec<Principal> =
        (0..16).map(|n| Principal::new(PrincipalKind::Gateway, Id::from_bytes([n; 16]))).collect();
    let (mut bytes, mut began, mut longest) = (0.0, Instant::now(), Duration::ZERO);
    for n in 0..ids + ids / 2 {
        if n == ids {
            bytes = own_bytes().saturating_sub(before) as f64 / window.len() as f64;
            began = Instant::now();
        }
        let mut random = [0; 10];
        random[2..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let (id, who, now) = (Id::v7(at(n), random), &askers[(n % 16) as usize], Time::from_millis(at(n)));
        if n % BATCH == 0 {
            let start = Instant::now();
            window.advance(now);
            longest = longest.max(start.elapsed());
        }
        ensure!(window.get(who, id).is_none(), "a new id is taken for an old one");
        ensure!(window.admits(who, id, now).is_ok(), "the window has no room for {ids} ids an hour");
        window.insert(*who, id, Remembered { digest: [7; 16], seq: n });
    }
    Ok(Found::from([
        ("request ids, while as many are forgotten", (ids / 2) as f64 / began.elapsed().as_secs_f64()),
        ("memory of a request id", bytes),
        ("longest pause of forgetting request ids", longest.as_secs_f64() * 1e3),
    ]))
}
