//! `holmes verify`: every service rebuilt from its first frame, and once more from its newest snapshot; chains,
//! invariants and digests must hold, and what one service says of money must be what the ledger says.

use std::path::PathBuf;

use anyhow::Result;
use holmes_emission::Emission;
use holmes_kernel::{LogId, Machine, Position, Replica};
use holmes_ledger::Ledger;
use holmes_market::Market;
use holmes_runtime::config::Config;
use holmes_runtime::recover::{DamagedLog, Extent};
use holmes_runtime::telemetry;
use holmes_staking::Staking;
use holmes_store::Journal;
use holmes_treasury::Treasury;
use serde::Serialize;

use crate::data;
use crate::output::{self, Format};
use crate::roles::{Replayed, Role, is_missing};

mod across;
mod cited;
mod wrong;

use across::Agreement;
use wrong::Wrong;

/// What is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes verify                 the data directory of the configuration
  holmes verify --dir /copy     a copy of one; a running server's own directory is locked

Every frame's checksum and chain is checked, every event applied, every invariant evaluated. \
Then services are held to each other: what a service has in the ledger must be there to the \
unit, unless a send that explains the difference is in flight; and a log that another one has \
heard must still have the chain that was heard, so that one that was cut or made anew is found.")]
pub(crate) struct Args {
    /// Data directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these roles.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
}

/// What a table of rows is headed with.
pub(crate) const COLUMNS: [&str; 5] = ["SERVICE", "FRAMES", "EVENTS", "DIGEST", "RESULT"];

/// What has come of it, of a service or of several that must agree.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Row {
    Service(Verified),
    Across(Compared),
    Damaged(Damaged),
}

impl Row {
    /// Whether all of it holds.
    pub(crate) fn is_ok(&self) -> bool {
        match self {
            Row::Service(row) => row.ok,
            Row::Across(row) => row.ok,
            Row::Damaged(row) => row.ok,
        }
    }

    /// The digest of a service's state, as its log gives it.
    pub(crate) fn digest_of(&self, service: &str) -> Option<&str> {
        match self {
            Row::Service(row) if row.service == service => Some(&row.digest),
            _ => None,
        }
    }

    /// As a table shows it.
    pub(crate) fn cells(&self) -> Vec<String> {
        match self {
            Row::Service(row) => {
                let (frames, events) = (row.frames.to_string(), row.events.to_string());
                vec![row.service.to_owned(), frames, events, row.digest.clone(), row.result.clone()]
            }
            Row::Across(row) => {
                let result = format!("{}: {}", row.check, row.result);
                vec![row.service.to_owned(), String::new(), String::new(), String::new(), result]
            }
            Row::Damaged(row) => {
                let (at, result) = (row.seq.to_string(), row.result.clone());
                vec![row.service.to_owned(), String::new(), at, String::new(), result]
            }
        }
    }
}

/// A log that cannot be read to its end, when the journal does not open and nothing else can be said of any; or a
/// snapshot that is not what was kept.
#[derive(Serialize)]
pub(crate) struct Damaged {
    service: &'static str,
    /// Where the first frame begins that is not what was written; or the snapshot's place.
    seq: u64,
    reason: &'static str,
    result: String,
    ok: bool,
}

#[derive(Serialize)]
pub(crate) struct Compared {
    /// Which services.
    service: &'static str,
    check: &'static str,
    result: String,
    ok: bool,
}

#[derive(Serialize)]
pub(crate) struct Verified {
    service: &'static str,
    frames: u64,
    events: u64,
    digest: String,
    /// Chain of the last frame: what an audit of the same log prints too.
    head: String,
    /// Frames behind the newest snapshot, from which the digest was computed once more; absent where there is none, and the
    /// log was only replayed twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_snapshot: Option<u64>,
    #[serde(flatten)]
    wrong: Option<Wrong>,
    result: String,
    ok: bool,
}

/// Verifies; `false` when something does not hold.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<bool> {
    config.store.dir = args.dir.unwrap_or(config.store.dir);
    telemetry::warnings();
    let roles = data::roles(&args.role)?;
    let journal = match data::open(&config, false).await {
        Ok(journal) => journal,
        Err(why) => return not_opened(why, format),
    };
    let all = rows(&roles, &journal, config.cell.number, |name| eprintln!("verifying {name}")).await;
    journal.close().await;
    if all.is_empty() {
        anyhow::bail!("no log of cell {} lies in {}", config.cell.number, data::place(&config));
    }
    // The head is long, and for programs that compare: JSON has it.
    output::rows(format, &COLUMNS, &all, Row::cells)?;
    Ok(all.iter().all(Row::is_ok))
}

/// Everything that is to be said of the logs of a journal: each by itself, then all held to each other.
pub(crate) async fn rows(
    roles: &[Role],
    journal: &Journal,
    cell: u16,
    begins: impl Fn(&'static str),
) -> Vec<Row> {
    let (mut all, mut replicas, mut cited) = (Vec::new(), Vec::new(), Vec::new());
    for role in roles {
        begins(role.name);
        let Some((row, whole)) = verified(role, journal, cell).await else { continue };
        all.push(Row::Service(row));
        all.extend(damaged_snapshots(role, journal, cell).await);
        for (log, at) in whole.iter().flat_map(|whole| &whole.heard) {
            cited.extend(cites(role.name, journal, *log, at).await);
        }
        replicas.extend(whole.map(|whole| whole.replica));
    }
    all.extend(cited.into_iter().map(Row::Across));
    all.extend(compared(&Replicas(replicas)).into_iter().map(Row::Across));
    all
}

/// What a program reads of a journal that does not open because of damage; people read it on stderr.
fn not_opened(why: anyhow::Error, format: Format) -> Result<bool> {
    let damage = why.chain().find_map(|cause| cause.downcast_ref::<DamagedLog>());
    if let (Some(damage), Format::Json) = (damage, format) {
        let (service, seq) = (damage.service, damage.seq());
        let row = Damaged { service, seq, reason: DamagedLog::REASON, result: format!("{why:#}"), ok: false };
        output::rows(format, &[], &[Row::Damaged(row)], Row::cells)?;
    }
    Err(why)
}

/// A line for another log that does not have what a service has heard of it.
async fn cites(by: &'static str, journal: &Journal, log: LogId, at: &Position) -> Option<Compared> {
    let wrong = cited::disagreement(journal, log, at).await?;
    let of = data::service_of(log);
    Some(Compared { service: of, check: "as heard", result: format!("by {by}: {wrong}"), ok: false })
}

/// What the logs gave.
struct Replicas(Vec<Box<dyn std::any::Any + Send>>);

impl Replicas {
    fn of<M: Machine>(&self) -> Option<&Replica<M>> {
        self.0.iter().find_map(|replica| replica.downcast_ref())
    }

    /// Holds the ledger and another service to each other, where both are here.
    fn with_ledger<M: Machine>(
        &self,
        check: impl Fn(&holmes_ledger::State, &M::State) -> Agreement,
    ) -> Option<Agreement> {
        Some(check(self.of::<Ledger>()?.state(), self.of::<M>()?.state()))
    }
}

/// Every check across services whose logs are here.
fn compared(replicas: &Replicas) -> Vec<Compared> {
    let at = replicas.of::<Ledger>().map(|ledger| ledger.tail().ts).unwrap_or_default();
    let checks = [
        ("ledger, treasury", "supply", replicas.with_ledger::<Treasury>(across::supply)),
        ("ledger, treasury", "allocations", replicas.with_ledger::<Treasury>(across::allocations)),
        ("ledger, staking", "bonds", replicas.with_ledger::<Staking>(across::bonds)),
        ("ledger, market", "holds", replicas.with_ledger::<Market>(|l, m| across::holds(l, at, m))),
        ("ledger, market", "purses", replicas.with_ledger::<Market>(across::purses)),
        ("ledger, emission", "pools", replicas.with_ledger::<Emission>(across::pools)),
    ];
    let row = |(service, check, agreement): (_, _, Option<Agreement>)| {
        let agreement = agreement?;
        Some(Compared { service, check, result: agreement.to_string(), ok: agreement.is_ok() })
    };
    checks.into_iter().filter_map(row).collect()
}

/// A line for each snapshot that is not what was kept.
async fn damaged_snapshots(role: &Role, journal: &Journal, cell: u16) -> Vec<Row> {
    let row = |(seq, result)| {
        Row::Damaged(Damaged { service: role.name, seq, reason: "SNAPSHOT_DAMAGED", result, ok: false })
    };
    wrong::snapshots(role, journal, cell).await.into_iter().map(row).collect()
}

async fn verified(role: &Role, journal: &Journal, cell: u16) -> Option<(Verified, Option<Replayed>)> {
    let row = |of: Option<&Replayed>, behind_snapshot: Option<u64>, wrong: Option<Wrong>| Verified {
        service: role.name,
        frames: of.map_or(0, |of| of.frames),
        events: of.map_or(0, |of| of.seq),
        digest: of.map(|of| output::hex(&of.digest)).unwrap_or_default(),
        head: of.map(|of| output::hex(&of.chain)).unwrap_or_default(),
        behind_snapshot,
        ok: wrong.is_none(),
        result: wrong.as_ref().map_or_else(|| "holds".into(), |wrong| wrong.words.clone()),
        wrong,
    };
    let whole = match role.replay(journal.clone(), cell, Extent::FROM_FIRST).await {
        Ok(whole) => whole,
        Err(why) if is_missing(&why) => return None,
        Err(why) => return Some((row(None, None, Some(Wrong::unreadable(why))), None)),
    };
    let quick = role.replay(journal.clone(), cell, Extent::ALL).await;
    let behind = quick.as_ref().ok().map(|quick| quick.frames).filter(|frames| *frames < whole.frames);
    let wrong = match quick {
        Err(why) => Some(Wrong::unreadable(why.context("from its snapshot"))),
        Ok(quick) if quick.digest != whole.digest => Some(Wrong::other_snapshot()),
        Ok(_) if !whole.broken.is_empty() => {
            Some(Wrong::broken(first_broken(role, journal, cell, whole.seq).await, &whole.broken))
        }
        Ok(_) => None,
    };
    Some((row(Some(&whole), behind, wrong), Some(whole)))
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
