//! `holmes verify`: every service rebuilt from its first frame, and once more from its newest snapshot; chains,
//! invariants and digests must hold.

use std::path::PathBuf;

use anyhow::Result;
use holmes_kernel::canon::Digest;
use holmes_runtime::config::Config;
use holmes_runtime::recover::Extent;
use holmes_store::Journal;
use serde::Serialize;

use crate::data;
use crate::output::{self, Format};
use crate::roles::{Role, is_missing};

/// What is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes verify                 the data directory of the configuration
  holmes verify --dir /copy     a copy of one; a running server's own directory is locked

Every frame's checksum and chain is checked, every event applied, every invariant evaluated.")]
pub(crate) struct Args {
    /// Data directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these roles.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
}

#[derive(Serialize)]
struct Verified {
    service: &'static str,
    frames: u64,
    events: u64,
    digest: String,
    result: String,
    ok: bool,
}

/// Verifies; `false` when something does not hold.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<bool> {
    config.store.dir = args.dir.unwrap_or(config.store.dir);
    let roles = data::roles(&args.role)?;
    let journal = data::open(&config, false).await?;
    let mut all = Vec::new();
    for role in roles {
        eprintln!("verifying {}", role.name);
        all.extend(verified(&role, &journal, config.cell.number).await);
    }
    journal.close().await;
    if all.is_empty() {
        anyhow::bail!("no log of cell {} lies in {}", config.cell.number, config.store.dir.display());
    }
    output::rows(format, &["SERVICE", "FRAMES", "EVENTS", "DIGEST", "RESULT"], &all, |row| {
        let numbers = [row.frames.to_string(), row.events.to_string()];
        [row.service.to_owned()]
            .into_iter()
            .chain(numbers)
            .chain([row.digest.clone(), row.result.clone()])
            .collect()
    })?;
    Ok(all.iter().all(|row| row.ok))
}

async fn verified(role: &Role, journal: &Journal, cell: u16) -> Option<Verified> {
    let row = |frames, events, digest: Option<Digest>, result: String, ok| {
        let digest = digest.map(|digest| output::hex(&digest)).unwrap_or_default();
        Some(Verified { service: role.name, frames, events, digest, result, ok })
    };
    let whole = match role.replay(journal.clone(), cell, Extent::FROM_FIRST).await {
        Ok(whole) => whole,
        Err(why) if is_missing(&why) => return None,
        Err(why) => return row(0, 0, None, format!("{why:#}"), false),
    };
    let result = match role.replay(journal.clone(), cell, Extent::ALL).await {
        Err(why) => Err(format!("from its snapshot: {why:#}")),
        Ok(quick) if quick.digest != whole.digest => {
            Err("the snapshot gives another state than the log".into())
        }
        Ok(_) if !whole.broken.is_empty() => {
            let at = first_broken(role, journal, cell, whole.seq).await;
            Err(format!("from the frame that begins at {at} on: {}", whole.broken.join("; ")))
        }
        Ok(_) => Ok(()),
    };
    let ok = result.is_ok();
    row(whole.frames, whole.seq, Some(whole.digest), result.err().unwrap_or_else(|| "holds".into()), ok)
}

/// Where the frame begins behind which an invariant does not hold any more, found by halving: `broken` is a place behind
/// which it does not.
async fn first_broken(role: &Role, journal: &Journal, cell: u16, mut broken: u64) -> u64 {
    let mut holds = 0;
    while holds + 1 < broken {
        let upto = holds + (broken - holds) / 2;
        match role.replay(journal.clone(), cell, Extent { upto, snapshots: false }).await {
            Ok(there) if there.broken.is_empty() => holds = there.seq,
            _ => broken = upto,
        }
    }
    broken
}
