//! safetensors: a u64 length, a JSON header, data (github.com/huggingface/safetensors). Read here and not by
//! the crate of that name because duplicates, limits and remedies need our own words.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{
    Dtype, Fault, MAX_DIMS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Storage, Tensor, Tensors,
    refuse_overlaps,
};

/// Reads one file's tensors into `tensors`. Names must be new.
pub fn parse(storage: &Arc<Storage>, tensors: &mut Tensors) -> Result<(), Fault> {
    let bytes = storage.bytes();
    let truncated = |what| Fault::Truncated { what, len: bytes.len() };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated("the header's length"))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_METADATA_BYTES as u64 {
        let limit = MAX_METADATA_BYTES as u64;
        return Err(Fault::TooMany { what: "header bytes", count: length, limit });
    }
    let (header, data) = rest.split_at_checked(length as usize).ok_or_else(|| truncated("the header"))?;
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| Fault::Malformed { what: "the header", detail: e.to_string() })?;
    if header.0.len() > MAX_TENSORS {
        let (count, limit) = (header.0.len() as u64, MAX_TENSORS as u64);
        return Err(Fault::TooMany { what: "tensors", count, limit });
    }
    let start = bytes.len() - data.len();
    let mut spans = Vec::new();
    for (name, entry) in &header.0 {
        let (tensor, span) = place(storage, start, name, entry)?;
        spans.push((span, name.as_str()));
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(Fault::Duplicate(name.clone()));
        }
    }
    refuse_overlaps(spans, bytes.len())
}

fn place(
    storage: &Arc<Storage>,
    start: usize,
    name: &str,
    entry: &Entry,
) -> Result<(Tensor, std::ops::Range<usize>), Fault> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Fault::TooMany {
            what: "bytes of text",
            count: name.len() as u64,
            limit: MAX_NAME_BYTES as u64,
        });
    }
    let dtype = match entry.dtype.as_str() {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "I64" => Dtype::I64,
        other => return Err(Fault::UnsupportedType { tensor: name.into(), dtype: other.into() }),
    };
    // a scalar has no dimension; it is kept as one of length 1
    let shape = if entry.shape.is_empty() { vec![1] } else { entry.shape.clone() };
    let size = if shape.len() > MAX_DIMS { None } else { dtype.bytes_of(&shape) };
    let size = size.ok_or_else(|| Fault::BadShape {
        tensor: name.into(),
        shape: shape.iter().map(|&d| d as u64).collect(),
        dtype,
    })?;
    let (first, end) = entry.data_offsets;
    let len = storage.bytes().len() - start;
    let problem = if first > end || end > len {
        "lies outside the file"
    } else if end - first != size {
        "has another size than its shape"
    } else {
        let range = start + first..start + end;
        if let Some(tensor) = Tensor::new(dtype, shape, storage.clone(), range.clone()) {
            return Ok((tensor, range));
        }
        "lies outside the file"
    };
    Err(Fault::BadOffset {
        tensor: name.into(),
        problem,
        start: first as u64,
        end: end as u64,
        len: len as u64,
    })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's entries in the file's order, duplicates kept so that they can be refused.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((key, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
