//! Files that are broken off, hostile or something else: each is refused with what to do, and nothing is written.

use std::path::Path;

use crate::harness::{Place, SERVE};

/// The model that the repository ships.
const OWN: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// A copy of the model with one file of other content.
fn spoilt(place: &Place, name: &str, content: &[u8]) -> String {
    let dir = place.path("spoilt");
    std::fs::create_dir_all(&dir).expect("made");
    for file in OWN {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/holmes-tiny").join(file);
        std::fs::copy(own, dir.join(file)).expect("copied");
    }
    std::fs::write(dir.join(name), content).expect("written");
    dir.display().to_string()
}

fn own(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/holmes-tiny").join(name);
    std::fs::read(file).expect("a file of the model")
}

/// A header of safetensors, with as many bytes behind it as are said.
fn safetensors(header: &str, behind: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; behind]].concat()
}

/// A GGUF file's first bytes: magic, version, tensors, metadata.
fn gguf(version: u32, tensors: u64, pairs: u64, behind: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] =
        [b"GGUF", &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes(), behind];
    parts.concat()
}

/// Adds a model, which must be refused with a message, without a panic, and leave nothing behind.
fn refused(place: &Place, what: &str, path: &str) -> Option<String> {
    let ran = place.run(&["models", "add", path, "--name", "bad", "--store", "store"]);
    let words = ran.err.split_whitespace().count();
    let told = words > 4 && ran.err.contains("\n  reason: ") && !ran.err.contains("panicked");
    let told = told && ran.err.matches("cannot be read").count() < 2; // nothing is said twice
    let fine = ran.code == 1 && ran.out.is_empty() && told;
    let nothing = std::fs::read_dir(place.path("store")).is_ok_and(|mut entries| entries.next().is_some());
    (!fine || nothing).then(|| format!("{what}: {} {} {}", ran.code, ran.out, ran.err))
}

#[test]
fn a_hostile_model_is_refused_with_a_reason_and_nothing_is_written() {
    let place = Place::new();
    let (weights, tokenizer, config) = (own("model.safetensors"), own("tokenizer.json"), own("config.json"));
    let overlong = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99]}}";
    let product = "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}";
    let turned = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}";
    let text = String::from_utf8(config.clone()).expect("UTF-8");
    let instead = |key: &str, value: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json[key] = serde_json::from_str(value).expect("JSON");
        json.to_string().into_bytes()
    };
    let mut merges: serde_json::Value = serde_json::from_slice(&tokenizer).expect("JSON");
    merges["model"]["merges"] = serde_json::json!(["<|assistant|> <|assistant|>"]);
    let mut prefix: serde_json::Value = serde_json::from_slice(&tokenizer).expect("JSON");
    prefix["model"]["continuing_subword_prefix"] = serde_json::json!("#");
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("nothing", "model.safetensors", Vec::new()),
        ("broken off", "model.safetensors", weights[..weights.len() / 2].to_vec()),
        ("broken off in the header", "model.safetensors", weights[..100].to_vec()),
        ("a header of 2^64-1 bytes", "model.safetensors", vec![0xff; 64]),
        ("a header that is no JSON", "model.safetensors", safetensors("{\"a\":", 8)),
        ("a tensor behind the end", "model.safetensors", safetensors(overlong, 4)),
        ("a shape that overflows", "model.safetensors", safetensors(product, 4)),
        ("offsets turned round", "model.safetensors", safetensors(turned, 4)),
        ("no tensors", "model.safetensors", safetensors("{}", 0)),
        ("an empty tokenizer", "tokenizer.json", b"{}".to_vec()),
        ("a tokenizer broken off", "tokenizer.json", tokenizer[..tokenizer.len() / 2].to_vec()),
        ("a tokenizer that is not UTF-8", "tokenizer.json", vec![0xff; 99]),
        ("a merge longer than any token", "tokenizer.json", merges.to_string().into_bytes()),
        ("a prefix that cuts characters in half", "tokenizer.json", prefix.to_string().into_bytes()),
        ("a deep tokenizer", "tokenizer.json", vec![b'['; 100_000]),
        ("an empty configuration", "config.json", b"{}".to_vec()),
        ("a configuration broken off", "config.json", config[..config.len() / 2].to_vec()),
        ("a deep configuration", "config.json", vec![b'['; 100_000]),
        ("no layers", "config.json", instead("num_hidden_layers", "0")),
        ("negative layers", "config.json", instead("num_hidden_layers", "-1")),
        ("too many layers", "config.json", instead("num_hidden_layers", "4000000000")),
        ("no heads", "config.json", instead("num_attention_heads", "0")),
        ("a width that does not fit", "config.json", instead("hidden_size", "4000000000")),
        ("a vocabulary that does not fit", "config.json", instead("vocab_size", "4000000000")),
        ("an unknown architecture", "config.json", instead("architectures", "[\"Alchemy\"]")),
    ];
    let mut wrong = Vec::new();
    for (what, file, content) in &cases {
        wrong.extend(refused(&place, what, &spoilt(&place, file, content)));
    }
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let array =
        [string("a"), 9u32.to_le_bytes().to_vec(), 4u32.to_le_bytes().to_vec(), vec![0xff; 8]].concat();
    let ggufs = [
        ("no GGUF", b"no model".to_vec()),
        ("nothing", Vec::new()),
        ("only the magic", b"GGUF".to_vec()),
        ("another version", gguf(9, 0, 0, &[])),
        ("nothing in it", gguf(3, 0, 0, &[])),
        ("2^64-1 tensors", gguf(3, u64::MAX, 0, &[])),
        ("2^64-1 pairs", gguf(3, 0, u64::MAX, &[])),
        ("a key of 2^64-1 bytes", gguf(3, 0, 1, &[0xff; 16])),
        ("an array of 2^64-1 elements", gguf(3, 0, 1, &array)),
    ];
    for (what, content) in ggufs {
        let file = place.path("spoilt.gguf");
        std::fs::write(&file, content).expect("written");
        wrong.extend(refused(&place, what, &file.display().to_string()));
    }
    wrong.extend(refused(&place, "nowhere", "nowhere"));
    std::fs::create_dir(place.path("empty")).expect("made");
    wrong.extend(refused(&place, "an empty directory", "empty"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_hostile_key_file_is_no_key_file() {
    let place = Place::new();
    assert_eq!(place.run(&["keys", "new", "right.key"]).code, 0);
    let right = std::fs::read(place.path("right.key")).expect("made");
    let text = String::from_utf8(right.clone()).expect("UTF-8");
    let cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        right[..right.len() / 2].to_vec(),
        vec![0xff; 80],
        vec![b'a'; 1 << 20],
        text.replace("holmes", "others").into_bytes(),
        text.trim().chars().rev().collect::<String>().into_bytes(),
        format!("{}00", text.trim()).into_bytes(),
        format!("{}é", &text.trim()[..text.trim().len() - 2]).into_bytes(),
    ];
    for case in cases {
        std::fs::write(place.path("wrong.key"), &case).expect("written");
        let ran = place.run(&["keys", "show", "wrong.key"]);
        ran.fails(1, &["wrong.key", "holmes keys new", "reason: KEY_FILE_INVALID"]);
        assert!(ran.err.len() < 300, "a message does not repeat the file: {}", ran.err);
    }
    let node = ["--join", "http://127.0.0.1:1", "--model", "m=none"];
    place.run(&[&["executor", "--key", "wrong.key"], &node[..]].concat()).fails(1, &["wrong.key"]);
}

#[test]
fn a_hostile_configuration_or_profile_is_refused_before_anything_runs() {
    let place = Place::new();
    let dumped = place.run(&["config", "dump"]).out;
    let demo = include_str!("../../../../deploy/profiles/demo.toml");
    let texts = |whole: &str| -> Vec<Vec<u8>> {
        vec![
            whole.as_bytes()[..whole.rfind('=').expect("a key")].to_vec(),
            vec![0xff; 40],
            vec![b'['; 10_000],
            format!("{whole}\n[nothing]\nkey = 1\n").into_bytes(),
            b"[server]\nmax_calls = -1\n".to_vec(),
            b"[server]\nmax_calls = 99999999999999999999999\n".to_vec(),
        ]
    };
    for text in texts(&dumped) {
        std::fs::write(place.path("bad.toml"), &text).expect("written");
        place.run(&["-c", "bad.toml", "config", "check"]).fails(1, &["error: ", "reason: CONFIG_INVALID"]);
        place
            .run(&[&["-c", "bad.toml"], &SERVE[..]].concat())
            .fails(1, &["error: ", "reason: CONFIG_INVALID"]);
    }
    for text in texts(demo) {
        std::fs::write(place.path("bad.toml"), &text).expect("written");
        place.run(&[&SERVE[..], &["--profile", "bad.toml"]].concat()).fails(1, &["bad.toml"]);
    }
    assert!(!place.path("holmes-data").exists(), "nothing of this makes a data directory");
}
