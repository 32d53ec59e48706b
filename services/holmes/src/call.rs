//! `holmes call`: any RPC of any server that has reflection, JSON in and JSON out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holmes_kernel::{Id, PrincipalKind};
use holmes_runtime::config::Config;
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::Value as Json;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::client::{Proof, failed};
use crate::readable::Readable;
use crate::{client, output, profile};

/// How long a call may take that is one question and one answer.
const TIMEOUT_S: u64 = 30;

/// What is called, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes call                                            every method of the server
  holmes call holmes.ledger.v1.Ledger/GetSupply
  holmes call Ledger/GetAccount '{\"account_id\": \"0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69\"}'
  echo '{…}' | holmes call Ledger/CreateTransfers -     the request from stdin

A request_id that the request has and the JSON leaves out is made and told on stderr; after a failure whose outcome \
is not known, send the same one again. Other ids that the caller chooses are made by `holmes keys id`. Bytes are \
base64 (in answers ids, principals and leases are their texts), amounts decimal strings; of an enum's value the part \
behind its type's name will do.")]
pub(crate) struct Args {
    /// Service and method; the package may be left out where the name is unique. Nothing: list what there is.
    method: Option<String>,
    /// The request as JSON; `-` reads it from stdin.
    #[arg(default_value = "{}")]
    json: String,
    /// Where the server's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, alias = "to", default_value = "http://127.0.0.1:7070", env = "HOLMES_SERVER")]
    server: String,
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
    /// Give up after so many seconds, also in the middle of a stream [default: 30; none for a stream].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
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
    let to = client::address(&args.server)?;
    let within = Duration::from_secs(args.timeout.unwrap_or(TIMEOUT_S));
    let channel = client::connect(&to, within).await?;
    let mut reflection = Reflection { client: ServerReflectionClient::new(channel.clone()), url: to.clone() };
    let Some(wanted) = &args.method else { return list(&mut reflection).await };
    let method = reflection.method(wanted).await?;
    let message = request_message(&method, &args.json)?;
    let mut request = Request::new(message);
    request.set_timeout(within);
    let (bytes, id) = (request.get_ref().encode_to_vec(), request_id(request.get_ref())?);
    let proof = Proof::of(args.sign_with.as_deref(), args.signer.kind(), args.key.as_deref())?;
    proof.add_to(request.metadata_mut(), || profile::network(&config), &path_of(&method), &bytes, id)?;
    for pair in &args.metadata {
        let (name, value) =
            pair.split_once('=').with_context(|| format!("--metadata {pair}: write NAME=VALUE"))?;
        let name: tonic::metadata::AsciiMetadataKey =
            name.parse().with_context(|| format!("--metadata {pair}"))?;
        request.metadata_mut().insert(name, value.parse().with_context(|| format!("--metadata {pair}"))?);
    }
    let answered = answer(channel, &to, &method, request);
    // A stream may go on for as long as it has something to tell, unless somebody has said how long.
    if args.timeout.is_none() && method.is_server_streaming() {
        return answered.await;
    }
    tokio::time::timeout(within, answered).await.unwrap_or_else(|_| {
        bail!(
            "{to} has not answered to the end within {} s: allow it more (--timeout). It may have been carried out: sent \
             again with the same request_id, it happens once\n  reason: NOT_ANSWERED_IN_TIME",
            within.as_secs()
        )
    })
}

/// The id that a signature covers.
fn request_id(message: &DynamicMessage) -> Result<Id> {
    let field = message.descriptor().get_field_by_name("request_id");
    let text = field.map(|field| message.get_field(&field).into_owned());
    match text.as_ref().and_then(Value::as_str) {
        Some(text) if !text.is_empty() => text.parse().context("request_id"),
        _ => Ok(fresh_id()), // a read, or a numbered submission: nothing can run twice
    }
}

/// Where a method is called.
pub(crate) fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

async fn answer(
    channel: Channel,
    url: &str,
    method: &MethodDescriptor,
    request: Request<DynamicMessage>,
) -> Result<()> {
    let path: http::uri::PathAndQuery = path_of(method).parse().context("the method has no usable name")?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.context("the connection was lost")?;
    let streamed = match grpc.server_streaming(request, path, Codec(method.clone())).await {
        Ok(streamed) => streamed,
        Err(status) => return Err(failed(url, &status).await),
    };
    if let Some(seq) = streamed.metadata().get(holmes_proto::edge::SEQ).and_then(|seq| seq.to_str().ok()) {
        eprintln!("{}: {seq}", holmes_proto::edge::SEQ);
    }
    let (mut messages, readable) = (streamed.into_inner(), Readable::of_answers()?);
    loop {
        match messages.message().await {
            Ok(Some(message)) => output::text(&serde_json::to_string_pretty(&readable.message(&message))?)?,
            Ok(None) => return Ok(()),
            Err(status) => return Err(failed(url, &status).await),
        }
    }
}

fn request_message(method: &MethodDescriptor, json: &str) -> Result<DynamicMessage> {
    if method.is_client_streaming() {
        bail!("{} takes a stream of requests, which this command cannot send", method.full_name());
    }
    let text = if json == "-" { std::io::read_to_string(std::io::stdin())? } else { json.to_owned() };
    let input = method.input();
    let wrong = || format!("the JSON is not a {}; its fields: {}", input.full_name(), fields(&input));
    let mut json: Json = serde_json::from_str(&text).with_context(wrong)?;
    name_values(&mut json, &input);
    let is_named = ["request_id", "requestId"].iter().any(|name| json.get(name).is_some());
    let mut message = DynamicMessage::deserialize(input.clone(), json).with_context(wrong)?;
    if let Some(field) = input.get_field_by_name("request_id")
        && !is_named
    {
        let id = fresh_id().to_string();
        eprintln!("request_id: {id}");
        message.set_field(&field, Value::String(id));
    }
    Ok(message)
}

/// Gives values of enums their full names, RENTER becomes ROLE_RENTER, and floats their text. What is none stays, and is
/// refused by its name.
pub(crate) fn name_values(json: &mut Json, message: &MessageDescriptor) {
    let Json::Object(fields) = json else { return };
    for (name, value) in fields {
        let named = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name));
        let values = match value {
            Json::Array(values) => values.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        match named.map(|field| field.kind()) {
            Some(Kind::Enum(kind)) => values.iter_mut().for_each(|value| name_value(value, &kind)),
            Some(Kind::Message(kind)) => values.iter_mut().for_each(|value| name_values(value, &kind)),
            // Numbers of any precision are read from texts alone.
            Some(Kind::Float | Kind::Double) => {
                values
                    .iter_mut()
                    .filter(|value| value.is_number())
                    .for_each(|value| *value = value.to_string().into());
            }
            _ => {}
        }
    }
}

fn name_value(value: &mut Json, kind: &EnumDescriptor) {
    if let Some(full) = value.as_str().and_then(|short| full_name(short, kind)) {
        *value = full.into();
    }
}

/// The full name of an enum's value that is named in full or without what all values begin with; none if it has no such.
pub(crate) fn full_name(name: &str, kind: &EnumDescriptor) -> Option<String> {
    let full = format!("{}{}", prefix(kind), name.to_uppercase());
    [name, &full].into_iter().find(|name| kind.get_value_by_name(name).is_some()).map(str::to_owned)
}

/// The names of an enum's values, without what all begin with.
pub(crate) fn short_names(kind: &EnumDescriptor) -> Vec<String> {
    let prefix = prefix(kind);
    kind.values().map(|value| value.name().trim_start_matches(&prefix).to_owned()).collect()
}

fn prefix(kind: &EnumDescriptor) -> String {
    kind.default_value().name().trim_end_matches("UNSPECIFIED").to_owned()
}

/// The fields of a message, for who has misspelt one.
pub(crate) fn fields(message: &MessageDescriptor) -> String {
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
    url: String,
}

impl Reflection {
    async fn ask(&mut self, question: MessageRequest) -> Result<MessageResponse> {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answered = async {
            let answers = self.client.server_reflection_info(tokio_stream::once(request)).await?;
            answers.into_inner().message().await
        };
        let answer: Result<Option<ServerReflectionResponse>, Status> = answered.await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => return Err(failed(&self.url, &status).await),
        };
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
pub(crate) struct Codec(pub(crate) MethodDescriptor);

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

pub(crate) struct Encoding;

impl Encoder for Encoding {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|why| Status::internal(why.to_string()))
    }
}

pub(crate) struct Decoding(prost_reflect::MessageDescriptor);

impl Decoder for Decoding {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), buffer)
            .map(Some)
            .map_err(|why| Status::internal(why.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap();
        pool.get_message_by_name(name).unwrap()
    }

    #[test]
    fn values_of_enums_may_leave_their_types_name_out() {
        let mut json = serde_json::json!({ "roles": ["RENTER", "operator", "ROLE_STAFF", "nobody", 1] });
        name_values(&mut json, &message("holmes.accounts.v1.SetRolesRequest"));
        let named = serde_json::json!(["ROLE_RENTER", "ROLE_OPERATOR", "ROLE_STAFF", "nobody", 1]);
        assert_eq!(json["roles"], named);
    }

    #[test]
    fn a_number_with_a_point_is_read() {
        let kind = message("holmes.inference.v1.Sampling");
        let mut json = serde_json::from_str(r#"{ "temperature": 0.5, "seed": 7 }"#).unwrap();
        name_values(&mut json, &kind);
        let read = DynamicMessage::deserialize(kind, json).unwrap();
        assert_eq!(read.get_field_by_name("temperature").unwrap().as_f32(), Some(0.5));
    }

    #[test]
    fn values_inside_messages_are_named_too() {
        let mut json = serde_json::json!({ "transfers": [{ "kind": "hold" }] });
        name_values(&mut json, &message("holmes.ledger.v1.CreateTransfersRequest"));
        assert_eq!(json["transfers"][0]["kind"], "TRANSFER_KIND_HOLD");
    }
}
