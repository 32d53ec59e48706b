//! Sixteen lanes of f32 on every instruction set, and the choice of one at run time.
//!
//! Every kernel is written once, over [`Simd`], and computes in the same order on all of them: sixteen lanes,
//! fused multiply-add, one fixed tree to sum the lanes. So results do not depend on the instruction set.
//! An implementation's value is the proof that the processor has its instructions: only [`Level::detect`]
//! and its tests make one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Operations on vectors of [`LANES`] floats.
pub(super) trait Simd: Copy {
    /// A vector.
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c in one rounding.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 2^n for v = 1.5·2^23 + n, n in −126..=127: the lowest bits of such a sum are n itself.
    fn pow2(self, v: Self::V) -> Self::V;
    /// The lanes' sum, by halves: i + (i + 8), then 4, 2, 1.
    fn sum(self, v: Self::V) -> f32;
    /// Asks for the line `at` bytes after the start of `bytes`, which may lie past their end: nothing is read.
    fn prefetch(self, bytes: &[u8], at: usize);
    /// Sixteen little-endian f32.
    fn f32(self, from: &[u8; 64]) -> Self::V;
    /// The inverse of [`Simd::f32`].
    fn store_f32(self, v: Self::V, to: &mut [u8; 64]);
    /// Sixteen little-endian f16.
    fn f16(self, from: &[u8; 32]) -> Self::V;
    /// Sixteen little-endian bf16.
    fn bf16(self, from: &[u8; 32]) -> Self::V;
    /// Sixteen signed bytes.
    fn i8(self, from: &[u8; 16]) -> Self::V;
    /// d·q + m for sixteen low and sixteen high nibbles q.
    fn nibbles(self, from: &[u8; 16], d: f32, m: f32) -> [Self::V; 2];
    /// Two little-endian f16 in one conversion: shuffles are what the unpacking waits for.
    fn halves(self, from: &[u8; 4]) -> [f32; 2];
}

/// Work that is compiled once per instruction set. Implementations and all they call are `#[inline(always)]`,
/// and no closure in them touches a vector, so that the instructions end in the one function that enables them.
pub(super) trait Kernel {
    fn run<S: Simd>(self, s: S);
}

/// The instruction set in use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    Portable(portable::Portable),
}

impl Level {
    /// The best that this processor has.
    pub(super) fn detect() -> Level {
        Level::available().remove(0)
    }

    /// All that this processor has, the best first.
    pub(super) fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(avx512::Avx512::detect().map(Level::Avx512));
            levels.extend(avx2::Avx2::detect().map(Level::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        levels.extend(neon::Neon::detect().map(Level::Neon));
        levels.push(Level::Portable(portable::Portable));
        levels
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => "neon",
            Level::Portable(_) => "portable",
        }
    }

    /// Runs a kernel with these instructions.
    pub(super) fn run(self, kernel: impl Kernel) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(s) => s.run(kernel),
            Level::Portable(s) => kernel.run(s),
        }
    }
}

/// e^x for −87 ≤ x ≤ 88, clamped outside; relative error below 2^-22 (Cephes' expf).
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
    let shifted = s.mul_add(x, s.splat(std::f32::consts::LOG2_E), s.splat(MAGIC));
    let n = s.sub(shifted, s.splat(MAGIC));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = s.mul_add(p, r, s.splat(*c));
    }
    let y = s.add(s.mul_add(s.mul(p, r), r, r), s.splat(1.0));
    s.mul(y, s.pow2(shifted))
}

/// x · sigmoid(x).
#[inline(always)]
pub(super) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// x · Φ(x), erf by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7).
#[inline(always)]
pub(super) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let z = s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let abs = s.max(z, s.sub(s.splat(0.0), z));
    let t = s.div(s.splat(1.0), s.mul_add(abs, s.splat(0.327_591_1), s.splat(1.0)));
    let mut p = s.splat(A[0]);
    for c in &A[1..] {
        p = s.mul_add(p, t, s.splat(*c));
    }
    let tail = s.mul(s.mul(p, t), exp(s, s.sub(s.splat(0.0), s.mul(z, z)))); // 1 − erf|z|
    // x·Φ(x) = max(x, 0) − |x|/2 · (1 − erf|z|), without the cancellation of 1 + erf at negative x
    let half = s.mul(s.max(x, s.sub(s.splat(0.0), x)), s.splat(0.5));
    s.sub(s.max(x, s.splat(0.0)), s.mul(half, tail))
}
