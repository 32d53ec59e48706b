//! Choosing a token from logits. What is chosen is a function of the logits, the parameters and
//! (seed, position) alone, so that anyone can repeat it.

mod philox;

use std::cmp::Ordering;

/// Most alternatives whose log probabilities may be asked for, as in the OpenAI interface.
pub const MAX_TOP_LOGPROBS: usize = 20;
/// Candidates looked at first when a nucleus is cut; four times as many each round until it is complete.
const FIRST_CANDIDATES: usize = 256;

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 = the most probable token; else logits are divided by it.
    pub temperature: f32,
    /// Only the `top_k` most probable tokens; 0 = all.
    pub top_k: u32,
    /// Only the fewest most probable tokens that together reach this probability; 1 = all.
    pub top_p: f32,
    /// The stream of randomness.
    pub seed: u64,
    /// The chosen token's position in its sequence: the place in the stream.
    pub position: u64,
    /// Whether the token's log probability is wanted, and how many alternatives'.
    pub logprobs: Option<u8>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, position: 0, logprobs: None }
    }
}

/// Parameters that make no sense.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq)]
pub enum SamplingError {
    /// Not 0..=100.
    #[error("temperature is {0}; it must be between 0 and 100")]
    Temperature(f32),
    /// Not in (0, 1].
    #[error("top_p is {0}; it must be above 0 and at most 1")]
    TopP(f32),
    /// More alternatives than [`MAX_TOP_LOGPROBS`].
    #[error("{0} alternatives are asked for; the most is {MAX_TOP_LOGPROBS}")]
    TopLogprobs(u8),
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// Log probabilities under the model itself (temperature 1, nothing cut off), if wanted.
    pub logprobs: Option<Logprobs>,
}

/// Log probabilities, natural.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The chosen token's.
    pub chosen: f32,
    /// The most probable tokens' and theirs, best first.
    pub top: Vec<(u32, f32)>,
}

impl Sampling {
    /// Refuses parameters that make no sense.
    pub fn check(&self) -> Result<(), SamplingError> {
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(SamplingError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingError::TopP(self.top_p));
        }
        match self.logprobs {
            Some(n) if usize::from(n) > MAX_TOP_LOGPROBS => Err(SamplingError::TopLogprobs(n)),
            _ => Ok(()),
        }
    }
}

/// Chooses a token; `None` if a logit is NaN or none is finite.
pub fn choose(logits: &[f32], sampling: &Sampling) -> Option<Chosen> {
    let best = arg_max(logits)?;
    let token = if sampling.temperature > 0.0 { draw(logits, best, sampling) } else { best };
    let logprobs = sampling.logprobs.map(|n| logprobs(logits, best, token, n.into()));
    Some(Chosen { token, logprobs })
}

/// The first of the largest logits.
fn arg_max(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (i, &l) in logits.iter().enumerate() {
        if l.is_nan() || l == f32::INFINITY {
            return None;
        }
        if l > best.map_or(f32::NEG_INFINITY, |(_, b)| b) {
            best = Some((i as u32, l));
        }
    }
    best.map(|(i, _)| i)
}

/// Draws by inverting the cumulative distribution of the kept candidates.
fn draw(logits: &[f32], best: u32, sampling: &Sampling) -> u32 {
    let max = f64::from(logits[best as usize]);
    let weight = |l: f32| ((f64::from(l) - max) / f64::from(sampling.temperature)).exp();
    let uniform = philox::uniform(sampling.seed, sampling.position);
    let kept = candidates(logits, sampling, weight);
    let total: f64 = kept.iter().map(|&(_, w)| w).sum();
    let mut left = uniform * total;
    for &(token, w) in &kept {
        left -= w;
        if left < 0.0 {
            return token;
        }
    }
    // rounding left a sliver: the last candidate that has any weight
    kept.iter().rev().find(|(_, w)| *w > 0.0).map_or(best, |c| c.0)
}

/// The candidates that top-k and then top-p leave, with weights, best first (by id among equals); in the
/// order of ids where nothing is cut.
fn candidates(logits: &[f32], sampling: &Sampling, weight: impl Fn(f32) -> f64) -> Vec<(u32, f64)> {
    let k = if sampling.top_k == 0 { logits.len() } else { logits.len().min(sampling.top_k as usize) };
    if k == logits.len() && sampling.top_p >= 1.0 {
        return logits.iter().enumerate().map(|(i, &l)| (i as u32, weight(l))).collect();
    }
    // what top-p is a share of: everything that top-k leaves
    let (mut reach, mut mass) = (FIRST_CANDIDATES.min(k), None);
    if k == logits.len() {
        mass = Some(logits.iter().map(|&l| weight(l)).sum::<f64>());
    } else {
        reach = k;
    }
    loop {
        let mut kept: Vec<(u32, f64)> = top(logits, reach).iter().map(|&(i, l)| (i, weight(l))).collect();
        let all = mass.unwrap_or_else(|| kept.iter().map(|c| c.1).sum());
        let mut sum = 0.0;
        let enough = kept.iter().position(|&(_, w)| {
            sum += w;
            sum >= f64::from(sampling.top_p) * all
        });
        if enough.is_some() || reach >= k {
            kept.truncate(enough.map_or(kept.len(), |i| i + 1));
            return kept;
        }
        reach = (reach * 4).min(k);
    }
}

/// The `n` largest logits, best first, by id among equals.
fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, l)).collect();
    if n < all.len() {
        all.select_nth_unstable_by(n, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}

fn logprobs(logits: &[f32], best: u32, token: u32, n: usize) -> Logprobs {
    let max = f64::from(logits[best as usize]);
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    let of = |l: f32| (f64::from(l) - max - sum.ln()) as f32;
    let top = if n == 0 { Vec::new() } else { top(logits, n).into_iter().map(|(i, l)| (i, of(l))).collect() };
    Logprobs { chosen: of(logits[token as usize]), top }
}

#[cfg(test)]
mod tests;
