//! Typed calls to a running server, with a proof of who asks: what the demo and other commands use where `holmes call`
//! goes by reflection.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_runtime::Clock;
use holmes_runtime::auth::{Network, signing_input};
use prost_reflect::prost::Message;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{keys, output};

/// How long a signature is good for.
const SIGNED_FOR_MS: u64 = 60_000;
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
        match self {
            Proof::Nobody => {}
            Proof::ApiKey(key) => {
                let bearer = format!("Bearer {key}").parse().context("an API key is printable ASCII")?;
                metadata.insert("authorization", bearer);
            }
            Proof::Key(key, kind) => {
                let principal = Principal::new(*kind, Id::of_key(&key.verifying_key().to_bytes()));
                let expires_ms = Clock::System.now().after_millis(SIGNED_FOR_MS).millis();
                let input = signing_input(&network()?, path, message, request_id, expires_ms, principal);
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
    channel: Channel,
    network: Network,
    proof: Proof,
}

impl Client {
    /// A client of a server that answers at `url`; the connection is made when it is needed.
    pub(crate) fn new(url: &str, network: Network, proof: Proof) -> Result<Client> {
        let endpoint = Endpoint::new(address(url)?)?;
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy();
        Ok(Client { channel, network, proof })
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
        Ok(answer.map_err(|status| told(&status)).with_context(|| method.to_owned())?.into_inner())
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
        Ok(answer.map_err(|status| told(&status)).with_context(|| method.to_owned())?.into_inner())
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

/// What is wrong with a URL where no gRPC is spoken, if it is that.
pub(crate) async fn wrong_port(url: &str) -> Option<anyhow::Error> {
    holmes_executor::speaks_http1(url).await.then(|| {
        anyhow::anyhow!(
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
    anyhow::anyhow!(text)
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
