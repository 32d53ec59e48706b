//! The oracle: one f64 function per op, whole sequences, no pages, no blocks, no batching. Test only.

use crate::config::{Pooling, RopePairs};
use crate::program::{Buf, Epilogue, Heads, NormKind, Op, Program, WeightId};

type Rows = Vec<Vec<f64>>;

/// The logits of every position, or one row: an encoder's vector.
pub(crate) fn evaluate(program: &Program, tokens: &[u32]) -> Rows {
    let mut reference =
        Reference { program, buffers: vec![Rows::new(); program.buffers.len()], kept: Vec::new() };
    for op in &program.ops {
        if let Some(result) = reference.op(op, tokens) {
            return result;
        }
    }
    panic!("the program has no result")
}

struct Reference<'a> {
    program: &'a Program,
    buffers: Vec<Rows>,
    /// Keys and values by layer.
    kept: Vec<(Rows, Rows)>,
}

impl Reference<'_> {
    fn op(&mut self, op: &Op, tokens: &[u32]) -> Option<Rows> {
        let heads = &self.program.heads;
        match *op {
            Op::Embed { tokens: table, positions, types, out } => {
                let embed = |(position, &token): (usize, &u32)| {
                    let mut row = self.matrix(table)[token as usize].clone();
                    for (table, index) in [(positions, position), (types, 0)] {
                        row = table.map_or(row.clone(), |t| add(&row, &self.matrix(t)[index]));
                    }
                    row
                };
                self.buffers[out.0] = tokens.iter().enumerate().map(embed).collect();
            }
            Op::Norm { kind, weight, eps, input, out } => {
                let (weight, bias) = (
                    self.vector(weight),
                    match kind {
                        NormKind::Rms => None,
                        NormKind::Layer { bias } => Some(self.vector(bias)),
                    },
                );
                self.map(input, out, |row| norm(row, &weight, bias.as_deref(), eps.into()));
            }
            Op::Linear { weight, bias, input, out, epilogue } => {
                let result = self.linear(weight, bias, input);
                self.buffers[out.0] = match epilogue {
                    Epilogue::None => result,
                    Epilogue::Add(buf) => {
                        result.iter().zip(&self.buffers[buf.0]).map(|(a, b)| add(a, b)).collect()
                    }
                    Epilogue::Gelu => map(&result, |x| x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))),
                    Epilogue::SwiGlu { gate, gate_bias } => {
                        let gate = map(&self.linear(gate, gate_bias, input), |x| x / (1.0 + (-x).exp()));
                        let product =
                            |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a * b).collect();
                        gate.iter().zip(&result).map(product).collect()
                    }
                };
            }
            Op::RopeKv { layer, q, k, v } => {
                assert_eq!(self.kept.len(), layer);
                for buf in [q, k] {
                    for (position, row) in self.buffers[buf.0].iter_mut().enumerate() {
                        rotate(row, position, heads);
                    }
                }
                self.kept.push((self.buffers[k.0].clone(), self.buffers[v.0].clone()));
            }
            Op::AttnPaged { layer, q, out } => {
                let (k, v) = &self.kept[layer];
                let row = |(i, q): (usize, &Vec<f64>)| attend(q, &k[..=i], &v[..=i], heads);
                self.buffers[out.0] = self.buffers[q.0].iter().enumerate().map(row).collect();
            }
            Op::AttnVarlen { q, k, v, out } => {
                let (k, v) = (&self.buffers[k.0], &self.buffers[v.0]);
                self.buffers[out.0] = self.buffers[q.0].iter().map(|q| attend(q, k, v, heads)).collect();
            }
            Op::Pool { pooling, normalize, input } => {
                return Some(vec![pool(&self.buffers[input.0], pooling, normalize)]);
            }
            Op::Gather { input, out } => self.buffers[out.0] = self.buffers[input.0].clone(),
            Op::Sample { logits } => return Some(self.buffers[logits.0].clone()),
        }
        None
    }

    fn vector(&self, id: WeightId) -> Vec<f64> {
        self.program.weight(id).to_f32().into_iter().map(f64::from).collect()
    }

    fn matrix(&self, id: WeightId) -> Rows {
        let width = self.program.weight(id).shape()[1];
        self.vector(id).chunks(width).map(<[f64]>::to_vec).collect()
    }

    fn map(&mut self, input: Buf, out: Buf, f: impl Fn(&[f64]) -> Vec<f64>) {
        self.buffers[out.0] = self.buffers[input.0].iter().map(|row| f(row)).collect();
    }

    fn linear(&self, weight: WeightId, bias: Option<WeightId>, input: Buf) -> Rows {
        let (weight, bias) = (self.matrix(weight), bias.map(|b| self.vector(b)));
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let y: Vec<f64> = weight.iter().map(|w| dot(w, x)).collect();
            bias.as_ref().map_or(y.clone(), |b| add(&y, b))
        };
        self.buffers[input.0].iter().map(row).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn map(rows: &Rows, f: impl Fn(f64) -> f64) -> Rows {
    rows.iter().map(|row| row.iter().map(|&x| f(x)).collect()).collect()
}

fn norm(row: &[f64], weight: &[f64], bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = if bias.is_some() { row.iter().sum::<f64>() / n } else { 0.0 };
    let centred: Vec<f64> = row.iter().map(|x| x - mean).collect();
    let scale = 1.0 / (dot(&centred, &centred) / n + eps).sqrt();
    let scaled: Vec<f64> = centred.iter().zip(weight).map(|(x, w)| x * scale * w).collect();
    bias.map_or(scaled.clone(), |b| add(&scaled, b))
}

fn rotate(row: &mut [f64], position: usize, heads: &Heads) {
    for head in row.chunks_mut(heads.dim) {
        for (i, frequency) in heads.rope.iter().enumerate() {
            let (a, b) = match heads.pairs {
                RopePairs::Interleaved => (2 * i, 2 * i + 1),
                RopePairs::Halves => (i, i + heads.dim / 2),
            };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }
}

fn attend(q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>], heads: &Heads) -> Vec<f64> {
    let mut out = Vec::new();
    for (head, q) in q.chunks(heads.dim).enumerate() {
        let shared = head / (heads.query / heads.kv) * heads.dim;
        let part = |row: &Vec<f64>| row[shared..shared + heads.dim].to_vec();
        let scores: Vec<f64> = k.iter().map(|k| dot(q, &part(k)) / (heads.dim as f64).sqrt()).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for i in 0..heads.dim {
            out.push(v.iter().zip(&weights).map(|(v, w)| part(v)[i] * w / sum).sum());
        }
    }
    out
}

fn pool(rows: &Rows, pooling: Pooling, normalize: bool) -> Vec<f64> {
    let n = rows.len() as f64;
    let pooled: Vec<f64> = match pooling {
        Pooling::First => rows[0].clone(),
        Pooling::Mean => (0..rows[0].len()).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / n).collect(),
    };
    let length = if normalize { dot(&pooled, &pooled).sqrt() } else { 1.0 };
    pooled.iter().map(|x| x / length).collect()
}

/// By its Taylor series up to 3, where the tail is below 1e-16 of 1 beyond 6 and the series converges before.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

mod tests;
