use super::*;
use crate::format::{Metadata, Value};
use crate::run::Model;
use crate::testkit::{Random, gguf_model, write_hf_model};

fn opened(change: impl FnOnce(&mut Metadata)) -> Result<Text, TextError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf_model().bytes()).unwrap();
    let mut files = ModelFiles::open(&path).unwrap();
    let Description::Gguf(metadata) = &mut files.description else { panic!("a GGUF file") };
    change(metadata);
    let spec = Spec::read(&files).unwrap();
    Text::read(&files, &spec)
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn message(content: &str) -> Message {
    Message { role: "user".into(), content: content.into() }
}

#[test]
fn merges_and_special_tokens_are_found_and_text_returns() {
    let t = opened(|_| ()).unwrap();
    let ids = t.encode("the<|end|>").unwrap();
    assert_eq!((ids[0], ids[2], ids.len()), (258, 256, 3));
    assert_eq!(t.decode(&ids).unwrap(), "the");
    for sample in ["", "naïve 日本語 🦀\n\t12 345", "\u{0}\u{FFFD}", " a  b "] {
        assert_eq!(t.decode(&t.encode(sample).unwrap()).unwrap(), sample);
    }
    assert_eq!(t.end_tokens(), [256]);
}

#[test]
fn chats_are_rendered_by_the_models_template() {
    let t = opened(|_| ()).unwrap();
    let prompt = t.template().unwrap().render(&[message("hi"), message("there")]).unwrap();
    assert_eq!(prompt, "<|start|>user: hi<|start|>user: there<|start|>");
    assert_eq!(t.encode_chat(&[message("")]).unwrap()[0], 257);
    let none = opened(|m| drop(m.remove("tokenizer.chat_template"))).unwrap();
    assert_eq!(none.encode_chat(&[message("hi")]), Err(TextError::NoTemplate));
}

#[test]
fn templates_use_python_methods_refuse_by_exception_and_cannot_run_for_ever() {
    let render = |source: &str| {
        let template = Template::new(source, Some("<s>".into()), None)?;
        template.render(&[message(" Hi ")])
    };
    assert_eq!(render("{{ bos_token + messages[0]['content'].strip().upper() }}").unwrap(), "<s>HI");
    assert_eq!(render("{% if true %}\n  {%- if true %}\nx\n{% endif %}{% endif %}").unwrap(), "x\n");
    let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(refused.reason(), "MESSAGES_REFUSED");
    assert!(refused.to_string().contains("roles must alternate"));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert_eq!(render(endless).unwrap_err().reason(), "MESSAGES_REFUSED");
    assert_eq!(render("{% for %}").unwrap_err().reason(), "TEMPLATE_INVALID");
}

#[test]
fn unknown_and_damaged_tokenizers_are_refused() {
    let reason = |field: &str, value: Value| {
        let field = format!("tokenizer.ggml.{field}");
        opened(|m| drop(m.insert(field, value))).map(|_| ()).unwrap_err().reason()
    };
    assert_eq!(reason("pre", text("qwen35")), "PRE_TOKENIZER_UNKNOWN");
    assert_eq!(reason("model", text("llama")), "TOKENIZER_UNKNOWN");
    assert_eq!(reason("merges", Value::Texts(vec!["q q".into()])), "TOKENIZER_INVALID");
    assert_eq!(reason("merges", Value::Texts(vec!["th".into()])), "TOKENIZER_INVALID");
    assert_eq!(reason("tokens", Value::Texts(vec!["a".into(); 2])), "TOKENIZER_INVALID");
    assert_eq!(
        reason("tokens", Value::Texts((0..300).map(|i| format!("t{i}")).collect())),
        "TOKENIZER_INVALID"
    );
    assert_eq!(reason("eos_token_id", Value::Unsigned(259)), "TOKENIZER_INVALID");
    assert_eq!(reason("add_space_prefix", Value::Bool(true)), "TOKENIZER_INVALID");
}

#[test]
fn a_refused_tokenizer_file_is_named_with_its_directory_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    write_hf_model(dir.path());
    let file = dir.path().join("tokenizer.json");
    let whole = std::fs::read_to_string(&file).unwrap();
    // a merge that is longer than any token makes the tokenizers crate panic, the others make it fail
    let overlong = whole.replace(r#"["t h"]"#, r#"["<|start|> <|start|>"]"#);
    for damaged in [overlong.as_str(), &whole[..whole.len() / 2], "{}", ""] {
        assert_ne!(damaged, whole);
        std::fs::write(&file, damaged).unwrap();
        let refused = Model::open(dir.path()).map(|_| ()).unwrap_err();
        assert_eq!(refused.reason(), "TOKENIZER_INVALID");
        let said = refused.to_string();
        let named = said.starts_with(&dir.path().display().to_string()) && said.contains("tokenizer.json");
        assert!(named && said.contains("download the model again"), "{said}");
    }
}

#[test]
fn streamed_text_is_whole_characters_and_adds_up_to_the_whole_text() {
    let t = opened(|_| ()).unwrap();
    for sample in ["the 日本 🦀🦀 é", "plain", "🦀", ""] {
        let mut stream = t.detokenizer();
        let mut shown = String::new();
        for id in t.encode(sample).unwrap() {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{piece:?} of {sample}");
            shown += &piece;
        }
        assert_eq!(shown + &stream.finish().unwrap(), sample);
    }
    // bytes that are no text at all come out as replacement characters, never late by more than a few tokens
    let mut random = Random(9);
    for _ in 0..200 {
        let mut stream = t.detokenizer();
        let mut held = 0;
        for id in random.tokens(40, 256) {
            held = if stream.push(id).unwrap().is_empty() { held + 1 } else { 0 };
            assert!(held < 8);
        }
        stream.finish().unwrap();
    }
}

#[test]
fn texts_beyond_the_limit_are_refused() {
    let t = opened(|_| ()).unwrap();
    let long = "a".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(t.encode(&long).unwrap_err().reason(), "TEXT_TOO_LONG");
    assert_eq!(t.encode_chat(&[message(&long)]).unwrap_err().reason(), "TEXT_TOO_LONG");
}
