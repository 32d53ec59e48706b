//! `holmes replay` and `holmes state`: the log itself, and what it says at a place.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use holmes_kernel::entry::Origin;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Entry, Frame, Time};
use holmes_runtime::Clock;
use holmes_runtime::config::Config;
use holmes_runtime::recover::Extent;
use holmes_runtime::telemetry;
use holmes_store::Journal;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};

use crate::readable::Readable;
use crate::roles::{Role, is_missing};
use crate::when::{self, Place};
use crate::{data, output};

/// How much is read from the journal at once.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What is replayed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes replay > log.jsonl                    every entry of every service, one JSON object a line
  holmes replay --role ledger --after 1000
  holmes replay --role market --after -1m      what was written in the last minute
  holmes replay --frames DIR                   raw frames, one file for each service: DIR/ledger.frames

A file of frames is a row of frames, each behind its length (u32, little-endian); proto/holmes/log/v1/log.proto \
describes a frame.")]
pub(crate) struct Args {
    /// Data directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these roles.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
    /// Begin behind this sequence number or moment: 1000, 2026-11-21T09:30:00Z, -1m, "1m ago".
    #[arg(long, default_value = "0", value_name = "PLACE", allow_hyphen_values = true, value_parser = when::place)]
    after: Place,
    /// Write raw frames into this directory instead.
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,
}

/// Which state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes state ledger                  as it is now
  holmes state ledger --at 1000        behind the frame that holds event 1000
  holmes state ledger --at -1m         as it was a minute ago; so does \"1m ago\"
  holmes state ledger --at 2026-11-21T09:30:00Z")]
pub(crate) struct StateArgs {
    /// The service.
    service: String,
    /// Up to the frame that holds this sequence number, from 1 on, or up to this moment: 1000, 2026-11-21T09:30:00Z,
    /// -1m, "1m ago".
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, value_parser = when::behind)]
    at: Option<Place>,
    /// Data directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Replays.
pub(crate) async fn run(args: Args, mut config: Config) -> Result<()> {
    config.store.dir = args.dir.clone().unwrap_or(config.store.dir);
    let roles = data::roles(&args.role)?;
    let journal = data::open(&config, false).await?;
    let logs = journal.logs().await?;
    let readable = Readable::new()?;
    if let Some(dir) = &args.frames {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    let cell = config.cell.number;
    for role in roles {
        if !logs.contains(&role.log(cell)) {
            eprintln!("{}: no log here", role.name);
            continue;
        }
        let after = seq_at(&role, &journal, cell, args.after).await?;
        match &args.frames {
            Some(dir) => write_frames(&role, &journal, cell, after, dir).await?,
            None => print_entries(&role, &journal, cell, after, &readable).await?,
        }
    }
    journal.close().await;
    Ok(())
}

/// Prints a state.
pub(crate) async fn state(args: StateArgs, mut config: Config) -> Result<()> {
    config.store.dir = args.dir.unwrap_or(config.store.dir);
    telemetry::warnings();
    let [role] =
        data::roles(std::slice::from_ref(&args.service))?.try_into().ok().context("name one service")?;
    let journal = data::open(&config, false).await?;
    let cell = config.cell.number;
    if !journal.logs().await?.contains(&role.log(cell)) {
        bail!(
            "{} holds no log of {}: `holmes verify` lists those that there are",
            data::place(&config),
            role.name
        );
    }
    let upto = match args.at {
        Some(place) => seq_at(&role, &journal, cell, place).await?,
        None => u64::MAX,
    };
    if upto == 0 {
        let first = first_moment(&role, &journal, cell).await?;
        bail!("the log of {} begins at {}: there is no state before that", role.name, when::shown(first));
    }
    let extent = Extent { upto, snapshots: true };
    let replayed = role.replay(journal.clone(), cell, extent).await.map_err(data::named)?;
    journal.close().await;
    if args.at.is_some() && upto > replayed.seq {
        bail!("the log of {} ends at {}: there is no {upto} yet", role.name, replayed.seq);
    }
    eprintln!("{} at {}, digest {}", role.name, replayed.seq, output::hex(&replayed.digest));
    let state = replayed.state.context("the state cannot be shown as JSON")?;
    output::text(&serde_json::to_string_pretty(&state)?)
}

/// The sequence number at a place of a role's log: of a moment, the last one that was written by then; 0 when nothing was.
async fn seq_at(role: &Role, journal: &Journal, cell: u16, place: Place) -> Result<u64> {
    let moment = match (place, place.moment(Clock::System.now())) {
        (Place::Seq(seq), _) => return Ok(seq),
        (_, moment) => moment.unwrap_or_default(),
    };
    let mut seq = 0;
    loop {
        let page = journal.read(role.log(cell), seq, PAGE_BYTES).await;
        let page = page.map_err(|why| data::named(why.into()))?;
        // Times rise from frame to frame.
        let until = page.partition_point(|frame| frame.header().ts <= moment);
        seq = page[..until].last().map_or(seq, |frame| frame.header().last);
        if until < page.len() || page.is_empty() {
            return Ok(seq);
        }
    }
}

/// When the first frame of a role's log was written.
async fn first_moment(role: &Role, journal: &Journal, cell: u16) -> Result<Time> {
    let page = journal.read(role.log(cell), 0, 1).await?;
    Ok(page.first().map(|frame| frame.header().ts).unwrap_or_default())
}

/// Gives every frame of a role's log to `each`.
async fn frames(
    role: &Role,
    journal: &Journal,
    cell: u16,
    mut after: u64,
    mut each: impl FnMut(&Frame) -> Result<()>,
) -> Result<()> {
    loop {
        let page = match journal.read(role.log(cell), after, PAGE_BYTES).await.map_err(anyhow::Error::from) {
            Ok(page) => page,
            Err(why) if is_missing(&why) => return Ok(()),
            Err(why) => return Err(data::named(why.context(format!("the log of {}", role.name)))),
        };
        let Some(last) = page.last() else { return Ok(()) };
        after = last.header().last;
        page.iter().try_for_each(&mut each)?;
    }
}

async fn write_frames(
    role: &Role,
    journal: &Journal,
    cell: u16,
    after: u64,
    dir: &std::path::Path,
) -> Result<()> {
    let path = dir.join(format!("{}.frames", role.name));
    let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let (mut file, mut count) = (BufWriter::new(file), 0u64);
    frames(role, journal, cell, after, |frame| {
        count += 1;
        file.write_all(&u32::try_from(frame.bytes().len())?.to_le_bytes())?;
        Ok(file.write_all(frame.bytes())?)
    })
    .await?;
    file.flush()?;
    eprintln!("{}: {count} frames", path.display());
    Ok(())
}

async fn print_entries(
    role: &Role,
    journal: &Journal,
    cell: u16,
    after: u64,
    readable: &Readable,
) -> Result<()> {
    let kind = readable.events_of(role.name)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    frames(role, journal, cell, after, |frame| {
        for (seq, entry) in frame.entries()? {
            let at = (frame.header().ts, frame.header().term);
            let line = line(role.name, at, seq, &entry, &kind, readable)?;
            serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?; // nobody may read on
            writeln!(out)?;
        }
        Ok(())
    })
    .await?;
    Ok(out.flush()?)
}

/// An entry for people and their tools, of a frame of this time and term.
pub(crate) fn line(
    service: &str,
    (ts, term): (Time, u64),
    seq: u64,
    entry: &Entry,
    kind: &MessageDescriptor,
    readable: &Readable,
) -> Result<Value> {
    let mut events = Vec::new();
    for bytes in &entry.events {
        events.push(readable.message(&DynamicMessage::decode(kind.clone(), bytes.clone())?));
    }
    let origin = match &entry.origin {
        Some(Origin::Request(request)) => json!({ "request": request.id().unwrap_or_default().to_string() }),
        Some(Origin::Source(source)) => {
            let from = u16::try_from(source.svc)
                .ok()
                .and_then(|svc| holmes_proto::service_name(holmes_kernel::ServiceId(svc)));
            json!({ "source": from, "seq": source.seq })
        }
        Some(Origin::Submitter(number)) => json!({ "submission": number.number }),
        Some(Origin::Due(_)) => json!({ "due": true }),
        Some(Origin::Opened(opened)) => {
            let params = DynamicMessage::decode(readable.params_of(service)?, opened.params.as_slice())?;
            let profile = output::hex(&opened.profile_hash);
            json!({ "opened": { "profile": profile, "params": readable.message(&params) } })
        }
        None => bail!("entry {seq} of {service} has no origin"),
    };
    let refused =
        entry.refused.as_ref().map(|refused| json!({ "reason": refused.reason, "message": refused.message }));
    Ok(json!({
        "service": service,
        "seq": seq,
        "ts_us": ts.micros(),
        "term": term,
        "origin": origin,
        "principal": entry.asked_by().to_string(),
        "traceparent": entry.traceparent,
        "refused": refused,
        "events": events,
    }))
}
