//! The logs as they lie on disk, read frame by frame without the machines: what an outsider can hold them to.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use holmes_kernel::{Chain, Frame, Id, Origin, Tail};
use holmes_proto::ledger::v1::event::Event as Kind;
use holmes_proto::ledger::v1::{Event, TransferCode};
use holmes_proto::market::v1 as market;
use prost::Message as _;
use prost::bytes::Bytes;

/// Every log of a directory, by its service.
#[derive(Default)]
pub(crate) struct Logs(BTreeMap<String, Vec<Frame>>);

/// How far each log was known to reach.
pub(crate) type Heads = BTreeMap<String, (u64, Chain)>;

/// What the logs say of what callers asked.
#[derive(Default)]
pub(crate) struct Recorded {
    /// How often each transfer happened.
    pub(crate) happened: BTreeMap<Id, u64>,
    /// How often each request left something in the ledger.
    pub(crate) requests: BTreeMap<Id, u64>,
    /// How often each request was granted by the market.
    pub(crate) granted: BTreeMap<Id, u64>,
    /// How often each session was opened.
    pub(crate) sessions: BTreeMap<Id, u64>,
}

/// Reads what `holmes replay --frames` has written. Each log must be one chain, its time must rise strictly, and its terms
/// must not fall.
pub(crate) fn read(dir: &Path) -> Result<Logs> {
    let mut logs = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))? {
        let path = entry?.path();
        let service = path.file_stem().and_then(|stem| stem.to_str()).context("a name")?.to_owned();
        let frames = frames(&path).with_context(|| format!("the log of {service}"))?;
        one_chain(&frames).with_context(|| format!("the log of {service}"))?;
        logs.insert(service, frames);
    }
    Ok(Logs(logs))
}

fn frames(path: &Path) -> Result<Vec<Frame>> {
    let (mut rest, mut frames) = (Bytes::from(std::fs::read(path)?), Vec::new());
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest.split_to(4).as_ref().try_into()?) as usize;
        frames.push(Frame::decode(rest.split_to(length))?);
    }
    Ok(frames)
}

fn one_chain(frames: &[Frame]) -> Result<()> {
    let mut tail = Tail::default();
    for frame in frames {
        frame.follows(frame.header().log, &tail)?;
        let (ts, term) = (frame.header().ts, frame.header().term);
        let at = frame.header().first;
        ensure!(ts > tail.ts, "time stands still or runs back at {at}: {ts:?} after {:?}", tail.ts);
        ensure!(term >= tail.term, "the term falls at {at}: {term} after {}", tail.term);
        tail = frame.tail();
    }
    Ok(())
}

impl Logs {
    pub(crate) fn of(&self, service: &str) -> &[Frame] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }

    /// Every log.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &[Frame])> {
        self.0.iter().map(|(name, frames)| (name, frames.as_slice()))
    }

    /// How far each log reaches.
    pub(crate) fn heads(&self) -> Heads {
        let head = |(name, frames): (&String, &Vec<Frame>)| {
            let last = frames.last()?;
            Some((name.clone(), (last.header().last, *last.chain())))
        };
        self.0.iter().filter_map(head).collect()
    }

    /// What each log begins with.
    pub(crate) fn firsts(&self) -> BTreeMap<String, Chain> {
        let first = |(name, frames): (&String, &Vec<Frame>)| Some((name.clone(), *frames.first()?.chain()));
        self.0.iter().filter_map(first).collect()
    }

    /// What was once seen durable is still there, byte for byte: the chain says so.
    pub(crate) fn extend(&self, heads: &Heads) -> Result<()> {
        for (service, (seq, chain)) in heads {
            let found = self.of(service).iter().find(|frame| frame.header().last == *seq);
            ensure!(
                found.is_some_and(|frame| frame.chain() == chain),
                "the log of {service} had a durable frame up to {seq}, and it is gone or another one"
            );
        }
        Ok(())
    }

    /// When the last frame of any log was written.
    pub(crate) fn newest_ms(&self) -> u64 {
        let last = self.0.values().filter_map(|frames| frames.last());
        last.map(|frame| frame.header().ts.millis()).max().unwrap_or_default()
    }

    /// What became of the transfers and the sessions.
    pub(crate) fn recorded(&self) -> Result<Recorded> {
        let mut recorded = Recorded::default();
        for frame in self.of("ledger") {
            for (_, entry) in frame.entries()? {
                if let Some(id) = request_of(entry.origin.as_ref()) {
                    *recorded.requests.entry(id).or_default() += 1;
                }
                let opened = matches!(entry.origin, Some(Origin::Opened(_)));
                for event in entry.events.iter().filter(|_| !opened) {
                    recorded.take(Event::decode(event.clone())?)?;
                }
            }
        }
        for frame in self.of("market") {
            for (_, entry) in frame.entries()? {
                let granted = entry.refused.is_none().then(|| request_of(entry.origin.as_ref())).flatten();
                let Some(id) = granted else { continue };
                *recorded.granted.entry(id).or_default() += 1;
                for event in &entry.events {
                    recorded.take_session(market::Event::decode(event.clone())?)?;
                }
            }
        }
        Ok(recorded)
    }
}

fn request_of(origin: Option<&Origin>) -> Option<Id> {
    match origin {
        Some(Origin::Request(request)) => request.id(),
        _ => None,
    }
}

impl Recorded {
    fn take_session(&mut self, event: market::Event) -> Result<()> {
        if let Some(market::event::Event::SessionOpened(opened)) = event.event {
            let id = Id::from_slice(&opened.session).context("an id of 16 bytes")?;
            *self.sessions.entry(id).or_default() += 1;
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<()> {
        let Some(Kind::TransfersRecorded(transfers)) = event.event else { return Ok(()) };
        for (id, code) in transfers.ids.chunks(16).zip(&transfers.codes) {
            let id = Id::from_slice(id).context("an id of 16 bytes")?;
            if i32::from(*code) == i32::from(TransferCode::Ok) {
                *self.happened.entry(id).or_default() += 1;
            }
        }
        Ok(())
    }
}
