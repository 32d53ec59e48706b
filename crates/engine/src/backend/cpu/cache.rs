//! The key-value cache: pages of 16 tokens per layer and head.
//!
//! A page's keys lie `[dim][token]`, so that one vector operation scores all its tokens; its values lie
//! `[token][dim]`, so that one adds a token's vector.

use crate::backend::{PAGE_TOKENS, PageId};

/// Keys and values in f32.
pub(super) struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    pages: usize,
    kv_heads: usize,
    dim: usize,
}

impl Cache {
    /// Bytes that a cache takes; `None` if they cannot be counted.
    pub(super) fn bytes(layers: usize, pages: usize, kv_heads: usize, dim: usize) -> Option<usize> {
        let floats = layers.checked_mul(pages)?.checked_mul(kv_heads)?.checked_mul(dim)?;
        floats.checked_mul(PAGE_TOKENS * size_of::<f32>() * 2)
    }

    /// `None` if the memory is not to be had.
    pub(super) fn new(layers: usize, pages: usize, kv_heads: usize, dim: usize) -> Option<Cache> {
        let floats = Self::bytes(layers, pages, kv_heads, dim)? / size_of::<f32>() / 2;
        let (keys, values) = (zeros(floats)?, zeros(floats)?);
        Some(Cache { keys, values, pages, kv_heads, dim })
    }

    /// First element of a head's page; a page's heads lie side by side.
    fn at(&self, layer: usize, page: PageId, head: usize) -> usize {
        ((layer * self.pages + page.0 as usize) * self.kv_heads + head) * self.dim * PAGE_TOKENS
    }

    /// A page's keys, `[dim][token]`.
    pub(super) fn keys(&self, layer: usize, page: PageId, head: usize) -> &[f32] {
        &self.keys[self.at(layer, page, head)..][..self.dim * PAGE_TOKENS]
    }

    /// A page's values, `[token][dim]`.
    pub(super) fn values(&self, layer: usize, page: PageId, head: usize) -> &[f32] {
        &self.values[self.at(layer, page, head)..][..self.dim * PAGE_TOKENS]
    }

    /// Stores one token's keys and values, heads one after the other, at `slot` of a page.
    pub(super) fn write(&mut self, layer: usize, page: PageId, slot: usize, k: &[f32], v: &[f32]) {
        let dim = self.dim;
        for (head, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
            let at = self.at(layer, page, head);
            let keys = &mut self.keys[at..][..dim * PAGE_TOKENS];
            for (i, &k) in k.iter().enumerate() {
                keys[i * PAGE_TOKENS + slot] = k;
            }
            self.values[at + slot * dim..][..dim].copy_from_slice(v);
        }
    }
}

/// Zeroed floats, or `None` where the memory is not to be had (a plain `vec!` would end the process).
pub(super) fn zeros(len: usize) -> Option<Vec<f32>> {
    let mut floats = Vec::new();
    floats.try_reserve_exact(len).ok()?;
    floats.resize(len, 0.0);
    Some(floats)
}
