//! What a scenario says of messages, held to their types before anything is played: a field that is misspelt would never
//! be sent, and an expectation of it could never fail.

use std::ops::RangeInclusive;

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};
use serde_json::{Map, Value as Json};

use super::expect::{Compare, compared};
use super::file::meant;
use crate::call;

/// Every method that a scenario may call: those of the services with a log.
pub(super) fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let ours =
        |package: &str| holmes_proto::SERVICES.iter().any(|(_, name)| package == format!("holmes.{name}.v1"));
    let services = pool.services().filter(|service| ours(service.package_name()));
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.filter(|method| !method.is_client_streaming() && !method.is_server_streaming()).collect()
}

/// The method that is meant by `Ledger/GetAccount`, or by its full name.
pub(super) fn method(pool: &DescriptorPool, wanted: &str) -> Result<MethodDescriptor, String> {
    let all = methods(pool);
    let short = |method: &MethodDescriptor| format!("{}/{}", method.parent_service().name(), method.name());
    let full =
        |method: &MethodDescriptor| format!("{}/{}", method.parent_service().full_name(), method.name());
    if let Some(found) = all.iter().find(|method| short(method) == wanted || full(method) == wanted) {
        return Ok(found.clone());
    }
    if wanted.contains("Inference/") || wanted.contains("Gateway/") {
        return Err(format!(
            "{wanted} is the gateway's, whose part is played here: write `ask:` for a question to a model, `do: attach NODE` \
             and `do: lose NODE` for nodes"
        ));
    }
    let service = wanted.split('/').next().unwrap_or_default();
    let of_service: Vec<String> =
        all.iter().map(short).filter(|name| name.split('/').next() == Some(service)).collect();
    let near = if of_service.is_empty() { all.iter().map(short).collect() } else { of_service };
    Err(format!("no service has a method {wanted}{}", meant(wanted, &near)))
}

/// What of a JSON does not fit a message, with the path to it.
pub(super) fn misfits(json: &Json, kind: &MessageDescriptor, path: &str) -> Vec<String> {
    let Json::Object(members) = json else {
        return vec![format!("{path} is a {}: write its fields ({})", kind.name(), call::fields(kind))];
    };
    members
        .iter()
        .flat_map(|(name, value)| {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match field(kind, name) {
                Some(field) => misfits_of(value, &field, &at),
                None => {
                    let known: Vec<String> = kind.fields().map(|field| field.name().to_owned()).collect();
                    vec![format!("{} has no field {at}{}", kind.name(), meant(name, &known))]
                }
            }
        })
        .collect()
}

fn misfits_of(value: &Json, field: &FieldDescriptor, at: &str) -> Vec<String> {
    if value.as_str().is_some_and(|text| text.contains("${")) || field.is_map() {
        return Vec::new(); // what it names is known only when it is played
    }
    match (field.is_list(), value) {
        (true, Json::Array(items)) => items
            .iter()
            .enumerate()
            .flat_map(|(n, item)| misfits_one(item, field, &format!("{at}[{n}]")))
            .collect(),
        (true, _) => vec![format!("{at} is a list: write [ … ]")],
        (false, Json::Array(_)) => vec![format!("{at} is one value, not a list")],
        (false, one) => misfits_one(one, field, at),
    }
}

fn misfits_one(value: &Json, field: &FieldDescriptor, at: &str) -> Vec<String> {
    match (field.kind(), value) {
        (_, text) if text.as_str().is_some_and(|text| text.contains("${")) => Vec::new(),
        (Kind::Message(kind), value) => misfits(value, &kind, at),
        (_, Json::Object(_)) => vec![format!("{at} is one value, and has no fields")],
        (Kind::Enum(kind), Json::String(text)) => misfits_value(text, &kind, at),
        (kind, value) => misfits_plain(value, &kind, at).into_iter().collect(),
    }
}

/// A number, a text or a truth that is none, or that is out of its bounds.
fn misfits_plain(value: &Json, kind: &Kind, at: &str) -> Option<String> {
    if let Some(bounds) = bounds(kind) {
        let (text, number) = match value {
            Json::String(text) => (text.clone(), compared(text).1.parse::<i128>().ok()),
            Json::Number(number) => (number.to_string(), number.to_string().parse::<i128>().ok()),
            other => (other.to_string(), None),
        };
        return match number {
            None => Some(format!(
                "{at} is a whole number: {text} is none, and compares with none; base units of an asset are written \"${{amount:12.5 HOL}}\""
            )),
            Some(number) => (!bounds.contains(&number)).then(|| {
                format!("{at} is a number from {} to {}: it cannot be {text}", bounds.start(), bounds.end())
            }),
        };
    }
    match (kind, value) {
        (Kind::String | Kind::Bytes, Json::Number(_) | Json::Bool(_)) => {
            Some(format!("{at} is text: write \"{value}\""))
        }
        (Kind::Bool, Json::Number(_)) => Some(format!("{at} is true or false, not {value}")),
        (Kind::Bool, Json::String(text)) if !matches!(compared(text).1, "true" | "false") => {
            Some(format!("{at} is true or false, not {text:?}"))
        }
        _ => None,
    }
}

/// A value of an enum, or one that it shall not be.
fn misfits_value(text: &str, kind: &EnumDescriptor, at: &str) -> Vec<String> {
    let (compare, value) = compared(text);
    if !matches!(compare, Compare::Is | Compare::Not) {
        return vec![format!("{at}: values of {} are not larger or smaller", kind.name())];
    }
    if call::full_name(value, kind).is_some() {
        return Vec::new();
    }
    vec![format!("{at}: {} has no value {value}{}", kind.name(), meant(value, &call::short_names(kind)))]
}

/// Between what a whole number of this kind lies.
fn bounds(kind: &Kind) -> Option<RangeInclusive<i128>> {
    use Kind::{Fixed32, Fixed64, Int32, Int64, Sfixed32, Sfixed64, Sint32, Sint64, Uint32, Uint64};
    match kind {
        Uint32 | Fixed32 => Some(0..=u32::MAX.into()),
        Uint64 | Fixed64 => Some(0..=u64::MAX.into()),
        Int32 | Sint32 | Sfixed32 => Some(i32::MIN.into()..=i32::MAX.into()),
        Int64 | Sint64 | Sfixed64 => Some(i64::MIN.into()..=i64::MAX.into()),
        _ => None,
    }
}

fn field(kind: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    kind.get_field_by_name(name).or_else(|| kind.get_field_by_json_name(name))
}

/// The same JSON with the names that replies have: fields as JSON names them, values of enums in full.
pub(super) fn as_replied(mut json: Json, kind: &MessageDescriptor) -> Json {
    call::name_values(&mut json, kind);
    renamed(json, kind)
}

fn renamed(json: Json, kind: &MessageDescriptor) -> Json {
    let Json::Object(members) = json else { return json };
    let members = members.into_iter().map(|(name, value)| {
        let Some(field) = field(kind, &name) else { return (name, value) };
        let value = match (field.kind(), value) {
            (Kind::Message(inner), Json::Array(items)) => {
                items.into_iter().map(|item| renamed(item, &inner)).collect()
            }
            (Kind::Message(inner), one) => renamed(one, &inner),
            (Kind::Enum(kind), Json::Array(items)) => {
                items.into_iter().map(|one| negated(one, &kind)).collect()
            }
            (Kind::Enum(kind), one) => negated(one, &kind),
            (_, other) => other,
        };
        (field.json_name().to_owned(), value)
    });
    Json::Object(members.collect::<Map<_, _>>())
}

/// `!= OK` with the value's full name: by its short one it would differ from everything.
fn negated(value: Json, kind: &EnumDescriptor) -> Json {
    let (Compare::Not, of) = value.as_str().map_or((Compare::Is, ""), compared) else { return value };
    call::full_name(of, kind).map_or(value.clone(), |full| format!("!= {full}").into())
}

/// A request of a method's type.
pub(super) fn request(mut json: Json, kind: &MessageDescriptor) -> Result<DynamicMessage, String> {
    call::name_values(&mut json, kind);
    DynamicMessage::deserialize(kind.clone(), json)
        .map_err(|why| format!("that is no {}: {why}; its fields: {}", kind.name(), call::fields(kind)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool() -> DescriptorPool {
        DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap()
    }

    #[test]
    fn a_method_is_found_by_its_short_name_and_a_misspelt_one_with_what_was_meant() {
        let pool = pool();
        assert_eq!(
            method(&pool, "Ledger/GetSupply").unwrap().full_name(),
            "holmes.ledger.v1.Ledger.GetSupply"
        );
        assert!(method(&pool, "holmes.ledger.v1.Ledger/GetSupply").is_ok());
        assert!(method(&pool, "Ledger/GetSuply").unwrap_err().contains("did you mean `Ledger/GetSupply`"));
        assert!(method(&pool, "Inference/Generate").unwrap_err().contains("`ask:`"));
    }

    #[test]
    fn fields_and_values_that_are_not_there_are_named_with_their_place() {
        let kind = method(&pool(), "Ledger/CreateTransfers").unwrap().input();
        let right =
            json!({ "transfers": [{ "kind": "hold", "amountUnits": "5", "debit_account_id": "${a}" }] });
        assert_eq!(misfits(&right, &kind, ""), Vec::<String>::new());
        let wrong = json!({ "transfers": [{ "kind": "hald", "amout_units": 5 }], "request_id": ["x"] });
        let found = misfits(&wrong, &kind, "").join("\n");
        for part in ["transfers[0].amout_units", "`amount_units`", "`HOLD`", "request_id is one value"] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert!(misfits(&json!({ "transfers": {} }), &kind, "")[0].contains("is a list"));
    }

    #[test]
    fn values_that_a_field_cannot_have_are_named_with_what_it_takes() {
        let kind = method(&pool(), "Ledger/CreateTransfers").unwrap().input();
        let of = |field: &str, value: Json| {
            misfits(&json!({ "transfers": [{ field: value }] }), &kind, "").join("\n")
        };
        for right in [json!(5), json!("5"), json!(">= 5"), json!(u64::MAX)] {
            assert_eq!(of("amount_units", right), "");
        }
        assert_eq!(of("linked", json!(true)), "");
        for (field, value, part) in [
            (
                "amount_units",
                json!(-1),
                "amount_units is a number from 0 to 18446744073709551615: it cannot be -1",
            ),
            ("amount_units", json!("18446744073709551616"), "it cannot be 18446744073709551616"),
            ("amount_units", json!("many"), "is a whole number: many is none"),
            ("amount_units", json!(1.5), "is a whole number: 1.5 is none"),
            ("tag", json!(1u64 << 32), "a number from 0 to 4294967295"),
            ("transfer_id", json!(5), "is text: write \"5\""),
            ("linked", json!(1), "linked is true or false, not 1"),
            ("linked", json!("yes"), "linked is true or false, not \"yes\""),
        ] {
            let found = of(field, value);
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn what_is_expected_gets_the_names_of_replies() {
        let kind = method(&pool(), "Ledger/CreateTransfers").unwrap().output();
        let given = json!({ "results": [{ "code": "OK", "amount_units": 5 }] });
        let named = json!({ "results": [{ "code": "TRANSFER_CODE_OK", "amountUnits": 5 }] });
        assert_eq!(as_replied(given, &kind), named);
        let not = as_replied(json!({ "results": [{ "code": "!= OK" }] }), &kind);
        assert_eq!(not, json!({ "results": [{ "code": "!= TRANSFER_CODE_OK" }] }));
    }
}
