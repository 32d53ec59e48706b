//! A scripted node: a real client on the Attach stream, that signs as a node does and writes canned tokens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::Id;
use holmes_proto::gateway::v1::gateway_client::GatewayClient;
use holmes_proto::gateway::v1::{
    Beat, CallOutput, Checkpoint, FromNode, Hello, Leaving, Receipt, StartCall, ToNode, Welcome, from_node,
    to_node,
};
use holmes_proto::inference::v1::{self as inference, output, work};
use holmes_proto::scheduling::v1::{CallLine, Capabilities, Finish, Lease, ServedModel};
use holmes_proto::statements;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::services::{CELL, GENESIS};

/// What a node does with its calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Script {
    /// Writes so many tokens, one by one, a checkpoint behind each.
    Write(u32),
    /// The same without checkpoints.
    Burst(u32),
    /// The same with a pause before each.
    Slowly(u32, Duration),
    /// Breaks its stream after so many tokens of it.
    DieAfter(u32),
    /// Writes so many, and signs for more.
    Lie(u32),
    /// Writes so many, and signs with another key.
    Forge(u32),
    /// Says that the caller is to blame, and why.
    Blame(&'static str),
    /// Writes so many, and says that its cache had more of the prompt than there is.
    Boast(u32),
    /// Writes one token, then so many without text, all of which it signs for.
    Pad(u32),
    /// Fails by itself after so many.
    FailAfter(u32),
    /// Vectors of this width after so long, and nothing where the call is cancelled before.
    Embed(u32, Duration),
    /// Takes calls and says nothing of them.
    Silent,
    /// Writes tokens of so many bytes each as fast as it can, and hears no cancellation.
    Flood(usize),
    /// Says something of these bytes, where an output is expected.
    Garbage(Vec<u8>),
    /// Writes a few tokens, and when it hears of the cancellation so many more, all of which it signs for.
    Greedy(u32),
}

/// The keys of scripted nodes, by number.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub fn id_of(number: u8) -> Id {
    Id::of_key(&key(number).verifying_key().to_bytes())
}

/// Nodes 1 and 2, the one that placements take first before the other: they take the lowest id.
pub fn in_order() -> (u8, u8) {
    if id_of(1) < id_of(2) { (1, 2) } else { (2, 1) }
}

pub fn key_of(node: Id) -> SigningKey {
    (1..=9).map(key).find(|key| Id::of_key(&key.verifying_key().to_bytes()) == node).unwrap()
}

/// What a node was told, in order.
#[derive(Clone, Debug, Default)]
pub struct Heard(pub Arc<Mutex<Vec<to_node::Message>>>);

impl Heard {
    pub fn all(&self) -> Vec<to_node::Message> {
        self.0.lock().unwrap().clone()
    }

    pub fn starts(&self) -> Vec<StartCall> {
        let start = |message| match message {
            to_node::Message::Start(start) => Some(start),
            _ => None,
        };
        self.all().into_iter().filter_map(start).collect()
    }

    /// Receipts that were answered, with their refusals.
    pub fn accepted(&self) -> Vec<String> {
        let accepted = |message| match message {
            to_node::Message::Accepted(accepted) => Some(accepted.refused),
            _ => None,
        };
        self.all().into_iter().filter_map(accepted).collect()
    }

    pub fn cancels(&self) -> usize {
        self.all().iter().filter(|message| matches!(message, to_node::Message::Cancel(_))).count()
    }
}

pub struct Node {
    pub number: u8,
    pub heard: Heard,
    pub welcome: Welcome,
    pub out: mpsc::Sender<FromNode>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn capabilities(models: &[&str]) -> Capabilities {
    let model =
        |name: &&str| ServedModel { name: (*name).to_owned(), digest: vec![1; 32].into(), context: 2_048 };
    Capabilities { models: models.iter().map(model).collect(), slots: 4, ..Capabilities::default() }
}

/// What a node that says hello is.
#[derive(Clone)]
pub struct Offer {
    pub number: u8,
    pub signer: SigningKey,
    pub instance: Vec<u8>,
    pub capabilities: Capabilities,
}

impl Offer {
    /// The node with this number, in a process of its own.
    pub fn of(number: u8) -> Offer {
        let instance = holmes_runtime::fresh_id().to_bytes().to_vec();
        Offer { number, signer: key(number), instance, capabilities: capabilities(&["talker", "pointer"]) }
    }
}

/// Opens a stream and says hello.
pub async fn hello(
    channel: Channel,
    offer: Offer,
) -> Result<(mpsc::Sender<FromNode>, tonic::Streaming<ToNode>, Welcome), Status> {
    let (out, outgoing) = mpsc::channel(1_024);
    let mut client = GatewayClient::new(channel).max_decoding_message_size(16 << 20);
    let mut words = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    let Some(ToNode { message: Some(to_node::Message::Challenge(challenge)) }) = words.message().await?
    else {
        panic!("the first message is a challenge");
    };
    let offered = offer.capabilities.encode_to_vec();
    let (gateway, nonce) =
        (challenge.gateway.as_ref().try_into().unwrap(), challenge.nonce.as_ref().try_into().unwrap());
    let signed = statements::attach(&GENESIS, CELL, &gateway, &nonce, &offered);
    let hello = Hello {
        public_key: key(offer.number).verifying_key().to_bytes().to_vec().into(),
        capabilities: offered.into(),
        signature: offer.signer.sign(&signed).to_bytes().to_vec().into(),
        instance: offer.instance.into(),
    };
    say(&out, from_node::Message::Hello(hello)).await;
    match words.message().await? {
        Some(ToNode { message: Some(to_node::Message::Welcome(welcome)) }) => Ok((out, words, welcome)),
        other => panic!("not a welcome: {other:?}"),
    }
}

async fn say(out: &mpsc::Sender<FromNode>, message: from_node::Message) {
    let _ = out.send(FromNode { message: Some(message) }).await; // the gateway may have gone
}

impl Node {
    /// A node that beats and does what its script says.
    pub async fn attach(channel: Channel, offer: Offer, script: Script) -> Node {
        let number = offer.number;
        let (out, mut words, welcome) = hello(channel, offer).await.unwrap();
        let heard = Heard::default();
        let worker =
            Worker { number, script, out: out.clone(), generation: welcome.generation, heard: heard.clone() };
        let beat = Duration::from_millis(welcome.beat_ms.into());
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(beat);
            let mut calls = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    word = words.message() => {
                        let Ok(Some(ToNode { message: Some(message) })) = word else { return };
                        worker.heard.0.lock().unwrap().push(message.clone());
                        if let to_node::Message::Start(start) = message {
                            let worker = worker.clone();
                            calls.spawn(async move { worker.work(start).await });
                        }
                    }
                    Some(dies) = calls.join_next() => if dies.unwrap() { return },
                    _ = tick.tick() => say(&worker.out, from_node::Message::Beat(Beat {})).await,
                }
            }
        });
        Node { number, heard, welcome, out, task }
    }

    pub async fn leave(&self) {
        say(&self.out, from_node::Message::Leaving(Leaving {})).await;
    }

    pub async fn resend(&self, receipt: Receipt) {
        say(&self.out, from_node::Message::Receipt(receipt)).await;
    }

    /// Nothing more is heard of it, and its stream stays open.
    pub fn fall_silent(&self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Worker {
    number: u8,
    script: Script,
    out: mpsc::Sender<FromNode>,
    generation: u64,
    heard: Heard,
}

/// The text of a canned token.
pub fn word(number: u32) -> String {
    format!("w{number} ")
}

impl Worker {
    /// Works on a call; `true` when the node dies of it.
    async fn work(&self, start: StartCall) -> bool {
        let lease = Lease::decode(start.lease.clone().unwrap().lease).unwrap();
        let lease: [u8; 20] = lease.lease.as_ref().try_into().unwrap();
        let asked = start.work.clone().unwrap().work.unwrap();
        let from = match &asked {
            work::Work::Generate(generate) => generate.resume_from,
            work::Work::Embed(_) => 0,
        };
        let (most, pause) = match &self.script {
            Script::Write(most) | Script::Burst(most) | Script::Boast(most) => (*most, None),
            Script::Lie(most) | Script::Forge(most) => (*most, None),
            Script::Slowly(most, pause) => (*most, Some(*pause)),
            Script::DieAfter(most) | Script::FailAfter(most) => (*most, None),
            Script::Silent => return false,
            Script::Blame(reason) => {
                self.failed(&start, reason, true).await;
                return false;
            }
            Script::Pad(more) => {
                for (first, count, text) in [(0, 1, word(0)), (1, *more, String::new())] {
                    let ids = (first..first + count).collect();
                    let tokens = inference::Tokens { first, ids, text, ..Default::default() };
                    self.output(&start, output::Output::Tokens(tokens)).await;
                }
                let reason = inference::FinishReason::Stop.into();
                let finished = inference::Finished { reason, usage: None };
                self.output(&start, output::Output::Finished(finished)).await;
                self.receipt(&start, lease, u64::from(1 + *more), Finish::Stop).await;
                return false;
            }
            Script::Flood(bytes) => {
                for first in from..2_000 {
                    let text = "x".repeat(*bytes);
                    let tokens = inference::Tokens { first, ids: vec![first], text, ..Default::default() };
                    self.output(&start, output::Output::Tokens(tokens)).await;
                }
                return false;
            }
            Script::Garbage(bytes) => {
                let (call, generation, output) = (start.call.clone(), self.generation, bytes.clone().into());
                let output = CallOutput { call, generation, output, ..CallOutput::default() };
                say(&self.out, from_node::Message::Output(output)).await;
                return false;
            }
            Script::Greedy(more) => {
                for first in 0..3 + *more {
                    while first == 3 && !self.cancelled(&start) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    let (ids, text) = (vec![first], word(first));
                    let tokens = inference::Tokens { first, ids, text, ..Default::default() };
                    self.output(&start, output::Output::Tokens(tokens)).await;
                }
                self.receipt(&start, lease, u64::from(3 + *more), Finish::Cancelled).await;
                return false;
            }
            Script::Embed(width, pause) => {
                tokio::time::sleep(*pause).await;
                if self.cancelled(&start) {
                    return false;
                }
                let work::Work::Embed(embed) = asked else { panic!("an embedding") };
                let values = vec![0u8; embed.texts.len() * *width as usize * 4];
                let vectors = inference::Vectors { width: *width, values: values.into(), usage: None };
                self.output(&start, output::Output::Vectors(vectors)).await;
                self.receipt(&start, lease, 0, Finish::Embedded).await;
                return false;
            }
        };
        for number in from..most {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            if self.cancelled(&start) {
                self.receipt(&start, lease, u64::from(number - from), Finish::Cancelled).await;
                return false;
            }
            let logprobs = vec![inference::TokenLogprob {
                id: number,
                text: word(number),
                logprob: -0.25,
                top: Vec::new(),
            }];
            let tokens = inference::Tokens { first: number, ids: vec![number], text: word(number), logprobs };
            self.output(&start, output::Output::Tokens(tokens)).await;
            if matches!(self.script, Script::Burst(_)) {
                continue;
            }
            let line = self.line(&start, lease, u64::from(number + 1 - from), Finish::NodeLost);
            let checkpoint = Checkpoint { lease: lease.to_vec().into(), line: Some(line) };
            say(&self.out, from_node::Message::Checkpoint(checkpoint)).await;
        }
        match self.script {
            Script::DieAfter(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await; // what was said must arrive
                return true;
            }
            Script::FailAfter(_) => {
                self.failed(&start, "DEVICE_LOST", false).await;
                return false;
            }
            _ => {}
        }
        let cached_tokens = if matches!(self.script, Script::Boast(_)) { u32::MAX } else { 2 };
        let usage = inference::Usage { input_tokens: 5, output_tokens: most, cached_tokens };
        let reason = inference::FinishReason::Stop.into();
        self.output(&start, output::Output::Finished(inference::Finished { reason, usage: Some(usage) }))
            .await;
        let more = u64::from(matches!(self.script, Script::Lie(_)));
        self.receipt(&start, lease, u64::from(most - from) + more, Finish::Stop).await;
        false
    }

    fn cancelled(&self, start: &StartCall) -> bool {
        self.heard
            .all()
            .iter()
            .any(|message| matches!(message, to_node::Message::Cancel(cancel) if cancel.call == start.call))
    }

    async fn output(&self, start: &StartCall, output: output::Output) {
        let (call, generation) = (start.call.clone(), self.generation);
        let output = match output {
            output::Output::Vectors(vectors) => {
                CallOutput { call, generation, vectors: Some(vectors), ..CallOutput::default() }
            }
            other => {
                let output = inference::Output { output: Some(other) }.encode_to_vec().into();
                CallOutput { call, generation, output, ..CallOutput::default() }
            }
        };
        say(&self.out, from_node::Message::Output(output)).await;
    }

    async fn failed(&self, start: &StartCall, reason: &str, caller: bool) {
        let (reason, message) = (reason.to_owned(), "it \u{1b}[2Jis so".to_owned());
        let failed = inference::Failed { reason, message, caller };
        self.output(start, output::Output::Failed(failed)).await;
    }

    fn line(&self, start: &StartCall, lease: [u8; 20], output_tokens: u64, finish: Finish) -> CallLine {
        let secret: [u8; 32] = start.commitment_key.as_ref().try_into().unwrap();
        let hash = |bytes: &[u8]| blake3::keyed_hash(&secret, bytes).as_bytes().to_vec().into();
        let (prompt_commitment, output_commitment) = match start.work.clone().unwrap().work.unwrap() {
            work::Work::Generate(generate) => {
                let from = generate.resume_from;
                let prompt = match generate.prompt.unwrap() {
                    inference::generate_work::Prompt::Text(text) => hash(text.as_bytes()),
                    inference::generate_work::Prompt::Chat(chat) => hash(&chat.encode_to_vec()),
                };
                let lied = match self.script {
                    Script::Lie(_) if finish == Finish::Stop => 1,
                    Script::Pad(more) => more,
                    _ => 0,
                };
                let text: String = (from..from + output_tokens as u32 - lied).map(word).collect();
                (prompt, hash(text.as_bytes()))
            }
            work::Work::Embed(embed) => {
                let Script::Embed(width, _) = self.script else { panic!("an embedding") };
                let texts: Vec<&[u8]> = embed.texts.iter().map(String::as_bytes).collect();
                let values = vec![0; texts.len() * width as usize * 4];
                (hash(&holmes_proto::edge::signed_text(&texts)), hash(&values))
            }
        };
        let mut line = CallLine {
            call: start.call.clone(),
            input_tokens: 5,
            output_tokens,
            finish: finish.into(),
            prompt_commitment,
            output_commitment,
            ..CallLine::default()
        };
        let signed = statements::call_line(&GENESIS, CELL, &lease, &line);
        let key = key(if matches!(self.script, Script::Forge(_)) { 99 } else { self.number });
        line.node_signature = key.sign(&signed).to_bytes().to_vec().into();
        line
    }

    async fn receipt(&self, start: &StartCall, lease: [u8; 20], output_tokens: u64, finish: Finish) {
        let line = self.line(start, lease, output_tokens, finish);
        let receipt = Receipt { lease: lease.to_vec().into(), line: Some(line) };
        say(&self.out, from_node::Message::Receipt(receipt)).await;
    }
}
