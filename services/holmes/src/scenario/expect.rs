//! What comes of a step, held to what was expected of it: every member that is named must be there and be so; what is not
//! named may be anything.

use holmes_proto::ledger::v1::Asset;
use serde_json::{Value as Json, json};

use super::check;

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Is,
    AtLeast,
    AtMost,
    Above,
    Below,
    Not,
}

const SIGNS: [(&str, Compare); 5] = [
    (">=", Compare::AtLeast),
    ("<=", Compare::AtMost),
    ("!=", Compare::Not),
    (">", Compare::Above),
    ("<", Compare::Below),
];

/// A comparison as it is written: `>= 5`.
pub(super) fn compared(text: &str) -> (Compare, &str) {
    let found = SIGNS.iter().find_map(|(sign, of)| Some((*of, text.strip_prefix(sign)?.trim())));
    found.unwrap_or((Compare::Is, text))
}

impl Compare {
    fn holds(self, got: u128, wanted: u128) -> bool {
        match self {
            Compare::Is => got == wanted,
            Compare::AtLeast => got >= wanted,
            Compare::AtMost => got <= wanted,
            Compare::Above => got > wanted,
            Compare::Below => got < wanted,
            Compare::Not => got != wanted,
        }
    }
}

/// What of an expectation could never fail, or never hold.
pub(super) fn unusable(expected: &Json) -> Vec<String> {
    match expected {
        Json::Object(members) if members.is_empty() => {
            vec!["{} holds of everything: name what must be there".to_owned()]
        }
        Json::Object(members) => members.values().flat_map(unusable_inside).collect(),
        Json::Null => {
            vec!["an expectation that says nothing can never be checked: name what must be there".into()]
        }
        _ => vec!["a reply has members: write what they must be, as in { balanceUnits: 5 }".to_owned()],
    }
}

fn unusable_inside(value: &Json) -> Vec<String> {
    match value {
        Json::String(text) => match compared(text) {
            (Compare::Is | Compare::Not, _) => Vec::new(),
            (Compare::AtLeast, "0") => vec![format!("{text:?} holds of every number: say what it must be")],
            (_, number) if number.contains("${") || number.parse::<u128>().is_ok() => Vec::new(),
            _ => vec![format!("{text:?} compares with no number: it can never be checked")],
        },
        Json::Array(items) => items.iter().flat_map(unusable_inside).collect(),
        Json::Object(members) if members.is_empty() => {
            vec!["{} holds of whatever is there: name what it must have".to_owned()]
        }
        Json::Object(members) => members.values().flat_map(unusable_inside).collect(),
        Json::Null => vec!["null is no value of a reply: it can never be checked".to_owned()],
        _ => Vec::new(),
    }
}

/// Everything that is not as expected: path, wanted, got.
pub(super) fn differences(wanted: &Json, got: &Json, line: u64) -> Vec<Json> {
    let mut found = Vec::new();
    differ(wanted, Some(got), "", &mut found);
    found.into_iter().map(|(path, wanted, got)| difference(line, &path, &wanted, &got)).collect()
}

/// One thing that is not as expected.
pub(super) fn difference(line: u64, path: &str, wanted: &Json, got: &Json) -> Json {
    json!({ "line": line, "path": path, "wanted": wanted, "got": got })
}

fn differ(wanted: &Json, got: Option<&Json>, path: &str, found: &mut Vec<(String, Json, Json)>) {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (wanted, got) {
        (Json::Object(members), Some(Json::Object(there))) => {
            for (name, wanted) in members {
                differ(wanted, there.get(name), &inside(name), found);
            }
        }
        (Json::Array(items), Some(Json::Array(there))) => {
            if items.len() != there.len() {
                let (wanted, got) = (format!("{} items", items.len()), format!("{} items", there.len()));
                found.push((path.to_owned(), wanted.into(), got.into()));
            }
            for (n, wanted) in items.iter().enumerate().take(there.len()) {
                differ(wanted, there.get(n), &format!("{path}[{n}]"), found);
            }
        }
        (wanted, Some(got)) if is_so(wanted, got) => {}
        (wanted, got) => {
            let got = got.cloned().unwrap_or_else(|| "nothing".into());
            found.push((path.to_owned(), wanted.clone(), got));
        }
    }
}

/// Whether a single value is as wanted. Numbers and their digits are one: JSON has large ones as text.
fn is_so(wanted: &Json, got: &Json) -> bool {
    let text = |json: &Json| match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let (Some(wanted_text), Some(got_text)) = (text(wanted), text(got)) else { return wanted == got };
    let (compare, operand) = compared(&wanted_text);
    match (compare, operand.parse::<u128>(), got_text.parse::<u128>()) {
        (Compare::Is, ..) => wanted_text == got_text,
        (compare, Ok(wanted), Ok(got)) => compare.holds(got, wanted),
        (Compare::Not, ..) => operand != got_text,
        _ => false,
    }
}

/// ">= 25 USD": how it is compared, the asset, base units.
pub(super) fn amount<'a>(assets: &'a [Asset], text: &str) -> Result<(Compare, &'a Asset, u64), String> {
    let (compare, text) = compared(text);
    let (asset, units) = check::amount(assets, text)?;
    Ok((compare, asset, units))
}

/// Whether base units are as wanted.
pub(super) fn holds(compare: Compare, got: u64, wanted: u64) -> bool {
    compare.holds(got.into(), wanted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_must_be_so_and_the_rest_may_be_anything() {
        let got = json!({ "a": "5", "b": { "c": [1, 2], "d": true }, "e": "x" });
        for wanted in [
            json!({ "a": 5 }),
            json!({ "a": "5", "b": { "c": [1, 2] } }),
            json!({ "a": ">= 5", "e": "!= y" }),
            json!({ "b": { "c": [">0", "<3"], "d": true } }),
        ] {
            assert_eq!(differences(&wanted, &got, 1), Vec::<Json>::new(), "{wanted}");
        }
        for (wanted, path) in [
            (json!({ "a": 6 }), "a"),
            (json!({ "a": "> 5" }), "a"),
            (json!({ "f": 1 }), "f"),
            (json!({ "b": { "c": [1] } }), "b.c"),
            (json!({ "b": { "c": [1, 3] } }), "b.c[1]"),
            (json!({ "b": { "d": false } }), "b.d"),
            (json!({ "e": ">= 1" }), "e"),
            (json!({ "e": "!= x" }), "e"),
        ] {
            let found = differences(&wanted, &got, 7);
            assert_eq!(found.len(), 1, "{wanted}: {found:?}");
            assert_eq!((&found[0]["path"], &found[0]["line"]), (&json!(path), &json!(7)));
        }
    }

    #[test]
    fn an_expectation_that_could_never_fail_is_found() {
        for wrong in [json!({}), json!(null), json!(5), json!({ "a": null }), json!({ "a": [">= x"] })] {
            assert_eq!(unusable(&wrong).len(), 1, "{wrong}");
        }
        assert!(unusable(&json!({ "a": { "b": [">= ${x.y}"] } })).is_empty());
    }
}
