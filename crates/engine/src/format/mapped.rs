//! Bytes of a model: a read-only mapping of a file, or memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// The bytes behind tensors.
#[derive(Debug)]
pub enum Storage {
    /// A file mapped read-only; pages are read when first touched.
    Mapped(Mmap),
    /// Bytes made in this process.
    Owned(Vec<u8>),
}

impl Storage {
    /// Maps a whole file.
    pub fn map(path: &Path) -> io::Result<Storage> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Storage::Owned(Vec::new())); // an empty mapping is an error on some systems
        }
        // SAFETY: the mapping is read-only and private to this value. Bytes are only ever read as plain
        // integers and floats, every pattern of which is valid, so another process that rewrites the file can
        // make answers wrong but breaks no invariant of this one; one that shortens it ends this process by
        // SIGBUS, which the supervisor of the worker takes for what it is: a node event.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Storage::Mapped(map))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }
}
