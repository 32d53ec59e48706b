//! The one deterministic encoder: snapshots are its bytes, a state's digest is BLAKE3-128 of them, so a field that
//! was forgotten cannot leave two digests equal.
//!
//! The bytes are postcard's (fixed by its specification: little-endian varints, length-prefixed sequences, fields in
//! order). What would make them depend on the process, a map with random order or a float, is kept out of states by
//! tidy and clippy.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// BLAKE3-128.
pub type Digest = [u8; 16];

/// Why bytes are not the value that was expected.
#[derive(Debug, thiserror::Error)]
#[error("these bytes are not a canonical {expected}: {why}")]
pub struct NotCanonical {
    expected: &'static str,
    why: postcard::Error,
}

/// The canonical bytes of a value.
///
/// # Panics
/// When the value cannot be encoded at all (a sequence of unknown length): such a type is a defect of the build.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("every state has a canonical form")
}

/// The value of canonical bytes. Bytes behind the value are an error: they would escape the digest.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotCanonical> {
    let wrong = |why| NotCanonical { expected: std::any::type_name::<T>(), why };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(wrong)?;
    if rest.is_empty() { Ok(value) } else { Err(wrong(postcard::Error::DeserializeUnexpectedEnd)) }
}

/// The digest of a value, without holding its bytes.
///
/// # Panics
/// As [`encode`].
pub fn digest<T: Serialize + ?Sized>(value: &T) -> Digest {
    let sink = HashSink { hasher: blake3::Hasher::new(), buffer: Vec::with_capacity(BUFFER) };
    postcard::serialize_with_flavor(value, sink).expect("every state has a canonical form")
}

/// BLAKE3-128 of plain bytes.
pub fn hash(bytes: &[u8]) -> Digest {
    short(&blake3::hash(bytes))
}

fn short(hash: &blake3::Hash) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.as_bytes()[..16]);
    digest
}

/// Large enough that BLAKE3 hashes several chunks side by side.
const BUFFER: usize = 64 * 1024;

struct HashSink {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl HashSink {
    fn drain(&mut self) {
        self.hasher.update(&self.buffer);
        self.buffer.clear();
    }
}

impl Flavor for HashSink {
    type Output = Digest;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.drain();
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Digest> {
        self.drain();
        Ok(short(&self.hasher.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_the_specified_ones() {
        // Golden: a change here would make every snapshot and digest ever published meaningless.
        assert_eq!(encode(&(1u16, 300u64, "ab", [7u8, 8])), [1, 0xac, 0x02, 2, b'a', b'b', 7, 8]);
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert!(decode::<u32>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn the_digest_is_the_hash_of_the_bytes(value: Vec<(u64, Vec<u8>, Option<u128>)>) {
            let bytes = encode(&value);
            prop_assert_eq!(digest(&value), hash(&bytes));
            prop_assert_eq!(decode::<Vec<(u64, Vec<u8>, Option<u128>)>>(&bytes).unwrap(), value);
        }

        #[test]
        fn a_large_value_is_hashed_whole(len in BUFFER - 3..BUFFER * 2 + 3) {
            let value = vec![7u8; len];
            prop_assert_eq!(digest(&value), hash(&encode(&value)));
        }
    }
}
