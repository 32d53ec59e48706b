//! Matrix products `x · Wᵀ` over packed weights.
//!
//! Every result is one chain: sixteen lanes run along K, block after block, fused multiply-add, then the fixed
//! tree of the lanes. Tiles only decide which chains run side by side. So a result depends on its row, its
//! column and K alone: batched equals unbatched and chunked equals whole, bit for bit.

use super::simd::{Kernel, LANES, Level, Simd, gelu, silu};
use super::team::{Shares, Team};
use crate::format::{Dtype, Tensor};

/// Elements of K that are unpacked together: a quantised block.
const BLOCK: usize = 32;
/// Columns of one item of work.
const COLUMNS: usize = 64;
/// Rows of one item of work: they stay in the second-level cache with their part of x.
const ROWS: usize = 32;
/// Up to this many rows weights are unpacked into registers; beyond, once into a panel.
const FUSED_ROWS: usize = 8;
/// Bytes that memory moves at once.
const LINE: usize = 64;
/// Columns that share their loads of x, and of one panel: with 4 rows, 16 chains in 32 registers.
const PANEL_COLUMNS: usize = 4;
/// How far ahead of its columns a tile asks for weights. Four columns are four streams that end after a few
/// lines each, too short for the processor's own prefetching: measured, reading from memory and not computing
/// is what bounds a decode step without this.
const AHEAD: usize = 4096;

/// A packed matrix `[n, k]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    dtype: Dtype,
    n: usize,
    k: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// `None` unless it is a matrix of a type with kernels and K is a multiple of the block.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Matrix<'a>> {
        let &[n, k] = tensor.shape() else { return None };
        let known = tensor.dtype() != Dtype::I64 && k % BLOCK == 0;
        known.then_some(Matrix { dtype: tensor.dtype(), n, k, bytes: tensor.bytes() })
    }

    fn row(&self, n: usize) -> &'a [u8] {
        let size = self.dtype.row_bytes(self.k);
        &self.bytes[n * size..][..size]
    }
}

/// What is done to results before they are stored.
#[derive(Clone, Copy)]
pub(super) enum Last<'a> {
    None,
    /// Added from rows of n.
    Add(&'a [f32]),
    /// Added to what the output holds.
    AddOut,
    Gelu,
    SwiGlu(Matrix<'a>, Option<&'a [f32]>),
}

/// One product `out = last(x · weightᵀ + bias)`; x is `[rows, k]`, out `[rows, n]`.
pub(super) struct Product<'a> {
    pub(super) weight: Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) x: &'a [f32],
    pub(super) last: Last<'a>,
    pub(super) out: Shares<'a, f32>,
}

/// Computes products that do not depend on each other, sharing their tiles among the team.
pub(super) fn products(level: Level, team: &mut Team, rows: usize, products: &[Product<'_>]) {
    let mut items = Vec::new();
    for product in products {
        for row in (0..rows).step_by(ROWS) {
            for column in (0..product.weight.n).step_by(COLUMNS) {
                items.push((product, row, column));
            }
        }
    }
    team.each(items.len(), |i| {
        let (product, row, column) = items[i];
        let (rows, columns) = (ROWS.min(rows - row), COLUMNS.min(product.weight.n - column));
        let x = &product.x[row * product.weight.k..][..rows * product.weight.k];
        let area = Area { x, rows, column, columns };
        let (mut main, mut gate) = ([0.0; ROWS * COLUMNS], [0.0; ROWS * COLUMNS]);
        raw(level, &product.weight, &area, &mut main);
        if let Last::SwiGlu(matrix, _) = &product.last {
            raw(level, matrix, &area, &mut gate);
        }
        level.run(Finish { product, row, area: &area, main: &mut main, gate: &mut gate });
    });
}

/// Which results: `columns` from `column` on, for `rows` rows of x.
struct Area<'a> {
    x: &'a [f32],
    rows: usize,
    column: usize,
    columns: usize,
}

thread_local! {
    /// Unpacked columns, as bytes so that a panel is one more packing.
    static PANEL: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Results before bias and epilogue, in rows of [`COLUMNS`]: few rows unpack the weights as they go, many rows
/// unpack them once. Both run the same chains.
fn raw(level: Level, w: &Matrix<'_>, area: &Area<'_>, out: &mut [f32]) {
    if area.rows <= FUSED_ROWS || w.dtype == Dtype::F32 {
        return level.run(Tile { w, area, out });
    }
    PANEL.with_borrow_mut(|panel| {
        let row_bytes = w.k * size_of::<f32>();
        panel.resize(panel.len().max(PANEL_COLUMNS * row_bytes), 0);
        for c in (0..area.columns).step_by(PANEL_COLUMNS) {
            let columns = PANEL_COLUMNS.min(area.columns - c);
            for (i, row) in panel.chunks_exact_mut(row_bytes).take(columns).enumerate() {
                level.run(Unpack { dtype: w.dtype, packed: w.row(area.column + c + i), to: row });
            }
            let unpacked = Matrix { dtype: Dtype::F32, n: columns, k: w.k, bytes: panel };
            let area = Area { column: 0, columns, ..*area };
            level.run(Tile { w: &unpacked, area: &area, out: &mut out[c..] });
        }
    });
}

/// Unpacks one row of weights into little-endian f32.
struct Unpack<'a> {
    dtype: Dtype,
    packed: &'a [u8],
    to: &'a mut [u8],
}

// No closure here may touch a vector: closures are functions of their own, without the instruction set, and
// the compiler would call every intrinsic in them instead of inlining it (measured: 20 times slower).
impl Kernel for Unpack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.dtype {
            Dtype::F32 | Dtype::I64 => {} // f32 needs no panel, I64 is refused by `Matrix::of`
            Dtype::F16 => self.with::<S, PackedF16>(s),
            Dtype::Bf16 => self.with::<S, PackedBf16>(s),
            Dtype::Q8_0 => self.with::<S, PackedQ8>(s),
            Dtype::Q4_0 => self.with::<S, PackedQ4<18>>(s),
            Dtype::Q4_1 => self.with::<S, PackedQ4<20>>(s),
        }
    }
}

impl Unpack<'_> {
    #[inline(always)]
    fn with<S: Simd, P: Packed>(self, s: S) {
        for (block, to) in self.packed.chunks_exact(P::BYTES).zip(self.to.chunks_exact_mut(PackedF32::BYTES))
        {
            let [low, high] = P::unpack(s, block);
            for (v, to) in [low, high].into_iter().zip(to.as_chunks_mut::<64>().0) {
                s.store_f32(v, to);
            }
        }
    }
}

/// The chains of an area.
struct Tile<'a> {
    w: &'a Matrix<'a>,
    area: &'a Area<'a>,
    out: &'a mut [f32],
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.w.dtype {
            Dtype::F32 => self.with::<S, PackedF32>(s),
            Dtype::F16 => self.with::<S, PackedF16>(s),
            Dtype::Bf16 => self.with::<S, PackedBf16>(s),
            Dtype::Q8_0 => self.with::<S, PackedQ8>(s),
            Dtype::Q4_0 => self.with::<S, PackedQ4<18>>(s),
            Dtype::Q4_1 => self.with::<S, PackedQ4<20>>(s),
            Dtype::I64 => {} // refused by `Matrix::of`
        }
    }
}

impl Tile<'_> {
    /// Four columns and four rows at a time: 16 chains in 32 registers. The rest goes one by one.
    #[inline(always)]
    fn with<S: Simd, P: Packed>(self, s: S) {
        let Tile { w, area, out } = self;
        let whole = area.columns - area.columns % PANEL_COLUMNS;
        for c in (0..whole).step_by(PANEL_COLUMNS) {
            let first = area.column + c;
            let packed = [w.row(first), w.row(first + 1), w.row(first + 2), w.row(first + 3)];
            let more = first + PANEL_COLUMNS < w.n; // never of a panel
            let mut r = 0;
            while r + 4 <= area.rows {
                chains::<S, P, 4, PANEL_COLUMNS>(s, packed, area.x, w.k, r, more && r == 0, &mut out[c..]);
                r += 4;
            }
            while r < area.rows {
                chains::<S, P, 1, PANEL_COLUMNS>(s, packed, area.x, w.k, r, more && r == 0, &mut out[c..]);
                r += 1;
            }
        }
        for c in whole..area.columns {
            for r in 0..area.rows {
                chains::<S, P, 1, 1>(s, [w.row(area.column + c)], area.x, w.k, r, false, &mut out[c..]);
            }
        }
    }
}

/// The chains of M rows from `row` on times N neighbouring rows of weights; `ahead`: asks for the weights after.
#[inline(always)]
fn chains<S: Simd, P: Packed, const M: usize, const N: usize>(
    s: S,
    mut w: [&[u8]; N],
    x: &[f32],
    k: usize,
    row: usize,
    ahead: bool,
    out: &mut [f32],
) {
    let blocks = k / BLOCK;
    for w in &mut w {
        *w = &w[..blocks * P::BYTES];
    }
    let mut lanes: [&[[f32; LANES]]; M] = [&[]; M];
    for (m, lanes) in lanes.iter_mut().enumerate() {
        *lanes = &x[(row + m) * k..][..k].as_chunks::<LANES>().0[..2 * blocks];
    }
    let mut sums = [[s.splat(0.0); N]; M];
    for b in 0..blocks {
        if ahead {
            for line in 0..(N * P::BYTES).div_ceil(LINE) {
                s.prefetch(w[0], AHEAD + b * N * P::BYTES + line * LINE);
            }
        }
        let mut x = [[s.splat(0.0); 2]; M];
        for m in 0..M {
            x[m] = [s.load(&lanes[m][2 * b]), s.load(&lanes[m][2 * b + 1])];
        }
        for n in 0..N {
            let [low, high] = P::unpack(s, &w[n][b * P::BYTES..(b + 1) * P::BYTES]);
            for m in 0..M {
                sums[m][n] = s.mul_add(x[m][0], low, sums[m][n]);
                sums[m][n] = s.mul_add(x[m][1], high, sums[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            out[(row + m) * COLUMNS + n] = s.sum(sums[m][n]);
        }
    }
}

/// Bias and epilogue of an area, and the store.
struct Finish<'a> {
    product: &'a Product<'a>,
    /// The area's first row in the output.
    row: usize,
    area: &'a Area<'a>,
    main: &'a mut [f32],
    gate: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { product, row, area, main, gate } = self;
        let Area { rows, column, columns, .. } = *area;
        for r in 0..rows {
            let at = (row + r) * product.weight.n + column;
            // SAFETY: the areas of a product cover every element of its output once.
            #[allow(unsafe_code)]
            let out = unsafe { product.out.part(at, columns) };
            let main = &mut main[r * COLUMNS..][..COLUMNS];
            let gate = &mut gate[r * COLUMNS..][..COLUMNS];
            if let Some(bias) = product.bias {
                add(&mut main[..columns], &bias[column..][..columns]);
            }
            match &product.last {
                Last::None => {}
                Last::Add(other) => add(&mut main[..columns], &other[at..][..columns]),
                Last::AddOut => add(&mut main[..columns], out),
                Last::Gelu => {
                    for lanes in main.as_chunks_mut::<LANES>().0 {
                        s.store(gelu(s, s.load(lanes)), lanes);
                    }
                }
                Last::SwiGlu(_, bias) => {
                    if let Some(bias) = bias {
                        add(&mut gate[..columns], &bias[column..][..columns]);
                    }
                    let lanes = main.as_chunks_mut::<LANES>().0.iter_mut();
                    for (main, gate) in lanes.zip(gate.as_chunks::<LANES>().0) {
                        s.store(s.mul(s.load(main), silu(s, s.load(gate))), main);
                    }
                }
            }
            out.copy_from_slice(&main[..columns]);
        }
    }
}

#[inline(always)]
fn add(to: &mut [f32], what: &[f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}

/// A packing of [`BLOCK`] weights.
trait Packed {
    const BYTES: usize;

    /// `block` has [`Packed::BYTES`] bytes.
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2];
}

/// The bytes `at..at + N` of a block, whose length the caller guarantees.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block holds its parts")
}

struct PackedF32;
impl Packed for PackedF32 {
    const BYTES: usize = 128;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2] {
        [s.f32(part(block, 0)), s.f32(part(block, 64))]
    }
}

struct PackedF16;
impl Packed for PackedF16 {
    const BYTES: usize = 64;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2] {
        [s.f16(part(block, 0)), s.f16(part(block, 32))]
    }
}

struct PackedBf16;
impl Packed for PackedBf16 {
    const BYTES: usize = 64;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2] {
        [s.bf16(part(block, 0)), s.bf16(part(block, 32))]
    }
}

struct PackedQ8;
impl Packed for PackedQ8 {
    const BYTES: usize = 34;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2] {
        let d = s.splat(s.halves(part(block, 0))[0]);
        [s.mul(d, s.i8(part(block, 2))), s.mul(d, s.i8(part(block, 18)))]
    }
}

/// Q4_0 (18 bytes: d) and Q4_1 (20 bytes: d, m).
struct PackedQ4<const SIZE: usize>;
impl<const SIZE: usize> Packed for PackedQ4<SIZE> {
    const BYTES: usize = SIZE;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, block: &[u8]) -> [S::V; 2] {
        let [d, second] = s.halves(part(block, 0));
        let m = if SIZE == 20 { second } else { -8.0 * d };
        s.nibbles(part(block, SIZE - 16), d, m)
    }
}
