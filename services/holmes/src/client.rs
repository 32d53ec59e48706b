//! Typed calls to a running server, with a proof of who asks: what the demo and other commands use where `holmes call`
//! goes by reflection.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind, Time};
use holmes_proto::edge;
use holmes_runtime::Clock;
use holmes_runtime::auth::{Network, signing_input};
use prost_reflect::prost::Message;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming, TimeoutExpired};
use tonic_types::StatusExt as _;

use crate::{keys, output};

/// How long a signature is good for.
const SIGNED_FOR_MS: u64 = 60_000;
/// How long a server may take to accept a connection.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// How long a call may take that says nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// What proves who asks.
#[derive(Clone)]
pub(crate) enum Proof {
    /// Nothing: for what anybody may ask.
    Nobody,
    /// An API key.
    ApiKey(String),
    /// A key that signs each request, as a party of this kind.
    Key(Box<SigningKey>, PrincipalKind),
    /// A key that signs each request as somebody who is named: where the id does not follow from the key.
    Of(Box<SigningKey>, Principal),
}

impl Proof {
    /// What a command line names: a key file, which signs as this kind of party and goes before an API key; or nothing.
    pub(crate) fn of(sign_with: Option<&Path>, kind: PrincipalKind, key: Option<&str>) -> Result<Proof> {
        Ok(match (sign_with, key) {
            (Some(file), _) => Proof::Key(Box::new(keys::read(file)?), kind),
            (None, Some(key)) => Proof::ApiKey(key.to_owned()),
            (None, None) => Proof::Nobody,
        })
    }

    /// Adds what proves a request to its metadata. `request_id` is the one that the message carries.
    pub(crate) fn add_to(
        &self,
        metadata: &mut MetadataMap,
        network: impl FnOnce() -> Result<Network>,
        path: &str,
        message: &[u8],
        request_id: Id,
    ) -> Result<()> {
        self.add_at(Clock::System.now(), metadata, network, path, message, request_id)
    }

    /// The same at a moment that the caller knows.
    pub(crate) fn add_at(
        &self,
        now: Time,
        metadata: &mut MetadataMap,
        network: impl FnOnce() -> Result<Network>,
        path: &str,
        message: &[u8],
        request_id: Id,
    ) -> Result<()> {
        match self {
            Proof::Nobody => {}
            Proof::ApiKey(key) => {
                let bearer = format!("Bearer {key}").parse().context("an API key is printable ASCII")?;
                metadata.insert("authorization", bearer);
            }
            Proof::Key(key, kind) => {
                let principal = Principal::new(*kind, Id::of_key(&key.verifying_key().to_bytes()));
                return Proof::Of(key.clone(), principal)
                    .add_at(now, metadata, network, path, message, request_id);
            }
            Proof::Of(key, principal) => {
                let expires_ms = now.after_millis(SIGNED_FOR_MS).millis();
                let input = signing_input(&network()?, path, message, request_id, expires_ms, *principal);
                let fields = [
                    ("holmes-principal", output::hex(&principal.to_bytes())),
                    ("holmes-request-id", request_id.to_string()),
                    ("holmes-expires", expires_ms.to_string()),
                    ("holmes-signature", output::hex(&key.sign(&input).to_bytes())),
                ];
                for (name, value) in fields {
                    metadata.insert(name, value.parse()?);
                }
            }
        }
        Ok(())
    }
}

/// A server, as one caller sees it.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    channel: Channel,
    network: Network,
    proof: Proof,
}

impl Client {
    /// A client of a server that answers at `url`; the connection is made when it is needed.
    pub(crate) fn new(url: &str, network: Network, proof: Proof) -> Result<Client> {
        let url = address(url)?;
        let channel = Endpoint::new(url.clone())?.connect_timeout(CONNECTS_WITHIN).connect_lazy();
        Ok(Client { url, channel, network, proof })
    }

    /// A client of a server that must be there now.
    pub(crate) async fn connected(server: &str, network: Network, proof: Proof) -> Result<Client> {
        let url = address(server)?;
        let channel = connect(&url, CONNECTS_WITHIN).await?;
        Ok(Client { url, channel, network, proof })
    }

    /// One request, one answer. `method` is `holmes.<service>.v1.<Service>/<Method>`.
    pub(crate) async fn ask<Q, A>(&self, method: &str, request_id: Id, question: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let request = self.request(method, request_id, question)?;
        let path = format!("/{method}").parse().context("a method's name")?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.with_context(|| format!("{method}: the server does not answer"))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer: Result<Response<A>, Status> = grpc.unary(request, path, codec).await;
        self.answered(method, answer).await
    }

    /// One request, a stream of answers.
    pub(crate) async fn stream<Q, A>(&self, method: &str, request_id: Id, question: Q) -> Result<Streaming<A>>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = self.request(method, request_id, question)?;
        request.set_timeout(Duration::from_secs(300));
        let path = format!("/{method}").parse().context("a method's name")?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.with_context(|| format!("{method}: the server does not answer"))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer = grpc.server_streaming(request, path, codec).await;
        self.answered(method, answer).await
    }

    async fn answered<T>(&self, method: &str, answer: Result<Response<T>, Status>) -> Result<T> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.failed(&status).await.context(method.to_owned())),
        }
    }

    /// The next message of a stream of this client's; `None` at its end.
    pub(crate) async fn next<A>(&self, stream: &mut Streaming<A>) -> Result<Option<A>> {
        match stream.message().await {
            Ok(message) => Ok(message),
            Err(status) => Err(self.failed(&status).await),
        }
    }

    async fn failed(&self, status: &Status) -> anyhow::Error {
        failed(&self.url, status).await
    }

    fn request<Q: Message>(&self, method: &str, request_id: Id, question: Q) -> Result<Request<Q>> {
        let bytes = question.encode_to_vec();
        let mut request = Request::new(question);
        request.set_timeout(PATIENCE);
        let path = format!("/{method}");
        self.proof.add_to(request.metadata_mut(), || Ok(self.network.clone()), &path, &bytes, request_id)?;
        Ok(request)
    }
}

/// The URL of a server, as a person writes it.
pub(crate) fn address(text: &str) -> Result<String> {
    Ok(holmes_proto::address::url(text, "http://127.0.0.1:7070")?)
}

/// A connection to a server's gRPC port: every command that calls one comes in here, so that all say the same when
/// there is none.
pub(crate) async fn connect(url: &str, within: Duration) -> Result<Channel> {
    let endpoint = Endpoint::new(url.to_owned())?.connect_timeout(within);
    endpoint.connect().await.with_context(|| nobody_at(url))
}

fn nobody_at(url: &str) -> String {
    format!("no answer from {url}: is a server running there? Start one with `holmes serve`")
}

/// Why a call has no answer: the server's own words, or what became of the connection.
pub(crate) async fn failed(url: &str, status: &Status) -> anyhow::Error {
    if edge::is_said(status) {
        return told(status);
    }
    if let Some(why) = wrong_port(url).await {
        return why;
    }
    if status.source().is_some_and(is_expired) {
        return anyhow!(
            "{url} has not answered in time: look whether the server is busy or stands still (`holmes_` at the admin port's \
             /metrics), then try again with the same request id\n  {REASON}NOT_ANSWERED_IN_TIME"
        );
    }
    if status.code() == Code::Unavailable && status.message().contains("connect") {
        return anyhow!("{}\n  {REASON}SERVER_UNREACHABLE", nobody_at(url));
    }
    anyhow!(
        "{url} closed the connection before the answer was whole: the server stopped, or this address had more connections \
         open than it takes (server.max_connections_per_address, server.max_connections; the oldest gives way). See whether \
         it runs, keep fewer connections open, and try again with the same request id\n  {REASON}CONNECTION_CLOSED"
    )
}

/// Whether an error came of nothing but waiting.
fn is_expired(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<TimeoutExpired>() || cause.source().is_some_and(is_expired)
}

/// What is wrong with a URL where no gRPC is spoken, if it is that.
async fn wrong_port(url: &str) -> Option<anyhow::Error> {
    holmes_executor::speaks_http1(url).await.then(|| {
        anyhow!(
            "{url} speaks HTTP/1 and no gRPC: it may be the port for OpenAI's clients (gateway.http, 7072) or the admin port \
             (server.admin, 7071); call the gRPC port (server.listen, 7070)"
        )
    })
}

/// A status in words: message, stable reason, wait, and what helps where we know it.
pub(crate) fn told(status: &Status) -> anyhow::Error {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(info) = status.get_details_error_info() {
        text.push_str(&format!("\n  {REASON}{}", info.reason));
        let more: BTreeMap<_, _> = info.metadata.iter().collect(); // in the same order every time
        more.iter().for_each(|(name, value)| text.push_str(&format!("\n  {name}: {value}")));
        if matches!(info.reason.as_str(), "SIGNATURE_WRONG" | "POSSESSION_WRONG" | "POSSESSION_INVALID") {
            text.push_str("\n  a signature counts in one network only: was this one opened with another profile? Name it (--profile)");
        }
    }
    if let Some(wait) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        text.push_str(&format!("\n  try again after: {} ms", wait.as_millis()));
    }
    anyhow!(text)
}

/// What stands before a stable reason.
const REASON: &str = "reason: ";

/// Whether a call was refused for this stable reason.
pub(crate) fn is_reason(why: &anyhow::Error, reason: &str) -> bool {
    let line = format!("{REASON}{reason}");
    why.chain().any(|cause| cause.to_string().lines().any(|told| told.trim() == line))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{Code, Refusal};
    use holmes_proto::edge::status_with;

    use super::*;

    #[test]
    fn an_error_tells_what_the_call_cost_all_the_same() {
        let cost = [("receipts", "receipts/31.0"), ("price_micro_usd", "70")];
        let cost = cost.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let lost = Refusal::new(Code::Unavailable, "NODES_LOST", "the call was lost");
        let told = told(&status_with(lost, cost.into()));
        let lines = ["  reason: NODES_LOST", "  price_micro_usd: 70", "  receipts: receipts/31.0"];
        assert_eq!(told.to_string().lines().skip(1).collect::<Vec<_>>(), lines);
    }
}
