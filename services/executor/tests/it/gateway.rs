//! A gateway that does what a test says, over a real connection. It checks every signature that it gets.

use std::time::Duration;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use holmes_kernel::Id;
use holmes_proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use holmes_proto::gateway::v1::*;
use holmes_proto::inference::v1::{
    Failed, Finished, GenerateWork, Output, Sampling, Tokens, Vectors, Work, generate_work, output, work,
};
use holmes_proto::scheduling::v1::{CallLine, Capabilities, Finish, Lease, LeaseToken};
use holmes_proto::statements;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::node::key;

pub(crate) const GENESIS: [u8; 16] = [0x42; 16];
pub(crate) const CELL: u16 = 3;
pub(crate) const GATEWAY: [u8; 16] = [0x77; 16];
pub(crate) const COMMITMENT_KEY: [u8; 32] = [0x99; 32];
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn scheduling() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

/// What an output says.
pub(crate) fn said(out: CallOutput) -> Option<output::Output> {
    match out.vectors {
        Some(vectors) => Some(output::Output::Vectors(vectors)),
        None => Output::decode(out.output).unwrap().output,
    }
}

/// A listening gateway.
pub(crate) struct Server {
    pub(crate) url: String,
    peers: mpsc::Receiver<Peer>,
    task: JoinHandle<()>,
}

struct Script(mpsc::Sender<Peer>);

#[tonic::async_trait]
impl Gateway for Script {
    type AttachStream = ReceiverStream<Result<ToNode, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (says, messages) = mpsc::channel(4_096);
        let peer = Peer { says, hears: request.into_inner(), generation: 0, beats: 0, instance: Vec::new() };
        self.0.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Server {
    pub(crate) async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (attached, peers) = mpsc::channel(16);
        let service = GatewayServer::new(Script(attached));
        // HTTP/2 ends a connection on which too many small frames wait. It takes as many as fill half of the connection's
        // window with 256 bytes each: more than fit into this window of the stream, so that a reader may be slow.
        let serving = tonic::transport::Server::builder()
            .initial_stream_window_size(1 << 16)
            .initial_connection_window_size(1 << 20)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Server { url, peers, task }
    }

    /// The next node that opens its stream.
    pub(crate) async fn next(&mut self) -> Peer {
        tokio::time::timeout(Duration::from_secs(60), self.peers.recv()).await.expect("a node comes").unwrap()
    }

    /// The next node, welcomed.
    pub(crate) async fn welcome(&mut self, generation: u64) -> Peer {
        let mut peer = self.next().await;
        peer.challenge().await;
        peer.hello().await;
        peer.welcome(generation).await;
        peer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The gateway's end of a stream.
pub(crate) struct Peer {
    says: mpsc::Sender<Result<ToNode, Status>>,
    hears: Streaming<FromNode>,
    generation: u64,
    pub(crate) beats: usize,
    /// What tells the node's process from others.
    pub(crate) instance: Vec<u8>,
}

/// What came of a call.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) first: Option<u32>,
    pub(crate) checkpoints: Vec<CallLine>,
    pub(crate) finished: Option<Finished>,
    pub(crate) vectors: Option<Vectors>,
    pub(crate) failed: Option<Failed>,
    pub(crate) receipt: Option<CallLine>,
}

impl Answer {
    /// The receipt, which says what was delivered.
    pub(crate) fn receipt(&self, finish: Finish) -> &CallLine {
        let line = self.receipt.as_ref().expect("it has a receipt");
        assert_eq!(line.finish(), finish);
        assert_eq!(line.output_tokens, self.ids.len() as u64);
        let text = blake3::keyed_hash(&COMMITMENT_KEY, self.text.as_bytes());
        assert_eq!(line.output_commitment.as_ref(), text.as_bytes());
        line
    }

    pub(crate) fn failed(&self) -> &str {
        assert!(self.receipt.is_none() && self.finished.is_none());
        &self.failed.as_ref().expect("it failed").reason
    }
}

impl Peer {
    pub(crate) async fn say(&self, message: to_node::Message) {
        self.says.send(Ok(ToNode { message: Some(message) })).await.expect("the node listens");
    }

    /// Ends the stream with a status.
    pub(crate) async fn refuse(&self, status: Status) {
        self.says.send(Err(status)).await.expect("the node listens");
    }

    pub(crate) async fn challenge(&self) {
        let challenge = Challenge {
            gateway: GATEWAY.to_vec().into(),
            genesis: GENESIS.to_vec().into(),
            cell: CELL.into(),
            nonce: vec![0x55; 16].into(),
        };
        self.say(to_node::Message::Challenge(challenge)).await;
    }

    /// The node's answer to the question: signed by its key, over what it offers.
    pub(crate) async fn hello(&mut self) -> Capabilities {
        let Some(from_node::Message::Hello(hello)) = self.next().await else { panic!("no hello") };
        assert_eq!(hello.public_key, key().verifying_key().to_bytes().to_vec());
        let statement = statements::attach(&GENESIS, CELL, &GATEWAY, &[0x55; 16], &hello.capabilities);
        verify(&key().verifying_key(), &statement, &hello.signature);
        self.instance = hello.instance.to_vec();
        Capabilities::decode(hello.capabilities).unwrap()
    }

    pub(crate) async fn welcome(&mut self, generation: u64) {
        self.welcome_with(generation, &scheduling().verifying_key().to_bytes()).await;
    }

    pub(crate) async fn welcome_with(&mut self, generation: u64, scheduling_key: &[u8]) {
        self.generation = generation;
        let welcome = Welcome {
            generation,
            scheduling_key: scheduling_key.to_vec().into(),
            beat_ms: 100,
            checkpoint_tokens: 16,
            checkpoint_ms: 200,
        };
        self.say(to_node::Message::Welcome(welcome)).await;
    }

    /// A lease of this node under this attachment.
    pub(crate) fn lease(&self, term: u64, seq: u64) -> Lease {
        Lease {
            lease: statements::lease_id(CELL, 4, term, seq).to_vec().into(),
            session: vec![1; 16].into(),
            node: Id::of_key(&key().verifying_key().to_bytes()).to_bytes().to_vec().into(),
            gateway: GATEWAY.to_vec().into(),
            generation: self.generation,
            model: "tiny".into(),
            expires_at_us: now_us() + 60_000_000,
            allowance_pico_usd: 1_000_000_000,
            input_pico_usd: 1,
            output_pico_usd: 10,
        }
    }

    pub(crate) async fn start(&self, call: u8, lease: &Lease, work: Work) {
        self.start_with(call, sign(&scheduling(), lease), work).await;
    }

    pub(crate) async fn start_with(&self, call: u8, lease: LeaseToken, work: Work) {
        let start = StartCall {
            call: vec![call; 16].into(),
            lease: Some(lease),
            work: Some(work),
            commitment_key: COMMITMENT_KEY.to_vec().into(),
        };
        self.say(to_node::Message::Start(start)).await;
    }

    pub(crate) async fn cancel(&self, call: u8) {
        self.say(to_node::Message::Cancel(CancelCall { call: vec![call; 16].into() })).await;
    }

    pub(crate) async fn accept(&self, call: u8, refused: &str) {
        let accepted = ReceiptAccepted { calls: vec![call; 16].into(), refused: refused.into() };
        self.say(to_node::Message::Accepted(accepted)).await;
    }

    /// The next message that is no beat; `None` when the stream is over.
    pub(crate) async fn next(&mut self) -> Option<from_node::Message> {
        loop {
            let message =
                tokio::time::timeout(PATIENCE, self.hears.message()).await.expect("the node speaks");
            let message = message.inspect_err(|status| eprintln!("the stream broke: {status}")).ok()??;
            match message.message.unwrap() {
                from_node::Message::Beat(_) => self.beats += 1,
                message => return Some(message),
            }
        }
    }

    /// Tokens of a call.
    pub(crate) async fn tokens(&mut self, call: u8) -> Tokens {
        loop {
            if let Some(from_node::Message::Output(out)) = self.next().await
                && out.call == vec![call; 16]
                && let Some(output::Output::Tokens(tokens)) = said(out)
            {
                return tokens;
            }
        }
    }

    /// The next receipt; it is checked.
    pub(crate) async fn receipt(&mut self) -> (u8, CallLine) {
        loop {
            if let Some(from_node::Message::Receipt(receipt)) = self.next().await {
                let line = receipt.line.unwrap();
                check(&receipt.lease, &line);
                return (line.call[0], line);
            }
        }
    }

    /// All of one call, while no other one is there: to its receipt, or its failure.
    pub(crate) async fn answer(&mut self, call: u8) -> Answer {
        let mut answer = Answer::default();
        while answer.failed.is_none() && answer.receipt.is_none() {
            self.part(call, &mut answer).await;
        }
        answer
    }

    /// One message of a call.
    pub(crate) async fn part(&mut self, call: u8, answer: &mut Answer) {
        match self.next().await.expect("the stream lasts") {
            from_node::Message::Output(out) => {
                assert_eq!((out.call.as_ref(), out.generation), ([call; 16].as_slice(), self.generation));
                assert!(
                    answer.finished.is_none() && answer.vectors.is_none(),
                    "nothing comes behind the end"
                );
                match said(out).unwrap() {
                    output::Output::Tokens(tokens) => {
                        let first = *answer.first.get_or_insert(tokens.first);
                        assert_eq!(
                            tokens.first as usize,
                            first as usize + answer.ids.len(),
                            "no token is left out"
                        );
                        assert!(!tokens.ids.is_empty());
                        answer.ids.extend(tokens.ids);
                        answer.text += &tokens.text;
                    }
                    output::Output::Finished(finished) => answer.finished = Some(finished),
                    output::Output::Vectors(vectors) => answer.vectors = Some(vectors),
                    output::Output::Failed(failed) => answer.failed = Some(failed),
                }
            }
            from_node::Message::Checkpoint(checkpoint) => {
                let line = checkpoint.line.unwrap();
                check(&checkpoint.lease, &line);
                assert_eq!(line.finish(), Finish::NodeLost);
                assert_eq!(line.output_tokens, answer.ids.len() as u64, "it covers what was sent before it");
                let text = blake3::keyed_hash(&COMMITMENT_KEY, answer.text.as_bytes());
                assert_eq!(line.output_commitment.as_ref(), text.as_bytes());
                answer.checkpoints.push(line);
            }
            from_node::Message::Receipt(receipt) => {
                let line = receipt.line.unwrap();
                check(&receipt.lease, &line);
                assert_eq!(line.call.as_ref(), [call; 16]);
                answer.receipt = Some(line);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A line's signature by the node.
fn check(lease: &[u8], line: &CallLine) {
    assert!(line.gateway_signature.is_empty());
    let statement = statements::call_line(&GENESIS, CELL, lease.try_into().unwrap(), line);
    verify(&key().verifying_key(), &statement, &line.node_signature);
}

fn verify(key: &VerifyingKey, statement: &[u8], signature: &[u8]) {
    key.verify_strict(statement, &Signature::from_slice(signature).unwrap()).unwrap();
}

/// A lease's token.
pub(crate) fn sign(key: &SigningKey, lease: &Lease) -> LeaseToken {
    let bytes = lease.encode_to_vec();
    let signature = key.sign(&statements::lease(&GENESIS, CELL, &bytes)).to_bytes().to_vec();
    LeaseToken { lease: bytes.into(), signature: signature.into() }
}

pub(crate) fn now_us() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64
}

/// A prompt to be continued, greedily.
pub(crate) fn generate(prompt: &str, max_tokens: u32) -> GenerateWork {
    let prompt = Some(generate_work::Prompt::Text(prompt.into()));
    GenerateWork { prompt, max_tokens, sampling: Some(Sampling::default()), ..GenerateWork::default() }
}

/// The same as work of the tiny model.
pub(crate) fn tiny(work: GenerateWork) -> Work {
    Work { model: "tiny".into(), work: Some(work::Work::Generate(work)) }
}
