//! Columns: many values of one width in one `bytes` field, as events carry them.

use holmes_kernel::Id;

/// The ids of a column of 16 bytes each.
pub fn ids(column: &[u8]) -> impl Iterator<Item = Id> + '_ {
    column.chunks_exact(16).filter_map(Id::from_slice)
}

/// A u128 of 16 bytes, big-endian; `None` when it is not that.
pub fn wide(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}
