//! Data on stdout: a table for people, JSON for programs.

use std::io::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Prints rows: `columns` names what `cells` gives for each.
pub(crate) fn rows<T: Serialize>(
    format: Format,
    columns: &[&str],
    rows: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<()> {
    if format == Format::Json {
        return text(&serde_json::to_string_pretty(rows)?);
    }
    let head = columns.iter().map(|column| (*column).to_owned()).collect();
    table(head, rows.iter().map(cells).collect()).iter().try_for_each(|line| text(line))
}

/// The lines of a table: each column as wide as its widest cell.
pub(crate) fn table(head: Vec<String>, rows: Vec<Vec<String>>) -> Vec<String> {
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect()
}

/// Base units as people read them.
pub(crate) fn coins(units: u64, decimals: u32) -> String {
    let one = 10u64.pow(decimals);
    format!("{}.{:0width$}", units / one, units % one, width = decimals as usize)
}

/// Why what a person wrote is no amount of an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAnAmount {
    /// Something else than digits with one point between them.
    #[error("write digits, with a point where there are parts of a coin, as in 12.5")]
    Malformed,
    /// Rounding would send another amount than was written.
    #[error("that is finer than its smallest unit: at most {0} digits behind the point")]
    TooFine(u32),
    /// Beyond what base units can count.
    #[error("that is more than there can ever be of it: send less")]
    TooMuch,
    /// Nothing would be sent.
    #[error("send more than zero")]
    Zero,
}

/// What people write, as base units.
pub(crate) fn units(coins: &str, decimals: u32) -> Result<u64, NotAnAmount> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = match coins.split_once('.') {
        Some((whole, part)) if digits(part) => (whole, part),
        None => (coins, ""),
        _ => return Err(NotAnAmount::Malformed),
    };
    if !digits(whole) {
        return Err(NotAnAmount::Malformed);
    }
    let missing = (decimals as usize).checked_sub(part.len()).ok_or(NotAnAmount::TooFine(decimals))?;
    // Digits alone fail to be a number only when there are too many of them.
    let units = format!("{whole}{part}{}", "0".repeat(missing)).parse().map_err(|_| NotAnAmount::TooMuch)?;
    if units == 0 { Err(NotAnAmount::Zero) } else { Ok(units) }
}

/// Prints a text and ends its line.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).context("stdout cannot be written")
}

/// Whether what went wrong is only that nobody reads our output any more, as behind `| head`.
pub(crate) fn is_unread(why: &anyhow::Error) -> bool {
    let broken = |why: &std::io::Error| why.kind() == std::io::ErrorKind::BrokenPipe;
    why.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// Bytes as JSON and profiles write them.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = (0..3).fold(0u32, |all, at| all << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(three >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_json_reads_them() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn amounts_are_read_as_they_are_written_and_never_rounded() {
        assert_eq!((coins(1_500_000_000, 9), coins(7, 6)), ("1.500000000".into(), "0.000007".into()));
        use NotAnAmount::{Malformed, TooFine, TooMuch, Zero};
        for (text, decimals, read) in [
            ("12.5", 9, Ok(12_500_000_000)),
            ("0.000001", 6, Ok(1)),
            ("7", 0, Ok(7)),
            ("18446744073.709551615", 9, Ok(u64::MAX)),
            ("18446744073.709551616", 9, Err(TooMuch)),
            ("99999999999999999999999999", 0, Err(TooMuch)),
            ("0", 9, Err(Zero)),
            ("0.00", 9, Err(Zero)),
            ("0.0000001", 6, Err(TooFine(6))),
            ("1.0", 0, Err(TooFine(0))),
            ("-1", 9, Err(Malformed)),
            ("+1", 9, Err(Malformed)),
            ("1e3", 9, Err(Malformed)),
            (".5", 9, Err(Malformed)),
            ("1.", 9, Err(Malformed)),
            ("", 9, Err(Malformed)),
        ] {
            assert_eq!(units(text, decimals), read, "{text}");
        }
    }
}
