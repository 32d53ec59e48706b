//! Model files as they are on disk: GGUF v3 and Hugging Face directories, memory-mapped.
//!
//! Files are untrusted. Every count, size and offset is checked against what is really there before anything
//! is allocated for it; what does not hold is refused with a [`FormatError`] that names the file, a stable
//! reason and a remedy. Nothing here knows what the tensors mean: that is [`crate::config`].

mod dtype;
mod gguf;
mod huggingface;
mod mapped;
mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use dtype::Dtype;
pub use gguf::{Metadata, Value};
pub use huggingface::HfFiles;
pub use mapped::Storage;
pub use safetensors::parse as read_safetensors;

/// Most tensors one model may have. The largest open decoders have about 3,000.
pub const MAX_TENSORS: usize = 65_536;
/// Most bytes of metadata (GGUF header, safetensors header, JSON files). Vocabularies of 256k need about 30 MiB.
pub const MAX_METADATA_BYTES: usize = 128 << 20;
/// Most bytes in a tensor's or a field's name; GGUF's own limit is 64, keys have 65,535.
pub const MAX_NAME_BYTES: usize = 1024;
/// Most dimensions of a tensor: GGUF has 4.
pub const MAX_DIMS: usize = 4;
/// Most files a sharded model may have. 405B models have 191.
pub const MAX_SHARDS: usize = 1024;

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct FormatError {
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it; a part of the words, and so no source, which would be told again.
    pub fault: Fault,
}

/// What is wrong with a model file; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file or directory cannot be read.
    #[error("cannot be read ({0}); check the path and its permissions")]
    Io(#[from] std::io::Error),
    /// The file ends before what its header promises.
    #[error("ends at byte {len} where {what} was expected; download it again")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes there are.
        len: usize,
    },
    /// Neither GGUF nor a Hugging Face directory.
    #[error(
        "is neither a GGUF file nor a directory with config.json and *.safetensors; give the path of one"
    )]
    UnknownFormat,
    /// A GGUF version other than 3.
    #[error(
        "is GGUF version {0}; only version 3 (little-endian) is read: convert it with a current converter"
    )]
    Version(u32),
    /// A count or size beyond a limit of this module or of the file.
    #[error("claims {count} {what}, more than the {limit} that are possible; the file is damaged or hostile")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// What the file claims.
        count: u64,
        /// The most that could be.
        limit: u64,
    },
    /// Text that is not what its place in the format demands.
    #[error("{what} is malformed ({detail}); download or convert it again")]
    Malformed {
        /// The part of the file.
        what: &'static str,
        /// What was found.
        detail: String,
    },
    /// The same name twice.
    #[error("names {0:?} twice; the file is damaged or hostile")]
    Duplicate(String),
    /// A tensor of a type this build has no kernel for.
    #[error(
        "tensor {tensor:?} has type {dtype}; supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1: convert it"
    )]
    UnsupportedType {
        /// The tensor's name.
        tensor: String,
        /// The type's name or number.
        dtype: String,
    },
    /// A shape that is empty, too large, or no multiple of its type's block.
    #[error("tensor {tensor:?} has the impossible shape {shape:?} for {dtype}; the file is damaged")]
    BadShape {
        /// The tensor's name.
        tensor: String,
        /// The shape, as far as it was read.
        shape: Vec<u64>,
        /// The tensor's type.
        dtype: Dtype,
    },
    /// Data outside the file, misaligned, of another size than the shape's, or shared with another tensor.
    #[error("tensor {tensor:?} {problem} (bytes {start}..{end} of {len}); download it again")]
    BadOffset {
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
        /// First byte claimed.
        start: u64,
        /// One past the last byte claimed.
        end: u64,
        /// Bytes there are.
        len: u64,
    },
    /// A file that another file names is missing or lies outside the directory.
    #[error("names the file {0:?}, which is not in its directory; complete the download")]
    MissingFile(String),
}

impl Fault {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Io(_) => "MODEL_UNREADABLE",
            Fault::Truncated { .. } => "MODEL_TRUNCATED",
            Fault::UnknownFormat => "MODEL_FORMAT_UNKNOWN",
            Fault::Version(_) => "MODEL_VERSION_UNSUPPORTED",
            Fault::TooMany { .. } => "MODEL_LIMIT_EXCEEDED",
            Fault::Malformed { .. } => "MODEL_MALFORMED",
            Fault::Duplicate(_) => "MODEL_DUPLICATE_NAME",
            Fault::UnsupportedType { .. } => "TENSOR_TYPE_UNSUPPORTED",
            Fault::BadShape { .. } => "TENSOR_SHAPE_INVALID",
            Fault::BadOffset { .. } => "TENSOR_OFFSET_INVALID",
            Fault::MissingFile(_) => "MODEL_FILE_MISSING",
        }
    }

    fn at(self, file: &Path) -> FormatError {
        FormatError { file: file.to_owned(), fault: self }
    }
}

impl FormatError {
    /// A stable machine-readable name of the reason.
    pub fn reason(&self) -> &'static str {
        self.fault.reason()
    }
}

/// A tensor in its file: row-major shape (the last dimension is contiguous), type, bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    storage: Arc<Storage>,
    range: Range<usize>,
}

impl Tensor {
    /// A tensor over `range` of `storage`; `None` unless the range lies inside and has the shape's size.
    pub fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        storage: Arc<Storage>,
        range: Range<usize>,
    ) -> Option<Tensor> {
        let fits = range.start <= range.end && range.end <= storage.bytes().len();
        let sized = dtype.bytes_of(&shape) == Some(range.len());
        (fits && sized).then_some(Tensor { dtype, shape, storage, range })
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape, outermost dimension first: a matrix is `[rows, columns]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The packed bytes, rows one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.range.clone()]
    }

    /// Every element as `f32`, in order.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        self.dtype.unpack(self.bytes(), &mut out);
        out
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// An opened model: its tensors and what describes them.
#[derive(Debug)]
pub struct ModelFiles {
    /// Where it was found.
    pub path: PathBuf,
    /// The tensors by the file's own names.
    pub tensors: Tensors,
    /// The description that came with them.
    pub description: Description,
}

/// What says how the tensors are to be used.
#[derive(Debug)]
pub enum Description {
    /// The metadata of a GGUF file.
    Gguf(Metadata),
    /// The JSON files of a Hugging Face directory.
    HuggingFace(Box<HfFiles>),
}

impl ModelFiles {
    /// Opens a GGUF file, a directory that holds one, or a Hugging Face directory.
    pub fn open(path: &Path) -> Result<ModelFiles, FormatError> {
        if path.is_dir() {
            let gguf = path.join("model.gguf");
            return if gguf.is_file() { Self::open_gguf(&gguf) } else { huggingface::open(path) };
        }
        Self::open_gguf(path)
    }

    fn open_gguf(path: &Path) -> Result<ModelFiles, FormatError> {
        let storage = Storage::map(path).map_err(|e| Fault::Io(e).at(path))?;
        Self::read_gguf(path, storage)
    }

    /// Reads the bytes of a GGUF file; `path` is what errors call it.
    pub fn read_gguf(path: &Path, storage: Storage) -> Result<ModelFiles, FormatError> {
        let (metadata, tensors) = gguf::parse(Arc::new(storage)).map_err(|fault| fault.at(path))?;
        Ok(ModelFiles { path: path.to_owned(), tensors, description: Description::Gguf(metadata) })
    }
}

/// Refuses tensors whose bytes overlap: a file that does so was not written by a converter.
fn refuse_overlaps(mut spans: Vec<(Range<usize>, &str)>, len: usize) -> Result<(), Fault> {
    spans.sort_by_key(|(range, _)| range.start);
    for pair in spans.windows(2) {
        if pair[0].0.end > pair[1].0.start {
            return Err(Fault::BadOffset {
                tensor: pair[1].1.to_owned(),
                problem: "shares bytes with another",
                start: pair[1].0.start as u64,
                end: pair[1].0.end as u64,
                len: len as u64,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
