//! `holmes call`: any RPC of any server that has reflection, JSON in and JSON out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_runtime::auth::{Network, signing_input};
use holmes_runtime::config::Config;
use holmes_runtime::{Clock, fresh_id};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions, Value};
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt as _;

use crate::profile::Profile;
use crate::{client, keys, output};

/// How long a signature is good for.
const SIGNED_FOR_MS: u64 = 60_000;

/// What is called, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes call                                            every method of the server
  holmes call holmes.ledger.v1.Ledger/GetSupply
  holmes call Ledger/GetAccount '{\"account_id\": \"0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69\"}'
  echo '{…}' | holmes call Ledger/CreateTransfers -     the request from stdin

A request_id that the request has and the JSON leaves out is made and told on stderr; after a failure whose outcome
is not known, send the same one again. Other ids that the caller chooses are made by `holmes keys id`. Bytes are
base64, amounts decimal strings.")]
pub(crate) struct Args {
    /// Service and method; the package may be left out where the name is unique. Nothing: list what there is.
    method: Option<String>,
    /// The request as JSON; `-` reads it from stdin.
    #[arg(default_value = "{}")]
    json: String,
    /// Where the server's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, default_value = "http://127.0.0.1:7070", env = "HOLMES_SERVER")]
    to: String,
    /// API key.
    #[arg(long, env = "HOLMES_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Sign the request with this key file (`holmes keys new`); no API key is sent then.
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
    /// As whom the key signs.
    #[arg(long = "as", value_enum, default_value_t, requires = "sign_with")]
    signer: Signer,
    /// Profile of the network, which a signature covers: a built-in name or a file.
    #[arg(long)]
    profile: Option<String>,
    /// Metadata to send, as name=value; may be repeated.
    #[arg(long = "metadata", short = 'm', value_name = "NAME=VALUE")]
    metadata: Vec<String>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

/// What kind of party a key signs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Signer {
    /// The owner of the account whose id is the key's.
    #[default]
    Account,
    /// A member of staff.
    Staff,
    /// A node.
    Node,
}

impl Signer {
    fn kind(self) -> PrincipalKind {
        match self {
            Signer::Account => PrincipalKind::Account,
            Signer::Staff => PrincipalKind::Staff,
            Signer::Node => PrincipalKind::Node,
        }
    }
}

/// Calls, and prints each answer as one JSON document.
pub(crate) async fn run(args: Args, mut config: Config) -> Result<()> {
    config.cell.profile = args.profile.clone().unwrap_or(config.cell.profile);
    let to = client::address(&args.to)?;
    let timeout = std::time::Duration::from_secs(args.timeout);
    let channel = Endpoint::new(to.clone())?.connect_timeout(timeout).connect().await.with_context(|| {
        format!("no answer from {to}: is a server running there? Start one with `holmes serve`")
    })?;
    let mut reflection = Reflection { client: ServerReflectionClient::new(channel.clone()) };
    let found = match &args.method {
        None => list(&mut reflection).await.map(|()| None),
        Some(wanted) => reflection.method(wanted).await.map(Some),
    };
    let method = match found {
        Ok(Some(method)) => method,
        Ok(None) => return Ok(()),
        Err(why) => return Err(client::wrong_port(&to).await.unwrap_or(why)),
    };
    let message = request_message(&method, &args.json)?;
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    if let Some(key) = args.key.as_ref().filter(|_| args.sign_with.is_none()) {
        let bearer = format!("Bearer {key}").parse().context("--key: an API key is printable ASCII")?;
        request.metadata_mut().insert("authorization", bearer);
    }
    if let Some(file) = &args.sign_with {
        sign(&mut request, &method, &keys::read(file)?, args.signer, &config)?;
    }
    for pair in &args.metadata {
        let (name, value) =
            pair.split_once('=').with_context(|| format!("--metadata {pair}: write NAME=VALUE"))?;
        let name: tonic::metadata::AsciiMetadataKey =
            name.parse().with_context(|| format!("--metadata {pair}"))?;
        request.metadata_mut().insert(name, value.parse().with_context(|| format!("--metadata {pair}"))?);
    }
    answer(channel, &method, request).await
}

/// Signs a request: see the docs, Signing.
fn sign(
    request: &mut Request<DynamicMessage>,
    method: &MethodDescriptor,
    key: &SigningKey,
    signer: Signer,
    config: &Config,
) -> Result<()> {
    let field = method.input().get_field_by_name("request_id");
    let request_id = field.map(|field| request.get_ref().get_field(&field).into_owned());
    let request_id: Id = match request_id.as_ref().and_then(Value::as_str) {
        Some(text) if !text.is_empty() => text.parse().context("request_id")?,
        _ => fresh_id(), // a read, or a numbered submission: nothing can run twice
    };
    let principal = Principal::new(signer.kind(), Id::of_key(&key.verifying_key().to_bytes()));
    let expires_ms = Clock::System.now().after_millis(SIGNED_FOR_MS).millis();
    let network = Network { genesis: Profile::load(&config.cell.profile)?.hash(), cell: config.cell.number };
    let path = path_of(method);
    let input =
        signing_input(&network, &path, &request.get_ref().encode_to_vec(), request_id, expires_ms, principal);
    let fields = [
        ("holmes-principal", output::hex(&principal.to_bytes())),
        ("holmes-request-id", request_id.to_string()),
        ("holmes-expires", expires_ms.to_string()),
        ("holmes-signature", output::hex(&key.sign(&input).to_bytes())),
    ];
    for (name, value) in fields {
        request.metadata_mut().insert(name, value.parse()?);
    }
    Ok(())
}

fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

async fn answer(channel: Channel, method: &MethodDescriptor, request: Request<DynamicMessage>) -> Result<()> {
    let path: http::uri::PathAndQuery = path_of(method).parse().context("the method has no usable name")?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.context("the connection was lost")?;
    let streamed = grpc.server_streaming(request, path, Codec(method.clone())).await.map_err(told)?;
    if let Some(seq) = streamed.metadata().get(holmes_proto::edge::SEQ).and_then(|seq| seq.to_str().ok()) {
        eprintln!("{}: {seq}", holmes_proto::edge::SEQ);
    }
    let mut messages = streamed.into_inner();
    while let Some(message) = messages.message().await.map_err(told)? {
        let mut bytes = Vec::new();
        let mut json = serde_json::Serializer::pretty(&mut bytes);
        let options = SerializeOptions::new().skip_default_fields(false);
        message.serialize_with_options(&mut json, &options)?;
        output::text(&String::from_utf8(bytes)?)?;
    }
    Ok(())
}

/// A status in words: message, stable reason, wait.
fn told(status: Status) -> anyhow::Error {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(info) = status.get_details_error_info() {
        text.push_str(&format!("\n  reason: {}", info.reason));
        if matches!(info.reason.as_str(), "SIGNATURE_WRONG" | "POSSESSION_WRONG" | "POSSESSION_INVALID") {
            text.push_str("\n  a signature counts in one network only: was this one opened with another profile? Name it (--profile)");
        }
    }
    if let Some(wait) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        text.push_str(&format!("\n  try again after: {} ms", wait.as_millis()));
    }
    anyhow!(text)
}

fn request_message(method: &MethodDescriptor, json: &str) -> Result<DynamicMessage> {
    if method.is_client_streaming() {
        bail!("{} takes a stream of requests, which this command cannot send", method.full_name());
    }
    let text = if json == "-" { std::io::read_to_string(std::io::stdin())? } else { json.to_owned() };
    let input = method.input();
    let mut parser = serde_json::Deserializer::from_str(&text);
    let mut message = DynamicMessage::deserialize(input.clone(), &mut parser).with_context(|| {
        format!("the JSON is not a {}; its fields: {}", input.full_name(), fields(&input))
    })?;
    parser.end().context("there is more behind the JSON object")?;
    let named: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)?;
    let is_named = ["request_id", "requestId"].iter().any(|name| named.contains_key(*name));
    if let Some(field) = input.get_field_by_name("request_id")
        && !is_named
    {
        let id = fresh_id().to_string();
        eprintln!("request_id: {id}");
        message.set_field(&field, Value::String(id));
    }
    Ok(message)
}

fn fields(message: &prost_reflect::MessageDescriptor) -> String {
    let names: Vec<String> = message.fields().map(|field| field.json_name().to_owned()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

async fn list(reflection: &mut Reflection) -> Result<()> {
    for service in reflection.services().await? {
        let pool = reflection.pool(&service).await?;
        let Some(service) = pool.get_service_by_name(&service) else { continue };
        for method in service.methods() {
            let fields = fields(&method.input());
            output::text(&format!("{}/{}  {fields}", service.full_name(), method.name()))?;
        }
    }
    Ok(())
}

struct Reflection {
    client: ServerReflectionClient<Channel>,
}

impl Reflection {
    async fn ask(&mut self, question: MessageRequest) -> Result<MessageResponse> {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answers = self.client.server_reflection_info(tokio_stream::once(request)).await.map_err(told)?;
        let answer: Option<ServerReflectionResponse> = answers.into_inner().message().await.map_err(told)?;
        match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::ErrorResponse(error)) => {
                bail!("the server knows nothing of it: {}", error.error_message)
            }
            Some(answer) => Ok(answer),
            None => bail!("the server's reflection does not answer"),
        }
    }

    async fn services(&mut self) -> Result<Vec<String>> {
        match self.ask(MessageRequest::ListServices(String::new())).await? {
            MessageResponse::ListServicesResponse(list) => {
                Ok(list.service.into_iter().map(|service| service.name).collect())
            }
            _ => bail!("the server's reflection answers something else"),
        }
    }

    /// Everything that a symbol's file needs.
    async fn pool(&mut self, symbol: &str) -> Result<DescriptorPool> {
        let mut questions = vec![MessageRequest::FileContainingSymbol(symbol.to_owned())];
        let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(question) = questions.pop() {
            let MessageResponse::FileDescriptorResponse(found) = self.ask(question).await? else {
                bail!("the server's reflection answers something else");
            };
            for bytes in found.file_descriptor_proto {
                let file = prost_types::FileDescriptorProto::decode(bytes.as_slice())?;
                for needed in &file.dependency {
                    if seen.insert(needed.clone()) {
                        questions.push(MessageRequest::FileByFilename(needed.clone()));
                    }
                }
                if !files.iter().any(|known: &prost_types::FileDescriptorProto| known.name() == file.name()) {
                    files.push(file);
                }
            }
        }
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files).context("the server's descriptors do not fit together")?;
        Ok(pool)
    }

    async fn method(&mut self, wanted: &str) -> Result<MethodDescriptor> {
        let (service, method) = wanted
            .rsplit_once('/')
            .with_context(|| format!("{wanted}: write SERVICE/METHOD, as in Ledger/GetAccount"))?;
        let services = self.services().await?;
        let fits = |full: &&String| *full == service || full.ends_with(&format!(".{service}"));
        let found: Vec<&String> = services.iter().filter(fits).collect();
        let [full] = found.as_slice() else {
            let all = services.join(", ");
            bail!("{service} names {} services here; there are: {all}", found.len());
        };
        let pool = self.pool(full).await?;
        let service = pool.get_service_by_name(full).context("the server's reflection forgot the service")?;
        let found = service.methods().find(|known| known.name() == method);
        found.with_context(|| {
            let all: Vec<String> = service.methods().map(|method| method.name().to_owned()).collect();
            format!("{full} has no method {method}; it has: {}", all.join(", "))
        })
    }
}

/// Messages whose types are known only now.
struct Codec(MethodDescriptor);

impl tonic::codec::Codec for Codec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Encoding;
    type Decoder = Decoding;

    fn encoder(&mut self) -> Encoding {
        Encoding
    }

    fn decoder(&mut self) -> Decoding {
        Decoding(self.0.output())
    }
}

struct Encoding;

impl Encoder for Encoding {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|why| Status::internal(why.to_string()))
    }
}

struct Decoding(prost_reflect::MessageDescriptor);

impl Decoder for Decoding {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), buffer)
            .map(Some)
            .map_err(|why| Status::internal(why.to_string()))
    }
}
