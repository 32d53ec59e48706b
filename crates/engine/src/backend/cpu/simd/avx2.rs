//! AVX2 with FMA: two registers are one vector.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled(s: Avx2, kernel: impl Kernel) {
            kernel.run(s);
        }
        // SAFETY: `self` exists only after `detect` saw these features.
        unsafe { enabled(self, kernel) }
    }
}

type V = [__m256; 2];

/// Applies a two-argument intrinsic to both halves.
macro_rules! both {
    ($f:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: the caller's `self` proves the features; the intrinsic touches no memory.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1])] }
    }};
}

// SAFETY of every block below: `self` proves the features, and loads and stores take references to arrays of
// exactly the bytes they touch, at any alignment.
impl Simd for Avx2 {
    type V = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        // SAFETY: see above; 8 of 16 floats each.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; LANES]) {
        // SAFETY: see above; 8 of 16 floats each.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn pow2(self, v: V) -> V {
        // SAFETY: see above.
        unsafe {
            let one = _mm256_set1_epi32(0x3f80_0000);
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(v[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(v[1]));
            [
                _mm256_castsi256_ps(_mm256_add_epi32(low, one)),
                _mm256_castsi256_ps(_mm256_add_epi32(high, one)),
            ]
        }
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_add_ps(v[0], v[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        // SAFETY: a prefetch is a hint: it reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
    }

    #[inline(always)]
    fn f32(self, from: &[u8; 64]) -> V {
        // SAFETY: see above; 32 of 64 bytes each.
        unsafe { [_mm256_loadu_ps(from.as_ptr().cast()), _mm256_loadu_ps(from.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn store_f32(self, v: V, to: &mut [u8; 64]) {
        // SAFETY: see above; 32 of 64 bytes each.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(32).cast(), v[1]);
        }
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> V {
        // SAFETY: see above; 16 of 32 bytes each.
        unsafe {
            let (low, high) =
                (_mm_loadu_si128(from.as_ptr().cast()), _mm_loadu_si128(from.as_ptr().add(16).cast()));
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> V {
        // SAFETY: see above; 16 of 32 bytes each.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(16).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    fn i8(self, from: &[u8; 16]) -> V {
        // SAFETY: see above; 8 of 16 bytes each.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
    }

    #[inline(always)]
    fn nibbles(self, from: &[u8; 16], d: f32, m: f32) -> [V; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let mask = _mm_set1_epi8(15);
            let halves = [_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask)];
            let (d, m) = (_mm256_set1_ps(d), _mm256_set1_ps(m));
            let mut out = [[m; 2]; 2];
            for (out, q) in out.iter_mut().zip(halves) {
                let (low, high) = (_mm256_cvtepu8_epi32(q), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(q)));
                *out = [
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), d, m),
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), d, m),
                ];
            }
            out
        }
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 4]) -> [f32; 2] {
        // SAFETY: see above.
        unsafe {
            let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes(*from)));
            [_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both))]
        }
    }
}
