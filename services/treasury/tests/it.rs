//! The treasury as a whole: driven through `Shard` against whatever a ledger could answer, and on virtual time with the
//! real ledger.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "it/api.rs"]
mod api;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/network.rs"]
mod network;
#[path = "it/properties.rs"]
mod properties;
