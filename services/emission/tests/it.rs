//! Emission as a whole: with a ledger of every mood, over its gRPC service, and beside the real ledger, treasury and
//! staking on virtual time.

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
