//! A Hugging Face directory: `config.json`, `*.safetensors` (one or sharded by an index), `tokenizer.json`,
//! the chat template, and the pooling and length that sentence-transformers adds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    Description, Fault, FormatError, MAX_METADATA_BYTES, MAX_SHARDS, ModelFiles, Storage, Tensors,
    safetensors,
};

/// The JSON files of a directory, unread in meaning.
#[derive(Debug)]
pub struct HfFiles {
    /// `config.json`.
    pub config: Json,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, where there is one.
    pub tokenizer_config: Option<Json>,
    /// `generation_config.json`, where there is one: it may name more end tokens.
    pub generation_config: Option<Json>,
    /// The chat template: `chat_template.jinja`, else the field of `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// `1_Pooling/config.json` of sentence-transformers.
    pub pooling: Option<Json>,
    /// `modules.json` of sentence-transformers.
    pub modules: Option<Json>,
    /// `sentence_bert_config.json` of sentence-transformers.
    pub sentence: Option<Json>,
}

/// Opens a directory.
pub(super) fn open(dir: &Path) -> Result<ModelFiles, FormatError> {
    let config_path = dir.join("config.json");
    if !config_path.is_file() {
        return Err(Fault::UnknownFormat.at(dir));
    }
    let config = json(&config_path)?.unwrap_or(Json::Null);
    let tokenizer_path = dir.join("tokenizer.json");
    let tokenizer = read_limited(&tokenizer_path)?
        .ok_or_else(|| Fault::MissingFile("tokenizer.json".into()).at(&config_path))?;
    let tokenizer_config = json(&dir.join("tokenizer_config.json"))?;
    let chat_template = chat_template(dir, tokenizer_config.as_ref())?;
    let files = HfFiles {
        config,
        tokenizer,
        tokenizer_config,
        generation_config: json(&dir.join("generation_config.json"))?,
        chat_template,
        pooling: json(&dir.join("1_Pooling").join("config.json"))?,
        modules: json(&dir.join("modules.json"))?,
        sentence: json(&dir.join("sentence_bert_config.json"))?,
    };
    let tensors = tensors(dir)?;
    Ok(ModelFiles { path: dir.to_owned(), tensors, description: Description::HuggingFace(Box::new(files)) })
}

fn tensors(dir: &Path) -> Result<Tensors, FormatError> {
    let mut tensors = Tensors::new();
    for path in weight_files(dir)? {
        let storage = Storage::map(&path).map_err(|e| Fault::Io(e).at(&path))?;
        safetensors::parse(&Arc::new(storage), &mut tensors).map_err(|fault| fault.at(&path))?;
    }
    Ok(tensors)
}

/// The weight files: the one, or those that the index names, each once.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let single = dir.join("model.safetensors");
    let index_path = dir.join("model.safetensors.index.json");
    let Some(index) = json(&index_path)? else {
        let here = single.is_file();
        return if here { Ok(vec![single]) } else { Err(Fault::UnknownFormat.at(dir)) };
    };
    let malformed =
        |detail: &str| Fault::Malformed { what: "the index", detail: detail.into() }.at(&index_path);
    let map = index.get("weight_map").and_then(Json::as_object).ok_or_else(|| malformed("no weight_map"))?;
    let mut files = BTreeMap::new();
    for name in map.values() {
        let name = name.as_str().ok_or_else(|| malformed("a shard's name is not text"))?;
        // an index may not point out of its directory
        let plain = Path::new(name).file_name().is_some_and(|f| f == name);
        let path = dir.join(name);
        if !plain || !path.is_file() {
            return Err(Fault::MissingFile(name.into()).at(&index_path));
        }
        files.insert(name.to_owned(), path);
        if files.len() > MAX_SHARDS {
            let (count, limit) = (files.len() as u64, MAX_SHARDS as u64);
            return Err(Fault::TooMany { what: "shards", count, limit }.at(&index_path));
        }
    }
    Ok(files.into_values().collect())
}

/// The template's own file wins over the configuration's field, as in transformers.
fn chat_template(dir: &Path, config: Option<&Json>) -> Result<Option<String>, FormatError> {
    let path = dir.join("chat_template.jinja");
    if let Some(bytes) = read_limited(&path)? {
        let text = String::from_utf8(bytes)
            .map_err(|e| Fault::Malformed { what: "the template", detail: e.to_string() }.at(&path))?;
        return Ok(Some(text));
    }
    match config.and_then(|c| c.get("chat_template")) {
        Some(Json::String(text)) => Ok(Some(text.clone())),
        // a list of named templates: the one called "default" is for chat
        Some(Json::Array(named)) => Ok(named
            .iter()
            .find(|t| t.get("name").and_then(Json::as_str) == Some("default"))
            .and_then(|t| t.get("template").and_then(Json::as_str))
            .map(str::to_owned)),
        _ => Ok(None),
    }
}

fn json(path: &Path) -> Result<Option<Json>, FormatError> {
    let Some(bytes) = read_limited(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Fault::Malformed { what: "the JSON", detail: e.to_string() }.at(path))
}

/// The file's bytes, `None` if there is no such file; refused before reading if it is too large.
fn read_limited(path: &Path) -> Result<Option<Vec<u8>>, FormatError> {
    if !path.is_file() {
        return Ok(None);
    }
    let len = fs::metadata(path).map_err(|e| Fault::Io(e).at(path))?.len();
    if len > MAX_METADATA_BYTES as u64 {
        return Err(Fault::TooMany { what: "bytes", count: len, limit: MAX_METADATA_BYTES as u64 }.at(path));
    }
    fs::read(path).map(Some).map_err(|e| Fault::Io(e).at(path))
}
