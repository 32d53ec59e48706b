//! Bytes that were right.

use arbitrary::Unstructured;

/// The same with a little of it changed: bytes flipped, cut out, said twice, or more behind them.
pub(crate) fn garbled(mut bytes: Vec<u8>, u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    for _ in 0..u.int_in_range(1..=3u8)? {
        let at = u.arbitrary::<u16>()? as usize % (bytes.len() + 1);
        let end = bytes.len().min(at + usize::from(u.int_in_range(1..=24u8)?));
        match u.int_in_range(0..=7u8)? {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            2 => bytes.extend(u.bytes(u.len().min(16))?),
            _ if at < end => bytes[at] ^= u.int_in_range(1..=255)?,
            _ => {}
        }
    }
    Ok(bytes)
}
