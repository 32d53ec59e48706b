//! What the engine reads of its own files without looking at the checksum beside it: the manifest of a keyspace, and the
//! table of contents at the end of each of its tables. It would believe a turned bit there, and end the process where
//! what it then reads cannot be, or asks for memory that nobody has. So these are held to their checksums before.
//!
//! Written after lsm-tree 3.1 (`version/persist.rs`, `version/recovery.rs`) and sfa 1.0 (`trailer/writer.rs`); all numbers
//! are little-endian, all checksums xxh3 of 128 bits.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Buf;
use holmes_kernel::ports::JournalError;
use xxhash_rust::xxh3::xxh3_128;

use super::engine::storage_error;
use super::inspect::lost;

/// The first bytes of a trailer: magic, version, kind of checksum.
const TRAILER: [u8; 6] = *b"SFA!\x01\x00";
/// Behind them the checksum (16), the place (8) and the length (8) of the contents.
const TRAILER_BYTES: usize = TRAILER.len() + 16 + 8 + 8;
/// Of a table's place in a manifest, behind its number: a checksum's kind (1), the checksum (16), a sequence number (8).
const BEHIND_A_NUMBER: usize = 1 + 16 + 8;

/// Refuses a keyspace whose manifest, or a table's contents, are not what was written. One without `current` was never
/// finished, and holds nothing.
pub(super) fn check(keyspace: &Path) -> Result<(), JournalError> {
    let current = match fs::read(keyspace.join("current")) {
        Ok(current) => current,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(storage_error(&keyspace.display().to_string(), &why)),
    };
    let changed = |name: &str| lost(keyspace, &format!("its file \"{name}\" is not what was written"));
    let (number, checksum) = named(&current).ok_or_else(|| changed("current"))?;
    let name = format!("v{number}");
    let manifest = fs::read(keyspace.join(&name))
        .map_err(|why| lost(keyspace, &format!("its file \"{name}\" cannot be read ({why})")))?;
    if xxh3_128(&manifest) != checksum {
        return Err(changed(&name));
    }
    let tables =
        tables(&manifest).ok_or_else(|| lost(keyspace, "its manifest is not that of this build's engine"))?;
    for table in tables {
        let path = keyspace.join("tables").join(table.to_string());
        let whole =
            has_its_contents(&path).map_err(|why| lost(&path, &format!("it cannot be read ({why})")))?;
        if !whole {
            return Err(lost(&path, "its contents are not what was written"));
        }
    }
    Ok(())
}

/// What `current` says: the manifest's number, its checksum, and that this is of the kind that we know.
fn named(mut current: &[u8]) -> Option<(u64, u128)> {
    let named = (current.try_get_u64_le().ok()?, current.try_get_u128_le().ok()?);
    (current == [0]).then_some(named)
}

/// The numbers of the tables that a whole manifest names. Others may lie beside them: half written when the process ended,
/// or outdated.
fn tables(manifest: &[u8]) -> Option<Vec<u64>> {
    let archive = sfa::Reader::from_reader(&mut io::Cursor::new(manifest)).ok()?;
    let section = archive.toc().section(b"tables")?;
    let (from, len) = (usize::try_from(section.pos()).ok()?, usize::try_from(section.len()).ok()?);
    let mut rest = manifest.get(from..)?.get(..len)?;
    let mut numbers = Vec::new();
    for _level in 0..rest.try_get_u8().ok()? {
        for _run in 0..rest.try_get_u8().ok()? {
            for _table in 0..rest.try_get_u32_le().ok()? {
                numbers.push(rest.try_get_u64_le().ok()?);
                rest = rest.get(BEHIND_A_NUMBER..)?;
            }
        }
    }
    rest.is_empty().then_some(numbers)
}

/// Whether a file ends with a table of contents and a trailer that are what was written.
fn has_its_contents(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    let Some(end) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(false) };
    let mut trailer = [0; TRAILER_BYTES];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let Some(mut said) = trailer.strip_prefix(&TRAILER) else { return Ok(false) };
    let (checksum, from, len) = (said.get_u128_le(), said.get_u64_le(), said.get_u64_le());
    if from.checked_add(len) != Some(end) {
        return Ok(false);
    }
    let mut contents = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(len).read_to_end(&mut contents)?;
    Ok(xxh3_128(&contents) == checksum)
}
