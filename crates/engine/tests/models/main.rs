//! Real models against independent oracles. Where the models are absent a test says so loudly, or fails under
//! `HOLMES_REQUIRE_MODELS=1`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but does not see that helpers are tests too

mod candle;
mod candle_llama;
mod minilm;
mod own;
mod smollm2;
mod support;
