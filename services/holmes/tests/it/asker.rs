//! Somebody who asks in JSON, with any proof, and what he is told.

use ed25519_dalek::SigningKey;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_runtime::fresh_id;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Value as Field};
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::raw::{Fields, Signing, answer, bearer, described, now_ms, of_key, reason};
use crate::rules::rules;
use crate::scopes::id_of;

/// How long a signature counts, ms: a little less than the longest.
const LASTS_MS: u64 = 290_000;

/// Somebody.
pub(crate) enum Asker {
    Key(String),
    Signs { key: Box<SigningKey>, principal: Principal, genesis: [u8; 16] },
}

/// What he is told: every message of the answer, or why he gets none.
pub(crate) type Told = Result<Vec<Value>, Refused>;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    code: Code,
    pub reason: String,
    message: String,
}

/// Why nothing was done, where nothing was: a refusal's reason, or the code of a transfer.
pub(crate) fn why_not(told: &Told) -> String {
    match told {
        Err(refused) => refused.reason.clone(),
        Ok(said) => {
            let code = said.last().and_then(|said| said["results"][0]["code"].as_str()).unwrap_or_default();
            code.trim_start_matches("TRANSFER_CODE_").trim_start_matches("OK").to_owned()
        }
    }
}

impl Asker {
    pub(crate) fn signing(key: SigningKey, kind: PrincipalKind, genesis: [u8; 16]) -> Asker {
        Asker::Signs { principal: of_key(&key, kind), key: Box::new(key), genesis }
    }

    /// The key that he signs with.
    pub(crate) fn key(&self) -> &SigningKey {
        match self {
            Asker::Signs { key, .. } => key,
            Asker::Key(_) => panic!("he has an API key"),
        }
    }

    /// As logs and requests name him: `account/…`.
    pub(crate) fn name(&self) -> String {
        match self {
            Asker::Signs { principal, .. } => principal.to_string(),
            Asker::Key(_) => panic!("his key does not say"),
        }
    }

    /// His id.
    pub(crate) fn id(&self) -> String {
        self.name().split_once('/').expect("a kind before it").1.to_owned()
    }

    fn proof(&self, method: &str, message: &[u8], id: Id) -> Fields {
        match self {
            Asker::Key(key) => bearer(key),
            Asker::Signs { key, principal, genesis } => {
                let signing = Signing { key, principal: *principal, genesis: *genesis };
                signing.fields(method, message, id, now_ms() + LASTS_MS)
            }
        }
    }

    /// A request in JSON, with a fresh id where it takes one, as it goes over the wire.
    pub(crate) fn request(&self, call: &str, wanted: &Value) -> Sent {
        let method = method_of(call);
        let input = described(method).expect("a method of ours").input();
        let id = input.get_field_by_name("request_id");
        let mut message =
            DynamicMessage::deserialize(input, wanted).unwrap_or_else(|why| panic!("{call}: {why}"));
        if let Some(field) = id {
            message.set_field(&field, Field::String(fresh_id().to_string()));
        }
        let (id, message) = (id_of(&message), message.encode_to_vec());
        let proof = self.proof(method, &message, id);
        Sent { method: method.to_owned(), id, message, proof }
    }

    /// Asks.
    pub(crate) async fn ask(&self, channel: &Channel, call: &str, wanted: &Value) -> Told {
        self.request(call, wanted).send(channel).await
    }

    /// Asks with a message as it is.
    pub(crate) async fn ask_as_it_is(
        &self,
        channel: &Channel,
        method: &str,
        message: &DynamicMessage,
    ) -> Result<Vec<Vec<u8>>, Status> {
        let bytes = message.encode_to_vec();
        let proof = self.proof(method, &bytes, id_of(message));
        answer(channel, method, bytes, &proof).await
    }

    /// The same request under the same id, with a proof of now.
    pub(crate) fn prove_again(&self, sent: &Sent) -> Sent {
        let proof = self.proof(&sent.method, &sent.message, sent.id);
        Sent { method: sent.method.clone(), id: sent.id, message: sent.message.clone(), proof }
    }
}

/// The whole name of `Ledger/CreateTransfers`.
fn method_of(call: &str) -> &'static str {
    let rule = rules().iter().find(|rule| rule.method.ends_with(&format!(".{call}")));
    rule.map(|rule| rule.method.as_str()).unwrap_or_else(|| panic!("there is no {call}"))
}

/// A request with its proof, to the byte.
pub(crate) struct Sent {
    pub method: String,
    pub id: Id,
    message: Vec<u8>,
    proof: Fields,
}

impl Sent {
    pub(crate) async fn send(&self, channel: &Channel) -> Told {
        let output = described(&self.method).expect("a method of ours").output();
        let told = answer(channel, &self.method, self.message.clone(), &self.proof).await;
        let read = |bytes: Vec<u8>| {
            let message = DynamicMessage::decode(output.clone(), bytes.as_slice()).expect("its answer");
            serde_json::to_value(message).expect("JSON")
        };
        let refused = |status: Status| Refused {
            code: status.code(),
            reason: reason(&status),
            message: status.message().to_owned(),
        };
        told.map(|said| said.into_iter().map(read).collect()).map_err(refused)
    }
}
