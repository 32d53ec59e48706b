//! The tokenizer of a Hugging Face directory.

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::guard::guarded;
use super::{Parts, Template, TextError};
use crate::format::HfFiles;

pub(super) fn read(files: &HfFiles) -> Result<Parts, TextError> {
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

/// One id or a list of them.
fn ids(value: Option<&Json>) -> Vec<u32> {
    let one = |v: &Json| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Json::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}
