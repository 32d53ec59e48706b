//! The runtime through its public face: machines over journals that fail, logs that follow each other, virtual time, and
//! real servers on real ports.

#![allow(clippy::unwrap_used)] // what stands between the tests is a test too

#[path = "it/admin.rs"]
mod admin;
#[path = "it/auth.rs"]
mod auth;
#[path = "it/driver.rs"]
mod driver;
#[path = "it/ear.rs"]
pub mod ear;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/follow.rs"]
mod follow;
#[path = "it/grpc.rs"]
mod grpc;
#[path = "it/measured.rs"]
mod measured;
#[path = "it/places.rs"]
mod places;
#[path = "it/pressure.rs"]
mod pressure;
#[path = "it/reach.rs"]
mod reach;
#[path = "it/reads.rs"]
mod reads;
#[path = "it/relay.rs"]
mod relay;
#[path = "it/rig.rs"]
mod rig;
#[path = "it/snapshots.rs"]
mod snapshots;
#[path = "it/support.rs"]
pub mod support;
#[path = "../../kernel/tests/it/till.rs"]
pub mod till;
#[path = "it/toy.rs"]
pub mod toy;
#[path = "it/web.rs"]
mod web;
