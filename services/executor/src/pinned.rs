//! What a node remembers of scheduling: the key that leases are signed with, and the highest term it has seen.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Scheduling's key and term, kept in a file.
#[derive(Debug)]
pub(crate) struct Pinned {
    file: PathBuf,
    key: Option<[u8; 32]>,
    term: u64,
}

impl Pinned {
    /// Reads what is known; nothing, where the file is not there yet.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(crate) fn open(dir: &Path) -> Result<Pinned> {
        let file = dir.join("scheduling");
        let mut pinned = Pinned { file, key: None, term: 0 };
        let name = pinned.file.display().to_string();
        let text = match fs::read_to_string(&pinned.file) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(pinned),
            Err(why) => return Err(why).with_context(|| format!("{name} cannot be read")),
        };
        for line in text.lines() {
            let damaged = || format!("{name} is damaged at {line:?}: remove it to join anew");
            match line.split_once(' ') {
                Some(("key", digits)) => pinned.key = Some(unhex(digits).with_context(damaged)?),
                Some(("term", number)) => pinned.term = number.parse().with_context(damaged)?,
                _ => bail!(damaged()),
            }
        }
        Ok(pinned)
    }

    /// Checks the key that a gateway tells against what the operator says and what was told first; remembers it.
    ///
    /// # Errors
    /// Another key, with what to do; the file cannot be written.
    pub(crate) fn check(&mut self, told: [u8; 32], wanted: Option<[u8; 32]>) -> Result<()> {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != told) {
            bail!(
                "the gateway says that leases are signed with {}, but the operator pinned {}: this gateway is of another \
                 network, or the pinned key is out of date",
                hex(&told),
                hex(&wanted)
            );
        }
        match self.key {
            Some(known) if known == told => Ok(()),
            Some(known) if wanted.is_none() => bail!(
                "the gateway says that leases are signed with {}, but it was {} when this node joined first: if the \
                 network has changed its key, remove {} and start again; if it has not, do not trust this gateway",
                hex(&told),
                hex(&known),
                self.file.display()
            ),
            known => {
                self.key = Some(told);
                self.term = if known.is_none() { self.term } else { 0 }; // another key, other terms
                self.write()
            }
        }
    }

    /// The highest term that was seen.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Remembers a term that is higher.
    ///
    /// # Errors
    /// The file cannot be written; the term counts all the same until the process ends.
    pub(crate) fn raise(&mut self, term: u64) -> Result<()> {
        if term <= self.term {
            return Ok(());
        }
        self.term = term;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let key = self.key.map(|key| format!("key {}\n", hex(&key))).unwrap_or_default();
        replace(&self.file, format!("{key}term {}\n", self.term).as_bytes())
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// Puts bytes into a file so that after a crash it holds the old ones or the new ones, whole.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let making = file.with_extension("new");
    let mut made = fs::File::create(&making)?;
    made.write_all(bytes)?;
    made.sync_all()?;
    fs::rename(&making, file)?;
    match file.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_stays_and_another_one_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        Pinned::open(dir.path()).unwrap().check([1; 32], None).unwrap();
        let mut again = Pinned::open(dir.path()).unwrap();
        again.check([1; 32], None).unwrap();
        let refused = again.check([2; 32], None).unwrap_err().to_string();
        assert!(refused.contains("remove") && refused.contains(&hex(&[1; 32])), "{refused}");
        assert!(Pinned::open(dir.path()).unwrap().check([1; 32], None).is_ok(), "a refusal changes nothing");
    }

    #[test]
    fn what_the_operator_pins_goes_before_what_was_told_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut pinned = Pinned::open(dir.path()).unwrap();
        assert!(pinned.check([1; 32], Some([2; 32])).is_err());
        pinned.check([1; 32], None).unwrap();
        pinned.raise(9).unwrap();
        pinned.check([2; 32], Some([2; 32])).unwrap();
        assert_eq!(pinned.term(), 0);
        Pinned::open(dir.path()).unwrap().check([2; 32], None).unwrap();
    }

    #[test]
    fn the_highest_term_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut pinned = Pinned::open(dir.path()).unwrap();
        pinned.raise(7).unwrap();
        pinned.raise(3).unwrap();
        assert_eq!(Pinned::open(dir.path()).unwrap().term(), 7);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["key 00", "term x", "nothing"] {
            fs::write(dir.path().join("scheduling"), text).unwrap();
            let why = format!("{:#}", Pinned::open(dir.path()).unwrap_err());
            assert!(why.contains("scheduling") && why.contains("remove it"), "{why}");
        }
    }
}
