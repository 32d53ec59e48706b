//! The beginning of an attachment: the gateway asks, the node signs, the gateway welcomes it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use ed25519_dalek::{Signer as _, VerifyingKey};
use holmes_kernel::Id;
use holmes_proto::gateway::v1::gateway_client::GatewayClient;
use holmes_proto::gateway::v1::{Challenge, FromNode, Hello, ToNode, Welcome, from_node, to_node};
use holmes_proto::inference::v1::WorkerModel;
use holmes_proto::scheduling::v1::{Capabilities, ServedModel};
use holmes_proto::statements;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Attachment, Detached};
use crate::agent::Node;
use crate::call::Desk;
use crate::lease::{Leases, Terms};
use crate::line::Network;
use crate::pipe::MOST_BYTES;
use crate::probe::speaks_http1;

/// How long a gateway may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that wait for the stream.
const MOST_OUT: usize = 256;
/// A gateway cannot ask for more beats than that.
const SHORTEST_BEAT_MS: u32 = 50;

/// The gateway's question, read.
struct Question {
    gateway: [u8; 16],
    network: Network,
    nonce: [u8; 16],
}

/// Opens the stream and is welcomed.
///
/// # Errors
/// How it ended instead.
pub(super) async fn join(node: &mut Node) -> Result<Attachment<'_>, Detached> {
    let Some(offered) = node.device.served().borrow().clone() else {
        return Err(Detached::Lost(anyhow!("the worker is away")));
    };
    let url = node.options.join.clone();
    let channel = node.endpoint.connect().await;
    let channel = channel
        .with_context(|| {
            format!("nobody answers at {url}: is it the gateway's URL, and does the gateway run?")
        })
        .map_err(Detached::Lost)?;
    let (out, messages) = mpsc::channel(MOST_OUT);
    let mut client = GatewayClient::new(channel).max_decoding_message_size(MOST_BYTES);
    let opened = within(client.attach(ReceiverStream::new(messages))).await.map_err(Detached::Lost)?;
    let mut inbound = match opened {
        Ok(opened) => opened.into_inner(),
        Err(status) if speaks_http1(&url).await => return Err(wrong_port(&url, &status)),
        Err(status) => return Err(refused(node, &status)),
    };

    let question = match next(node, &mut inbound).await? {
        to_node::Message::Challenge(challenge) => question(&challenge).map_err(Detached::Lost)?,
        _ => return Err(Detached::Lost(anyhow!("{url} speaks, but not as a gateway does: it asks nothing"))),
    };
    let hello = hello(node, &question, &offered);
    if out.send(FromNode { message: Some(from_node::Message::Hello(hello)) }).await.is_err() {
        return Err(Detached::Lost(anyhow!("the stream broke")));
    }
    let welcome = match next(node, &mut inbound).await? {
        to_node::Message::Welcome(welcome) => welcome,
        _ => {
            return Err(Detached::Lost(anyhow!(
                "{url} speaks, but not as a gateway does: it does not welcome the node"
            )));
        }
    };
    let key = trusted(node, &welcome).map_err(Detached::Refused)?;

    node.attached_before = true;
    let gateway = Id::from_bytes(question.gateway);
    let (generation, slots) = (welcome.generation, node.options.slots);
    tracing::info!(node = %node.id, url, %gateway, generation, slots, models = offered.len(), "attached");
    let terms = Terms {
        network: question.network,
        key,
        node: node.id.to_bytes(),
        gateway: question.gateway,
        generation,
    };
    let desk = Desk {
        key: node.options.key.clone(),
        network: question.network,
        generation,
        checkpoint_tokens: welcome.checkpoint_tokens.max(1).into(),
        checkpoint_every: Duration::from_millis(welcome.checkpoint_ms.max(1).into()),
        device: node.device.clone(),
        receipts: node.receipts.clone(),
        out,
    };
    Ok(Attachment {
        inbound,
        beat_every: Duration::from_millis(welcome.beat_ms.max(SHORTEST_BEAT_MS).into()),
        desk,
        leases: Leases::new(terms, node.pinned.term()),
        offered,
        running: Default::default(),
        calls: JoinSet::new(),
        answers: JoinSet::new(),
        leaving: None,
        node,
    })
}

async fn within<T>(step: impl Future<Output = T>) -> Result<T> {
    let late = || format!("the gateway did not answer within {} s", PATIENCE.as_secs());
    timeout(PATIENCE, step).await.with_context(late)
}

/// The next message that says something.
async fn next(node: &Node, inbound: &mut Streaming<ToNode>) -> Result<to_node::Message, Detached> {
    match within(inbound.message()).await.map_err(Detached::Lost)? {
        Ok(Some(ToNode { message: Some(message) })) => Ok(message),
        Ok(Some(ToNode { message: None })) => {
            Err(Detached::Lost(anyhow!("the gateway is of another version")))
        }
        Ok(None) => Err(Detached::Lost(anyhow!("the gateway ended the stream before the node was welcome"))),
        Err(status) => Err(refused(node, &status)),
    }
}

/// What is said of an address where something else answers than a gateway's gRPC port.
fn wrong_port(url: &str, status: &Status) -> Detached {
    tracing::debug!(%status, "the stream could not be opened");
    Detached::Refused(anyhow!(
        "{url} speaks HTTP/1 and no gRPC: it may be the gateway's port for OpenAI's clients (gateway.http, 7072); nodes join \
         at the gRPC port (server.listen, 7070)"
    ))
}

/// What a status before the welcome means for the operator.
fn refused(node: &Node, status: &Status) -> Detached {
    let (url, id, message) = (&node.options.join, node.id, status.message());
    if super::is_superseded(status) {
        return Detached::Superseded(super::superseded(node, status));
    }
    if status.get_details_error_info().is_some_and(|info| info.reason == "NODE_UNKNOWN") {
        return Detached::Refused(anyhow!(
            "the key is not that of a node that the network knows: it knows no node {id}\n  if it is an account's key (a \
             wallet), make the node a key of its own: `holmes keys new node.key`\n  if it is the node's, register and bond \
             it: `holmes keys offer NODE.KEY --as staking-node --owner ACCOUNT` prints what Staking/RegisterNode takes; then \
             bond it with Staking/Bond\n  if that was only just done, start the executor again in a second or two"
        ));
    }
    match status.code() {
        Code::Unimplemented => {
            Detached::Refused(anyhow!("{url} is no gateway: nodes join at a server with the role gateway"))
        }
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::InvalidArgument => Detached::Refused(anyhow!(
            "the gateway does not take the node {id}: {message}\n  register the node and bond it: `holmes keys offer NODE.KEY \
             --as staking-node --owner ACCOUNT` prints what Staking/RegisterNode takes; then bond it with Staking/Bond"
        )),
        _ => Detached::Lost(super::broke(url, status)),
    }
}

fn question(challenge: &Challenge) -> Result<Question> {
    let sixteen = |bytes: &[u8], what| -> Result<[u8; 16]> {
        bytes.try_into().ok().with_context(|| format!("the gateway's {what} is not 16 bytes long"))
    };
    let genesis = sixteen(&challenge.genesis, "genesis")?;
    let cell = u16::try_from(challenge.cell).ok().context("the gateway's cell is beyond 65,535")?;
    Ok(Question {
        gateway: sixteen(&challenge.gateway, "id")?,
        network: Network { genesis, cell },
        nonce: sixteen(&challenge.nonce, "nonce")?,
    })
}

/// The signed offer.
fn hello(node: &Node, question: &Question, models: &Arc<Vec<WorkerModel>>) -> Hello {
    let options = &node.options;
    let model = |model: &WorkerModel| ServedModel {
        name: model.name.clone(),
        digest: model.digest.clone(),
        context: model.context,
    };
    let capabilities = Capabilities {
        models: models.iter().map(model).collect(),
        slots: options.slots,
        hardware: options.hardware.clone(),
        region: options.region.clone(),
        software: concat!("holmes/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let capabilities = capabilities.encode_to_vec();
    let Network { genesis, cell } = question.network;
    let statement = statements::attach(&genesis, cell, &question.gateway, &question.nonce, &capabilities);
    Hello {
        public_key: options.key.verifying_key().to_bytes().to_vec().into(),
        capabilities: capabilities.into(),
        signature: options.key.sign(&statement).to_bytes().to_vec().into(),
        instance: node.instance.to_vec().into(),
    }
}

/// The key that leases are signed with, when it is the one that this node trusts.
fn trusted(node: &mut Node, welcome: &Welcome) -> Result<VerifyingKey> {
    let told: [u8; 32] = welcome
        .scheduling_key
        .as_ref()
        .try_into()
        .ok()
        .context("the gateway's scheduling key is not 32 bytes long")?;
    let key = VerifyingKey::from_bytes(&told).ok().filter(|key| !key.is_weak());
    let key = key.context("the gateway's scheduling key is no Ed25519 key")?;
    node.pinned.check(told, node.options.pin)?;
    Ok(key)
}
