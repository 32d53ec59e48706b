//! The nodes that are attached, and their calls. A node's stream is read by one task ([`attach`]), which hands what
//! belongs to a call to that call's queue and never waits for it: a slow renter holds up nobody but himself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ed25519_dalek::VerifyingKey;
use holmes_kernel::Id;
use holmes_proto::gateway::v1::{
    CancelCall, Drain, FromNode, LeaseOver, ReceiptAccepted, StartCall, ToNode, to_node,
};
use holmes_proto::inference::v1::{Output, output};
use holmes_proto::scheduling::v1::{CallLine, Capabilities, DetachReason};
use holmes_proto::statements::LEASE_BYTES;
use metrics::Counter;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::guarded;
use crate::metrics::FLOODED;
use crate::settings::Settings;

pub(crate) mod attach;
mod late;
mod room;

use room::{Room, Taken};

/// The nodes that are attached.
#[derive(Debug)]
pub(crate) struct Nodes {
    attached: Mutex<BTreeMap<Id, Arc<Node>>>,
    /// For what waits of all of them.
    room: Arc<Room>,
    flooded: Counter,
}

/// Whether a node that attaches is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Taken,
    /// The same process has attached again meanwhile.
    Older,
    /// Another process has the node's key, and has attached meanwhile.
    Superseded,
}

impl Nodes {
    pub(crate) fn new(settings: &Settings) -> Nodes {
        Nodes {
            attached: Mutex::default(),
            room: Room::new(settings.most_waiting_bytes),
            flooded: FLOODED.counter(&[]),
        }
    }

    /// A node by its id.
    pub(crate) fn get(&self, id: Id) -> Option<Arc<Node>> {
        guarded(&self.attached).get(&id).cloned()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        guarded(&self.attached).len()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        guarded(&self.attached).values().cloned().collect()
    }

    /// How many serve a model, and the longest context among them.
    pub(crate) fn serving(&self, model: &str) -> (u32, u32) {
        let attached = guarded(&self.attached);
        let contexts = attached.values().filter_map(|node| node.context(model));
        contexts.fold((0, 0), |(count, longest), context| (count + 1, longest.max(context)))
    }

    /// Those that serve a model, each with its slots.
    pub(crate) fn slots(&self, model: &str) -> Vec<(Id, u32)> {
        let attached = guarded(&self.attached);
        let serving = attached.values().filter(|node| node.context(model).is_some());
        serving.map(|node| (node.id, node.capabilities.slots)).collect()
    }

    /// Puts a node in the place of its older attachment, unless a newer one is there.
    fn put(&self, node: &Arc<Node>) -> Put {
        let mut attached = guarded(&self.attached);
        if let Some(old) = attached.get(&node.id) {
            let same_process = old.instance == node.instance;
            if old.generation > node.generation {
                return if same_process { Put::Older } else { Put::Superseded };
            }
            old.by_another.store(!same_process, Ordering::Relaxed);
            old.end(DetachReason::Superseded);
        }
        attached.insert(node.id, node.clone());
        Put::Taken
    }

    /// Takes an attachment out, unless another one stands in its place.
    fn remove(&self, node: &Node) {
        let mut attached = guarded(&self.attached);
        if attached.get(&node.id).is_some_and(|now| now.generation == node.generation) {
            attached.remove(&node.id);
        }
    }

    /// Tells a node what became of a call's receipt, if it is attached.
    pub(crate) fn accepted(&self, node: Id, call: Id, refused: &str) {
        if let Some(node) = self.get(node) {
            node.accepted(call, refused);
        }
    }
}

/// One attachment of a node.
#[derive(Debug)]
pub(crate) struct Node {
    /// BLAKE3-128 of its key.
    pub(crate) id: Id,
    /// What it signs with.
    pub(crate) key: VerifyingKey,
    /// The attachment's number.
    pub(crate) generation: u64,
    /// What it offers.
    pub(crate) capabilities: Capabilities,
    /// The process that attached it.
    instance: [u8; 16],
    out: mpsc::Sender<Result<ToNode, Status>>,
    /// Outputs of a call that may wait for it, and their bytes.
    most_buffered: usize,
    most_buffered_bytes: usize,
    /// For what waits of all its calls.
    room: Arc<Room>,
    flooded: Counter,
    /// `None` once it is gone.
    calls: Mutex<Option<BTreeMap<Id, Entry>>>,
    heard: Mutex<Instant>,
    leaving: AtomicBool,
    /// It was superseded by another process.
    by_another: AtomicBool,
    gone: watch::Sender<Option<DetachReason>>,
}

/// Where what a node says of a call goes.
#[derive(Debug)]
struct Entry {
    to: mpsc::Sender<(Said, Taken)>,
    room: Arc<Room>,
    /// The node was told to end the call.
    cancelled: Arc<AtomicBool>,
    /// The renter is so far behind that the call was cancelled.
    overrun: Arc<AtomicBool>,
}

/// What a node says of a call.
#[derive(Debug)]
pub(crate) enum FromCall {
    Output(Output),
    Checkpoint(CallLine),
    Receipt(CallLine),
    /// It cannot be taken in, and why: its call has failed.
    Unreadable(&'static str),
}

/// The same, and whether it came after the node was told to end the call.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) what: FromCall,
    pub(crate) late: bool,
}

impl FromCall {
    /// What it takes while it waits, about: small parts take more than they take on the wire.
    fn bytes(&self) -> usize {
        const PART: usize = 128;
        let parts = |output: &Output| match &output.output {
            Some(output::Output::Tokens(tokens)) => {
                let tops = tokens.logprobs.iter().map(|token| token.top.len()).sum::<usize>();
                tokens.ids.len() + tokens.logprobs.len() + tops
            }
            _ => 0,
        };
        match self {
            FromCall::Output(output) => output.encoded_len() + PART * (1 + parts(output)),
            FromCall::Checkpoint(line) | FromCall::Receipt(line) => line.encoded_len() + PART,
            FromCall::Unreadable(_) => PART,
        }
    }
}

impl Node {
    /// The longest sequence of a model, where the node serves it.
    pub(crate) fn context(&self, model: &str) -> Option<u32> {
        self.capabilities.models.iter().find(|served| served.name == model).map(|served| served.context)
    }

    /// Whether it takes calls.
    pub(crate) fn takes_calls(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed) && self.gone.borrow().is_none()
    }

    /// Starts a call; `None` when the node is gone, leaves, or has this call already.
    pub(crate) fn start(self: &Arc<Self>, call: Id, start: StartCall) -> Option<NodeCall> {
        if !self.takes_calls() {
            return None;
        }
        // Twice the room: what a node still sends after the call was cancelled must not be lost, the receipt least.
        let (to, from) = mpsc::channel(self.most_buffered * 2);
        let (overrun, cancelled) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let room = self.room.part(self.most_buffered_bytes);
        {
            let mut calls = guarded(&self.calls);
            let calls = calls.as_mut().filter(|calls| !calls.contains_key(&call))?;
            calls.insert(call, Entry { to, room, cancelled: cancelled.clone(), overrun: overrun.clone() });
        }
        let running = NodeCall { node: self.clone(), call, from, cancelled, overrun };
        self.send(to_node::Message::Start(start)).then_some(running)
    }

    /// Tells what became of a receipt.
    pub(crate) fn accepted(&self, call: Id, refused: &str) {
        let calls = call.to_bytes().to_vec().into();
        self.send(to_node::Message::Accepted(ReceiptAccepted { calls, refused: refused.to_owned() }));
    }

    /// Tells that a lease has ended.
    pub(crate) fn lease_over(&self, lease: [u8; LEASE_BYTES]) {
        self.send(to_node::Message::LeaseOver(LeaseOver { lease: lease.to_vec().into() }));
    }

    /// Tells that the gateway stops soon.
    pub(crate) fn drain(&self) {
        self.send(to_node::Message::Drain(Drain {}));
    }

    /// Ends the attachment: its calls are lost at once.
    pub(crate) fn end(&self, reason: DetachReason) {
        self.gone.send_if_modified(|gone| gone.is_none().then(|| *gone = Some(reason)).is_some());
        guarded(&self.calls).take();
    }

    /// Sends a message; a node that does not take its messages is gone.
    fn send(&self, message: to_node::Message) -> bool {
        let sent = self.out.try_send(Ok(ToNode { message: Some(message) })).is_ok();
        if !sent {
            self.end(DetachReason::Silent);
        }
        sent
    }

    /// Hands something over to the call that it belongs to; gives back what belongs to none.
    fn hand(&self, call: Id, what: FromCall) -> Option<FromCall> {
        let mut calls = guarded(&self.calls);
        let Some(entry) = calls.as_ref().and_then(|calls| calls.get(&call)) else { return Some(what) };
        let taken = entry.room.take(what.bytes());
        let flooded = taken.is_none();
        let said = Said { what, late: entry.cancelled.load(Ordering::Relaxed) };
        let full = taken.is_none_or(|taken| entry.to.try_send((said, taken)).is_err());
        let behind = entry.to.capacity() < self.most_buffered || entry.room.is_short();
        let behind = behind && !entry.overrun.swap(true, Ordering::Relaxed);
        if behind {
            entry.cancelled.store(true, Ordering::Relaxed);
        }
        if flooded {
            self.flooded.increment(1);
        }
        if full && let Some(calls) = calls.as_mut() {
            calls.remove(&call);
        }
        drop(calls);
        if behind || full {
            self.cancel(call);
        }
        None
    }

    fn cancel(&self, call: Id) {
        self.send(to_node::Message::Cancel(CancelCall { call: call.to_bytes().to_vec().into() }));
    }

    fn has_calls(&self) -> bool {
        guarded(&self.calls).as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

/// A call at a node. Dropped, the node's further words on it belong to nobody.
#[derive(Debug)]
pub(crate) struct NodeCall {
    /// Where it runs.
    pub(crate) node: Arc<Node>,
    call: Id,
    from: mpsc::Receiver<(Said, Taken)>,
    cancelled: Arc<AtomicBool>,
    overrun: Arc<AtomicBool>,
}

impl NodeCall {
    /// What the node says next; `None` when it is lost.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        self.from.recv().await.map(|(said, _taken)| said)
    }

    /// Ends the call within one step; the node answers with a receipt for what it has sent.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.node.cancel(self.call);
    }

    /// Whether the call was cancelled because its renter took too little.
    pub(crate) fn overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }
}

impl Drop for NodeCall {
    fn drop(&mut self) {
        if let Some(calls) = guarded(&self.node.calls).as_mut() {
            calls.remove(&self.call);
        }
    }
}

/// A node's words, as its stream brings them.
type Words = tonic::Streaming<FromNode>;
