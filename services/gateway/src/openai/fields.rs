//! Which fields a request may have: those that are read, those that change no answer here, and those that are served with
//! one value only. Every other one is refused by its name: who sends it counts on something that would not happen.

use serde_json::{Map, Value};

use super::Wrong;

/// What a request for text may have.
pub(super) const OF_TEXT: [&str; 9] = [
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "stream",
    "stream_options",
];
/// What a chat may have too.
pub(super) const OF_CHAT: [&str; 5] =
    ["messages", "logprobs", "top_logprobs", "tool_choice", "parallel_tool_calls"];
/// What a completion may have too.
pub(super) const OF_COMPLETION: [&str; 2] = ["prompt", "logprobs"];
/// What a request for vectors may have.
pub(super) const OF_VECTORS: [&str; 2] = ["input", "encoding_format"];
/// What of our own the field `holmes` may have.
const OWN: [&str; 3] = ["max_price_micro_usd", "asset", "node"];

/// What every request may have. What is beside the model and our own field changes no answer here.
const EVERYWHERE: [&str; 9] = [
    "model",
    "holmes",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Fields that would change the answer, and are not served.
const UNSERVED: [&str; 17] = [
    "tools",
    "functions",
    "function_call",
    "audio",
    "modalities",
    "prediction",
    "logit_bias",
    "suffix",
    "dimensions",
    "min_p",
    "repetition_penalty",
    "guided_json",
    "guided_regex",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "min_tokens",
];

/// Fields that are served with one value only: what else they say would change the answer.
const NEUTRAL: [(&str, f64); 5] = [
    ("n", 1.0),
    ("best_of", 1.0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("length_penalty", 1.0),
];

/// The same of other kinds.
const ONE_VALUE: [&str; 2] = ["response_format", "echo"];

/// Of a name that nobody knows so much is said back.
const LONGEST_NAME: usize = 64;

/// Refuses what a request may not have that reads the fields `own`.
pub(super) fn check(fields: &Map<String, Value>, own: &[&[&str]]) -> Result<(), Wrong> {
    let empty = |value: &Value| {
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
    };
    for name in UNSERVED {
        if fields.get(name).is_some_and(|value| !empty(value)) {
            return Err(unserved(name, "leave it out"));
        }
    }
    for (name, only) in NEUTRAL {
        if fields.get(name).is_some_and(|value| value.as_f64() != Some(only)) {
            return Err(unserved(name, &format!("only {only} is served")));
        }
    }
    let format = fields.get("response_format").map(|format| &format["type"]);
    if format.is_some_and(|kind| kind != "text") {
        return Err(unserved("response_format", "only {\"type\": \"text\"} is served"));
    }
    if fields.get("echo").is_some_and(|echo| echo != false) {
        return Err(unserved("echo", "only false is served"));
    }
    if fields.get("tool_choice").is_some_and(|choice| choice != "none" && choice != "auto") {
        return Err(unserved("tool_choice", "leave it out"));
    }
    let is_known = |name: &str| {
        let neutral = NEUTRAL.iter().any(|(known, _)| *known == name);
        let other: [&[&str]; 3] = [&EVERYWHERE, &UNSERVED, &ONE_VALUE];
        neutral || own.iter().chain(&other).any(|set| set.contains(&name))
    };
    match fields.keys().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(unknown(name, "leave it out, or look how it is spelled")),
    }
}

/// Refuses what our own field may not have: a limit that is misspelled would be none.
pub(super) fn check_own(fields: &Map<String, Value>) -> Result<(), Wrong> {
    match fields.keys().find(|name| !OWN.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(unknown(&format!("holmes.{name}"), &format!("there are {}", OWN.join(", ")))),
    }
}

/// A field that is known and not served so.
pub(super) fn unserved(name: &str, what: &str) -> Wrong {
    Wrong::field(name, "FIELD_NOT_SUPPORTED", format!("{name} is not supported: {what}"))
}

fn unknown(name: &str, what: &str) -> Wrong {
    let name: String = name.chars().take(LONGEST_NAME).collect();
    Wrong::field(&name, "FIELD_UNKNOWN", format!("{name:?} is no field of this request: {what}"))
}
