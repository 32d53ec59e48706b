//! What renters ask: many things at once, and one that is cancelled.

use std::time::Instant;

use anyhow::{Result, bail};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    ChatMessage, Conversation, EmbedRequest, EmbedResponse, Ended, GenerateRequest, GenerateResponse,
    GenerateWork, Sampling, Started, Terms, generate_work::Prompt,
};
use holmes_runtime::fresh_id;
use tonic::Streaming;

use super::tell::{Teller, start_of};
use super::world::{OWN, Shown, World};
use crate::client::Client;

/// What is asked of a model that knows things.
const QUESTIONS: [&str; 12] = [
    "What is the capital of France?",
    "Name three colours.",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "What is 2 + 2?",
    "Say hello in Spanish.",
    "What do bees make?",
    "Give me a word that rhymes with cat.",
    "What is the opposite of cold?",
    "Who wrote Hamlet?",
    "What is a GPU?",
    "Name an animal that can fly.",
];
/// What is asked of the model in the binary.
const TASKS: [&str; 12] = [
    "Sort these numbers: 41, 7, 93, 18",
    "name: Ada; city: Oslo; age: 41. What is the city?",
    "Sort from high to low: 5 77 32",
    "job: pilot; name: Max; pet: owl. Give the job.",
    "Put these numbers in order: 9, 3, 27, 81",
    "city: Lima; colour: teal; age: 29. Tell me the age.",
    "Who are you?",
    "Sort from low to high: 64 2 16 8",
    "pet: fox; job: baker; name: Nora. Give the pet.",
    "Put these numbers in descending order: 12, 90, 55",
    "name: Uma; colour: grey; city: Riga. What is the name?",
    "Sort these numbers: 70 19 44 3 58",
];
const TEXTS: [&str; 4] =
    ["a node serves a model", "a bond may be slashed", "the sea is blue", "bees make honey"];
/// Requests of each kind.
const GENERATIONS: usize = 24;
const EMBEDDINGS: usize = 8;
/// Most tokens of an ordinary answer.
const SHORT: u32 = 24;
/// Most tokens of an answer that is broken off: long enough to be in the middle of it.
pub(super) const LONG: u32 = 180;
/// After so many tokens the other renter hangs up.
const HANGS_UP_AFTER: usize = 4;

/// What became of a call.
struct Call {
    renter: &'static str,
    asked: String,
    answer: String,
    node: String,
    lease: String,
    tokens: u32,
    first_ms: u128,
    ended: Ended,
}

/// Two renters ask at the same time.
pub(super) async fn many(tell: &Teller, world: &mut World) -> Result<()> {
    let began = Instant::now();
    let prompts: &'static [&'static str] = if world.models.speaker.name == OWN { &TASKS } else { &QUESTIONS };
    let mut asking = tokio::task::JoinSet::new();
    let at_once = std::sync::Arc::new(tokio::sync::Semaphore::new(6));
    // Without a model for vectors there are as many words instead.
    let generations = GENERATIONS + if world.models.embedder.is_some() { 0 } else { EMBEDDINGS };
    for at in 0..generations {
        let renter = &world.renters[at % world.renters.len()];
        let (client, name, asset) = (renter.client.clone(), renter.name, renter.asset);
        let (model, turn) = (world.models.speaker.name.clone(), at_once.clone());
        asking.spawn(async move {
            let _turn = turn.acquire_owned().await?;
            let prompt = prompts[at % prompts.len()];
            let work = Work { model, prompt, most: SHORT, seed: at as u64 };
            let mut stream = generate(&client, work, asset).await?;
            follow(&mut stream, name, prompt).await
        });
    }
    let mut calls = Vec::new();
    while let Some(done) = asking.join_next().await {
        let call = done??;
        let (renter, node) = (call.renter, world.node_name(&call.node));
        let (asked, said) = (start_of(&call.asked, 34), start_of(&call.answer, 60));
        tell.line(&format!("{renter}: {asked} → {node}, {} ms to the first token: {said}", call.first_ms))?;
        calls.push(call);
    }
    let (embedded, vectors_price) = embed(tell, world).await?;
    let tokens: u32 = calls.iter().map(|call| call.tokens).sum();
    let price: u64 = calls.iter().map(|call| call.ended.price_micro_usd).sum::<u64>() + vectors_price;
    // One of the renter's whose key is offered at the end: a receipt is its renter's alone.
    if let Some(last) = calls.iter().rev().find(|call| call.renter == world.renters[0].name) {
        let receipt = last.ended.receipts.first().cloned().unwrap_or_default();
        world.shown = Shown { lease: last.lease.clone(), node: last.node.clone(), receipt };
    }
    let leases: std::collections::BTreeSet<&str> = calls.iter().map(|call| call.lease.as_str()).collect();
    let receipt = &world.shown.receipt;
    tell.line(&format!(
        "{} answers of {tokens} tokens and {embedded} requests for vectors in {:.1} s, on {} leases, at most {price} micro-dollars; the last receipt is {receipt}",
        calls.len(),
        began.elapsed().as_secs_f64(),
        leases.len()
    ))
}

/// How many requests for vectors there were, and their price together.
async fn embed(tell: &Teller, world: &World) -> Result<(usize, u64)> {
    let Some(model) = &world.models.embedder else { return Ok((0, 0)) };
    let mut sum = 0;
    for at in 0..EMBEDDINGS {
        let renter = &world.renters[at % world.renters.len()];
        let id = fresh_id();
        let request = EmbedRequest {
            request_id: id.to_string(),
            model: model.name.clone(),
            texts: TEXTS.iter().map(|text| (*text).to_owned()).collect(),
            terms: Some(Terms { asset: renter.asset.into(), ..Default::default() }),
        };
        let method = "holmes.inference.v1.Inference/Embed";
        let answer: EmbedResponse = renter.client.ask(method, id, request).await?;
        let price = answer.ended.unwrap_or_default().price_micro_usd;
        sum += price;
        if at == 0 {
            let width = answer.vectors.unwrap_or_default().width;
            let node = world.node_name(&answer.started.unwrap_or_default().node_id);
            tell.line(&format!(
                "{}: {} texts → {node}: vectors of {width} numbers, {price} micro-dollars; and {} requests more like it",
                renter.name,
                TEXTS.len(),
                EMBEDDINGS - 1
            ))?;
        }
    }
    Ok((EMBEDDINGS, sum))
}

/// A renter hangs up after a few tokens: the rest is neither computed nor paid.
pub(super) async fn cancelled(tell: &Teller, world: &World) -> Result<()> {
    let renter = &world.renters[0];
    let model = world.models.speaker.name.clone();
    let work = Work { prompt: long_prompt(&model), model, most: LONG, seed: 7 };
    let mut stream = generate(&renter.client, work, renter.asset).await?;
    let mut seen = 0;
    let mut node = String::new();
    while let Some(message) = stream.message().await? {
        match message.part {
            Some(Part::Started(started)) => node = started.node_id,
            Some(Part::Tokens(tokens)) => seen += tokens.ids.len(),
            Some(Part::Ended(_)) => break, // a short answer: over before it could be cancelled
            Some(Part::Moved(_)) | None => {}
        }
        if seen >= HANGS_UP_AFTER {
            break;
        }
    }
    drop(stream);
    let node = world.node_name(&node);
    tell.line(&format!("{} hung up after {seen} tokens on {node}: only these are billed", renter.name))
}

/// What a model is asked that answers at length. The model in the binary sorts seven numbers at most: of more it makes a
/// long answer, though not a right one.
pub(super) fn long_prompt(model: &str) -> &'static str {
    if model == OWN {
        "Sort these numbers: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"
    } else {
        "Write a long story about a lighthouse and the woman who keeps it."
    }
}

pub(super) struct Work {
    pub model: String,
    pub prompt: &'static str,
    pub most: u32,
    pub seed: u64,
}

pub(super) async fn generate(
    client: &Client,
    work: Work,
    asset: &str,
) -> Result<Streaming<GenerateResponse>> {
    let id = fresh_id();
    let message = ChatMessage { role: "user".into(), content: work.prompt.into() };
    let request = GenerateRequest {
        request_id: id.to_string(),
        model: work.model,
        work: Some(GenerateWork {
            prompt: Some(Prompt::Chat(Conversation { messages: vec![message] })),
            max_tokens: work.most,
            sampling: Some(Sampling { seed: work.seed, ..Default::default() }),
            ..Default::default()
        }),
        terms: Some(Terms { asset: asset.into(), ..Default::default() }),
    };
    client.stream("holmes.inference.v1.Inference/Generate", id, request).await
}

async fn follow(stream: &mut Streaming<GenerateResponse>, renter: &'static str, asked: &str) -> Result<Call> {
    let began = Instant::now();
    let (mut answer, mut first_ms, mut at) = (String::new(), None, Started::default());
    while let Some(message) = stream.message().await? {
        match message.part {
            Some(Part::Started(started)) => at = started,
            Some(Part::Tokens(tokens)) => {
                first_ms.get_or_insert_with(|| began.elapsed().as_millis());
                answer.push_str(&tokens.text);
            }
            Some(Part::Moved(moved)) => at.node_id = moved.node_id,
            Some(Part::Ended(ended)) => {
                let tokens = ended.usage.unwrap_or_default().output_tokens;
                let (asked, first_ms) = (asked.to_owned(), first_ms.unwrap_or_default());
                let (node, lease) = (at.node_id, at.lease_id);
                return Ok(Call { renter, asked, answer, node, lease, tokens, first_ms, ended });
            }
            None => {}
        }
    }
    bail!("the answer to {asked:?} broke off")
}
