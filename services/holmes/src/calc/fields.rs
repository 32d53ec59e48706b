//! A case's fields: read from JSON, each refused by its name when it is not what the formula can take.

use std::fmt::Display;

use anyhow::{Context as _, Result, bail};
use holmes_kernel::Amount;
use serde_json::Value;

pub(super) fn array<'a>(asked: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    asked.get(key).and_then(Value::as_array).with_context(|| format!("`{key}` is not an array"))
}

/// The rows of an array, each of so many parts.
pub(super) fn rows<'a, T, const N: usize>(
    asked: &'a Value,
    key: &str,
    read: impl Fn(&'a [Value; N]) -> Result<T>,
) -> Result<Vec<T>> {
    let row = |row: &'a Value| -> Result<T> {
        let parts = row.as_array().and_then(|parts| parts.as_slice().try_into().ok());
        read(parts.with_context(|| format!("{row} is not an array of {N}"))?)
    };
    let named = |(at, of)| row(of).with_context(|| format!("`{key}`[{at}]"));
    array(asked, key)?.iter().enumerate().map(named).collect()
}

/// A number from `least` to `most`.
pub(super) fn within<T: TryFrom<u128> + PartialOrd + Display>(
    asked: &Value,
    key: &str,
    least: T,
    most: T,
) -> Result<T> {
    let found = integer(asked, key)?;
    match T::try_from(found) {
        Ok(number) if (&least..=&most).contains(&&number) => Ok(number),
        _ => bail!("`{key}` lies within {least} and {most}, and {found} does not"),
    }
}

/// A number that is not money.
pub(super) fn small<T: TryFrom<u128>>(asked: &Value, key: &str) -> Result<T> {
    T::try_from(integer(asked, key)?).ok().with_context(|| format!("`{key}` is too large"))
}

pub(super) fn amount(asked: &Value, key: &str) -> Result<Amount> {
    Amount::from_wide(integer(asked, key)?).with_context(|| format!("`{key}` is above 2^64 - 1"))
}

pub(super) fn integer(asked: &Value, key: &str) -> Result<u128> {
    whole(asked.get(key).with_context(|| format!("`{key}` is missing"))?).with_context(|| format!("`{key}`"))
}

/// A whole number from JSON, as a number or, where readers may lose digits, as a decimal string.
pub(super) fn whole(value: &Value) -> Result<u128> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => bail!("{other} is not a whole number"),
    };
    text.parse().with_context(|| format!("{text} is not a whole number from 0 to 2^128 - 1"))
}

/// Whether two results say the same; a number may stand in text.
pub(super) fn same(given: &Value, computed: &Value) -> bool {
    match (given, computed) {
        (Value::Array(given), Value::Array(computed)) => {
            given.len() == computed.len()
                && given.iter().zip(computed).all(|(given, computed)| same(given, computed))
        }
        (Value::Object(given), Value::Object(computed)) => {
            given.len() == computed.len()
                && computed.iter().all(|(key, of)| given.get(key).is_some_and(|given| same(given, of)))
        }
        (Value::Number(_) | Value::String(_), Value::Number(_) | Value::String(_)) => {
            given == computed
                || matches!((whole(given), whole(computed)), (Ok(given), Ok(computed)) if given == computed)
        }
        _ => given == computed,
    }
}
