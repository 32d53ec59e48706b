//! Files of tiny models, written by hand so that each byte can be made wrong.

use std::fs;
use std::path::Path;

use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Random, decoder, decoder_tensors};
use crate::config::Naming;
use crate::format::{Dtype, Tensors};

/// A GGUF file in the making; every field can be spoiled before [`GgufFile::bytes`].
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) field_count: Option<u64>,
    /// Name, type, value bytes.
    pub(crate) fields: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions (contiguous first), type, offset.
    pub(crate) tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub(crate) data: Vec<u8>,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

impl GgufFile {
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.fields.push((name.into(), 8, text(value)));
    }

    pub(crate) fn count(&mut self, name: &str, value: u32) {
        self.fields.push((name.into(), 4, value.to_le_bytes().into()));
    }

    pub(crate) fn float(&mut self, name: &str, value: f32) {
        self.fields.push((name.into(), 6, value.to_le_bytes().into()));
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        let mut bytes = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(text(v)));
        self.fields.push((name.into(), 9, bytes));
    }

    pub(crate) fn add(&mut self, tensors: &Tensors) {
        for (name, tensor) in tensors {
            let dims = tensor.shape().iter().rev().map(|&d| d as u64).collect();
            let kind = match tensor.dtype() {
                Dtype::F32 => 0,
                Dtype::Q4_1 => 3,
                Dtype::Q8_0 => 8,
                other => panic!("{other}"),
            };
            self.tensors.push((name.clone(), dims, kind, self.data.len() as u64));
            self.data.extend(tensor.bytes());
            self.data.resize(self.data.len().next_multiple_of(32), 0);
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.field_count.unwrap_or(self.fields.len() as u64).to_le_bytes());
        for (name, kind, value) in &self.fields {
            out.extend(text(name));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// The 256 byte tokens, two special tokens and one merge: as many as the test decoder has rows.
pub(crate) fn vocabulary() -> Vec<String> {
    let mut bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    bytes.sort();
    bytes.extend(["<|end|>".into(), "<|start|>".into(), "th".into()]);
    bytes
}

/// A whole model as GGUF.
pub(crate) fn gguf_model() -> GgufFile {
    let d = decoder(Naming::Gguf, 32, true, false);
    let mut file = GgufFile {
        version: 3,
        tensor_count: None,
        field_count: None,
        fields: Vec::new(),
        tensors: Vec::new(),
        data: Vec::new(),
    };
    file.text("general.architecture", "llama");
    file.count("llama.block_count", d.layers as u32);
    file.count("llama.context_length", d.context as u32);
    file.count("llama.embedding_length", d.hidden as u32);
    file.count("llama.feed_forward_length", d.intermediate as u32);
    file.count("llama.attention.head_count", d.heads as u32);
    file.count("llama.attention.head_count_kv", d.kv_heads as u32);
    file.count("llama.attention.key_length", d.head_dim as u32);
    file.float("llama.attention.layer_norm_rms_epsilon", d.norm_eps);
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "smollm");
    let vocab = vocabulary();
    let mut types = [&5u32.to_le_bytes()[..], &(vocab.len() as u64).to_le_bytes()].concat();
    vocab.iter().for_each(|t| types.extend(if t.starts_with("<|") { 3i32 } else { 1 }.to_le_bytes()));
    file.texts("tokenizer.ggml.tokens", &vocab);
    file.fields.push(("tokenizer.ggml.token_type".into(), 9, types));
    file.texts("tokenizer.ggml.merges", &["t h".into()]);
    file.count("tokenizer.ggml.eos_token_id", 256);
    file.text(
        "tokenizer.chat_template",
        "{% for m in messages %}<|start|>{{ m.role }}: {{ m.content }}{% endfor %}<|start|>",
    );
    file.add(&decoder_tensors(&d, Dtype::Q8_0, 11));
    file
}

/// A safetensors file of the given header; its data follows.
pub(crate) fn safetensors_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes a whole model as a Hugging Face directory, its tensors in two shards.
pub(crate) fn write_hf_model(dir: &Path) {
    let d = decoder(Naming::HuggingFace, 32, false, true);
    let tensors = decoder_tensors(&d, Dtype::Bf16, Random(5).next());
    let (mut index, mut shards) = (Vec::new(), [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())]);
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let (header, data) = &mut shards[i % 2];
        let (start, end) = (data.len(), data.len() + tensor.bytes().len());
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
        data.extend(tensor.bytes());
        index.push(format!(r#""{name}":"shard-{}.safetensors""#, i % 2));
    }
    for (i, (header, data)) in shards.iter().enumerate() {
        let bytes = safetensors_file(&format!("{{{}}}", header.join(",")), data);
        fs::write(dir.join(format!("shard-{i}.safetensors")), bytes).unwrap();
    }
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, index.join(","));
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"hidden_act":"silu","hidden_size":{},"intermediate_size":{},
        "num_hidden_layers":{},"num_attention_heads":{},"num_key_value_heads":{},"head_dim":{},"vocab_size":{},
        "max_position_embeddings":{},"rms_norm_eps":1e-5,"rope_theta":10000.0,"rope_scaling":null,
        "tie_word_embeddings":false,"attention_bias":true,"mlp_bias":true,"eos_token_id":[256,257]}}"#,
        d.hidden, d.intermediate, d.layers, d.heads, d.kv_heads, d.head_dim, d.vocab, d.context
    );
    fs::write(dir.join("config.json"), config).unwrap();
    let vocab: serde_json::Map<_, _> =
        vocabulary().into_iter().zip(0u32..).map(|(t, i)| (t, i.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["t h"]}
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}
