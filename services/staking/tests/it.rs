//! Staking as a whole: beside a real ledger on virtual time, with a ledger of every mood, over its gRPC service.

#[path = "it/api.rs"]
mod api;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/ledger.rs"]
mod ledger;
#[path = "it/properties.rs"]
mod properties;
