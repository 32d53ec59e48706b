//! The ledger as a whole: driven through `Shard`, replayed from its frames, asked over its gRPC service.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "it/api.rs"]
mod api;
#[path = "it/bad_input.rs"]
mod bad_input;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/model.rs"]
mod model;
#[path = "it/properties.rs"]
mod properties;
