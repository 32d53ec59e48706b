//! Takes tensors from a model by name, checks their shapes, and refuses what is left over.

use super::{Buf, BufferSpec, Rows, WeightId};
use crate::config::ConfigError;
use crate::format::{Tensor, Tensors};

/// Collects weights and buffers while a program is built.
pub(super) struct Builder {
    left: Tensors,
    pub(super) weights: Vec<Tensor>,
    pub(super) buffers: Vec<BufferSpec>,
}

impl Builder {
    pub(super) fn new(tensors: Tensors) -> Builder {
        Builder { left: tensors, weights: Vec::new(), buffers: Vec::new() }
    }

    /// A buffer with one row per token.
    pub(super) fn buffer(&mut self, width: usize) -> Buf {
        self.rows_buffer(width, Rows::Tokens)
    }

    pub(super) fn rows_buffer(&mut self, width: usize, rows: Rows) -> Buf {
        self.buffers.push(BufferSpec { width, rows });
        Buf(self.buffers.len() - 1)
    }

    /// A tensor that must be there in this shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<WeightId, ConfigError> {
        let tensor = self.left.remove(name).ok_or_else(|| ConfigError::MissingTensor(name.into()))?;
        if tensor.shape() != shape {
            let (found, needed) = (tensor.shape().to_vec(), shape.to_vec());
            return Err(ConfigError::TensorShape { tensor: name.into(), found, needed });
        }
        self.weights.push(tensor);
        Ok(WeightId(self.weights.len() - 1))
    }

    /// A tensor that must be there if `wanted`.
    pub(super) fn take_if(
        &mut self,
        wanted: bool,
        name: &str,
        shape: &[usize],
    ) -> Result<Option<WeightId>, ConfigError> {
        if wanted { self.take(name, shape).map(Some) } else { Ok(None) }
    }

    /// Refuses tensors that no op uses, except those that `unused` names.
    pub(super) fn finish(&self, unused: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        match self.left.keys().find(|name| !unused(name)) {
            Some(name) => Err(ConfigError::UnexpectedTensor(name.clone())),
            None => Ok(()),
        }
    }
}
