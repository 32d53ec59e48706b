//! Element types and how their blocks are laid out.

use std::fmt;

use half::{bf16, f16};

/// Elements in one quantised block, of every quantised type here.
pub(crate) const QUANT_BLOCK: usize = 32;

/// How a tensor's elements are stored (little-endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// 32 signed bytes q after an f16 d: w = d·q.
    Q8_0,
    /// 32 nibbles q after an f16 d: w = d·(q − 8). Element i is the low nibble of byte i, i + 16 the high one.
    Q4_0,
    /// 32 nibbles q after two f16 d, m: w = d·q + m. Nibbles as in Q4_0.
    Q4_1,
    /// 64-bit integers: indices that some exporters store; no maths is done on them.
    I64,
}

impl Dtype {
    /// (elements, bytes) of one block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Dtype::F32 => (1, 4),
            Dtype::F16 | Dtype::Bf16 => (1, 2),
            Dtype::Q8_0 => (QUANT_BLOCK, 34),
            Dtype::Q4_0 => (QUANT_BLOCK, 18),
            Dtype::Q4_1 => (QUANT_BLOCK, 20),
            Dtype::I64 => (1, 8),
        }
    }

    /// Bytes of a contiguous tensor; `None` if a dimension is 0, the last is no multiple of the block, or the
    /// product overflows.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let (elements, bytes) = self.block();
        let (&last, outer) = shape.split_last()?;
        if last % elements != 0 || shape.contains(&0) {
            return None;
        }
        outer.iter().try_fold((last / elements).checked_mul(bytes)?, |size, &d| size.checked_mul(d))
    }

    /// Bytes of one row of `columns` elements, which must be a multiple of the block.
    pub(crate) const fn row_bytes(self, columns: usize) -> usize {
        let (elements, bytes) = self.block();
        columns / elements * bytes
    }

    /// Unpacks whole blocks; `bytes` must hold exactly `out.len()` elements.
    pub(crate) fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        let (elements, size) = self.block();
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(elements)) {
            match self {
                Dtype::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Dtype::F16 => out[0] = f16::from_le_bytes([block[0], block[1]]).to_f32(),
                Dtype::Bf16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Dtype::Q8_0 => {
                    let d = half_at(block, 0);
                    for (o, q) in out.iter_mut().zip(&block[2..]) {
                        *o = d * f32::from(*q as i8);
                    }
                }
                Dtype::Q4_0 => nibbles(&block[2..], half_at(block, 0), -8.0 * half_at(block, 0), out),
                Dtype::Q4_1 => nibbles(&block[4..], half_at(block, 0), half_at(block, 2), out),
                Dtype::I64 => out[0] = i64::from_le_bytes(block.try_into().unwrap_or([0; 8])) as f32,
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::Q8_0 => "Q8_0",
            Dtype::Q4_0 => "Q4_0",
            Dtype::Q4_1 => "Q4_1",
            Dtype::I64 => "I64",
        })
    }
}

/// The f16 at byte `at` of a block.
pub(crate) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn nibbles(packed: &[u8], d: f32, m: f32, out: &mut [f32]) {
    for (i, byte) in packed.iter().enumerate() {
        // d·q + m in one rounding, as the vector kernels do
        out[i] = d.mul_add(f32::from(byte & 15), m);
        out[i + QUANT_BLOCK / 2] = d.mul_add(f32::from(byte >> 4), m);
    }
}
