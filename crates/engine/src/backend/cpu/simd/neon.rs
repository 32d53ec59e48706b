//! NEON: four registers are one vector.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use half::f16;

use super::{Kernel, LANES, Simd};

/// Proof that the processor has NEON.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "neon")]
        fn enabled(s: Neon, kernel: impl Kernel) {
            kernel.run(s);
        }
        // SAFETY: `self` exists only after `detect` saw the feature.
        unsafe { enabled(self, kernel) }
    }
}

type V = [float32x4_t; 4];

/// The four quarters of a vector, from an expression in the quarter's number.
macro_rules! quarters {
    ($i:ident => $quarter:expr) => {{
        // SAFETY: the caller's `self` proves the feature; where memory is touched, each quarter touches its own
        // quarter of an array behind a reference.
        unsafe {
            [
                { const $i: usize = 0; $quarter },
                { const $i: usize = 1; $quarter },
                { const $i: usize = 2; $quarter },
                { const $i: usize = 3; $quarter },
            ]
        }
    }};
}

/// Sixteen bytes, widened to four vectors of u32.
#[inline(always)]
fn widen(bytes: uint8x16_t) -> [uint32x4_t; 4] {
    // SAFETY: called only from methods of `Neon`, which proves the feature; touches no memory.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ]
    }
}

// SAFETY of every block below: `self` proves the feature, and loads and stores take references to arrays of
// exactly the bytes they touch, at any alignment.
impl Simd for Neon {
    type V = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: see above.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        quarters!(I => vld1q_f32(from.as_ptr().add(4 * I)))
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: see above; 4 of 16 floats each.
            unsafe { vst1q_f32(to.as_mut_ptr().add(4 * i), v) }
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        quarters!(I => vaddq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        quarters!(I => vsubq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        quarters!(I => vmulq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        quarters!(I => vdivq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        quarters!(I => vminq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        quarters!(I => vmaxq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        quarters!(I => vfmaq_f32(c[I], a[I], b[I]))
    }

    #[inline(always)]
    fn pow2(self, v: V) -> V {
        quarters!(I => {
            let shifted = vshlq_n_u32::<23>(vreinterpretq_u32_f32(v[I]));
            vreinterpretq_f32_u32(vaddq_u32(shifted, vdupq_n_u32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {} // stable Rust has no prefetch on this architecture

    #[inline(always)]
    fn f32(self, from: &[u8; 64]) -> V {
        quarters!(I => vreinterpretq_f32_u8(vld1q_u8(from.as_ptr().add(16 * I))))
    }

    #[inline(always)]
    fn store_f32(self, v: V, to: &mut [u8; 64]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: see above; 16 of 64 bytes each.
            unsafe { vst1q_u8(to.as_mut_ptr().add(16 * i), vreinterpretq_u8_f32(v)) }
        }
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> V {
        let wide: [f32; LANES] =
            std::array::from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32());
        self.load(&wide)
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> V {
        quarters!(I => {
            let four = vreinterpret_u16_u8(vld1_u8(from.as_ptr().add(8 * I)));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(four))
        })
    }

    #[inline(always)]
    fn i8(self, from: &[u8; 16]) -> V {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1q_s8(from.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }

    #[inline(always)]
    fn nibbles(self, from: &[u8; 16], d: f32, m: f32) -> [V; 2] {
        // SAFETY: see above.
        let (low, high, d, m) = unsafe {
            let bytes = vld1q_u8(from.as_ptr());
            let low = widen(vandq_u8(bytes, vdupq_n_u8(15)));
            (low, widen(vshrq_n_u8::<4>(bytes)), vdupq_n_f32(d), vdupq_n_f32(m))
        };
        [
            quarters!(I => vfmaq_f32(m, vcvtq_f32_u32(low[I]), d)),
            quarters!(I => vfmaq_f32(m, vcvtq_f32_u32(high[I]), d)),
        ]
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 4]) -> [f32; 2] {
        let [a, b, c, d] = *from;
        [f16::from_le_bytes([a, b]).to_f32(), f16::from_le_bytes([c, d]).to_f32()]
    }
}
