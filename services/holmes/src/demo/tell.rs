//! What the demo prints: a line for everything that happens, with the second at which it did.

use std::time::Instant;

use anyhow::Result;

use crate::output;

/// Prints.
pub(super) struct Teller {
    began: Instant,
}

impl Teller {
    pub(super) fn new(began: Instant) -> Teller {
        Teller { began }
    }

    /// A chapter begins.
    pub(super) fn title(&self, text: &str) -> Result<()> {
        output::text(&format!("\n== {text}"))
    }

    /// Something has happened.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        output::text(&format!("{:>6.1} s  {text}", self.began.elapsed().as_secs_f64()))
    }

    /// A table, indented to stand below a line.
    pub(super) fn table(&self, columns: &[&str], rows: &[Vec<String>]) -> Result<()> {
        let head = columns.iter().map(|column| (*column).to_owned()).collect();
        for line in output::table(head, rows.to_vec()) {
            output::text(format!("          {line}").trim_end())?;
        }
        Ok(())
    }
}

/// The beginning of a text, on one line.
pub(super) fn start_of(text: &str, most: usize) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= most {
        return flat;
    }
    flat.chars().take(most - 1).chain(['…']).collect()
}

/// The beginning of an id: enough to tell a few of them apart.
pub(super) fn short(id: &str) -> &str {
    // a UUIDv7 begins with its time, which neighbours share: its end tells them apart
    id.rsplit('-').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_short_and_whole() {
        assert_eq!((start_of("a  b\nc", 9), start_of("abcdef", 4)), ("a b c".into(), "abc…".into()));
        assert_eq!(short("0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69"), "3f1d2c4b5a69");
    }
}
