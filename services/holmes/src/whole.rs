//! Files that are there whole or not at all, whenever the process dies or the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Makes a file that was not there, and never takes another's place. Once this returns it outlives a power cut.
pub(crate) fn make(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?.to_string_lossy();
    let begun = path.with_file_name(format!(".{name}.begun"));
    // What an earlier death has left is of no use to anybody.
    match fs::remove_file(&begun) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&begun)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let placed = fs::hard_link(&begun, path);
    fs::remove_file(&begun)?;
    placed?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(above)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_takes_no_others_place_and_leaves_nothing_else_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join(".key.begun"), "half").unwrap();
        make(&path, 0o600, b"one").unwrap();
        assert_eq!(make(&path, 0o600, b"two").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
