//! Opening a model: files, description, program, text.

use std::path::Path;
use std::sync::Arc;

use crate::config::{ConfigError, Spec};
use crate::format::{FormatError, ModelFiles};
use crate::program::Program;
use crate::text::{Text, TextError};

/// Why a model was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its description or its tensors.
    #[error("{path}: {error}")]
    Config {
        /// Where it was found.
        path: String,
        /// What is wrong.
        error: ConfigError,
    },
    /// Its tokenizer or its chat template.
    #[error("{path}: {error}")]
    Text {
        /// Where it was found.
        path: String,
        /// What is wrong.
        error: TextError,
    },
}

impl OpenError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenError::Format(e) => e.reason(),
            OpenError::Config { error, .. } => error.reason(),
            OpenError::Text { error, .. } => error.reason(),
        }
    }
}

/// A model as it came from disk, understood and checked, not yet loaded on a device.
pub struct Model {
    /// What it is.
    pub spec: Spec,
    /// What a backend executes.
    pub program: Arc<Program>,
    /// Its tokenizer and template.
    pub text: Arc<Text>,
}

impl Model {
    /// Opens a GGUF file, a directory that holds `model.gguf`, or a Hugging Face directory.
    pub fn open(path: &Path) -> Result<Model, OpenError> {
        let files = ModelFiles::open(path)?;
        let path = files.path.clone(); // of a directory that holds a GGUF file, the file
        let config = |error| OpenError::Config { path: path.display().to_string(), error };
        let spec = Spec::read(&files).map_err(config)?;
        let text = Text::read(&files, &spec);
        let text = text.map_err(|error| OpenError::Text { path: path.display().to_string(), error })?;
        let program = Program::build(&spec, files.tensors).map_err(config)?;
        Ok(Model { spec, program: Arc::new(program), text: Arc::new(text) })
    }
}
