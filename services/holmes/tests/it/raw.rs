//! Calls as bytes on the wire: with any message and any proof, right or wrong.

use std::sync::LazyLock;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_runtime::auth::{Network, signing_input};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::{PATIENCE, Place, Server};

/// Metadata of a call.
pub(crate) type Fields = Vec<(&'static str, String)>;

/// Every method, as `holmes call` lists them.
pub(crate) fn methods(server: &Server<'_>) -> Vec<String> {
    let listed = server.call(&[]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    listed.out.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// A method of ours by its name.
pub(crate) fn described(method: &str) -> Option<MethodDescriptor> {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(holmes_proto::DESCRIPTORS).expect("descriptors"));
    let (service, name) = method.split_once('/')?;
    POOL.get_service_by_name(service)?.methods().find(|known| known.name() == name)
}

pub(crate) async fn connect(server: &Server<'_>) -> Channel {
    Endpoint::new(server.address.clone()).expect("an address").connect().await.expect("connected")
}

/// Calls a method, and answers its refusal.
pub(crate) async fn call(
    channel: &Channel,
    method: &str,
    message: Vec<u8>,
    fields: &Fields,
) -> Option<Status> {
    answer(channel, method, message, fields).await.err()
}

/// Calls a method, and answers what came until it said no more, or its refusal.
pub(crate) async fn answer(
    channel: &Channel,
    method: &str,
    message: Vec<u8>,
    fields: &Fields,
) -> Result<Vec<Vec<u8>>, Status> {
    let mut request = Request::new(message);
    for (name, value) in fields {
        request.metadata_mut().insert(*name, value.parse().expect("printable"));
    }
    if !fields.iter().any(|(name, _)| *name == "grpc-timeout") {
        request.set_timeout(PATIENCE);
    }
    let path = format!("/{method}").parse().expect("a path");
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_encoding_message_size(usize::MAX);
    grpc.ready().await.expect("connected");
    let mut answers = grpc.server_streaming(request, path, Bytes).await?.into_inner();
    let mut said = Vec::new();
    // A stream that says nothing more has let us in.
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), answers.message()).await {
        match next? {
            Some(message) => said.push(message),
            None => break,
        }
    }
    Ok(said)
}

/// An API key as a proof.
pub(crate) fn bearer(key: &str) -> Fields {
    vec![("authorization", format!("Bearer {key}"))]
}

/// The metadata of a message that is signed for the network of a profile.
pub(crate) struct Signing<'a> {
    pub key: &'a SigningKey,
    pub principal: Principal,
    pub genesis: [u8; 16],
}

/// Whom a key signs for: its id is the key's.
pub(crate) fn of_key(key: &SigningKey, kind: PrincipalKind) -> Principal {
    Principal::new(kind, Id::of_key(&key.verifying_key().to_bytes()))
}

impl Signing<'_> {
    pub(crate) fn fields(&self, method: &str, message: &[u8], id: Id, expires_ms: u64) -> Fields {
        let network = Network { genesis: self.genesis, cell: 1 };
        let principal = self.principal;
        let input = signing_input(&network, &format!("/{method}"), message, id, expires_ms, principal);
        vec![
            ("holmes-principal", hex(&principal.to_bytes())),
            ("holmes-request-id", id.to_string()),
            ("holmes-expires", expires_ms.to_string()),
            ("holmes-signature", hex(&self.key.sign(&input).to_bytes())),
        ]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What names the network of a profile.
pub(crate) fn genesis(profile: &[u8]) -> [u8; 16] {
    std::array::from_fn(|at| blake3::hash(profile).as_bytes()[at])
}

/// The secret in a key file.
pub(crate) fn secret(place: &Place, file: &str) -> SigningKey {
    let text = std::fs::read_to_string(place.path(file)).expect("a key file");
    let digits = text.split_whitespace().last().expect("its digits").to_owned();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("a digit");
    SigningKey::from_bytes(&std::array::from_fn(byte))
}

pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("not so far")
}

/// The stable reason of a refusal; empty for none.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Messages as bytes.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost_reflect::prost::bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; prost_reflect::prost::bytes::Buf::remaining(buffer)];
        prost_reflect::prost::bytes::Buf::copy_to_slice(buffer, &mut message);
        Ok(Some(message))
    }
}
