//! A place kept in a file, for effects that may come twice.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::Place;

/// One place, in a file: its sequence number and its chain, as text. It is there whole or as it was before, whenever the
/// process dies or the power goes.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    place: Place,
}

impl File {
    /// The place that a file holds; where there is no file, the log's beginning.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref().to_owned();
        let place = match fs::read_to_string(&path) {
            Ok(text) => parsed(&text).ok_or_else(|| {
                let message =
                    format!("{} holds no place: remove it to begin at the log's beginning", path.display());
                io::Error::new(ErrorKind::InvalidData, message)
            })?,
            Err(why) if why.kind() == ErrorKind::NotFound => Place::default(),
            Err(why) => return Err(why),
        };
        Ok(File { path, place })
    }

    /// What the file held when it was opened.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Keeps a place instead.
    ///
    /// # Errors
    /// When it cannot be written: the file is as it was.
    pub fn keep(&self, place: Place) -> io::Result<()> {
        let begun = self.path.with_extension("begun");
        let mut file = fs::File::create(&begun)?;
        let chain: String = place.chain.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{} {chain}", place.seq)?;
        file.sync_all()?;
        fs::rename(&begun, &self.path)?;
        let above = self.path.parent().filter(|above| !above.as_os_str().is_empty());
        fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn parsed(text: &str) -> Option<Place> {
    let (seq, chain) = text.strip_suffix('\n')?.split_once(' ')?;
    let seq = seq.parse().ok()?;
    if chain.is_empty() {
        return Some(Place { seq, chain: None });
    }
    let mut bytes = [0; 32];
    let digits = chain.len() == 64 && chain.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (at, byte) in bytes.iter_mut().enumerate().filter(|_| digits) {
        *byte = u8::from_str_radix(&chain[2 * at..2 * at + 2], 16).ok()?;
    }
    digits.then_some(Place { seq, chain: Some(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_something_else_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("place");
        let file = File::open(&path).unwrap();
        assert_eq!(file.place(), Place::default());
        for place in [
            Place { seq: 7, chain: Some([0xab; 32]) },
            Place::behind(9),
            Place { seq: u64::MAX, chain: Some([1; 32]) },
        ] {
            file.keep(place).unwrap();
            assert_eq!(File::open(&path).unwrap().place(), place);
        }
        for wrong in ["", "7", "7 ", "x \n", "7 abc\n", "7 zz\n"] {
            fs::write(&path, wrong).unwrap();
            let refused = File::open(&path).unwrap_err();
            assert!(refused.to_string().contains("holds no place"), "{wrong:?}");
        }
    }
}
