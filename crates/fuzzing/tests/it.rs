//! What the fuzzer has found and what it keeps, tried again without it: `fuzz/cases/<target>` are inputs for which something
//! once went wrong, `fuzz/corpus/<target>` those that reach most of the code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holmes_fuzzing::{TARGETS, Target};

/// Files of a target that are kept, and how large each may be.
const MOST_FILES: usize = 200;
const MOST_BYTES: u64 = 1 << 20;

fn kept(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = found.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

fn replay(target: &Target) {
    for file in
        files(&kept("cases").join(target.name)).into_iter().chain(files(&kept("corpus").join(target.name)))
    {
        let bytes = std::fs::read(&file).expect("an input");
        let ran = std::panic::catch_unwind(|| (target.run)(&bytes));
        assert!(ran.is_ok(), "{} makes {} fail: see the panic above", file.display(), target.name);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(&holmes_fuzzing::target(stringify!($name)).expect("a target"));
        })*

        #[test]
        fn every_target_is_replayed_and_has_its_binary_and_only_targets_have_files() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), replayed);
            let names = |dir: &str, ending: &str| -> BTreeSet<String> {
                let name = |file: PathBuf| file.file_name().unwrap().to_string_lossy().replace(ending, "");
                files(&kept(dir)).into_iter().map(name).collect()
            };
            let targets: BTreeSet<String> = replayed.map(str::to_owned).into();
            assert_eq!(names("fuzz_targets", ".rs"), targets);
            assert_eq!(names("corpus", ""), targets, "every target begins with something");
            assert!(names("cases", "").is_subset(&targets));
        }
    };
}

replays! { chat_template commands config frames gguf history hugging_face openai proofs safetensors }

#[test]
fn what_is_kept_is_little() {
    for target in TARGETS {
        let files = files(&kept("corpus").join(target.name));
        assert!(files.len() <= MOST_FILES, "{}: {} files", target.name, files.len());
        for file in files {
            let bytes = std::fs::metadata(&file).expect("a file").len();
            assert!(bytes <= MOST_BYTES, "{} has {bytes} bytes", file.display());
        }
    }
}
