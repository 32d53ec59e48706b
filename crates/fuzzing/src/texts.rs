//! Texts that people and their programs write.

use holmes_gateway::Settings;
use holmes_gateway::openai::OpenAi;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::inference::v1::{generate_work, work};
use holmes_runtime::config;

/// A configuration is refused with words, or says what it says again as a file.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::read(text) {
        Ok(config) => assert_eq!(config::read(&config.to_toml()).ok(), Some(config)),
        Err(why) => assert!(!why.to_string().is_empty() && !why.reason().is_empty()),
    }
}

/// The first byte chooses the path, the rest is the body. What is taken keeps the limits that nodes are promised.
pub(crate) fn openai(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let of = [OpenAi::Chat, OpenAi::Completions, OpenAi::Embeddings][usize::from(*first) % 3];
    let settings = Settings { control_texts: vec!["<|im_end|>".into()], ..Settings::default() };
    let renter = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
    let work = match of.work(body, renter, &settings) {
        Ok(work) => work,
        Err(refusal) => {
            assert!(!refusal.message.is_empty() && !refusal.reason.is_empty());
            return;
        }
    };
    let texts: Vec<&str> = match (&work, of) {
        (work::Work::Embed(embed), OpenAi::Embeddings) => embed.texts.iter().map(String::as_str).collect(),
        (work::Work::Generate(generate), OpenAi::Chat | OpenAi::Completions) => {
            let sampling = generate.sampling.unwrap_or_default();
            assert!((0.0..=2.0).contains(&sampling.temperature) && (0.0..=1.0).contains(&sampling.top_p));
            match generate.prompt.as_ref().unwrap() {
                generate_work::Prompt::Text(text) => vec![text],
                generate_work::Prompt::Chat(chat) => {
                    chat.messages.iter().map(|of| of.content.as_str()).collect()
                }
            }
        }
        other => panic!("{other:?} is not what the path is for"),
    };
    assert!(texts.iter().map(|text| text.len()).sum::<usize>() <= settings.most_prompt_bytes);
    assert!(!texts.iter().any(|text| text.contains("<|im_end|>")), "a renter writes the model's own marks");
}
