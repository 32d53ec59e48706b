//! Softmax attention of one row over the pages of its sequence.
//!
//! Keys are visited by position, page after page, so a result depends on the row and its keys alone and not on
//! how the sequence was cut into steps.

use super::cache::Cache;
use super::simd::{Kernel, LANES, Simd, exp};
use crate::backend::{PAGE_TOKENS, PageId};

/// A row: which sequence's pages it reads and how many tokens of it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) pages: &'a [PageId],
    pub(super) tokens: usize,
}

/// The queries of one row that share a key-value head; `out` is of the queries' shape.
pub(super) struct Attend<'a> {
    pub(super) cache: &'a Cache,
    pub(super) layer: usize,
    pub(super) head: usize,
    pub(super) row: Row<'a>,
    pub(super) dim: usize,
    pub(super) queries: &'a [f32],
    pub(super) out: &'a mut [f32],
    /// Room for one score per token of the row's pages.
    pub(super) scores: &'a mut Vec<f32>,
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let pages = &self.row.pages[..self.row.tokens.div_ceil(PAGE_TOKENS)];
        let room = self.scores.len().max(pages.len() * LANES);
        self.scores.resize(room, 0.0);
        let scores = &mut self.scores.as_chunks_mut::<LANES>().0[..pages.len()];
        let outs = self.out.chunks_exact_mut(self.dim);
        for (query, out) in self.queries.chunks_exact(self.dim).zip(outs) {
            for (&page, scores) in pages.iter().zip(&mut *scores) {
                let keys = self.cache.keys(self.layer, page, self.head);
                score(s, query, keys.as_chunks::<LANES>().0, scores);
            }
            let sum = soften(s, scores, self.row.tokens);
            let mean = Mean { cache: self.cache, layer: self.layer, head: self.head, pages, dim: self.dim };
            let weights = &scores.as_flattened()[..self.row.tokens];
            let mut from = 0;
            while from + 4 * LANES <= self.dim {
                mean.lanes::<S, 4>(s, weights, sum, from, out);
                from += 4 * LANES;
            }
            while from < self.dim {
                mean.lanes::<S, 1>(s, weights, sum, from, out);
                from += LANES;
            }
        }
    }
}

/// Scaled products of the query with a page's keys; four chains, because one waits for itself.
#[inline(always)]
fn score<S: Simd>(s: S, query: &[f32], keys: &[[f32; LANES]], scores: &mut [f32; LANES]) {
    let mut sums = [s.splat(0.0); 4];
    for (q, keys) in query.as_chunks::<4>().0.iter().zip(keys.as_chunks::<4>().0) {
        for i in 0..4 {
            sums[i] = s.mul_add(s.splat(q[i]), s.load(&keys[i]), sums[i]);
        }
    }
    let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
    s.store(s.mul(sum, s.splat(1.0 / (query.len() as f32).sqrt())), scores);
}

/// Turns scores into weights relative to the largest, 0 beyond `tokens`; returns their sum.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [[f32; LANES]], tokens: usize) -> f32 {
    let flat = scores.as_flattened_mut();
    flat[tokens..].fill(f32::NEG_INFINITY);
    let max = flat[..tokens].iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let mut sum = s.splat(0.0);
    let last = scores.len() - 1;
    for (i, scores) in scores.iter_mut().enumerate() {
        let weights = exp(s, s.sub(s.load(scores), s.splat(max)));
        s.store(weights, scores);
        if i == last {
            scores[tokens - i * LANES..].fill(0.0);
        }
        sum = s.add(sum, s.load(scores));
    }
    s.sum(sum)
}

/// The values' weighted mean.
struct Mean<'a> {
    cache: &'a Cache,
    layer: usize,
    head: usize,
    pages: &'a [PageId],
    dim: usize,
}

impl Mean<'_> {
    /// W vectors of it, from element `from` on.
    #[inline(always)]
    fn lanes<S: Simd, const W: usize>(&self, s: S, weights: &[f32], sum: f32, from: usize, out: &mut [f32]) {
        let mut sums = [s.splat(0.0); W];
        for (&page, weights) in self.pages.iter().zip(weights.chunks(PAGE_TOKENS)) {
            let values = self.cache.values(self.layer, page, self.head);
            for (value, &weight) in values.chunks_exact(self.dim).zip(weights) {
                let weight = s.splat(weight);
                let value = &value[from..].as_chunks::<LANES>().0[..W];
                for i in 0..W {
                    sums[i] = s.mul_add(weight, s.load(&value[i]), sums[i]);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out[from..].as_chunks_mut::<LANES>().0) {
            s.store(s.div(sums, s.splat(sum)), out);
        }
    }
}
