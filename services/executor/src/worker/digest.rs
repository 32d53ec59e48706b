//! What weights are: the same bytes have the same digest wherever they lie.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The file that is a whole model, when a directory holds it.
const GGUF: &str = "model.gguf";

/// BLAKE3-256 of a file, or of the `model.gguf` of a directory; of any other directory that of the hashes of all its
/// files, sorted and one behind the other: names and places do not count.
///
/// # Errors
/// Something cannot be read.
pub(super) fn of(path: &Path) -> io::Result<[u8; 32]> {
    if !path.is_dir() {
        return file(path);
    }
    let gguf = path.join(GGUF);
    if gguf.is_file() {
        return file(&gguf);
    }
    let mut hashes = Vec::new();
    collect(path, &mut hashes)?;
    hashes.sort_unstable();
    Ok(*blake3::hash(hashes.as_flattened()).as_bytes())
}

fn collect(dir: &Path, hashes: &mut Vec<[u8; 32]>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // a link to a directory is not followed: it could lead back here
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), hashes)?;
        } else if entry.path().is_file() {
            hashes.push(file(&entry.path())?);
        }
    }
    Ok(())
}

fn file(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_files_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir_all(one.join("sub")).unwrap();
        fs::create_dir_all(&two).unwrap();
        for (path, bytes) in [("one/a", "x"), ("one/sub/b", "y"), ("two/q", "y"), ("two/r", "x")] {
            fs::write(dir.path().join(path), bytes).unwrap();
        }
        let mut hashes = [*blake3::hash(b"x").as_bytes(), *blake3::hash(b"y").as_bytes()];
        hashes.sort_unstable();
        assert_eq!(of(&one).unwrap(), *blake3::hash(&hashes.concat()).as_bytes());
        assert_eq!(of(&one).unwrap(), of(&two).unwrap());
        fs::write(two.join("r"), "z").unwrap();
        assert_ne!(of(&one).unwrap(), of(&two).unwrap());
    }

    #[test]
    fn a_model_of_one_file_has_the_digest_of_the_file_in_a_directory_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.gguf"), "weights").unwrap();
        fs::write(dir.path().join("LICENSE"), "words").unwrap();
        let file = of(&dir.path().join("model.gguf")).unwrap();
        assert_eq!(file, *blake3::hash(b"weights").as_bytes());
        assert_eq!(of(dir.path()).unwrap(), file);
        assert!(of(&dir.path().join("nothing")).is_err());
    }
}
