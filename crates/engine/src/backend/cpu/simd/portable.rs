//! Any processor: arrays of sixteen floats.

use half::{bf16, f16};

use super::{LANES, Simd};

/// Needs no instructions.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &V) -> V {
        *from
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut V) {
        *to = v;
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn pow2(self, v: V) -> V {
        v.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(1.0f32.to_bits())))
    }

    #[inline(always)]
    fn sum(self, mut v: V) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {} // a hint only

    #[inline(always)]
    fn f32(self, from: &[u8; 64]) -> V {
        std::array::from_fn(|i| f32::from_le_bytes(std::array::from_fn(|j| from[4 * i + j])))
    }

    #[inline(always)]
    fn store_f32(self, v: V, to: &mut [u8; 64]) {
        to.as_chunks_mut::<4>().0.iter_mut().zip(v).for_each(|(to, v)| *to = v.to_le_bytes());
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> V {
        std::array::from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> V {
        std::array::from_fn(|i| bf16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn i8(self, from: &[u8; 16]) -> V {
        from.map(|b| f32::from(b as i8))
    }

    #[inline(always)]
    fn nibbles(self, from: &[u8; 16], d: f32, m: f32) -> [V; 2] {
        [from.map(|b| d.mul_add(f32::from(b & 15), m)), from.map(|b| d.mul_add(f32::from(b >> 4), m))]
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 4]) -> [f32; 2] {
        let [a, b, c, d] = *from;
        [f16::from_le_bytes([a, b]).to_f32(), f16::from_le_bytes([c, d]).to_f32()]
    }
}
