//! What is wrong with a configuration, in words for who wrote it: the key, what stands there, what is expected, and where
//! it stands.

use std::fmt;

use figment::error::{Actual, Kind};
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Source};

use super::Config;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// `section.key`; empty when the file as a whole cannot be read.
    key: String,
    /// What stands there and what is expected.
    what: String,
    /// File or environment variable.
    place: String,
    /// What `holmes config explain` is asked for.
    explain: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explain = match self.explain.as_str() {
            "" => "`holmes config explain` lists every key with its meaning".to_owned(),
            key => format!("`holmes config explain {key}` says what it means"),
        };
        write!(f, "{}{}\n  in {}; {explain}", self.key, self.what, self.place)
    }
}

/// The environment variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{}{}", super::PREFIX, key.to_uppercase().replace('.', "__"))
}

/// Where the value of a key stands.
pub(super) fn place(metadata: Option<&Metadata>, key: &str) -> String {
    match metadata.map(|metadata| (&metadata.source, &metadata.name)) {
        Some((Some(Source::File(path)), _)) => path.display().to_string(),
        Some((None, name)) if name.contains(super::PREFIX) => {
            format!("the environment variable {}", variable(key))
        }
        _ => "the defaults".to_owned(),
    }
}

impl Wrong {
    /// Values out of their bounds.
    pub(super) fn bounds(figment: &Figment, config: &Config) -> Vec<Wrong> {
        let wrong = |(key, value, why)| Wrong::of_key(figment, key, format!(" = {value}: {why}"));
        config.out_of_bounds().into_iter().map(wrong).collect()
    }

    /// What is wrong with a key, whoever found it.
    pub(super) fn of_key(figment: &Figment, key: &str, what: String) -> Wrong {
        let (key, place) = (key.to_owned(), place(figment.find_metadata(key), key));
        Wrong { explain: key.clone(), key, what, place }
    }

    /// All that is wrong. The reading stops at the first key that it cannot take, so it is done again without that one.
    pub(super) fn all(figment: &Figment, mut errors: figment::Error) -> Vec<Wrong> {
        let mut keys = figment.extract::<Dict>().unwrap_or_default();
        let mut found = Vec::new();
        loop {
            let mut is_less = true;
            for error in errors {
                is_less &= remove(&mut keys, &error.path);
                found.push(Wrong::of(figment, &error));
            }
            if !is_less {
                return found;
            }
            let rest = Figment::from(Serialized::defaults(Config::default()));
            match rest.merge(Serialized::defaults(&keys)).extract() {
                Ok(config) => return [found, Wrong::bounds(figment, &config)].concat(),
                Err(next) => errors = next,
            }
        }
    }

    fn of(figment: &Figment, error: &figment::Error) -> Wrong {
        let key = error.path.join(".");
        // The layers know where a key stands; of what is no key only the error does.
        let place = place(figment.find_metadata(&key).or(error.metadata.as_ref()), &key);
        let stands = |found: String, expected: String| format!(" = {found}: {expected} is expected");
        let what = match &error.kind {
            Kind::UnknownField(_, known) => {
                let of = error.path.split_last().map_or("", |(_, section)| match section {
                    [section, ..] => section.as_str(),
                    [] => "",
                });
                let of = if of.is_empty() { "the sections are".to_owned() } else { format!("[{of}] has") };
                return Wrong {
                    what: format!(": there is no such key; {of} {}", known.join(", ")),
                    key,
                    place,
                    explain: String::new(),
                };
            }
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                stands(shown(found), in_words(expected))
            }
            Kind::UnknownVariant(found, known) => stands(format!("{found:?}"), known.join(" or ")),
            other if key.is_empty() => format!("{other}").trim_end().to_owned(),
            _ => {
                let found = figment.find_value(&key).map(|value| shown(&value.to_actual()));
                // An address is read from a text by its own type, which says no more than that it is none.
                let expected = in_words(if key_is_address(&key) { ADDRESS } else { "another value" });
                stands(found.unwrap_or_default(), expected)
            }
        };
        Wrong { explain: key.clone(), key, what, place }
    }
}

/// Takes a key out; whether it was there.
fn remove(keys: &mut Dict, path: &[String]) -> bool {
    match path {
        [] => false,
        [key] => keys.remove(key).is_some(),
        [section, rest @ ..] => match keys.get_mut(section) {
            Some(Value::Dict(_, keys)) => remove(keys, rest),
            _ => false,
        },
    }
}

/// What the standard library calls an address and a port.
const ADDRESS: &str = "socket address";

fn key_is_address(key: &str) -> bool {
    ["server.listen", "server.admin", "gateway.http"].contains(&key)
}

/// What stands there, as it is written.
fn shown(found: &Actual) -> String {
    match found {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Bool(on) => on.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

/// What a type of Rust is to who writes a configuration.
fn in_words(expected: &str) -> String {
    match expected {
        "usize" | "u64" => "a whole number from 0 on".to_owned(),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "a text (in quotes)".to_owned(),
        "enum LogFormat" => "text or json".to_owned(),
        ADDRESS => "an address with its port, as in \"127.0.0.1:7070\",".to_owned(),
        section if section.starts_with("struct ") => "a section with keys of its own".to_owned(),
        other => other.to_owned(),
    }
}
