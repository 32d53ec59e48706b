//! GGUF v3 (github.com/ggml-org/ggml/blob/master/docs/gguf.md): header, typed metadata, tensor table, data.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Dtype, Fault, MAX_DIMS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Storage, Tensor, Tensors,
    refuse_overlaps,
};

/// Most metadata fields; real files have about 40.
const MAX_FIELDS: u64 = 4096;
/// Most elements of one metadata array: the largest vocabularies have 262,144 tokens and twice as many merges.
const MAX_ARRAY: u64 = 4 << 20;
/// Alignment of the data section where the file names none.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment taken: a huge page.
const MAX_ALIGNMENT: u64 = 2 << 20;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// An array of text.
    Texts(Vec<String>),
    /// An array of integers.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f64>),
}

/// Metadata fields by name.
pub type Metadata = BTreeMap<String, Value>;

/// Reads a whole file. Tensors borrow from `storage`.
pub(super) fn parse(storage: Arc<Storage>) -> Result<(Metadata, Tensors), Fault> {
    let bytes = storage.bytes();
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4, "the magic number").ok() != Some(b"GGUF") {
        return Err(Fault::UnknownFormat);
    }
    let version = reader.u32("the version")?;
    if version != 3 {
        return Err(Fault::Version(version));
    }
    let tensor_count = reader.u64("the number of tensors")?;
    let field_count = reader.u64("the number of fields")?;
    refuse_above("tensors", tensor_count, MAX_TENSORS as u64)?;
    refuse_above("metadata fields", field_count, MAX_FIELDS)?;

    let mut metadata = Metadata::new();
    for _ in 0..field_count {
        let key = reader.text("a field's name", MAX_NAME_BYTES)?;
        let kind = reader.u32("a field's type")?;
        let value = reader.value(kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(Fault::Duplicate(key));
        }
        if reader.at > MAX_METADATA_BYTES {
            return Err(too_many("metadata bytes", reader.at as u64, MAX_METADATA_BYTES as u64));
        }
    }
    let entries = read_entries(&mut reader, tensor_count)?;
    let start = data_start(&metadata, reader.at)?;
    let tensors = place_tensors(&storage, entries, start)?;
    Ok((metadata, tensors))
}

/// One row of the tensor table.
struct Entry {
    name: String,
    shape: Vec<u64>,
    dtype: Dtype,
    offset: u64,
}

fn read_entries(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new(); // grows with what is really read, not with what the header claims
    for _ in 0..count {
        let name = reader.text("a tensor's name", MAX_NAME_BYTES)?;
        let dims = reader.u32("a tensor's dimensions")?;
        if dims == 0 || dims as usize > MAX_DIMS {
            return Err(too_many("dimensions", dims.into(), MAX_DIMS as u64));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(reader.u64("a tensor's shape")?);
        }
        shape.reverse(); // the file has the contiguous dimension first
        let kind = reader.u32("a tensor's type")?;
        let dtype = dtype_of(kind)
            .ok_or_else(|| Fault::UnsupportedType { tensor: name.clone(), dtype: format!("#{kind}") })?;
        let offset = reader.u64("a tensor's offset")?;
        entries.push(Entry { name, shape, dtype, offset });
    }
    Ok(entries)
}

/// The types' numbers in `enum ggml_type`.
fn dtype_of(kind: u32) -> Option<Dtype> {
    Some(match kind {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        8 => Dtype::Q8_0,
        30 => Dtype::Bf16,
        _ => return None,
    })
}

/// Where the data section starts, and the alignment that every offset in it must have.
fn data_start(metadata: &Metadata, header_end: usize) -> Result<(usize, u64), Fault> {
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(a)) if a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(a) => *a,
        Some(other) => {
            return Err(Fault::Malformed { what: "general.alignment", detail: format!("{other:?}") });
        }
    };
    Ok((header_end.next_multiple_of(alignment as usize), alignment))
}

fn place_tensors(storage: &Arc<Storage>, entries: Vec<Entry>, data: (usize, u64)) -> Result<Tensors, Fault> {
    let (start, alignment) = data;
    let len = storage.bytes().len();
    let mut tensors = Tensors::new();
    let mut spans = Vec::new();
    for entry in &entries {
        let bad_shape =
            || Fault::BadShape { tensor: entry.name.clone(), shape: entry.shape.clone(), dtype: entry.dtype };
        let shape: Vec<usize> = entry
            .shape
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>()
            .map_err(|_| bad_shape())?;
        let size = entry.dtype.bytes_of(&shape).ok_or_else(bad_shape)? as u64;
        let bad_offset = |problem, end| Fault::BadOffset {
            tensor: entry.name.clone(),
            problem,
            start: entry.offset,
            end,
            len: len.saturating_sub(start) as u64,
        };
        if entry.offset % alignment != 0 {
            return Err(bad_offset("is misaligned", entry.offset));
        }
        let first = (start as u64).checked_add(entry.offset);
        let end = first.and_then(|f| f.checked_add(size)).filter(|&e| e <= len as u64);
        let (Some(first), Some(end)) = (first, end) else {
            return Err(bad_offset("lies outside the file", entry.offset.saturating_add(size)));
        };
        let range = first as usize..end as usize;
        spans.push((range.clone(), entry.name.as_str()));
        let tensor = Tensor::new(entry.dtype, shape, storage.clone(), range).ok_or_else(bad_shape)?;
        if tensors.insert(entry.name.clone(), tensor).is_some() {
            return Err(Fault::Duplicate(entry.name.clone()));
        }
    }
    refuse_overlaps(spans, len)?;
    Ok(tensors)
}

fn refuse_above(what: &'static str, count: u64, limit: u64) -> Result<(), Fault> {
    if count > limit { Err(too_many(what, count, limit)) } else { Ok(()) }
}

fn too_many(what: &'static str, count: u64, limit: u64) -> Fault {
    Fault::TooMany { what, count, limit }
}

/// A cursor that never leaves its bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(Fault::Truncated { what, len: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &'static str, limit: usize) -> Result<String, Fault> {
        let len = self.u64(what)?;
        refuse_above("bytes of text", len, limit as u64)?;
        let bytes = self.take(len as usize, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(Fault::Malformed { what, detail: e.to_string() }),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, Fault> {
        const WHAT: &str = "a field's value";
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(WHAT)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(WHAT)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(WHAT)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(WHAT)?).into()),
            4 => Value::Unsigned(self.u32(WHAT)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(WHAT)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            7 => match self.array::<1>(WHAT)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(Fault::Malformed { what: WHAT, detail: format!("boolean {other}") }),
            },
            8 => Value::Text(self.text(WHAT, MAX_METADATA_BYTES)?),
            9 => self.values()?,
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(WHAT)?)),
            other => return Err(Fault::Malformed { what: WHAT, detail: format!("type {other}") }),
        })
    }

    /// An array of one type. Each element takes at least a byte of the file, so a claim beyond it fails early.
    fn values(&mut self) -> Result<Value, Fault> {
        let kind = self.u32("an array's type")?;
        let count = self.u64("an array's length")?;
        let left = (self.bytes.len() - self.at) as u64;
        refuse_above("array elements", count, MAX_ARRAY.min(left))?;
        let malformed = |detail: String| Fault::Malformed { what: "an array", detail };
        if kind == 9 {
            return Err(malformed("arrays of arrays have no use here".into()));
        }
        let (mut texts, mut integers, mut floats) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            match self.value(kind)? {
                Value::Text(t) => texts.push(t),
                Value::Unsigned(u) => integers.push(i64::try_from(u).map_err(|e| malformed(e.to_string()))?),
                Value::Signed(i) => integers.push(i),
                Value::Bool(b) => integers.push(b.into()),
                Value::Float(f) => floats.push(f),
                other => return Err(malformed(format!("{other:?}"))),
            }
        }
        Ok(match kind {
            8 => Value::Texts(texts),
            6 | 12 => Value::Floats(floats),
            _ => Value::Integers(integers),
        })
    }
}
