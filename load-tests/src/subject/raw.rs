//! The limit: a preallocated file, each batch written and forced to disk with one `fdatasync`. No checksums, no index,
//! no recovery: what any log on this disk stays below, one append at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use holmes_kernel::Id;

use super::{Doing, Kept, Start, Subject, event_bytes, event_id, settings};
use crate::scenario::EVENT_BYTES;

/// What is laid out beforehand, and then written round and round.
const FILE_BYTES: usize = 256 << 20;

pub(super) struct Raw {
    file: File,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// The next slot of an event.
    next: usize,
    written: u64,
    /// Slots that were written at least once.
    laid: usize,
}

const SLOTS: usize = FILE_BYTES / EVENT_BYTES;

impl Raw {
    pub(super) fn start(start: &Start<'_>) -> Result<Raw> {
        ensure!(
            start.callers == 1,
            "a raw file has one writer: set callers = 1 or name it not among the subjects"
        );
        let file =
            File::options().create(true).read(true).write(true).truncate(true).open(start.dir.join("raw"))?;
        let zeros = vec![0; 1 << 20];
        for at in 0..FILE_BYTES >> 20 {
            file.write_all_at(&zeros, (at as u64) << 20)?;
        }
        file.sync_all()?;
        Ok(Raw { file, place: Mutex::default() })
    }

    fn write(&self, ids: &[Id]) -> Result<()> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| event_bytes(*id)).collect();
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.next + ids.len() > SLOTS {
            place.next = 0;
        }
        self.file.write_all_at(&bytes, (place.next * EVENT_BYTES) as u64)?;
        self.file.sync_data()?;
        place.next += ids.len();
        place.laid = place.laid.max(place.next);
        place.written += ids.len() as u64;
        Ok(())
    }
}

impl Subject for Raw {
    fn settings(&self) -> BTreeMap<String, String> {
        settings([("file", format!("{} MiB, laid out and filled before", FILE_BYTES >> 20))])
    }

    fn batch<'a>(&'a self, _: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(async move { tokio::task::block_in_place(|| self.write(ids)) })
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move {
            let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            let mut bytes = vec![0; place.laid * EVENT_BYTES];
            self.file.read_exact_at(&mut bytes, 0)?;
            let ids = bytes.chunks_exact(EVENT_BYTES).map(event_id).collect::<Result<Vec<_>>>()?;
            let overwritten = place.written - ids.len() as u64;
            Ok(Kept::Ids { ids, overwritten })
        })
    }
}
