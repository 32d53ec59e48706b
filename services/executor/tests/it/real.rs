//! Real models, where this checkout has them: text that makes sense, vectors that are near what means the same.

use std::path::{Path, PathBuf};

use holmes_proto::inference::v1::{
    ChatMessage, Conversation, EmbedWork, GenerateWork, Sampling, Work, generate_work, work,
};
use holmes_proto::scheduling::v1::{Finish, Lease};

use crate::gateway::{COMMITMENT_KEY, Server};
use crate::node::Node;

/// The directory of a real model; `None`, after one loud line, where it is absent and not required.
fn model_dir(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("HOLMES_MODELS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/models"),
    };
    let dir = root.join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    let message = format!(
        "NOT TESTED: the model {name} is not at {}; fetch it with `cargo xtask models`, or set HOLMES_MODELS",
        dir.display()
    );
    assert!(std::env::var_os("HOLMES_REQUIRE_MODELS").is_none_or(|v| v != "1"), "{message}");
    eprintln!("{message}");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn two_real_models_are_served_side_by_side() {
    let (chat, embed) = (model_dir("smollm2-135m-instruct"), model_dir("all-minilm-l6-v2"));
    let (Some(chat), Some(embed)) = (chat, embed) else { return };
    let mut server = Server::start().await;
    let models = vec![("smollm2".into(), chat.clone()), ("minilm".into(), embed)];
    let mut node = Node::with(tempfile::tempdir().unwrap(), &server.url, models);
    node.start();
    let mut peer = server.next().await;
    peer.challenge().await;
    let offer = peer.hello().await;
    assert_eq!(offer.models.len(), 2);
    let weights = std::fs::read(chat.join("model.gguf")).unwrap();
    assert_eq!(offer.models[0].digest.as_ref(), blake3::hash(&weights).as_bytes());
    peer.welcome(1).await;

    let lease = Lease { model: "smollm2".into(), ..peer.lease(1, 1) };
    let message = ChatMessage { role: "user".into(), content: "What is the capital of France?".into() };
    let work = GenerateWork {
        prompt: Some(generate_work::Prompt::Chat(Conversation { messages: vec![message] })),
        max_tokens: 24,
        sampling: Some(Sampling { logprobs: Some(2), ..Sampling::default() }),
        ..GenerateWork::default()
    };
    let generate = Work { model: "smollm2".into(), work: Some(work::Work::Generate(work.clone())) };
    peer.start(1, &lease, generate).await;
    let answer = peer.answer(1).await;
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    let finish = answer.receipt.as_ref().unwrap().finish();
    answer.receipt(finish);
    let rest = GenerateWork { resume_from: 4, ..work };
    peer.start(2, &lease, Work { model: "smollm2".into(), work: Some(work::Work::Generate(rest)) }).await;
    let rest = peer.answer(2).await;
    assert_eq!(rest.ids, answer.ids[4..]);
    assert!(answer.text.ends_with(&rest.text));

    let lease = Lease { model: "minilm".into(), ..peer.lease(1, 2) };
    let texts = ["a cat sat on the mat", "a kitten rested on the rug", "interest rates rose"];
    let texts = texts.map(str::to_owned).to_vec();
    peer.start(
        3,
        &lease,
        Work { model: "minilm".into(), work: Some(work::Work::Embed(EmbedWork { texts })) },
    )
    .await;
    let mut answer = Default::default();
    peer.part(3, &mut answer).await;
    peer.part(3, &mut answer).await;
    let (vectors, line) = (answer.vectors.unwrap(), answer.receipt.unwrap());
    assert_eq!((line.finish(), line.output_tokens), (Finish::Embedded, 0));
    assert_eq!(line.input_tokens, u64::from(vectors.usage.unwrap().input_tokens));
    let commitment = blake3::keyed_hash(&COMMITMENT_KEY, &vectors.values);
    assert_eq!(line.output_commitment.as_ref(), commitment.as_bytes());
    let floats: Vec<f32> =
        vectors.values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let rows: Vec<&[f32]> = floats.chunks_exact(vectors.width as usize).collect();
    let near = |a: usize, b: usize| rows[a].iter().zip(rows[b]).map(|(x, y)| x * y).sum::<f32>();
    assert_eq!(rows.len(), 3);
    assert!(near(0, 1) > near(0, 2) + 0.2, "{} {}", near(0, 1), near(0, 2));
}
