//! What a length of time may be. `cargo xtask` reads this file, too: a wrong one is told before anything is built.

/// A length in seconds that something can be measured in.
pub(crate) fn length(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        Ok(_) => Err("a run lasts longer than 0 seconds".into()),
        Err(why) => Err(why.to_string()),
    }
}
