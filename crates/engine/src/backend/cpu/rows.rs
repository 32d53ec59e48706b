//! Ops on single rows: norms, rotation, pooling.

use super::simd::{Kernel, LANES, Simd};
use crate::config::{Pooling, RopePairs};

/// Normalises rows in place.
pub(super) struct Normalise<'a> {
    pub(super) rows: &'a mut [f32],
    pub(super) weight: &'a [f32],
    /// None = RMS, without subtracting the mean.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) eps: f32,
}

impl Kernel for Normalise<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        for row in self.rows.chunks_exact_mut(width) {
            let row = row.as_chunks_mut::<LANES>().0;
            if self.bias.is_some() {
                let mut sum = s.splat(0.0);
                for x in &*row {
                    sum = s.add(sum, s.load(x));
                }
                let mean = s.splat(s.sum(sum) / width as f32);
                for x in &mut *row {
                    s.store(s.sub(s.load(x), mean), x);
                }
            }
            let mut squares = s.splat(0.0);
            for x in &*row {
                squares = s.mul_add(s.load(x), s.load(x), squares);
            }
            let scale = s.splat(1.0 / (s.sum(squares) / width as f32 + self.eps).sqrt());
            for (i, (x, w)) in row.iter_mut().zip(self.weight.as_chunks::<LANES>().0).enumerate() {
                let mut y = s.mul(s.mul(s.load(x), scale), s.load(w));
                if let Some(bias) = self.bias {
                    y = s.add(y, s.load(&bias.as_chunks::<LANES>().0[i]));
                }
                s.store(y, x);
            }
        }
    }
}

/// Cosines and sines of every position, `[position][pair]`.
pub(super) struct Rotations {
    table: Vec<(f32, f32)>,
    pairs: usize,
    order: RopePairs,
}

impl Rotations {
    pub(super) fn new(frequencies: &[f64], positions: usize, order: RopePairs) -> Rotations {
        let turn = |p: usize, f: f64| ((p as f64 * f).cos() as f32, (p as f64 * f).sin() as f32);
        let table = (0..positions).flat_map(|p| frequencies.iter().map(move |&f| turn(p, f))).collect();
        Rotations { table, pairs: frequencies.len(), order }
    }

    /// Rotates all heads of a row by its position.
    pub(super) fn turn(&self, row: &mut [f32], position: usize) {
        let turns = &self.table[position * self.pairs..][..self.pairs];
        for head in row.chunks_exact_mut(2 * self.pairs) {
            for (i, &(cos, sin)) in turns.iter().enumerate() {
                let (a, b) = match self.order {
                    RopePairs::Interleaved => (2 * i, 2 * i + 1),
                    RopePairs::Halves => (i, i + self.pairs),
                };
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos - y * sin;
                head[b] = x * sin + y * cos;
            }
        }
    }
}

/// One vector from a sequence's rows; `None` if it is not finite.
pub(super) fn pool(rows: &[f32], width: usize, pooling: Pooling, normalize: bool) -> Option<Vec<f32>> {
    let mut sums = vec![0.0f64; width];
    let count = if pooling == Pooling::First { 1 } else { rows.len() / width };
    for row in rows.chunks_exact(width).take(count) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let mut scale = 1.0 / count as f64;
    if normalize {
        let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
        scale = 1.0 / length.max(1e-12 * count as f64); // the floor of torch's normalize
    }
    let vector: Vec<f32> = sums.iter().map(|x| (x * scale) as f32).collect();
    vector.iter().all(|x| x.is_finite()).then_some(vector)
}
