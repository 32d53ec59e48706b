//! A model of a few kilobytes as a GGUF file. Untrained, but a real one: it writes letters, never ends by itself, and its
//! context is so long that a test can do something while it writes.

use std::path::{Path, PathBuf};

const HIDDEN: usize = 32;
const INNER: usize = 64;
const VOCAB: usize = 258;
/// Its longest sequence.
pub(crate) const CONTEXT: usize = 1 << 16;

/// Writes the model into a directory; its file.
pub(crate) fn write(dir: &Path) -> PathBuf {
    let file = dir.join("tiny.gguf");
    std::fs::write(&file, bytes()).unwrap();
    file
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

fn texts(values: &[String]) -> Vec<u8> {
    let mut bytes = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
    values.iter().for_each(|value| bytes.extend(text(value)));
    bytes
}

/// The characters that byte-level tokenizers write bytes as: printable ones as themselves, the others beyond Latin-1.
fn alphabet() -> Vec<char> {
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let mut code = |byte: u32| if plain(byte) { byte } else { others.next().unwrap() };
    (0..256).map(|byte| char::from_u32(code(byte)).unwrap()).collect()
}

fn fields() -> Vec<(&'static str, u32, Vec<u8>)> {
    let count = |value: usize| (value as u32).to_le_bytes().to_vec();
    let mut vocabulary: Vec<String> = alphabet().iter().map(|c| c.to_string()).collect();
    vocabulary.extend(["<|end|>".into(), "ab".into()]);
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}";
    vec![
        ("general.architecture", 8, text("llama")),
        ("llama.block_count", 4, count(1)),
        ("llama.context_length", 4, count(CONTEXT)),
        ("llama.embedding_length", 4, count(HIDDEN)),
        ("llama.feed_forward_length", 4, count(INNER)),
        ("llama.attention.head_count", 4, count(1)),
        ("llama.attention.head_count_kv", 4, count(1)),
        ("llama.attention.key_length", 4, count(HIDDEN)),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec()),
        ("tokenizer.ggml.model", 8, text("gpt2")),
        ("tokenizer.ggml.pre", 8, text("gpt-2")),
        ("tokenizer.ggml.tokens", 9, texts(&vocabulary)),
        ("tokenizer.ggml.merges", 9, texts(&["a b".into()])),
        ("tokenizer.ggml.eos_token_id", 4, count(256)),
        ("tokenizer.chat_template", 8, text(template)),
    ]
}

/// Reproducible numbers between −1 and 1.
fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut seed = 7;
    let mut matrix = |name: &str, rows: usize, columns: usize| {
        let scale = 2.0 / (columns as f32).sqrt();
        let values: Vec<f32> = (0..rows * columns).map(|_| noise(&mut seed) * scale).collect();
        (name.to_owned(), vec![columns, rows], values)
    };
    let mut embedding = matrix("token_embd.weight", VOCAB, HIDDEN);
    for (at, row) in embedding.2.chunks_mut(HIDDEN).enumerate() {
        if !(0x61..0x7b).contains(&at) {
            row[1..].fill(0.0); // a row of nothing has no chance against letters
            row[0] = at as f32 / 1e4; // but tokens of the prompt still differ
        }
    }
    let ones = |name: &str| (name.to_owned(), vec![HIDDEN], vec![1.0; HIDDEN]);
    vec![
        embedding,
        ones("output_norm.weight"),
        matrix("blk.0.attn_q.weight", HIDDEN, HIDDEN),
        matrix("blk.0.attn_k.weight", HIDDEN, HIDDEN),
        matrix("blk.0.attn_v.weight", HIDDEN, HIDDEN),
        matrix("blk.0.attn_output.weight", HIDDEN, HIDDEN),
        matrix("blk.0.ffn_gate.weight", INNER, HIDDEN),
        matrix("blk.0.ffn_up.weight", INNER, HIDDEN),
        matrix("blk.0.ffn_down.weight", HIDDEN, INNER),
        ones("blk.0.attn_norm.weight"),
        ones("blk.0.ffn_norm.weight"),
    ]
}

fn bytes() -> Vec<u8> {
    let (fields, tensors) = (fields(), tensors());
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((fields.len() as u64).to_le_bytes());
    for (name, kind, value) in fields {
        out.extend(text(name));
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, dims, values) in tensors {
        out.extend(text(&name));
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
