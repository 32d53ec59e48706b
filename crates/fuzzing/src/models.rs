//! Model files. Files are untrusted: refused with a reason, or used.

use std::path::Path;
use std::sync::Arc;

use holmes_engine::config::Spec;
use holmes_engine::format::{Description, HfFiles, ModelFiles, Storage, Tensors, read_safetensors};
use holmes_engine::text::{Message, Text};
use serde_json::Value;

/// A file's tensors are inside of it, and its description and tokenizer are read or refused.
pub(crate) fn gguf(bytes: &[u8]) {
    match ModelFiles::read_gguf(Path::new("fuzzed"), Storage::Owned(bytes.to_vec())) {
        Ok(files) => used(&files),
        Err(why) => assert!(!why.to_string().is_empty() && !why.reason().is_empty()),
    }
}

/// A file's tensors are inside of it.
pub(crate) fn safetensors(bytes: &[u8]) {
    let mut tensors = Tensors::new();
    match read_safetensors(&Arc::new(Storage::Owned(bytes.to_vec())), &mut tensors) {
        Ok(()) => read(&tensors),
        Err(why) => assert!(!why.to_string().is_empty() && !why.reason().is_empty()),
    }
}

/// One text: `config.json`, a zero byte, `tokenizer.json`, another one, `tokenizer_config.json`.
pub(crate) fn hugging_face(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0);
    let Some(config) = parts.next().and_then(json) else { return };
    let tokenizer = parts.next().unwrap_or_default().to_vec();
    let tokenizer_config = parts.next().and_then(json);
    used(&files(config, tokenizer, tokenizer_config, None));
}

/// A template as a model brings it, with a tokenizer that is right.
pub(crate) fn chat_template(bytes: &[u8]) {
    let Ok(template) = std::str::from_utf8(bytes) else { return };
    let config = json(CONFIG).unwrap();
    used(&files(config, TOKENIZER.to_vec(), None, Some(template.to_owned())));
}

const CONFIG: &[u8] = include_bytes!("../../../models/holmes-tiny/config.json");
const TOKENIZER: &[u8] = include_bytes!("../../../models/holmes-tiny/tokenizer.json");

fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

fn files(
    config: Value,
    tokenizer: Vec<u8>,
    tokenizer_config: Option<Value>,
    chat_template: Option<String>,
) -> ModelFiles {
    let files = HfFiles {
        config,
        tokenizer,
        tokenizer_config,
        generation_config: None,
        chat_template,
        pooling: None,
        modules: None,
        sentence: None,
    };
    let description = Description::HuggingFace(Box::new(files));
    ModelFiles { path: "fuzzed".into(), tensors: Tensors::new(), description }
}

fn read(tensors: &Tensors) {
    for tensor in tensors.values().take(64) {
        if tensor.bytes().len() <= 1 << 16 {
            assert_eq!(tensor.to_f32().len(), tensor.shape().iter().product::<usize>());
        }
    }
}

/// Whatever an opened model says of itself, a text becomes tokens of it and comes back.
fn used(files: &ModelFiles) {
    read(&files.tensors);
    let Ok(spec) = Spec::read(files) else { return };
    let Ok(text) = Text::read(files, &spec) else { return };
    let vocab = match &spec {
        Spec::Decoder(decoder) => decoder.vocab,
        Spec::Encoder(encoder) => encoder.vocab,
    };
    let message = Message { role: "user".into(), content: "Sort 3 1 2".into() };
    for ids in [text.encode("Sort 3 1 2 <s> \u{1f600}"), text.encode_chat(&[message])].into_iter().flatten() {
        assert!(ids.iter().all(|id| (*id as usize) < vocab), "a token beyond the embedding's rows");
        let _ = text.decode(&ids);
    }
}
