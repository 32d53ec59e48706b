//! Emission as a whole: with a ledger of every mood, and over its gRPC service. Beside the real ledger, treasury and
//! staking it is tested in services/holmes, which may know them all.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "it/api.rs"]
mod api;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/properties.rs"]
mod properties;
