//! What stands in the logs between two moments, by who has put it there: a network does much by itself meanwhile.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::Place;

/// How far each service's log is.
pub(crate) type Heads = BTreeMap<String, u64>;

/// What a server's own gateway says by itself, and what leases come to.
const BY_ITSELF: [&str; 5] =
    ["gatewayHeard", "presenceRecorded", "callsCheckpointed", "leaseRenewed", "leaseEnded"];

/// The entries of all logs behind the one place and up to the other. The server must have stopped.
pub(crate) fn between(place: &Place, from: &Heads, to: &Heads) -> Vec<Value> {
    let mut found = Vec::new();
    for (service, upto) in to {
        let after = from.get(service).copied().unwrap_or_default().to_string();
        let ran = place.run(&["replay", "--role", service, "--after", &after]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let entries = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        found.extend(entries.filter(|entry| entry["seq"].as_u64().is_some_and(|seq| seq <= *upto)));
    }
    found
}

/// Nobody's request stands in any log between two places. What none of those who ask has made may stand there where the
/// network makes such entries by itself.
pub(crate) fn nothing_asked(place: &Place, asking: &[String], from: &Heads, to: &Heads) {
    let called_for = between(place, from, to).into_iter().find(|entry| is_called_for(entry, asking));
    assert_eq!(called_for, None, "somebody's request has been done");
}

/// Whether somebody's request has made an entry: not time, nor what another log says.
fn is_asked(entry: &Value) -> bool {
    !entry["origin"]["request"].is_null() || !entry["origin"]["submission"].is_null()
}

/// Whether an entry is none that a network makes while nobody asks for anything.
pub(crate) fn is_called_for(entry: &Value, asking: &[String]) -> bool {
    let by_itself = |event: &Value| kinds(event).all(|kind| BY_ITSELF.contains(&kind));
    let asks = asking.iter().any(|who| entry["principal"] == **who);
    is_asked(entry) && (asks || !events(entry).all(by_itself))
}

/// Whether an entry has changed something: a refusal has not, nor a transfer that failed, nor that a gateway is there.
pub(crate) fn has_effect(entry: &Value) -> bool {
    events(entry).any(|event| match event.get("transfersRecorded") {
        Some(rows) => rows["codes"].as_array().is_none_or(|codes| codes.contains(&"TRANSFER_CODE_OK".into())),
        None => kinds(event).any(|kind| kind != "gatewayHeard"),
    })
}

fn events(entry: &Value) -> impl Iterator<Item = &Value> {
    entry["events"].as_array().into_iter().flatten()
}

fn kinds(event: &Value) -> impl Iterator<Item = &str> {
    event.as_object().into_iter().flat_map(|event| event.keys().map(String::as_str))
}
