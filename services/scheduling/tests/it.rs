//! Scheduling as a whole: beside a real ledger and real staking on virtual time, over its gRPC service.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "it/api.rs"]
mod api;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/properties.rs"]
mod properties;
