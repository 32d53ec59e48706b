//! References in what a scenario sends and expects: `${id:payment-1}`, `${dora.USD}`, `${session.sessionId}`. A text
//! that is one reference becomes what it names; inside other text its text stands there.

use std::time::Duration;

use serde_json::Value as Json;

use super::moment;

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// An id that the scenario makes; the same wherever it is named. With [`TURN`] in its name each repetition has its own.
    Id(String),
    /// An account of the platform: `bonds/HOL`.
    Account(String),
    /// "12.5 HOL" in base units.
    Amount(String),
    /// A moment so long after the start, microseconds since the Unix epoch.
    Time(Duration),
    /// Which repetition this is, from 1 on.
    Turn,
    /// Somebody, a node, or a saved reply, and where in it.
    Named(String, Vec<String>),
}

/// In the name of an id: which repetition this is.
pub(super) const TURN: &str = "${n}";

/// What a text between `${` and `}` names.
pub(super) fn reference(text: &str) -> Result<Reference, String> {
    let wrong = || {
        format!(
            "${{{text}}} names nothing: write ${{NAME}} or ${{NAME.FIELD}} of a person, a node or a saved reply, ${{id:NAME}}, \
             ${{account:NAME/ASSET}}, ${{amount:12.5 ASSET}}, ${{time:30d}} or, in a repeated step, ${{n}}"
        )
    };
    if let Some((kind, rest)) = text.split_once(':') {
        let rest = rest.trim().to_owned();
        return match kind {
            _ if rest.is_empty() => Err(wrong()),
            "id" if rest.replace(TURN, "").contains("${") => Err(wrong()),
            "id" => Ok(Reference::Id(rest)),
            "account" => Ok(Reference::Account(rest)),
            "amount" => Ok(Reference::Amount(rest)),
            "time" => moment::length(&rest).map(Reference::Time).ok_or_else(wrong),
            _ => Err(wrong()),
        };
    }
    let mut parts = text.split('.').map(str::to_owned);
    match (text, parts.next()) {
        ("n", _) => Ok(Reference::Turn),
        (_, Some(name)) if !name.is_empty() => Ok(Reference::Named(name, parts.collect())),
        _ => Err(wrong()),
    }
}

/// A text cut where its references are: what stands before each, and it; then what is left.
struct Cut<'t> {
    pieces: Vec<(&'t str, Reference)>,
    rest: &'t str,
}

fn cut(text: &str) -> Result<Cut<'_>, String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, behind)) = rest.split_once("${") {
        let end = closing(behind).ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
        let (inside, after) = (&behind[..end], &behind[end + 1..]);
        pieces.push((before, reference(inside)?));
        rest = after;
    }
    Ok(Cut { pieces, rest })
}

/// Where a reference ends. In the name of an id there may be one more: `${id:part-${n}}`.
fn closing(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    match text[..end].contains("${") {
        true => closing(&text[end + 1..]).map(|more| end + 1 + more),
        false => Some(end),
    }
}

/// The JSON with every reference in its texts replaced by what `look` gives for it.
pub(super) fn expand(
    json: &Json,
    look: &mut dyn FnMut(&Reference) -> Result<Json, String>,
) -> Result<Json, String> {
    Ok(match json {
        Json::String(text) => expand_text(text, look)?,
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| expand(item, look)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, item)| Ok((name.clone(), expand(item, look)?)));
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

fn expand_text(text: &str, look: &mut dyn FnMut(&Reference) -> Result<Json, String>) -> Result<Json, String> {
    let Cut { pieces, rest } = cut(text)?;
    if let ([("", only)], "") = (pieces.as_slice(), rest) {
        return look(only);
    }
    let mut whole = String::new();
    for (before, reference) in &pieces {
        whole.push_str(before);
        match look(reference)? {
            Json::String(text) => whole.push_str(&text),
            other => whole.push_str(&other.to_string()),
        }
    }
    Ok(Json::String(whole + rest))
}

/// Whether any text of it has a reference.
pub(super) fn has_references(json: &Json) -> bool {
    match json {
        Json::String(text) => text.contains("${"),
        Json::Array(items) => items.iter().any(has_references),
        Json::Object(fields) => fields.values().any(has_references),
        _ => false,
    }
}

/// What stands at a path of a reply: names of members, places in lists from 0 on.
pub(super) fn at_path<'a>(json: &'a Json, path: &[String]) -> Option<&'a Json> {
    path.iter().try_fold(json, |at, step| match at {
        Json::Array(items) => items.get(step.parse::<usize>().ok()?),
        Json::Object(fields) => fields.get(step).or_else(|| {
            let same = |name: &&String| camel(step) == **name;
            fields.keys().find(same).and_then(|name| fields.get(name))
        }),
        _ => None,
    })
}

/// `account_id` as JSON names it.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut whole, part| {
        let mut signs = part.chars();
        whole.extend(signs.next().map(|sign| sign.to_ascii_uppercase()));
        whole.push_str(signs.as_str());
        whole
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_alone_is_what_it_names_and_inside_a_text_its_text() {
        let mut look = |reference: &Reference| match reference {
            Reference::Turn => Ok(json!(3)),
            Reference::Named(name, path) => Ok(json!({ "name": name, "path": path })),
            Reference::Id(name) => Ok(json!(format!("<{name}>"))),
            _ => Err("no".to_owned()),
        };
        let given =
            json!({ "a": "${n}", "b": ["wire ${n}, ${id:x y}", "${id:x ${n}}", "${who.is.it}"], "c": 5 });
        let made = expand(&given, &mut look).unwrap();
        let who = json!({ "name": "who", "path": ["is", "it"] });
        assert_eq!(made, json!({ "a": 3, "b": ["wire 3, <x y>", "<x ${n}>", who], "c": 5 }));
        assert!(has_references(&given) && !has_references(&json!({ "a": "$5 {n}" })));
        assert!(expand(&json!("${account:bonds/HOL}"), &mut look).is_err());
    }

    #[test]
    fn what_names_nothing_is_refused_with_what_would() {
        for text in
            ["${", "${}", "${.x}", "${id:}", "${time:soon}", "${amont:5 HOL}", "${id:${x}}", "${id:a ${n}"]
        {
            let refused = expand(&json!(text), &mut |_| Ok(Json::Null));
            assert!(refused.is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_leads_through_members_and_places() {
        let reply = json!({ "session": { "sessionId": "s" }, "results": [{ "code": "OK" }] });
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(at_path(&reply, &path("session.sessionId")), Some(&json!("s")));
        assert_eq!(at_path(&reply, &path("session.session_id")), Some(&json!("s")));
        assert_eq!(at_path(&reply, &path("results.0.code")), Some(&json!("OK")));
        assert_eq!(at_path(&reply, &path("results.1")), None);
    }
}
