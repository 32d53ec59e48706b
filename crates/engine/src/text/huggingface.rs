//! The tokenizer of a Hugging Face directory.

use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::guard::guarded;
use super::{Parts, Template, TextError};
use crate::format::HfFiles;

pub(super) fn read(files: &HfFiles) -> Result<Parts, TextError> {
    refuse_prefixed_pairs(&files.tokenizer)?;
    let tokenizer = guarded(|| Tokenizer::from_bytes(&files.tokenizer)).map_err(|e| match e {
        // of the files in the directory, this is the one
        TextError::Tokenizer(why) => TextError::Tokenizer(format!("tokenizer.json: {why}")),
        other => other,
    })?;
    let named = |field: &str| {
        let value = files.tokenizer_config.as_ref()?.get(field)?;
        // a plain string, or an added token as an object
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    };
    let mut end = Vec::new();
    for json in [Some(&files.config), files.generation_config.as_ref()].into_iter().flatten() {
        end.extend(ids(json.get("eos_token_id")));
    }
    end.extend(named("eos_token").and_then(|token| tokenizer.token_to_id(&token)));
    let template = match &files.chat_template {
        Some(source) => Some(Template::new(source, named("bos_token"), named("eos_token"))?),
        None => None,
    };
    // the file's own post-processor puts the special tokens around a text
    Ok(Parts { tokenizer, template, begin: None, end })
}

/// Refuses a vocabulary of byte pairs whose inner parts have a prefix. No model of a known family has one, and the
/// tokenizers crate (0.23) cuts so many bytes off every part without a look at what they are.
fn refuse_prefixed_pairs(tokenizer: &[u8]) -> Result<(), TextError> {
    #[derive(Deserialize)]
    struct Outline {
        model: Vocabulary,
    }
    #[derive(Deserialize)]
    struct Vocabulary {
        r#type: Option<String>,
        continuing_subword_prefix: Option<String>,
    }
    let damaged = |why: &dyn std::fmt::Display| TextError::Tokenizer(format!("tokenizer.json: {why}"));
    let Outline { model } = serde_json::from_slice(tokenizer).map_err(|why| damaged(&why))?;
    let prefixed = model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty());
    if prefixed && model.r#type.as_deref() != Some("WordPiece") {
        return Err(damaged(&"a continuing_subword_prefix is supported of the type WordPiece only"));
    }
    Ok(())
}

/// One id or a list of them.
fn ids(value: Option<&Json>) -> Vec<u32> {
    let one = |v: &Json| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Json::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}
