//! Messages as people and their tools read them: ids, principals and leases as texts, columns as lists, wide numbers in
//! digits, sends as the commands that they are. What the bytes of a field are follows from its name, which the protos use
//! in one sense only.

use anyhow::{Context as _, Result};
use holmes_kernel::{Id, Principal};
use holmes_proto::columns;
use holmes_proto::statements::lease_text;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::{Map, Value as Json};

use crate::output::{base64, hex};

/// What the bytes of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Id,
    Ids,
    Principal,
    Principals,
    Lease,
    Leases,
    /// u128, big-endian.
    Wide,
    Wides,
    /// Names of the ledger's kinds and codes, a byte each.
    Kinds,
    Codes,
    Capabilities,
    /// Keys, hashes, signatures, bitmaps.
    Raw,
}

const SHAPES: &[(Shape, &[&str])] = &[
    (Shape::Id, &["account", "call", "gateway", "hold", "key", "named_node", "node", "session"]),
    (
        Shape::Ids,
        &[
            "accounts",
            "avoided_nodes",
            "br_nodes",
            "credits",
            "debits",
            "holds",
            "ids",
            "nodes",
            "trr_nodes",
            "unqualified",
        ],
    ),
    (Shape::Principal, &["holder", "owner", "principal", "renter", "submitter"]),
    (Shape::Principals, &["owners", "payees"]),
    (Shape::Lease, &["lease"]),
    (Shape::Leases, &["leases"]),
    (
        Shape::Wide,
        &[
            "billed_micro_units",
            "billed_pico_usd",
            "cap_pico_usd",
            "covers_micro_usd",
            "credits_posted",
            "debits_posted",
            "full_units",
            "full_work_units",
            "quarter_units",
            "unbilled_pico_usd",
            "weights",
        ],
    ),
    (Shape::Wides, &["br_remainders", "br_weights", "trr_remainders", "trr_weights", "units"]),
    (Shape::Kinds, &["kinds"]),
    (Shape::Codes, &["codes"]),
    (Shape::Capabilities, &["capabilities"]),
    (
        Shape::Raw,
        &[
            "bitmaps",
            "coordinators",
            "digest",
            "digests",
            "gateway_signature",
            "hash",
            "node_signature",
            "nonce",
            "output_commitment",
            "prompt_commitment",
            "public_key",
            "signature",
        ],
    ),
];

fn shape(name: &str) -> Option<Shape> {
    SHAPES.iter().find(|(_, names)| names.contains(&name)).map(|(shape, _)| *shape)
}

/// Shows messages of any service.
pub(crate) struct Readable {
    pool: DescriptorPool,
    sends: ExtensionDescriptor,
    /// Whether fields that say nothing are shown too.
    whole: bool,
    /// How bytes are written that have no better text.
    raw: fn(&[u8]) -> String,
}

impl Readable {
    /// Of events: what is set in them, bytes in hexadecimal digits.
    pub(crate) fn new() -> Result<Readable> {
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).context("the build's descriptors")?;
        let sends = pool.get_extension_by_name("holmes.sends").context("the build's options")?;
        Ok(Readable { pool, sends, whole: false, raw: hex })
    }

    /// Of answers: every field, bytes as JSON reads them.
    pub(crate) fn of_answers() -> Result<Readable> {
        Ok(Readable { whole: true, raw: base64, ..Readable::new()? })
    }

    /// The type of a service's events.
    pub(crate) fn events_of(&self, service: &str) -> Result<MessageDescriptor> {
        self.kind(service, "Event")
    }

    /// The parameters of a service.
    pub(crate) fn params_of(&self, service: &str) -> Result<MessageDescriptor> {
        self.kind(service, "Params")
    }

    fn kind(&self, service: &str, message: &str) -> Result<MessageDescriptor> {
        let name = format!("holmes.{service}.v1.{message}");
        self.pool.get_message_by_name(&name).with_context(|| format!("there is no message {name}"))
    }

    /// A message, its fields in the order of their numbers.
    pub(crate) fn message(&self, message: &DynamicMessage) -> Json {
        let kind = message.descriptor();
        let shown = kind
            .fields()
            .filter(|field| message.has_field(field) || (self.whole && !field.supports_presence()));
        let fields = shown.map(|field| {
            let value = self.field(&field, &message.get_field(&field));
            (field.json_name().to_owned(), value)
        });
        Json::Object(fields.collect::<Map<String, Json>>())
    }

    fn field(&self, field: &FieldDescriptor, value: &Value) -> Json {
        match value {
            Value::List(items) => items.iter().map(|item| self.field(field, item)).collect(),
            Value::Map(items) => {
                let items = items.iter().map(|(key, item)| (key_text(key), self.field(field, item)));
                Json::Object(items.collect())
            }
            Value::Bytes(bytes) => self.bytes(field, bytes),
            Value::Message(message) => self.message(message),
            Value::Bool(on) => (*on).into(),
            Value::I32(number) => (*number).into(),
            Value::U32(number) => (*number).into(),
            Value::I64(number) => number.to_string().into(), // in digits: readers may lose them otherwise
            Value::U64(number) => number.to_string().into(),
            Value::F32(number) => (*number).into(),
            Value::F64(number) => (*number).into(),
            Value::String(text) => text.as_str().into(),
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(of) => {
                    of.get_value(*number).map_or_else(|| (*number).into(), |value| value.name().into())
                }
                _ => (*number).into(),
            },
        }
    }

    fn bytes(&self, field: &FieldDescriptor, bytes: &[u8]) -> Json {
        if let Value::String(service) = field.options().get_extension(&self.sends).as_ref()
            && !service.is_empty()
        {
            return self.decoded(&format!("holmes.{service}.v1.Command"), bytes);
        }
        let of = |size: usize, text: fn(&[u8]) -> Option<Json>| {
            let exact = bytes.len() == size;
            exact.then(|| text(bytes)).flatten()
        };
        let all = |size: usize, text: fn(&[u8]) -> Option<Json>| {
            let exact = bytes.len().is_multiple_of(size);
            exact.then(|| bytes.chunks(size).map(text).collect::<Option<Json>>()).flatten()
        };
        let shown = match shape(field.name()) {
            Some(Shape::Id) => of(16, id),
            Some(Shape::Ids) => all(16, id),
            Some(Shape::Principal) => of(17, principal),
            Some(Shape::Principals) => all(17, principal),
            Some(Shape::Lease) => of(20, lease),
            Some(Shape::Leases) => all(20, lease),
            Some(Shape::Wide) => of(16, wide),
            Some(Shape::Wides) => all(16, wide),
            Some(Shape::Kinds) => self.names("holmes.ledger.v1.TransferKind", bytes),
            Some(Shape::Codes) => self.names("holmes.ledger.v1.TransferCode", bytes),
            Some(Shape::Capabilities) => Some(self.decoded("holmes.scheduling.v1.Capabilities", bytes)),
            Some(Shape::Raw) | None => None,
        };
        shown.unwrap_or_else(|| (self.raw)(bytes).into())
    }

    /// The names of an enum's values, a byte each; a value without one is its number.
    fn names(&self, of: &str, bytes: &[u8]) -> Option<Json> {
        let of = self.pool.get_enum_by_name(of)?;
        let name = |number: &u8| -> Json {
            let value = of.get_value(i32::from(*number));
            value.map_or_else(|| (*number).into(), |value| value.name().into())
        };
        Some(bytes.iter().map(name).collect())
    }

    /// Bytes that are a message; as they are when they are none.
    fn decoded(&self, name: &str, bytes: &[u8]) -> Json {
        let kind = self.pool.get_message_by_name(name);
        let message = kind.and_then(|kind| DynamicMessage::decode(kind, bytes).ok());
        message.map_or_else(|| (self.raw)(bytes).into(), |message| self.message(&message))
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(on) => on.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

fn id(bytes: &[u8]) -> Option<Json> {
    Some(Id::from_bytes(bytes.try_into().ok()?).to_string().into())
}

fn principal(bytes: &[u8]) -> Option<Json> {
    Some(Principal::from_slice(bytes)?.to_string().into())
}

fn lease(bytes: &[u8]) -> Option<Json> {
    Some(lease_text(bytes.try_into().ok()?).into())
}

fn wide(bytes: &[u8]) -> Option<Json> {
    Some(columns::wide(bytes)?.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every field of bytes that an event can hold, and whether it is a send.
    fn bytes_of(
        readable: &Readable,
        message: &MessageDescriptor,
        found: &mut BTreeSet<(String, String, bool)>,
    ) {
        for field in message.fields() {
            match field.kind() {
                Kind::Bytes => {
                    let sends = matches!(field.options().get_extension(&readable.sends).as_ref(), Value::String(to) if !to.is_empty());
                    found.insert((message.full_name().into(), field.name().into(), sends));
                }
                Kind::Message(inner) if inner.full_name() != message.full_name() => {
                    bytes_of(readable, &inner, found);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn of_every_field_of_an_event_it_is_said_what_its_bytes_are() {
        let readable = Readable::new().unwrap();
        let mut found = BTreeSet::new();
        for (_, service) in holmes_proto::SERVICES {
            bytes_of(&readable, &readable.events_of(service).unwrap(), &mut found);
        }
        assert!(found.len() > 100, "{}", found.len());
        for (message, field, sends) in found {
            assert!(sends || shape(&field).is_some(), "{message}.{field}: add it to SHAPES");
        }
    }

    #[test]
    fn ids_columns_wide_numbers_and_sends_are_texts() {
        let readable = Readable::new().unwrap();
        let mut of =
            DynamicMessage::new(readable.pool.get_message_by_name("holmes.market.v1.Settled").unwrap());
        let account = Principal::new(holmes_kernel::PrincipalKind::Account, Id::from_bytes([2; 16]));
        for (name, bytes) in [
            ("session", vec![1; 16]),
            ("renter", account.to_bytes().to_vec()),
            ("nodes", [[3; 16], [4; 16]].concat()),
            ("owners", vec![5; 16]), // not 17 each: shown as it is
        ] {
            let field = of.descriptor().get_field_by_name(name).unwrap();
            of.set_field(&field, Value::Bytes(bytes.into()));
        }
        let shown = readable.message(&of);
        assert_eq!(shown["session"], "01010101-0101-0101-0101-010101010101");
        assert_eq!(shown["renter"], account.to_string());
        assert_eq!(shown["nodes"][1], "04040404-0404-0404-0404-040404040404");
        assert_eq!(shown["owners"], "05".repeat(16));
        let recorded = readable.pool.get_message_by_name("holmes.ledger.v1.TransfersRecorded").unwrap();
        let field = recorded.get_field_by_name("kinds").unwrap();
        let mut recorded = DynamicMessage::new(recorded);
        recorded.set_field(&field, Value::Bytes(vec![1, 99].into()));
        assert_eq!(readable.message(&recorded)["kinds"], serde_json::json!(["TRANSFER_KIND_SINGLE", 99]));
    }
}
