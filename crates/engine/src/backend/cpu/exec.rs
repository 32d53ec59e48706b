//! Executes a program's ops over the rows of a step.

use std::sync::Arc;

use super::attention::{Attend, Row};
use super::cache::{Cache, zeros};
use super::linear::{Last, Matrix, Product, products};
use super::rows::{Normalise, Rotations, pool};
use super::simd::{LANES, Level};
use super::team::{Shares, Team};
use crate::backend::{
    Footprint, Limits, LoadError, PAGE_TOKENS, PageId, SeqOutput, StepInput, StepOutput, Want,
};
use crate::format::Dtype;
use crate::program::{Buf, Epilogue, NormKind, Op, Program, Rows, WeightId};
use crate::sample;

/// Rows of one item of a norm.
const NORM_ROWS: usize = 8;

thread_local! {
    /// A row's attention scores.
    static SCORES: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A loaded model and all memory it works in.
pub(super) struct Machine {
    program: Arc<Program>,
    level: Level,
    team: Team,
    /// One-dimensional weights, unpacked.
    vectors: Vec<Vec<f32>>,
    /// By [`Buf`].
    buffers: Vec<Vec<f32>>,
    cache: Cache,
    rotations: Rotations,
    footprint: Footprint,
}

/// Where the rows of a step belong.
struct Layout {
    /// Sequence and position of each row.
    rows: Vec<(usize, usize)>,
    /// First row of each sequence, and one past the last row.
    starts: Vec<usize>,
    /// Pages of each sequence.
    pages: Vec<Vec<PageId>>,
    /// Rows whose logits are wanted, and first output of each sequence.
    outputs: Vec<usize>,
    first_output: Vec<usize>,
}

impl Machine {
    pub(super) fn new(
        program: Arc<Program>,
        limits: &Limits,
        level: Level,
        team: Team,
    ) -> Result<Machine, LoadError> {
        check_shapes(&program)?;
        check_limits(&program, limits)?;
        let heads = &program.heads;
        // an encoder has no cache between steps, but its attention reads the step's keys from the same pages
        let (layers, pages) = match program.cache_layers {
            0 => (1, limits.step_tokens.div_ceil(PAGE_TOKENS) + limits.step_sequences),
            layers => (layers, limits.pages),
        };
        let bytes = Cache::bytes(layers, pages, heads.kv, heads.dim).unwrap_or(usize::MAX);
        let cache = Cache::new(layers, pages, heads.kv, heads.dim)
            .ok_or(LoadError::Memory { what: "the key-value cache", bytes })?;
        let mut buffers = Vec::new();
        for spec in &program.buffers {
            let rows = if spec.rows == Rows::Tokens { limits.step_tokens } else { limits.step_outputs };
            let bytes = rows.saturating_mul(spec.width).saturating_mul(size_of::<f32>());
            let buffer = rows.checked_mul(spec.width).and_then(zeros);
            buffers.push(buffer.ok_or(LoadError::Memory { what: "the buffers", bytes })?);
        }
        let vectors = program.weights.iter();
        let vectors = vectors.map(|w| if w.shape().len() == 1 { w.to_f32() } else { Vec::new() }).collect();
        let footprint = Footprint {
            weights: program.weights.iter().map(|w| w.bytes().len()).sum(),
            cache: bytes,
            buffers: buffers.iter().map(|b| b.len() * size_of::<f32>()).sum(),
        };
        let positions = program.context.min(pages.saturating_mul(PAGE_TOKENS)); // no step reaches further
        let rotations = Rotations::new(&heads.rope, positions, heads.pairs);
        Ok(Machine { program, level, team, vectors, buffers, cache, rotations, footprint })
    }

    pub(super) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Runs one step that [`crate::backend::check_step`] has passed.
    pub(super) fn step(&mut self, step: &StepInput) -> StepOutput {
        let layout = Layout::of(step, self.program.generates());
        let program = self.program.clone();
        let mut results = vec![SeqOutput::Nothing; step.sequences.len()];
        let mut ops = program.ops.as_slice();
        while let Some((op, rest)) = ops.split_first() {
            ops = rest;
            match *op {
                Op::Linear { .. } => ops = self.linear(op, rest, &layout),
                Op::Embed { tokens, positions, types, out } => {
                    self.embed([Some(tokens), positions, types], out, step, &layout);
                }
                Op::Norm { kind, weight, eps, input, out } => {
                    self.norm(kind, weight, eps, (input, out), &layout);
                }
                Op::RopeKv { layer, q, k, v } => self.rope_kv(layer, [q, k, v], &layout),
                Op::AttnPaged { layer, q, out } => self.attend(layer, q, out, &layout, true),
                Op::AttnVarlen { q, k, v, out } => {
                    self.store(0, k, v, &layout);
                    self.attend(0, q, out, &layout, false);
                }
                Op::Pool { pooling, normalize, input } => {
                    let width = program.hidden;
                    for (i, result) in results.iter_mut().enumerate() {
                        let rows =
                            &self.buffers[input.0][layout.starts[i] * width..layout.starts[i + 1] * width];
                        let vector = pool(rows, width, pooling, normalize);
                        *result = vector.map_or(SeqOutput::NotFinite, SeqOutput::Vector);
                    }
                }
                Op::Gather { input, out } => self.gather(input, out, &layout),
                Op::Sample { logits } => self.sample(logits, step, &layout, &mut results),
            }
        }
        StepOutput { sequences: results }
    }

    fn rows(&self, buf: Buf, layout: &Layout) -> usize {
        match self.program.buffers[buf.0].rows {
            Rows::Tokens => layout.rows.len(),
            Rows::Outputs => layout.outputs.len(),
        }
    }

    /// Runs a linear op, and those right after it that read the same buffer and touch nothing else, as one.
    fn linear<'a>(&mut self, first: &'a Op, rest: &'a [Op], layout: &Layout) -> &'a [Op] {
        let plain = |op: &Op| match *op {
            Op::Linear { input, epilogue: Epilogue::None, .. } => Some(input),
            _ => None,
        };
        let together = match plain(first) {
            Some(input) => rest.iter().take_while(|op| plain(op) == Some(input)).count(),
            None => 0,
        };
        let group: Vec<&Op> = std::iter::once(first).chain(&rest[..together]).collect();
        let mut outs: Vec<Vec<f32>> = Vec::new();
        for op in &group {
            if let Op::Linear { out, .. } = op {
                outs.push(std::mem::take(&mut self.buffers[out.0]));
            }
        }
        let program = self.program.clone();
        let mut work = Vec::new();
        let mut rows = 0;
        for (op, held) in group.iter().zip(&mut outs) {
            let &&Op::Linear { weight, bias, input, out, epilogue } = op else { continue };
            rows = self.rows(input, layout);
            let last = match epilogue {
                Epilogue::None => Last::None,
                Epilogue::Add(buf) if buf == out => Last::AddOut,
                Epilogue::Add(buf) => Last::Add(&self.buffers[buf.0]),
                Epilogue::Gelu => Last::Gelu,
                Epilogue::SwiGlu { gate, gate_bias } => {
                    Last::SwiGlu(matrix(&program, gate), gate_bias.map(|b| &self.vectors[b.0][..]))
                }
            };
            let bias = bias.map(|b| &self.vectors[b.0][..]);
            let (weight, x) = (matrix(&program, weight), &self.buffers[input.0][..]);
            work.push(Product { weight, bias, x, last, out: Shares::new(held) });
        }
        products(self.level, &mut self.team, rows, &work);
        drop(work);
        for (op, held) in group.iter().zip(outs) {
            if let Op::Linear { out, .. } = op {
                self.buffers[out.0] = held;
            }
        }
        &rest[together..]
    }

    fn embed(&mut self, tables: [Option<WeightId>; 3], out: Buf, step: &StepInput, layout: &Layout) {
        let width = self.program.hidden;
        let mut row = vec![0.0; width];
        for (r, &(seq, position)) in layout.rows.iter().enumerate() {
            let token = step.sequences[seq].tokens[r - layout.starts[seq]] as usize;
            let to = &mut self.buffers[out.0][r * width..][..width];
            to.fill(0.0);
            for (table, index) in tables.iter().zip([token, position, 0]) {
                let Some(table) = table.map(|t| self.program.weight(t)) else { continue };
                let size = table.dtype().row_bytes(width);
                table.dtype().unpack(&table.bytes()[index * size..][..size], &mut row);
                to.iter_mut().zip(&row).for_each(|(t, x)| *t += x);
            }
        }
    }

    fn norm(&mut self, kind: NormKind, weight: WeightId, eps: f32, bufs: (Buf, Buf), layout: &Layout) {
        let (input, out) = bufs;
        let weight = &self.vectors[weight.0];
        let len = self.rows(input, layout) * weight.len();
        let mut held = std::mem::take(&mut self.buffers[out.0]);
        if input != out {
            held[..len].copy_from_slice(&self.buffers[input.0][..len]);
        }
        let bias = match kind {
            NormKind::Rms => None,
            NormKind::Layer { bias } => Some(&self.vectors[bias.0][..]),
        };
        let (level, part) = (self.level, NORM_ROWS * weight.len());
        let shares = Shares::new(&mut held[..len]);
        self.team.each(len.div_ceil(part), |i| {
            // SAFETY: items are disjoint groups of rows.
            #[allow(unsafe_code)]
            let rows = unsafe { shares.part(i * part, part.min(len - i * part)) };
            level.run(Normalise { rows, weight, bias, eps });
        });
        self.buffers[out.0] = held;
    }

    fn rope_kv(&mut self, layer: usize, [q, k, v]: [Buf; 3], layout: &Layout) {
        for buf in [q, k] {
            let width = self.program.buffers[buf.0].width;
            for (row, &(_, position)) in self.buffers[buf.0].chunks_exact_mut(width).zip(&layout.rows) {
                self.rotations.turn(row, position);
            }
        }
        self.store(layer, k, v, layout);
    }

    fn store(&mut self, layer: usize, k: Buf, v: Buf, layout: &Layout) {
        let width = self.program.heads.kv * self.program.heads.dim;
        for (r, &(seq, position)) in layout.rows.iter().enumerate() {
            let page = layout.pages[seq][position / PAGE_TOKENS];
            let at = r * width..(r + 1) * width;
            let (k, v) = (&self.buffers[k.0][at.clone()], &self.buffers[v.0][at]);
            self.cache.write(layer, page, position % PAGE_TOKENS, k, v);
        }
    }

    fn attend(&mut self, layer: usize, q: Buf, out: Buf, layout: &Layout, causal: bool) {
        let heads = &self.program.heads;
        let group = heads.query / heads.kv * heads.dim; // elements of the queries that share a head
        let mut held = std::mem::take(&mut self.buffers[out.0]);
        let shares = Shares::new(&mut held);
        let (level, cache, queries) = (self.level, &self.cache, &self.buffers[q.0]);
        self.team.each(layout.rows.len() * heads.kv, |i| {
            let (row, head) = (i / heads.kv, i % heads.kv);
            let (seq, position) = layout.rows[row];
            let tokens = if causal { position + 1 } else { layout.starts[seq + 1] - layout.starts[seq] };
            // SAFETY: items are disjoint heads of rows.
            #[allow(unsafe_code)]
            let out = unsafe { shares.part(i * group, group) };
            let row = Row { pages: &layout.pages[seq], tokens };
            let queries = &queries[i * group..][..group];
            SCORES.with_borrow_mut(|scores| {
                level.run(Attend { cache, layer, head, row, dim: heads.dim, queries, out, scores });
            });
        });
        self.buffers[out.0] = held;
    }

    fn gather(&mut self, input: Buf, out: Buf, layout: &Layout) {
        let width = self.program.buffers[input.0].width;
        let mut held = std::mem::take(&mut self.buffers[out.0]);
        for (to, &row) in held.chunks_exact_mut(width).zip(&layout.outputs) {
            to.copy_from_slice(&self.buffers[input.0][row * width..][..width]);
        }
        self.buffers[out.0] = held;
    }

    fn sample(&self, logits: Buf, step: &StepInput, layout: &Layout, results: &mut [SeqOutput]) {
        let width = self.program.vocab;
        for (i, (seq, result)) in step.sequences.iter().zip(results).enumerate() {
            let first = &self.buffers[logits.0][layout.first_output[i] * width..];
            match &seq.want {
                Want::Token(sampling) => {
                    let chosen = sample::choose(&first[..width], sampling);
                    *result = chosen.map_or(SeqOutput::NotFinite, SeqOutput::Token);
                }
                Want::Logits => *result = SeqOutput::Logits(first[..seq.tokens.len() * width].to_vec()),
                Want::Nothing | Want::Vector => {}
            }
        }
    }
}

impl Layout {
    fn of(step: &StepInput, paged: bool) -> Layout {
        let mut layout = Layout {
            rows: Vec::new(),
            starts: vec![0],
            pages: Vec::new(),
            outputs: Vec::new(),
            first_output: Vec::new(),
        };
        let mut page = 0;
        for (i, seq) in step.sequences.iter().enumerate() {
            let first = layout.rows.len();
            layout.rows.extend((seq.start..seq.start + seq.tokens.len()).map(|position| (i, position)));
            let end = layout.rows.len();
            layout.starts.push(end);
            layout.first_output.push(layout.outputs.len());
            match seq.want {
                Want::Token(_) => layout.outputs.push(end - 1),
                Want::Logits => layout.outputs.extend(first..end),
                Want::Nothing | Want::Vector => {}
            }
            layout.pages.push(if paged {
                seq.pages.clone()
            } else {
                let needed = seq.tokens.len().div_ceil(PAGE_TOKENS) as u32;
                page += needed;
                (page - needed..page).map(PageId).collect()
            });
        }
        layout
    }
}

fn matrix(program: &Program, id: WeightId) -> Matrix<'_> {
    Matrix::of(program.weight(id)).expect("load refused other shapes")
}

/// Refuses what the kernels cannot do.
fn check_shapes(program: &Program) -> Result<(), LoadError> {
    let shape = |what, size, multiple| Err(LoadError::Shape { what, size, multiple });
    for weight in &program.weights {
        match *weight.shape() {
            [_] => {}
            [_, k] if Matrix::of(weight).is_none() => return shape("the width of a matrix", k, 32),
            [_, _] if weight.dtype() != Dtype::I64 => {}
            _ => return shape("the number of a weight's dimensions", weight.shape().len(), 2),
        }
    }
    match program.heads.dim {
        dim if dim % LANES == 0 => Ok(()),
        dim => shape("the width of an attention head", dim, LANES),
    }
}

fn check_limits(program: &Program, limits: &Limits) -> Result<(), LoadError> {
    // a text cannot be cut for an encoder; for a decoder any chunk will do
    let tokens = if program.generates() { 1 } else { program.context };
    let (outputs, pages) = if program.generates() { (1, 1) } else { (0, 0) };
    let checks = [
        ("step_tokens", limits.step_tokens, tokens),
        ("step_sequences", limits.step_sequences, 1),
        ("step_outputs", limits.step_outputs, outputs),
        ("pages", limits.pages, pages),
    ];
    match checks.into_iter().find(|(_, value, least)| value < least) {
        Some((what, value, least)) => Err(LoadError::Limit { what, value, least }),
        None => Ok(()),
    }
}
