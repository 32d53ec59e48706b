//! The directory of models: `<dir>/<name>` is a directory with the model's files, or a link to where they lie.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use holmes_engine::run::Model;
use holmes_runtime::config::Config;

/// The model that the repository ships.
pub(crate) const OWN_MODEL: &str = "holmes-tiny";

/// Its files, as they lie in the repository.
const OWN_FILES: [(&str, &[u8]); 6] = [
    ("config.json", include_bytes!("../../../../models/holmes-tiny/config.json")),
    ("generation_config.json", include_bytes!("../../../../models/holmes-tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../../models/holmes-tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../../models/holmes-tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../../models/holmes-tiny/tokenizer_config.json")),
    ("README.md", include_bytes!("../../../../models/holmes-tiny/README.md")),
];

/// Longest name of a model, as the market has it.
const MOST_NAME: usize = 64;

/// The models of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    /// The models in a directory.
    pub(crate) fn at(dir: PathBuf) -> Store {
        Store { dir }
    }

    /// The models where the configuration says; by default in the user's data directory.
    pub(crate) fn of(config: &Config) -> Result<Store> {
        if !config.models.dir.as_os_str().is_empty() {
            return Ok(Store::at(config.models.dir.clone()));
        }
        // An empty variable sets nothing: it would be the directory that one happens to be in.
        let dir = |name| std::env::var_os(name).filter(|set| !set.is_empty()).map(PathBuf::from);
        let data = dir("XDG_DATA_HOME").or_else(|| dir("HOME").map(|home| home.join(".local").join("share")));
        let data = data.context("there is neither $XDG_DATA_HOME nor $HOME: name a directory for models (HOLMES__MODELS__DIR, or --store)")?;
        Ok(Store::at(data.join("holmes").join("models")))
    }

    /// Where a pulled model lies.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The files of a model that is here; the one of the binary is written out when it is first wanted.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        let place = self.place(name);
        if name == OWN_MODEL {
            write_own(&place)?;
        }
        ensure!(
            place.exists(),
            "there is no model {name:?} here: `holmes models list` shows what there is, `holmes models pull` and `holmes models add` bring more"
        );
        Ok(place)
    }

    /// Every model that is here, with its place in words; by name.
    pub(crate) fn all(&self) -> Result<Vec<(String, String)>> {
        let mut found = vec![(OWN_MODEL.to_owned(), "in the binary".to_owned())];
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(why) => return Err(why).with_context(|| format!("{} cannot be read", self.dir.display())),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name == OWN_MODEL {
                continue;
            }
            let place = fs::read_link(entry.path()).unwrap_or_else(|_| entry.path());
            found.push((name, place.display().to_string()));
        }
        found.sort();
        Ok(found)
    }

    /// Bytes of a model's files.
    pub(super) fn bytes(&self, name: &str) -> Result<u64> {
        fn sum(path: &Path) -> std::io::Result<u64> {
            let about = fs::metadata(path)?;
            if about.is_file() {
                return Ok(about.len());
            }
            fs::read_dir(path)?.map(|entry| sum(&entry?.path())).sum()
        }
        let path = self.path(name)?;
        sum(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Makes a model on disk known under a name, if the engine can open it.
    pub(super) fn add(&self, path: &Path, name: Option<String>) -> Result<String> {
        Model::open(path)?; // what cannot be served should not be found out by a renter
        let whole = path.canonicalize().with_context(|| format!("{} is not there", path.display()))?;
        let name = match name {
            Some(name) => name,
            None => {
                let stem = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
                stem.unwrap_or_default().to_string_lossy().to_lowercase()
            }
        };
        checked(&name)?;
        let place = self.place(&name);
        ensure!(!place.exists(), "{name} is here already: remove it first (`holmes models remove {name}`)");
        fs::create_dir_all(&self.dir)?;
        std::os::unix::fs::symlink(&whole, &place)
            .with_context(|| format!("{} cannot be made", place.display()))?;
        Ok(name)
    }

    /// Forgets a model.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        ensure!(name != OWN_MODEL, "{OWN_MODEL} is part of the binary and cannot be removed");
        checked(name)?;
        let place = self.place(name);
        let about = match fs::symlink_metadata(&place) {
            Ok(about) => about,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no model {name:?} here: `holmes models list` shows what there is")
            }
            Err(why) => return Err(why).with_context(|| format!("{} cannot be looked at", place.display())),
        };
        let gone = if about.is_symlink() { fs::remove_file(&place) } else { fs::remove_dir_all(&place) };
        gone.with_context(|| format!("{} cannot be removed", place.display()))
    }
}

/// A name as the market takes it: also a file name without surprises.
fn checked(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let right = (1..=MOST_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if !right {
        bail!(
            "{name:?} is no name for a model: 1 to {MOST_NAME} of a-z, 0-9, '-', '.' and '_', the first a letter or digit (--name)"
        );
    }
    Ok(())
}

/// Writes the binary's model out, unless it is there as it should be.
fn write_own(place: &Path) -> Result<()> {
    let there = |(file, bytes): &(&str, &[u8])| fs::read(place.join(file)).is_ok_and(|found| found == *bytes);
    if OWN_FILES.iter().all(there) {
        return Ok(());
    }
    let cannot = || format!("{} cannot be written", place.display());
    let parent = place.parent().unwrap_or(place);
    fs::create_dir_all(parent).with_context(cannot)?;
    // Into a directory of its own first: another process may be doing the same.
    let fresh = parent.join(format!(".{OWN_MODEL}.{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(cannot)?;
    for (file, bytes) in OWN_FILES {
        fs::write(fresh.join(file), bytes).with_context(cannot)?;
    }
    if place.exists() {
        fs::remove_dir_all(place).with_context(cannot)?;
    }
    fs::rename(&fresh, place).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("models"));
        (dir, store)
    }

    #[test]
    fn the_own_model_is_written_out_whole_and_mended() {
        let (_dir, store) = store();
        let path = store.path(OWN_MODEL).expect("written");
        fs::write(path.join("config.json"), "{").expect("damaged");
        let again = store.path(OWN_MODEL).expect("mended");
        Model::open(&again).expect("the engine opens it");
    }

    #[test]
    fn a_model_is_added_by_reference_and_forgotten_without_being_deleted() {
        let (dir, store) = store();
        let own = store.path(OWN_MODEL).expect("written");
        let elsewhere = dir.path().join("My-Model");
        fs::rename(own, &elsewhere).expect("moved");
        assert_eq!(store.add(&elsewhere, None).expect("added"), "my-model");
        assert!(store.add(&elsewhere, None).expect_err("twice").to_string().contains("remove it first"));
        let names: Vec<String> = store.all().expect("listed").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [OWN_MODEL, "my-model"]);
        store.remove("my-model").expect("removed");
        let gone = format!("{:#}", store.remove("my-model").expect_err("twice"));
        assert_eq!(gone, "there is no model \"my-model\" here: `holmes models list` shows what there is");
        assert!(elsewhere.join("config.json").exists());
        assert!(store.path("my-model").is_err());
    }

    #[test]
    fn names_that_would_lead_elsewhere_and_files_that_are_no_model_are_refused() {
        let (dir, store) = store();
        for name in ["", "..", "a/b", ".hidden", "Ümlaut", &"x".repeat(65)] {
            assert!(store.add(dir.path(), Some(name.into())).is_err(), "{name:?} was taken");
            assert!(store.remove(name).is_err(), "{name:?} was removed");
        }
        let file = dir.path().join("notes.gguf");
        fs::write(&file, "no model").expect("written");
        assert!(store.add(&file, None).is_err());
        assert!(store.remove(OWN_MODEL).is_err());
    }
}
