//! A node's stream: Challenge, Hello, Welcome, then calls and beats until either side ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::edge::status;
use holmes_proto::gateway::v1::gateway_server::Gateway as Service;
use holmes_proto::gateway::v1::{
    CallOutput, Challenge, FromNode, Hello, ToNode, Welcome, from_node, to_node,
};
use holmes_proto::inference::v1::{Output, output};
use holmes_proto::scheduling::v1::{AttachRequest, Capabilities, DetachReason, DetachRequest};
use holmes_runtime::server::Stay;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::late::Late;
use super::{FromCall, Node, Put, Words};
use crate::settings::ms;
use crate::upstream::request_id;
use crate::{Edge, Started, guarded};

/// The gRPC service that nodes call.
#[derive(Clone)]
pub struct Attach(pub(crate) Arc<Edge>);

/// Longest output without vectors, bytes: an executor sends at most 64 tokens at once.
const LONGEST_OUTPUT: usize = 256 << 10;

type Out = mpsc::Sender<Result<ToNode, Status>>;

#[tonic::async_trait]
impl Service for Attach {
    type AttachStream = ReceiverStream<Result<ToNode, Status>>;

    async fn attach(
        &self,
        request: Request<tonic::Streaming<FromNode>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let refused = |refused: Refusal| {
            self.0.meters.attach_refused.count(&refused.reason);
            status(refused)
        };
        let started = self.0.started().map_err(refused)?;
        if self.0.nodes.count() >= self.0.settings.most_nodes {
            let message = "the gateway has as many nodes as it takes: attach to another one, or again later";
            return Err(refused(
                Refusal::new(Code::Exhausted, "TOO_MANY_NODES", message).retry_after(10_000),
            ));
        }
        let (out, answers) = mpsc::channel(self.0.settings.most_in_flight);
        let stay = request.extensions().get().cloned();
        tokio::spawn(attend(self.0.clone(), started, stay, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Attends to a node until its stream ends. `stay` is the stream's place on the port.
async fn attend(edge: Arc<Edge>, started: Started, stay: Option<Stay>, mut words: Words, out: Out) {
    let node = match admit(&edge, &started, stay.as_ref(), &mut words, &out).await {
        Ok(node) => node,
        Err(refused) => {
            edge.meters.attach_refused.count(&refused.reason);
            let _ = out.send(Err(status(refused))).await; // the node may have gone
            return;
        }
    };
    tracing::info!(node = %node.id, generation = node.generation, "a node has attached");
    let reason = listen(&edge, &started, &node, &mut words).await;
    node.end(reason);
    edge.nodes.remove(&node);
    tracing::info!(node = %node.id, generation = node.generation, ?reason, "a node is gone");
    edge.leases.forget_node(node.id, node.generation);
    if reason != DetachReason::Superseded {
        detach(&edge, &node, reason).await;
    }
    let last = match reason {
        DetachReason::Silent => {
            let message = "nothing was heard of the node for too long: attach again";
            Refusal::new(Code::Deadline, "NODE_SILENT", message)
        }
        DetachReason::Superseded if node.by_another.load(Ordering::Relaxed) => superseded(),
        _ => return,
    };
    let _ = out.try_send(Err(status(last))); // a node that takes nothing any more is not told
}

/// What a node hears when another process attaches with its key: it must not attach again, or the two would throw each
/// other out for ever.
fn superseded() -> Refusal {
    let message = "another process has attached with this node's key: run one process a node, and give each other machine a \
                   key of its own (holmes keys new)";
    Refusal::new(Code::Precondition, "SUPERSEDED", message)
}

/// Asks who is there, and makes the node known.
async fn admit(
    edge: &Arc<Edge>,
    started: &Started,
    stay: Option<&Stay>,
    words: &mut Words,
    out: &Out,
) -> Result<Arc<Node>, Refusal> {
    let nonce: [u8; 16] = crate::random();
    let challenge = Challenge {
        gateway: edge.id.to_bytes().to_vec().into(),
        genesis: edge.network.genesis.to_vec().into(),
        cell: edge.network.cell.into(),
        nonce: nonce.to_vec().into(),
    };
    say(out, to_node::Message::Challenge(challenge)).await?;
    let hello = match timeout(ms(edge.settings.hello_ms), words.message()).await {
        Ok(Ok(Some(FromNode { message: Some(from_node::Message::Hello(hello)) }))) => hello,
        // A message that cannot be decoded ends the stream with an error.
        Ok(Ok(_) | Err(_)) => return Err(malformed("the first message of a node is its Hello")),
        Err(_) => {
            let message = "the node said no Hello in time: attach again";
            return Err(Refusal::new(Code::Deadline, "HELLO_LATE", message));
        }
    };
    let (key, instance, capabilities) = parse(&hello)?;
    let id = Id::of_key(&key.to_bytes());
    let request = AttachRequest {
        request_id: request_id(),
        node_id: id.to_string(),
        capabilities: hello.capabilities,
        nonce: nonce.to_vec().into(),
        signature: hello.signature,
    };
    let attached = edge
        .upstream
        .definite(ms(edge.settings.hello_ms), || {
            let (mut scheduling, request) = (edge.upstream.scheduling(), request.clone());
            async move { scheduling.attach(request).await }
        })
        .await?;
    let node = Arc::new(Node {
        id,
        key,
        generation: attached.generation,
        capabilities,
        instance,
        out: out.clone(),
        most_buffered: edge.settings.most_buffered,
        most_buffered_bytes: edge.settings.most_buffered_bytes,
        room: edge.nodes.room.part(edge.settings.most_node_bytes),
        flooded: edge.nodes.flooded.clone(),
        calls: Mutex::new(Some(Default::default())),
        heard: Mutex::new(Instant::now()),
        leaving: AtomicBool::new(false),
        by_another: AtomicBool::new(false),
        gone: watch::Sender::new(None),
    });
    if let Some(Err(full)) = stay.map(Stay::proven) {
        detach(edge, &node, DetachReason::StreamLost).await;
        return Err(full);
    }
    match edge.nodes.put(&node) {
        Put::Taken => {}
        Put::Superseded => return Err(superseded()),
        Put::Older => {
            let message = "the node has attached again meanwhile: this stream is the older one";
            return Err(Refusal::new(Code::Unavailable, "STREAM_OLDER", message));
        }
    }
    let welcome = Welcome {
        generation: attached.generation,
        scheduling_key: started.answer.public_key.clone(),
        beat_ms: u32::try_from(beat_ms(edge, started)).unwrap_or(u32::MAX),
        checkpoint_tokens: edge.settings.checkpoint_tokens,
        checkpoint_ms: edge.settings.checkpoint_ms,
    };
    say(out, to_node::Message::Welcome(welcome)).await?;
    edge.mark(&node);
    Ok(node)
}

fn parse(hello: &Hello) -> Result<(VerifyingKey, [u8; 16], Capabilities), Refusal> {
    let key: Option<[u8; 32]> = hello.public_key.as_ref().try_into().ok();
    let key = key.and_then(|key| VerifyingKey::from_bytes(&key).ok());
    let key = key.ok_or_else(|| malformed("public_key is an Ed25519 key of 32 bytes"))?;
    if hello.signature.len() != 64 {
        return Err(malformed("signature is an Ed25519 signature of 64 bytes"));
    }
    let instance = hello.instance.as_ref().try_into();
    let instance =
        instance.map_err(|_| malformed("instance is 16 random bytes, the same while a process runs"))?;
    let capabilities = Capabilities::decode(hello.capabilities.clone())
        .map_err(|_| malformed("capabilities are the bytes of holmes.scheduling.v1.Capabilities"))?;
    Ok((key, instance, capabilities))
}

fn malformed(expected: &str) -> Refusal {
    Refusal::new(Code::Invalid, "HELLO_MALFORMED", format!("the node cannot be understood: {expected}"))
}

async fn say(out: &Out, message: to_node::Message) -> Result<(), Refusal> {
    out.send(Ok(ToNode { message: Some(message) })).await.map_err(|_| {
        Refusal::new(Code::Unavailable, "NODE_GONE", "the node's stream has ended: attach again")
    })
}

/// How often a node says that it is there: often enough that no beat of the network passes without.
fn beat_ms(edge: &Edge, started: &Started) -> u64 {
    edge.settings.beat_ms.min(started.beats.beat_ms() / 2).max(1)
}

/// Hears a node until it is gone, and says why it is.
async fn listen(edge: &Arc<Edge>, started: &Started, node: &Arc<Node>, words: &mut Words) -> DetachReason {
    let beat = beat_ms(edge, started);
    let silence = ms((beat * edge.settings.silent_beats).max(edge.settings.silent_ms));
    let mut gone = node.gone.subscribe();
    let late = Late::of(edge, node);
    let mut tick = tokio::time::interval(ms(beat));
    loop {
        let word = tokio::select! {
            biased;
            reason = gone.wait_for(Option::is_some) => {
                return reason.ok().and_then(|reason| *reason).unwrap_or(DetachReason::StreamLost);
            }
            word = words.message() => word,
            _ = tick.tick() => {
                // It is told first what became of its last calls, and of those it has asked about.
                let owed = node.has_calls() || edge.reports.owes(node.id) || late.owes();
                if node.leaving.load(Ordering::Relaxed) && !owed {
                    return DetachReason::Left;
                }
                let heard = *guarded(&node.heard);
                if heard.elapsed() >= silence {
                    return DetachReason::Silent;
                }
                continue;
            }
        };
        let Ok(Some(FromNode { message: Some(word) })) = word else {
            let left = node.leaving.load(Ordering::Relaxed);
            return if left { DetachReason::Left } else { DetachReason::StreamLost };
        };
        *guarded(&node.heard) = Instant::now();
        hear(edge, node, &late, word);
    }
}

/// Takes in what a node says.
fn hear(edge: &Arc<Edge>, node: &Arc<Node>, late: &Late, word: from_node::Message) {
    match word {
        from_node::Message::Beat(_) => edge.mark(node),
        from_node::Message::Leaving(_) => node.leaving.store(true, Ordering::Relaxed),
        from_node::Message::Output(output) => {
            let Some(call) = Id::from_slice(&output.call) else { return };
            if output.generation == node.generation {
                node.hand(call, unpacked(output));
            }
        }
        from_node::Message::Checkpoint(checkpoint) => {
            let Some(line) = checkpoint.line else { return };
            if let Some(call) = Id::from_slice(&line.call) {
                node.hand(call, FromCall::Checkpoint(line));
            }
        }
        from_node::Message::Receipt(receipt) => {
            let Some(line) = receipt.line else { return };
            let Some(call) = Id::from_slice(&line.call) else { return };
            if node.hand(call, FromCall::Receipt(line)).is_some() {
                late.answer(edge, node, call, &receipt.lease);
            }
        }
        from_node::Message::Hello(_) => node.end(DetachReason::StreamLost), // one Hello per stream
    }
}

/// An output of a call. A long one is not unpacked: small parts would take many times its length.
fn unpacked(said: CallOutput) -> FromCall {
    if let Some(vectors) = said.vectors {
        return FromCall::Output(Output { output: Some(output::Output::Vectors(vectors)) });
    }
    if said.output.len() > LONGEST_OUTPUT {
        return FromCall::Unreadable("a longer output than there is");
    }
    Output::decode(said.output)
        .map_or(FromCall::Unreadable("an output that cannot be read"), FromCall::Output)
}

/// Reports a node's last beats and that it is gone.
async fn detach(edge: &Arc<Edge>, node: &Node, reason: DetachReason) {
    let last = guarded(&edge.marks).take_node(node.id);
    edge.report_presence(last).await;
    let request = DetachRequest {
        request_id: request_id(),
        node_id: node.id.to_string(),
        generation: node.generation,
        reason: reason.into(),
    };
    let within = Duration::from_millis(edge.settings.report_for_ms);
    let told = edge.upstream.definite(within, || {
        let (mut scheduling, request) = (edge.upstream.scheduling(), request.clone());
        async move { scheduling.detach(request).await }
    });
    if let Err(why) = told.await {
        tracing::warn!(node = %node.id, %why, "scheduling was not told that a node is gone");
    }
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{TokenLogprob, Tokens, Vectors};

    use super::*;

    #[test]
    fn a_long_output_is_not_unpacked_unless_it_is_vectors() {
        let said = |parts: usize| {
            let tokens = Tokens { logprobs: vec![TokenLogprob::default(); parts], ..Tokens::default() };
            let output = Output { output: Some(output::Output::Tokens(tokens)) };
            unpacked(CallOutput { output: output.encode_to_vec().into(), ..CallOutput::default() })
        };
        assert!(matches!(said(LONGEST_OUTPUT / 2 - 8), FromCall::Output(_)));
        assert!(matches!(said(LONGEST_OUTPUT / 2), FromCall::Unreadable(_)));
        let vectors = Vectors { values: vec![0; LONGEST_OUTPUT + 1].into(), ..Vectors::default() };
        let said = unpacked(CallOutput { vectors: Some(vectors), ..CallOutput::default() });
        assert!(matches!(said, FromCall::Output(_)));
    }
}
