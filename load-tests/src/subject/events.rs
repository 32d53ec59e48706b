//! Our log with the smallest machine on it: every command writes events of 256 bytes. It runs under the driver that every
//! service runs under (request window, frames, chain, group commit), over the embedded journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{
    BadParams, Broken, Call, Code, Ctx, Handle as _, Id, LogId, Machine, Meta, Opened, Principal, Rejection,
    Replica, ServiceId,
};
use holmes_runtime::driver::{Running, Settings, start};
use holmes_runtime::recover::{Extent, recover};
use holmes_runtime::{Clock, MachineHandle};
use holmes_store::Journal;
use holmes_store::journal::embedded;
use prost::Message;
use serde::{Deserialize, Serialize, Serializer};

use super::{Doing, Kept, Start, Subject, event_bytes, event_id, settings};

const LOG: LogId = LogId::new(1, ServiceId(900));
/// Callers share so many names: the request window keeps 2 million ids of one principal.
const NAMES: usize = 10;
/// Most events of one command: the kernel's own limit of an entry.
const MOST: usize = holmes_kernel::frame::ENTRY_EVENTS;

/// The machine.
enum Notes {}

/// Bytes that the canonical encoder takes as they are.
struct Payload(Vec<u8>);

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

#[derive(Serialize)]
struct Write(Vec<Payload>);

#[derive(Clone, PartialEq, Message)]
struct Noted {
    #[prost(bytes = "bytes", tag = "1")]
    payload: prost::bytes::Bytes,
}

#[derive(Debug, thiserror::Error)]
#[error("never refused")]
enum Never {}

impl Rejection for Never {
    fn code(&self) -> Code {
        Code::Internal
    }

    fn reason(&self) -> &'static str {
        "NEVER"
    }
}

impl holmes_kernel::Event for Noted {
    const SERVICE: ServiceId = LOG.svc;

    fn name(&self) -> Option<&'static str> {
        Some("Noted")
    }

    fn is_public(&self) -> bool {
        false
    }

    fn send(&self) -> Option<holmes_kernel::machine::SendTo<'_>> {
        None
    }
}

/// How many there were.
#[derive(Serialize, Deserialize)]
struct Count(u64);

impl Machine for Notes {
    const NAME: &'static str = "notes";
    const STATE: u32 = 1;
    type State = Count;
    type Command = Write;
    type Event = Noted;
    type Reply = usize;
    type Rejection = Never;

    fn init(_: &Opened) -> Result<Count, BadParams> {
        Ok(Count(0))
    }

    fn decide(_: &Count, command: &Write, _: &Ctx, out: &mut Vec<Noted>) -> Result<(), Never> {
        out.extend(command.0.iter().map(|Payload(bytes)| Noted { payload: bytes.clone().into() }));
        Ok(())
    }

    fn evolve(state: &mut Count, _: &Noted, _: &Meta) {
        state.0 += 1;
    }

    fn reply(_: &Write, events: &[Noted]) -> usize {
        events.len()
    }

    fn check_step(_: &Count, _: &[Noted]) -> Result<(), Broken> {
        Ok(())
    }

    fn check(_: &Count) -> Vec<Broken> {
        Vec::new()
    }
}

pub(super) struct Events {
    dir: std::path::PathBuf,
    journal: Journal,
    notes: MachineHandle<Notes>,
    task: tokio::task::JoinHandle<()>,
}

impl Events {
    pub(super) async fn start(start: &Start<'_>) -> Result<Events> {
        ensure!(start.batch <= MOST, "a command writes at most {MOST} events: set batch = {MOST} or less");
        let dir = start.dir.join("log");
        let journal: Journal = embedded::Journal::open(&dir, embedded::Options::default())?.into();
        let opened = Opened { cell: 1, ..Opened::default() };
        journal.provision(&Replica::<Notes>::provision(LOG, Clock::System.now(), opened)?).await?;
        let Running { handle, task, .. } = run(&journal).await?;
        Ok(Events { dir, journal, notes: handle, task })
    }
}

async fn run(journal: &Journal) -> Result<Running<Notes>> {
    let mut settings = Settings::new(LOG, Clock::System);
    settings.snapshot_every = 0; // a snapshot's replay would be measured too
    Ok(start::<Notes, Journal>(journal.clone(), settings).await?)
}

impl Subject for Events {
    fn settings(&self) -> BTreeMap<String, String> {
        our_settings()
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(async move {
            let service = ServiceId(100 + (caller % NAMES) as u16);
            let call = Call::request(Principal::service(service), ids[0]);
            let command = Write(ids.iter().map(|id| Payload(event_bytes(*id))).collect());
            let written = self.notes.submit(call, command).await?.value;
            ensure!(written == ids.len(), "{written} of {} events were written", ids.len());
            Ok(())
        })
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move {
            let Some(Events { dir, journal, notes, task }) = Arc::into_inner(self) else {
                anyhow::bail!("a caller still holds the log");
            };
            notes.stop().await;
            task.await?;
            drop(notes);
            journal.close().await;
            let journal: Journal = embedded::Journal::open(&dir, embedded::Options::default())?.into();
            let (mut ids, mut wrong) = (Vec::new(), None);
            recover::<Notes, Journal>(&journal, LOG, Extent::FROM_FIRST, |frame| {
                if let Err(why) = ids_of(frame, &mut ids) {
                    wrong = Some(why);
                }
            })
            .await?;
            journal.close().await;
            wrong.map_or(Ok(Kept::all(ids)), Err)
        })
    }
}

fn ids_of(frame: &holmes_kernel::Frame, ids: &mut Vec<Id>) -> Result<()> {
    for (_, entry) in frame.entries()? {
        for bytes in &entry.events {
            ids.push(event_id(&Noted::decode(bytes.clone())?.payload)?);
        }
    }
    Ok(())
}

/// Of every machine of ours: what the journal does by default.
pub(super) fn our_settings() -> BTreeMap<String, String> {
    let options = embedded::Options::default();
    settings([
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("journal", "embedded (fjall), one fdatasync per group of frames".into()),
        ("memtable", format!("{} MiB", options.memtable_bytes >> 20)),
        ("snapshots", "none while it is measured".into()),
    ])
}
