//! Rotary position frequencies, with the scalings that change them.

use super::{ConfigError, MAX_HEAD_DIM, bad, positive, within};

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (0, 1), (2, 3) …: GGUF files of the Llama architecture, whose converter permutes the rows of Q and K.
    Interleaved,
    /// (0, d/2), (1, d/2 + 1) …: Hugging Face.
    Halves,
}

/// Base frequencies: `base^(-2i/d)` radians per position.
pub(super) fn frequencies(base: f64, head_dim: usize) -> Result<Vec<f64>, ConfigError> {
    positive("rope base", base)?;
    within("head size", head_dim, MAX_HEAD_DIM)?; // before a hostile size is allocated
    Ok((0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64)).collect())
}

/// Linear scaling: every position counts `1/factor`.
pub(super) fn scale_linear(rope: &mut [f64], factor: f64) -> Result<(), ConfigError> {
    positive("rope scaling factor", factor)?;
    rope.iter_mut().for_each(|f| *f /= factor);
    Ok(())
}

/// The constants of Llama 3.1's scaling.
pub(super) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) original_context: f64,
}

/// Llama 3.1's scaling: long waves are stretched by `factor`, short ones kept, those between blended
/// (`_compute_llama3_parameters` of transformers).
pub(super) fn scale_llama3(rope: &mut [f64], s: &Llama3) -> Result<(), ConfigError> {
    for (field, value) in [
        ("rope factor", s.factor),
        ("low_freq_factor", s.low),
        ("high_freq_factor", s.high),
        ("original_max_position_embeddings", s.original_context),
    ] {
        positive(field, value)?;
    }
    if s.high <= s.low {
        return Err(bad("high_freq_factor", s.high, "above low_freq_factor"));
    }
    for f in rope {
        let turns = s.original_context * *f / std::f64::consts::TAU; // full turns over the original context
        let keep = ((turns - s.low) / (s.high - s.low)).clamp(0.0, 1.0);
        *f = keep * *f + (1.0 - keep) * *f / s.factor;
    }
    Ok(())
}

/// Divisors that a GGUF file brings as the tensor `rope_freqs.weight`.
pub(super) fn scale_by(rope: &mut [f64], divisors: &[f32]) -> Result<(), ConfigError> {
    if divisors.len() != rope.len() {
        return Err(bad("rope_freqs.weight", divisors.len(), "one divisor per rotated pair"));
    }
    for (f, &d) in rope.iter_mut().zip(divisors) {
        positive("rope_freqs.weight", d.into())?;
        *f /= f64::from(d);
    }
    Ok(())
}
