//! `holmes verify`: every service rebuilt from its first frame, and once more from its newest snapshot; chains,
//! invariants and digests must hold.

use std::path::PathBuf;

use anyhow::Result;
use holmes_runtime::config::Config;
use holmes_runtime::recover::Extent;
use holmes_store::Journal;
use serde::Serialize;

use crate::data;
use crate::output::{self, Format};
use crate::roles::{Replayed, Role, is_missing};

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
    /// Chain of the last frame: what an audit of the same log prints too.
    head: String,
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
    // The head is long, and for programs that compare: JSON has it.
    output::rows(format, &["SERVICE", "FRAMES", "EVENTS", "DIGEST", "RESULT"], &all, |row| {
        let (frames, events) = (row.frames.to_string(), row.events.to_string());
        vec![row.service.to_owned(), frames, events, row.digest.clone(), row.result.clone()]
    })?;
    Ok(all.iter().all(|row| row.ok))
}

async fn verified(role: &Role, journal: &Journal, cell: u16) -> Option<Verified> {
    let row = |of: Option<&Replayed>, result: Result<(), String>| {
        Some(Verified {
            service: role.name,
            frames: of.map_or(0, |of| of.frames),
            events: of.map_or(0, |of| of.seq),
            digest: of.map(|of| output::hex(&of.digest)).unwrap_or_default(),
            head: of.map(|of| output::hex(&of.chain)).unwrap_or_default(),
            ok: result.is_ok(),
            result: result.err().unwrap_or_else(|| "holds".into()),
        })
    };
    let whole = match role.replay(journal.clone(), cell, Extent::FROM_FIRST).await {
        Ok(whole) => whole,
        Err(why) if is_missing(&why) => return None,
        Err(why) => return row(None, Err(format!("{why:#}"))),
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
    row(Some(&whole), result)
}

/// Where the frame begins behind which an invariant does not hold any more, found by halving: `broken` is a place behind
/// which it does not.
async fn first_broken(role: &Role, journal: &Journal, cell: u16, mut broken: u64) -> u64 {
    let mut holds = 0;
    while holds + 1 < broken {
        let upto = holds + (broken - holds) / 2;
        match role.replay(journal.clone(), cell, Extent { upto, snapshots: false, checked: false }).await {
            Ok(there) if there.broken.is_empty() => holds = there.seq,
            _ => broken = upto,
        }
    }
    broken
}
